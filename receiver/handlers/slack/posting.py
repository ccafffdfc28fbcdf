"""One attempt at a submission's post and its thread, with a bot token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from receiver.deliveries import Receipt
from receiver.handlers.base import Attempt, StoredMedia
from receiver.handlers.file import file_stem
from receiver.handlers.posts import Post
from receiver.handlers.slack.api import SlackApi, SlackError
from receiver.handlers.slack.blocks import Block, detail_blocks, fallback, post_blocks, uploaded

SHOWN = frozenset({"image/png", "image/jpeg", "image/gif"})
"""What an image block shows (docs.slack.dev/reference/block-kit/composition-objects/slack-file-object)."""
ENDS = frozenset({"task.succeeded", "task.failed", "task.lost"})
_GONE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "thread_not_found"})
_PLAIN = {"parse": "none", "link_names": False}
_QUIET = {"unfurl_links": False, "unfurl_media": False, "mrkdwn": False}


@dataclass
class Posted:
    """What there is of a submission's post so far.

    Attributes:
        thread: the post at whose thread's top this one stands; None where it stands in the channel.
        event: the id of the event whose details are in the thread.
        files: Slack's ids of uploaded files by their digest.
        url: where a browser finds the post.
        waiting: those of `files` that Slack has not taken in yet.
        refused: whether an earlier attempt was not let show its pictures.
    """

    channel: str
    ts: str = ""
    thread: str | None = None
    event: str = ""
    files: dict[str, str] = field(default_factory=dict)
    url: str | None = None
    waiting: set[str] = field(default_factory=set)
    refused: bool = False

    @property
    def receipt(self) -> Receipt:
        data = {"channel": self.channel, "ts": self.ts, "thread": self.thread, "event": self.event}
        return Receipt(ref=f"{self.channel}/{self.ts}", url=self.url, data=data | {"files": self.files})


class Posting:
    """Puts an event into its post. What is there already is edited or left as it is, so a retry may call it again."""

    def __init__(self, api: SlackApi, attempt: Attempt, posted: Posted, *, details: bool) -> None:
        self._api = api
        self._attempt = attempt
        self._posted = posted
        self._wants_details = details and attempt.event.type in ENDS

    async def put(self, post: Post, link: str | None, shown: list[StoredMedia], files: list[StoredMedia]) -> None:
        """The post and its thread.

        Args:
            post: what it says.
            link: to the copy another destination has.
            shown: pictures for image blocks, the first one for the post itself.
            files: what no block shows; it goes into the thread.

        Raises:
            UnknownFile: Slack takes no block with a picture of `shown`.
            SlackError, RetryLater, ConnectionError: as `SlackApi.call`.
        """
        await self._upload(shown, post)
        pictures = [self._picture(item, post) for item in shown]
        blocks = post_blocks(post, pictures[:1], link)
        if self._posted.thread is not None:  # in a thread already: all in one post
            more, blocks = [], blocks + pictures[1:] + self._details(post, few=True)
        else:
            more = pictures[1:] + self._details(post)
        await self._put_post(blocks, fallback(post))
        await self._put_into_thread(more, files)

    def _details(self, post: Post, *, few: bool = False) -> list[Block]:
        return detail_blocks(post, few=few) if self._wants_details else []

    def _picture(self, item: StoredMedia, post: Post) -> Block:
        title = f"U{item.tile}" if item.tile else ""
        return uploaded(self._posted.files[item.media.digest], _alt_text(post, item), title=title)

    async def _upload(self, shown: list[StoredMedia], post: Post) -> None:
        """Files nobody is shown yet; the blocks that name them bring them into the channel."""
        new: dict[str, tuple[str, str]] = {}
        for item in shown:
            if item.media.digest not in self._posted.files:
                name = self._name(item)
                new[item.media.digest] = await self._api.upload(item, name, _alt_text(post, item)), name
        if new:
            await self._api.complete(list(new.values()))
        self._posted.files |= {digest: file_id for digest, (file_id, _) in new.items()}
        self._posted.waiting |= {file_id for file_id, _ in new.values()}
        for file_id in sorted(self._posted.waiting):
            await self._api.wait_until_ready(file_id)
            self._posted.waiting.discard(file_id)

    async def _put_post(self, blocks: list[Block], text: str) -> None:
        """Edit the post; where there is none any more, make one."""
        posted, content = self._posted, {"blocks": blocks, "text": text, **_PLAIN}
        if posted.ts:
            try:
                await self._api.post("chat.update", channel=posted.channel, ts=posted.ts, **content)
            except SlackError as exc:
                if exc.code not in _GONE:
                    raise
                posted.ts = posted.event = ""
            else:
                return
        answer = await self._post_new(content)
        posted.channel, posted.ts = str(answer.get("channel", posted.channel)), str(answer["ts"])
        posted.url = await self._api.permalink(posted.channel, posted.ts)

    async def _post_new(self, content: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._new(self._posted.thread, content)
        except SlackError as exc:
            if exc.code in _GONE and self._posted.thread is not None:  # it was deleted: then into the channel
                self._posted.thread = None
            elif exc.code == "not_in_channel":
                await self._join(exc)
            else:
                raise
        return await self._new(self._posted.thread, content)

    async def _new(self, thread: str | None, content: dict[str, Any]) -> dict[str, Any]:
        where = {"channel": self._posted.channel, "thread_ts": thread}
        return await self._api.post("chat.postMessage", **where, **content, **_QUIET)

    async def _join(self, refused: SlackError) -> None:
        """Join a channel the bot was told to post to. Raises what refused it where it may not."""
        try:
            await self._api.call("conversations.join", channel=self._posted.channel)
        except SlackError:
            raise refused from None

    async def _put_into_thread(self, blocks: list[Block], files: list[StoredMedia]) -> None:
        """Details and further pictures as one reply, the rest as files; not again where they are already."""
        posted, event = self._posted, self._attempt.event
        if posted.event == event.id or event.type not in ENDS:
            return
        top = posted.thread or posted.ts
        new = [(await self._api.upload(item, self._name(item), ""), self._name(item)) for item in files]
        if new:
            await self._api.complete(new, channel_id=posted.channel, thread_ts=top)
        if blocks:
            await self._new(top, {"blocks": blocks, "text": "Details", **_PLAIN})
        posted.event = event.id

    def _name(self, item: StoredMedia) -> str:
        """A file name of our own making."""
        number = f"_{item.media.index + 1}" if len(self._attempt.media) > 1 else ""
        number = f"_u{item.tile}" if item.tile else number
        return f"{file_stem(self._attempt.event)}{number}{item.media.extension}"


def _alt_text(post: Post, item: StoredMedia) -> str:
    return f"U{item.tile} of: {post.alt_text}" if item.tile else post.alt_text
