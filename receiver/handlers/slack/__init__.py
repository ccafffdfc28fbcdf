"""The slack handler: results as posts in a channel, with a bot token or through an incoming webhook.

With a token there is one post for each submission: it is edited from its progress to its end, shows the uploaded
picture, and has details and further pictures in its thread, where the results of follow-ups go as well. A webhook can
only post, and show a picture another destination has stored.

At least once: Slack has no key by which it would know a post again. What this process has posted it remembers, so that
a retry edits; only a crash between the post and its record posts twice.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qsl, unquote

from pydantic import Field, SecretStr, model_validator

from receiver.deliveries import Receipt
from receiver.errors import MediaError
from receiver.extras import require
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions, StoredMedia
from receiver.handlers.file import file_stem
from receiver.handlers.posts import Post, linked, post_of, wait_for_media
from receiver.handlers.slack.api import SlackApi, SlackError, SlackWebhook
from receiver.handlers.slack.blocks import (
    Block,
    detail_blocks,
    fallback,
    linked_picture,
    post_blocks,
    uploaded,
)
from receiver.settings.kinds import KnownAs

_ID = re.compile(r"[CGD][A-Z0-9]{8,}\Z")
_SHOWN = frozenset({"image/png", "image/jpeg", "image/gif"})
"""What an image block shows (docs.slack.dev/reference/block-kit/composition-objects/slack-file-object)."""
_GONE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"})
_REMEMBERED = 1000
_ENDS = frozenset({"task.succeeded", "task.failed", "task.lost"})


class SlackOptions(HandlerOptions):
    """Options of a `slack` destination."""

    channel: str | None = Field(
        None, description="Where to post: a channel's id, such as `C0123ABCD`, or its name. The bot joins it if it may."
    )
    token: Annotated[SecretStr | None, KnownAs("SLACK_BOT_TOKEN")] = Field(
        None, description="The app's bot token, `xoxb-…`; `SLACK_BOT_TOKEN` if not given."
    )
    webhook_url: SecretStr | None = Field(
        None,
        description="An incoming webhook, in place of channel and token. It cannot upload, so it needs `link`, and it "
        "posts ends only, without progress or threads.",
    )
    link: str | None = Field(
        None, description="Another destination's name: its link to its own copy is shown. Waits for it up to 60 s."
    )
    tiles: bool = Field(
        False, description="Whether the four pictures of a grid go into its thread, too. Needs the extra `images`."
    )
    details: bool = Field(True, description="Whether task, seed, final prompt and next steps go into the thread.")
    api_url: str = Field(
        "https://slack.com/api",
        pattern=r"^https?://[^\s?#]+$",
        description="Slack's API; GovSlack's is `https://slack-gov.com/api`.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> SlackOptions:
        if self.webhook_url is not None:
            if not re.match(r"https?://[^\s/]+/\S+\Z", self.webhook_url.get_secret_value()):
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
            return self
        if self.token is None:
            raise ValueError("there is no bot token. Set SLACK_BOT_TOKEN; `receiver slack manifest` prints the app")
        if not self.token.get_secret_value().startswith("xox"):
            raise ValueError("token is no bot token, which begins with xoxb-")
        if not (self.channel or "").lstrip("#"):
            raise ValueError("channel is missing: where shall it post?")
        return self


@dataclass
class _Posted:
    """What there is of a submission's post so far.

    Attributes:
        thread: the post at whose thread's top this one stands; None where it stands in the channel.
        event: the id of the event whose details are in the thread.
        files: Slack's ids of uploaded files by their digest.
    """

    channel: str
    ts: str = ""
    thread: str | None = None
    event: str = ""
    files: dict[str, str] = field(default_factory=dict)

    @property
    def receipt(self) -> Receipt:
        data = {"channel": self.channel, "ts": self.ts, "thread": self.thread, "event": self.event}
        return Receipt(ref=f"{self.channel}/{self.ts}", data=data | {"files": self.files})


class SlackHandler:
    """Posts results into a Slack channel."""

    name = "slack"
    summary = "Posts in a Slack channel, with the picture, edited from progress to result."
    schemes = ("slack",)
    guarantee: ClassVar[Guarantee] = "at least once"
    Options = SlackOptions

    def __init__(self, options: SlackOptions) -> None:
        if options.tiles:
            require("PIL", extra="images", why="The option tiles")
        self.waits_for = options.link
        self._options = options
        self._name = (options.channel or "").lstrip("#")
        self._channel = self._name if _ID.match(self._name) else ""
        self._memory: OrderedDict[str, _Posted] = OrderedDict()
        self._api: SlackApi | None = None
        self._webhook: SlackWebhook | None = None
        if options.webhook_url is not None:
            self._webhook = SlackWebhook(options.webhook_url.get_secret_value())
        elif options.token is not None:
            self._api = SlackApi(options.token.get_secret_value(), options.api_url)

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Options from `slack://C0123ABCD`, `slack://general?link=assets` or `slack:#general`."""
        place, _, query = url.partition(":")[2].partition("?")
        channel = unquote(place).strip("/")
        return ({"channel": channel} if channel else {}) | dict(parse_qsl(query))

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Post, or edit the post there is.

        Raises:
            RetryLater: too many calls, or the picture or its link is not there yet.
            Rejected: Slack will say no until a person has done something; the text says what.
            SlackError, ConnectionError: anything that may be better next time.
        """
        wait_for_media(attempt)
        link = linked(attempt, self.waits_for)
        remark = (
            f"There is no link from {self.waits_for}."
            if self.waits_for and link is None and _is_result(attempt)
            else ""
        )
        post = post_of(attempt, remark=remark)
        try:
            if self._webhook is not None:
                return await self._post_by_webhook(self._webhook, attempt, post, link)
            assert self._api is not None  # noqa: S101 - the options see to it
            return await self._post(self._api, attempt, post, link)
        except SlackError as exc:
            exc.raise_for_delivery()

    async def aclose(self) -> None:
        """End the connections."""
        for client in (self._api, self._webhook):
            if client is not None:
                await client.aclose()

    async def _post_by_webhook(self, webhook: SlackWebhook, attempt: Attempt, post: Post, link: str | None) -> Receipt:
        if attempt.event.type not in _ENDS | {"task.input_required"}:
            return Receipt()
        shows = link is not None and all(item.media.type in _SHOWN for item in attempt.media[:1])
        picture = linked_picture(link, post.alt_text) if link is not None and shows else None
        blocks = post_blocks(post, [picture] if picture else [], link)
        await webhook.post({"text": fallback(post), "blocks": blocks, "unfurl_links": False, "unfurl_media": False})
        return Receipt(url=link)

    async def _post(self, api: SlackApi, attempt: Attempt, post: Post, link: str | None) -> Receipt:
        posted = await self._so_far(api, attempt)
        shown = [item for item in attempt.media if item.media.type in _SHOWN] + await self._tiles(attempt)
        for item in shown:
            await self._upload(api, attempt, item, post, posted)
        pictures = [uploaded(posted.files[item.media.digest], _alt_text(post, item)) for item in shown]
        blocks = post_blocks(post, pictures[:1], link)
        if posted.thread is not None:  # in a thread already: all in one post
            more, blocks = [], blocks + pictures[1:] + self._details(post, attempt, few=True)
        else:
            more = pictures[1:] + self._details(post, attempt)
        await self._put(api, posted, blocks, fallback(post))
        await self._put_into_thread(api, attempt, posted, more)
        self._memory.pop(attempt.idempotency_key, None)
        return posted.receipt

    async def _tiles(self, attempt: Attempt) -> list[StoredMedia]:
        """None where the grid cannot be cut: that is no reason to keep back the rest."""
        if not self._options.tiles or attempt.event.type != "task.succeeded":
            return []
        try:
            return list(await attempt.tiles())
        except MediaError as exc:
            if not exc.permanent:
                raise
            return []

    def _details(self, post: Post, attempt: Attempt, *, few: bool = False) -> list[Block]:
        return detail_blocks(post, few=few) if self._options.details and attempt.event.type in _ENDS else []

    async def _so_far(self, api: SlackApi, attempt: Attempt) -> _Posted:
        """What a failed attempt of this delivery left, else the post of the event before, else nothing yet."""
        if (posted := self._memory.get(attempt.idempotency_key)) is not None:
            return posted
        before = attempt.previous.data if attempt.previous is not None else {}
        if before.get("ts"):
            files = dict(before.get("files") or {})
            posted = _Posted(before["channel"], before["ts"], before.get("thread"), before.get("event", ""), files)
        else:
            posted = _Posted(await self._resolved(api))
            parent = attempt.parent.data if attempt.parent is not None else {}
            if parent.get("channel") == posted.channel:
                posted.thread = parent.get("thread") or parent.get("ts")
        self._memory[attempt.idempotency_key] = posted
        while len(self._memory) > _REMEMBERED:
            self._memory.popitem(last=False)
        return posted

    async def _resolved(self, api: SlackApi) -> str:
        if not self._channel:
            self._channel = await api.channel_id(self._name)
        return self._channel

    async def _upload(self, api: SlackApi, attempt: Attempt, item: StoredMedia, post: Post, posted: _Posted) -> None:
        """A file nobody is shown yet; the block that names it brings it into the channel."""
        if item.media.digest in posted.files:
            return
        name = _name(attempt, item)
        file_id = await api.upload(item, name, _alt_text(post, item))
        await api.complete([(file_id, name)])
        await api.wait_until_ready(file_id)
        posted.files[item.media.digest] = file_id

    async def _put(self, api: SlackApi, posted: _Posted, blocks: list[Block], text: str) -> None:
        """Edit the post; where there is none any more, make one."""
        content = {"blocks": blocks, "text": text, "parse": "none", "link_names": False}
        if posted.ts:
            try:
                await api.call("chat.update", channel=posted.channel, ts=posted.ts, **content)
            except SlackError as exc:
                if exc.code not in _GONE:
                    raise
                posted.ts = posted.event = ""
            else:
                return
        content |= {"unfurl_links": False, "unfurl_media": False, "mrkdwn": False}
        answer = await self._post_new(api, posted, content)
        posted.channel, posted.ts = str(answer.get("channel", posted.channel)), str(answer["ts"])

    async def _post_new(self, api: SlackApi, posted: _Posted, content: dict[str, Any]) -> dict[str, Any]:
        try:
            return await api.call("chat.postMessage", channel=posted.channel, thread_ts=posted.thread, **content)
        except SlackError as exc:
            if exc.code in _GONE and posted.thread is not None:  # the thread was deleted: then into the channel
                posted.thread = None
            elif exc.code == "not_in_channel":
                await _join(api, posted.channel, exc)
            else:
                raise
        return await api.call("chat.postMessage", channel=posted.channel, thread_ts=posted.thread, **content)

    async def _put_into_thread(self, api: SlackApi, attempt: Attempt, posted: _Posted, blocks: list[Block]) -> None:
        """Details and further pictures as one reply, videos as files; not again where they are already."""
        if posted.event == attempt.event.id or attempt.event.type not in _ENDS:
            return
        top = posted.thread or posted.ts
        films = [item for item in attempt.media if item.media.type not in _SHOWN]
        new = [(await api.upload(item, _name(attempt, item), ""), _name(attempt, item)) for item in films]
        if new:
            await api.complete(new, channel_id=posted.channel, thread_ts=top)
        if blocks:
            content = {"blocks": blocks, "text": "Details", "parse": "none", "link_names": False, "mrkdwn": False}
            await api.call(
                "chat.postMessage",
                channel=posted.channel,
                thread_ts=top,
                unfurl_links=False,
                unfurl_media=False,
                **content,
            )
        posted.event = attempt.event.id


async def _join(api: SlackApi, channel: str, refused: SlackError) -> None:
    """Join a channel the bot was told to post to. Raises what refused it where it may not."""
    try:
        await api.call("conversations.join", channel=channel)
    except SlackError:
        raise refused from None


def _alt_text(post: Post, item: StoredMedia) -> str:
    return f"U{item.tile} of: {post.alt_text}" if item.tile else post.alt_text


def _is_result(attempt: Attempt) -> bool:
    return attempt.event.type == "task.succeeded" and bool(attempt.media)


def _name(attempt: Attempt, item: StoredMedia) -> str:
    """A file name of our own making."""
    number = f"_{item.media.index + 1}" if len(attempt.media) > 1 else ""
    number = f"_u{item.tile}" if item.tile else number
    return f"{file_stem(attempt.event)}{number}{item.media.extension}"
