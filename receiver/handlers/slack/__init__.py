"""Slack handler: results as posts in a channel, with a bot token or through an incoming webhook.

With a token, each submission has one post. It is edited from its progress to its end, shows the uploaded picture, and
has details and further pictures in its thread, where the results of follow-ups go as well. A webhook can only post, and
show a picture that another destination has stored.

At least once: Slack has no key that would identify a repeated post. A retry in the same process edits what is there, so
only a crash between a post and its record posts twice.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qsl, unquote

from msgspec import Meta

from receiver.deliveries import Receipt
from receiver.errors import MediaError, require
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions, Kind, Secret, StoredMedia
from receiver.handlers.posts import Post, file_name, linked, post_of, remember
from receiver.handlers.result_files import SIDECAR_EVENTS
from receiver.handlers.slack.api import FILE_REFUSED, SlackApi, SlackError, Sleep, UnknownFile
from receiver.handlers.slack.blocks import Block, detail_blocks, fallback, fitted, linked_picture, post_blocks, uploaded
from receiver.settings.options import KnownAs

SHOWN = frozenset({"image/png", "image/jpeg", "image/gif"})
"""Types that an image block shows (docs.slack.dev/reference/block-kit/composition-objects/slack-file-object)."""
ENDS = frozenset({"task.succeeded", "task.failed", "task.lost"})
_ID = re.compile(r"[CGD][A-Z0-9]{8,}\Z")
_CHANNEL_LINK = re.compile(r"https://(?:[a-z0-9.-]{1,80}\.slack\.com/archives|app\.slack\.com/client/[A-Z0-9]{1,20})/")
"""Beginning of a channel's address, as Slack copies it and as a browser shows it."""
_UNSHOWN = "Slack does not show the picture here; it is in the thread."
_GONE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"})
_PLAIN = {"parse": "none", "link_names": False}
_QUIET = {"unfurl_links": False, "unfurl_media": False, "mrkdwn": False}


class SlackOptions(HandlerOptions):
    """Options of a `slack` destination."""

    channel: Annotated[
        str | None,
        "Channel to post in: its id, for instance `C0123ABCD`, its name or its link. The bot joins it if it may.",
    ] = None
    token: Annotated[
        Secret | None, "The app's bot token, `xoxb-…`; `SLACK_BOT_TOKEN` if not given.", KnownAs("SLACK_BOT_TOKEN")
    ] = None
    webhook_url: Annotated[
        Secret | None,
        "An incoming webhook, in place of channel and token. It cannot upload, so it needs `link`. "
        "It posts ends only, without progress or threads.",
    ] = None
    link: Annotated[
        str | None, "Name of another destination, whose link to its copy is shown. Waits for it up to 60 s."
    ] = None
    tiles: Annotated[bool, "Also put the four pictures of a grid into its thread. Needs the extra `images`."] = False
    details: Annotated[bool, "Put task, seed, final prompt and next steps into the thread."] = True
    api_url: Annotated[
        str,
        Meta(pattern=r"^https?://[^\s?#]+\Z"),
        Kind(write="an http or https URL without a query"),
        "Slack's API; GovSlack's is `https://slack-gov.com/api`.",
    ] = "https://slack.com/api"

    def check_together(self) -> None:
        if self.webhook_url is not None:
            if not re.match(r"https?://[^\s/]+/\S+\Z", self.webhook_url.text):
                raise ValueError(
                    "webhook_url is not the URL of an incoming webhook, https://hooks.slack.com/services/…"
                )
            if self.channel:
                raise ValueError("webhook_url has its own channel; leave out channel, or use a token")
            if not self.link:
                raise ValueError(
                    "a webhook cannot upload pictures. Set link to the name of a destination that stores them under a "
                    "public link, or use a token"
                )
            return
        if self.token is None:
            raise ValueError("there is no bot token. Set SLACK_BOT_TOKEN; `receiver slack manifest` prints the app")
        if not self.token.text.startswith("xox"):
            raise ValueError("token is no bot token, which begins with xoxb-")
        if not (self.channel or "").lstrip("#"):
            raise ValueError("channel is missing. Set it to the id or the name of the channel to post to")


class SlackHandler:
    """Posts results into a Slack channel."""

    name = "slack"
    summary = "Posts in a Slack channel, with the picture, edited from progress to result."
    schemes = ("slack",)
    guarantee: ClassVar[Guarantee] = "at least once"
    Options = SlackOptions

    def __init__(self, options: SlackOptions, *, sleep: Sleep = asyncio.sleep) -> None:
        if options.tiles:
            require("PIL", extra="images", why="The option tiles")
        self.waits_for = options.link
        self._options = options
        self._name = _CHANNEL_LINK.sub("", options.channel or "").strip("#/")
        self._channel = self._name if _ID.match(self._name) else ""
        self._memory: dict[str, Posted] = {}
        self._webhook = options.webhook_url.text if options.webhook_url is not None else None
        self._api = SlackApi(options.token.text if options.token is not None else "", options.api_url, sleep=sleep)

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Return options from `slack://C0123ABCD`, `slack://general?link=assets` or `slack:#general`."""
        place, _, query = url.partition(":")[2].partition("?")
        channel = unquote(place).strip("/")
        return ({"channel": channel} if channel else {}) | dict(parse_qsl(query))

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Post, or edit the existing post. Raise Rejected if Slack refuses until a person has done something."""
        link = linked(attempt, self.waits_for)
        unlinked = self.waits_for and link is None and attempt.event.type == "task.succeeded" and attempt.media
        post = post_of(attempt, remark=f"There is no link from {self.waits_for}." if unlinked else "")
        try:
            if self._webhook is not None:
                if attempt.event.type not in SIDECAR_EVENTS:
                    return Receipt()
                shows = link is not None and all(item.media.type in SHOWN for item in attempt.media[:1])
                picture = linked_picture(link, post.alt_text) if link is not None and shows else None
                blocks = fitted(post_blocks(post, [picture] if picture else [], link))
                content = {"text": fallback(post), "blocks": blocks, "unfurl_links": False, "unfurl_media": False}
                await self._api.post_to_webhook(self._webhook, content)
                return Receipt(url=link)
            return await self._post(attempt, post, link)
        except SlackError as exc:
            exc.raise_for_delivery()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.aclose()

    async def _post(self, attempt: Attempt, post: Post, link: str | None) -> Receipt:
        posted = await self._so_far(attempt)
        posting = Posting(self._api, attempt, posted, self._options.details)
        shown = [item for item in attempt.media if item.media.type in SHOWN]
        if self._options.tiles and attempt.event.type == "task.succeeded":
            try:
                shown += await attempt.tiles()
            except MediaError as exc:
                if not exc.permanent:
                    raise
        files = [item for item in attempt.media if item.media.type not in SHOWN]
        if posted.refused:  # rather a file in the thread than no picture
            post = dataclasses.replace(post, remark=f"{post.remark} {_UNSHOWN}".strip())
            shown, files = [], files + shown
        try:
            await posting.put(post, link, shown, files)
        except UnknownFile:
            posted.refused = True
            raise
        except SlackError as exc:
            if exc.code not in FILE_REFUSED:
                raise
            remark = f"{post.remark} Slack did not take a file: {exc.remedy}.".strip()
            await posting.put(dataclasses.replace(post, remark=remark), link, [], [])
        self._memory.pop(attempt.idempotency_key, None)
        return posted.receipt

    async def _so_far(self, attempt: Attempt) -> Posted:
        """Return what a failed attempt of this delivery left, else the post of the event before, else an empty post."""
        if (posted := self._memory.get(attempt.idempotency_key)) is not None:
            return posted
        before = attempt.previous.data if attempt.previous is not None else {}
        if before.get("ts"):
            files = dict(before.get("files") or {})
            posted = Posted(before["channel"], before["ts"], before.get("thread"), before.get("event", ""), files)
            posted.url = attempt.previous.url if attempt.previous is not None else None
        else:
            if not self._channel:
                self._channel = await self._api.channel_id(self._name)
            posted = Posted(self._channel)
            parent = attempt.parent.data if attempt.parent is not None else {}
            if parent.get("channel") == posted.channel:
                posted.thread = parent.get("thread") or parent.get("ts")
        return remember(self._memory, attempt, posted)


@dataclass
class Posted:
    """State of a submission's post so far."""

    channel: str
    ts: str = ""
    thread: str | None = None  # the post that starts the thread this one is in; None if it is in the channel
    event: str = ""  # the id of the event whose details are in the thread
    files: dict[str, str] = field(default_factory=dict)  # Slack's ids of uploaded files by their digest
    url: str | None = None  # the post's URL for a browser
    waiting: set[str] = field(default_factory=set)  # ids of files that Slack has not processed yet
    refused: bool = False  # True if Slack refused to show the pictures of an earlier attempt

    @property
    def receipt(self) -> Receipt:
        data = {"channel": self.channel, "ts": self.ts, "thread": self.thread, "event": self.event}
        return Receipt(ref=f"{self.channel}/{self.ts}", url=self.url, data=data | {"files": self.files})


@dataclass
class Posting:
    """One attempt at a submission's post and its thread. A retry edits or keeps what is there already."""

    _api: SlackApi
    _attempt: Attempt
    _posted: Posted
    _details: bool

    async def put(self, post: Post, link: str | None, shown: list[StoredMedia], files: list[StoredMedia]) -> None:
        """Put the post and its thread. Raise as `SlackApi.post`.

        The first of the pictures in `shown` is for the post itself. No block shows `files`, so they go into the thread.
        """
        alt_texts = [f"U{item.tile} of: {post.alt_text}" if item.tile else post.alt_text for item in shown]
        known = set(self._posted.files)
        await self._upload(shown, alt_texts)
        pictures = [
            uploaded(self._posted.files[item.media.digest], alt_text, title=f"U{item.tile}" if item.tile else "")
            for item, alt_text in zip(shown, alt_texts, strict=True)
        ]
        blocks = post_blocks(post, pictures[:1], link)
        few = self._posted.thread is not None  # in a thread already: all in one post
        details = self._details and self._attempt.event.type in ENDS and not self._attempt.event.further
        if self._attempt.event.further:  # what the thread has is not put there again
            new = [item.media.digest not in known for item in shown]
            pictures = [*pictures[:1], *(block for block, fresh in zip(pictures[1:], new[1:], strict=True) if fresh)]
        more = pictures[1:] + (detail_blocks(post, few=few) if details else [])
        if few:
            more, blocks = [], blocks + more
        await self._put_post(blocks, fallback(post))
        if self._attempt.event.further:
            files = [item for item in files if item.media.digest not in known]
        await self._put_into_thread(more, files)

    async def _upload(self, shown: list[StoredMedia], alt_texts: list[str]) -> None:
        """Upload pictures without a channel. The blocks that name them bring them there."""
        new: dict[str, tuple[str, str]] = {}
        for item, alt_text in zip(shown, alt_texts, strict=True):
            if item.media.digest not in self._posted.files:
                name = file_name(self._attempt, item)
                new[item.media.digest] = await self._api.upload(item, name, alt_text), name
        if new:
            await self._api.complete(list(new.values()))
        self._posted.files |= {digest: file_id for digest, (file_id, _) in new.items()}
        self._posted.waiting |= {file_id for file_id, _ in new.values()}
        for file_id in sorted(self._posted.waiting):
            await self._api.wait_until_ready(file_id)
            self._posted.waiting.discard(file_id)

    async def _put_post(self, blocks: list[Block], text: str) -> None:
        """Edit the post, or make one if there is none any more."""
        posted, content = self._posted, {"blocks": fitted(blocks), "text": text, **_PLAIN}
        if posted.ts:
            try:
                await self._api.post("chat.update", channel=posted.channel, ts=posted.ts, **content)
            except SlackError as exc:
                if exc.code not in _GONE:
                    raise
                posted.ts = posted.event = ""
            else:
                return
        try:
            answer = await self._new(posted.thread, content)
        except SlackError as exc:
            if exc.code in _GONE and posted.thread is not None:  # it was deleted: then into the channel
                posted.thread = None
            elif exc.code == "not_in_channel":
                try:
                    await self._api.call("conversations.join", channel=posted.channel)
                except SlackError:
                    raise exc from None
            else:
                raise
            answer = await self._new(posted.thread, content)
        posted.channel, posted.ts = str(answer.get("channel", posted.channel)), str(answer["ts"])
        posted.url = await self._api.permalink(posted.channel, posted.ts)

    async def _new(self, thread: str | None, content: dict[str, Any]) -> dict[str, Any]:
        where = {"channel": self._posted.channel, "thread_ts": thread}
        return await self._api.post("chat.postMessage", **where, **content, **_QUIET)

    async def _put_into_thread(self, blocks: list[Block], files: list[StoredMedia]) -> None:
        """Put details and further pictures into one reply, and the rest as files, unless they are there already."""
        posted, event = self._posted, self._attempt.event
        if posted.event == event.id or event.type not in ENDS:
            return
        top = posted.thread or posted.ts
        names = [file_name(self._attempt, item) for item in files]
        new = [(await self._api.upload(item, name, ""), name) for item, name in zip(files, names, strict=True)]
        if new:
            await self._api.complete(new, channel_id=posted.channel, thread_ts=top)
            posted.files |= {item.media.digest: id for item, (id, _) in zip(files, new, strict=True)}
        if blocks:
            await self._new(top, {"blocks": fitted(blocks), "text": "Details", **_PLAIN})
        posted.event = event.id
