"""The slack handler: results as posts in a channel, with a bot token or through an incoming webhook.

With a token there is one post for each submission: it is edited from its progress to its end, shows the uploaded
picture, and has details and further pictures in its thread, where the results of follow-ups go as well. A webhook can
only post, and show a picture another destination has stored.

At least once: Slack has no key by which it would know a post again. What this process has posted it remembers, so that
a retry edits; only a crash between the post and its record posts twice.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections import OrderedDict
from typing import Any, ClassVar

from receiver.deliveries import Receipt
from receiver.errors import MediaError
from receiver.extras import require
from receiver.handlers.base import Attempt, Guarantee, StoredMedia
from receiver.handlers.posts import Post, linked, post_of, wait_for_media
from receiver.handlers.slack.api import SlackApi, SlackError, SlackWebhook, Sleep, UnknownFile
from receiver.handlers.slack.blocks import fallback, linked_picture, post_blocks
from receiver.handlers.slack.options import SlackOptions, options_from_url
from receiver.handlers.slack.posting import ENDS, SHOWN, Posted, Posting

_ID = re.compile(r"[CGD][A-Z0-9]{8,}\Z")
_UNSHOWN = "Slack does not show the picture here; it is in the thread."
_REMEMBERED = 1000


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
        self._name = (options.channel or "").lstrip("#")
        self._channel = self._name if _ID.match(self._name) else ""
        self._memory: OrderedDict[str, Posted] = OrderedDict()
        self._api: SlackApi | None = None
        self._webhook: SlackWebhook | None = None
        if options.webhook_url is not None:
            self._webhook = SlackWebhook(options.webhook_url.get_secret_value())
        elif options.token is not None:
            self._api = SlackApi(options.token.get_secret_value(), options.api_url, sleep=sleep)

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """See `receiver.handlers.slack.options`."""
        return options_from_url(url)

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
        if attempt.event.type not in ENDS | {"task.input_required"}:
            return Receipt()
        shows = link is not None and all(item.media.type in SHOWN for item in attempt.media[:1])
        picture = linked_picture(link, post.alt_text) if link is not None and shows else None
        blocks = post_blocks(post, [picture] if picture else [], link)
        await webhook.post({"text": fallback(post), "blocks": blocks, "unfurl_links": False, "unfurl_media": False})
        return Receipt(url=link)

    async def _post(self, api: SlackApi, attempt: Attempt, post: Post, link: str | None) -> Receipt:
        posted = await self._so_far(api, attempt)
        posting = Posting(api, attempt, posted, details=self._options.details)
        shown = [item for item in attempt.media if item.media.type in SHOWN] + await self._tiles(attempt)
        files = [item for item in attempt.media if item.media.type not in SHOWN]
        if posted.refused:  # twice would be a fault nobody sees: rather a file than no picture
            post = dataclasses.replace(post, remark=f"{post.remark} {_UNSHOWN}".strip())
            shown, files = [], files + shown
        try:
            await posting.put(post, link, shown, files)
        except UnknownFile:
            posted.refused = True
            raise
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

    async def _so_far(self, api: SlackApi, attempt: Attempt) -> Posted:
        """What a failed attempt of this delivery left, else the post of the event before, else nothing yet."""
        if (posted := self._memory.get(attempt.idempotency_key)) is not None:
            return posted
        before = attempt.previous.data if attempt.previous is not None else {}
        if before.get("ts"):
            files = dict(before.get("files") or {})
            posted = Posted(before["channel"], before["ts"], before.get("thread"), before.get("event", ""), files)
            posted.url = attempt.previous.url if attempt.previous is not None else None
        else:
            posted = Posted(await self._resolved(api))
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


def _is_result(attempt: Attempt) -> bool:
    return attempt.event.type == "task.succeeded" and bool(attempt.media)
