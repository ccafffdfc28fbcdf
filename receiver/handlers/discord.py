"""Discord handler: results as posts of a channel's webhook (docs.discord.com/developers/resources/webhook).

Each submission has one post, which is edited from its progress to its end and carries the files themselves. It
mentions no user: `allowed_mentions` is empty, and texts from outside are escaped, so they neither mark up nor link.

At least once: a webhook has no key that would identify a repeated post. A crash between the post and its record, or a
lost answer, posts twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, SecretStr, field_validator

from receiver.deliveries import Receipt
from receiver.disk import in_thread
from receiver.handlers import posts
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions, RetryLater, StoredMedia
from receiver.settings.kinds import KnownAs, Size

MOST_FILES = 10
_MARKUP = re.compile(r"([\\*_~`|<>@#:\[\]])")
_FIRST_ON_LINE = re.compile(r"(?m)^(\s*\d*)([.+-])")
_COLORS: dict[posts.Mood, int] = {"waiting": 0x9CA3AF, "asking": 0xF59E0B, "good": 0x22C55E, "bad": 0xEF4444}
_URL = re.compile(r"https?://[^\s/?#]+(?:/[^\s/?#]+)*/webhooks/[^\s/?#]+/[^\s/?#]+\Z")
_NEW = "Make a new one (channel settings, Integrations, Webhooks), and set DISCORD_WEBHOOK_URL or webhook_url to it"

UNKNOWN_CHANNEL, UNKNOWN_MESSAGE, UNKNOWN_WEBHOOK, TOO_LARGE, INVALID_TOKEN = 10003, 10008, 10015, 40005, 50027
"""Discord's JSON error codes (docs.discord.com/developers/topics/opcodes-and-status-codes)."""
THREAD_ARCHIVED, INVALID_FORM, THREAD_WANTED = 50083, 50035, 220001
_REMEDIES: Mapping[int, str] = {
    UNKNOWN_CHANNEL: "the channel or thread is gone. Check thread_id, or make a webhook for another channel",
    UNKNOWN_WEBHOOK: f"the webhook was deleted. {_NEW}",
    INVALID_TOKEN: f"the webhook's URL is wrong. {_NEW}",
    THREAD_ARCHIVED: "the thread is archived. Open it again, or set thread_id to another one",
    INVALID_FORM: "that is a fault of Receiver; please report it",
    THREAD_WANTED: "this is a forum, where posts need a thread. Set thread_id to one of its posts",
}


class DiscordOptions(HandlerOptions):
    """Options of a `discord` destination."""

    webhook_url: Annotated[SecretStr, KnownAs("DISCORD_WEBHOOK_URL")] = Field(
        description="The channel's webhook, `https://discord.com/api/webhooks/…`; `DISCORD_WEBHOOK_URL` if not given."
    )
    thread_id: str | None = Field(
        None,
        pattern=r"^\d{15,21}$",
        description="The id (15 to 21 digits) of a thread or forum post of that channel to post to.",
    )
    username: str | None = Field(
        None, min_length=1, max_length=80, description="The name it posts under, in place of the webhook's own."
    )
    max_bytes: Size = Field(
        10_000_000,
        ge=100_000,
        description="The largest file Discord takes here (10 MB, more on a boosted server). "
        "A larger picture is sent as a JPEG, which needs the extra `images`.",
    )

    @field_validator("webhook_url")
    @classmethod
    def _is_webhook(cls, value: SecretStr) -> SecretStr:
        if not _URL.match(value.get_secret_value()):
            raise ValueError("it is not a webhook's URL. Copy it from the channel's settings, Integrations, Webhooks")
        return value


@dataclass(frozen=True, slots=True)
class _File:
    """Attachment of a post."""

    name: str
    type: str
    data: bytes


class DiscordError(posts.ChatError):
    """Discord refused a call. `code` is its own number of the error, 0 if it gave none."""

    def __init__(self, status: int, code: int, text: str) -> None:
        super().__init__(f"Discord answered {status} ({f'{code}: ' if code else ''}{text})")
        self.status = status
        self.code = code
        self.remedy = _REMEDIES.get(code, f"the webhook does not work. {_NEW}" if status in (401, 403, 404) else None)


class DiscordHandler:
    """Posts results by a Discord webhook."""

    name = "discord"
    summary = "Posts in a Discord channel, with the picture, edited from progress to result."
    schemes = ("discord",)
    guarantee: ClassVar[Guarantee] = "at least once"
    Options = DiscordOptions

    def __init__(self, options: DiscordOptions) -> None:
        self._options = options
        self._url = options.webhook_url.get_secret_value()
        self._client = posts.chat_client()

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Return options from `discord://ID/TOKEN`, `discord:https://…` or `discord://` (for DISCORD_WEBHOOK_URL)."""
        place = url.partition(":")[2]
        if place.startswith(("https:", "http:")):
            return {"webhook_url": place}
        path = place.strip("/")
        return {"webhook_url": f"https://discord.com/api/webhooks/{path}"} if path else {}

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Post, or edit the existing post. Raise Rejected if Discord refuses until a person has done something."""
        attempt.wait_for_media()
        limit = self._options.max_bytes
        try:
            try:
                answer = await self._put(attempt, limit)
            except DiscordError as exc:
                if exc.status != 413 and exc.code != TOO_LARGE:
                    raise
                # Discord takes less than the option says: send smaller pictures, or words alone.
                answer = await self._put(attempt, min(limit, 8_000_000) // 2)
        except DiscordError as exc:
            exc.raise_for_delivery()
        return Receipt(ref=str(answer["id"]), data={"channel": str(answer.get("channel_id", ""))})

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _put(self, attempt: Attempt, limit: int) -> dict[str, Any]:
        """Edit the post, or make one if there is none any more. No file has more than `limit` bytes."""
        attached = [await in_thread(_file, attempt, item, limit) for item in attempt.media[:MOST_FILES]]
        files = [file for file, _ in attached if file]
        post = posts.post_of(attempt, remark=" ".join(remark for _, remark in attached if remark))
        payload = payload_of(post, [file.name for file in files], [file.type for file in files])
        known = attempt.previous.ref if attempt.previous else None
        if known is not None:
            try:
                return await self._send("PATCH", f"/messages/{known}", payload, files)
            except DiscordError as exc:
                if exc.code != UNKNOWN_MESSAGE:
                    raise
        if self._options.username:
            payload["username"] = self._options.username
        return await self._send("POST", "", payload, files, wait="true")

    async def _send(
        self, verb: str, path: str, payload: dict[str, Any], files: list[_File], **query: str
    ) -> dict[str, Any]:
        if self._options.thread_id:
            query["thread_id"] = self._options.thread_id
        parts: dict[str, Any] = {"payload_json": (None, json.dumps(payload).encode(), "application/json")}
        parts |= {f"files[{at}]": (file.name, file.data, file.type) for at, file in enumerate(files)}
        response = await posts.call(self._client, "Discord", verb, self._url + path, params=query, files=parts)
        answer = posts.json_object(response) or {}
        if response.status_code == 429:
            # The body is exact to the millisecond. Cloudflare, in front of Discord, sends the header alone.
            after, reason = answer.get("retry_after"), "Discord is posted to too often"
            if isinstance(after, int | float) and not isinstance(after, bool) and 0 <= after <= 86400:
                raise RetryLater(float(after), reason, pause=True)
            raise RetryLater.from_headers(response.headers, otherwise=posts.RATE_SECONDS, reason=reason)
        if response.is_success and answer.get("id"):
            return answer
        code, errors = answer.get("code"), answer.get("errors")  # `errors` names the wrong fields of the form
        said = (str(answer.get("message", "")), json.dumps(errors, ensure_ascii=False)[:200] if errors else "")
        text = " ".join(part for part in said if part) or "no reason given"
        raise DiscordError(response.status_code, code if isinstance(code, int) else 0, text[:300])


def payload_of(post: posts.Post, names: list[str], types: list[str]) -> dict[str, Any]:
    """Return the post as an embed, in which no link unfolds. Its picture is one of the attachments."""
    lines = [
        escape(posts.cut(post.prompt, 1500)),
        *(f"{at}\\. {escape(text)}" for at, text in enumerate(post.texts[:8], 1)),
    ]
    lines.append(escape(posts.cut(post.remark, 500)))
    if post.reason:
        lines.append(f"**Why:** {escape(posts.cut(post.reason, 500))}")
    if post.advice:
        lines.append(f"**What to do:** {post.advice}" + (f" `{post.command}`" if post.command else ""))
    elif post.command:
        lines.append(f"**Next steps:** {escape(posts.cut(post.steps, 300))}\n`{post.command}`")
    embed: dict[str, Any] = {
        "title": post.title,
        "description": posts.cut("\n\n".join(line for line in lines if line), 4096),
        "color": _COLORS[post.mood],
    }
    if len(names) == 1 and types[0].startswith("image/"):
        embed["image"] = {"url": f"attachment://{names[0]}"}
    if post.facts:
        embed["footer"] = {"text": posts.cut(post.facts, 1000)}
    alt_text = posts.cut(post.alt_text, 1024)
    return {
        "embeds": [embed],
        "attachments": [{"id": at, "filename": name, "description": alt_text} for at, name in enumerate(names)],
        "allowed_mentions": {"parse": []},
    }


def escape(text: str) -> str:
    """Return a text from outside with a backslash before each character of markup, mentions and links."""
    return _FIRST_ON_LINE.sub(r"\1\\\2", _MARKUP.sub(r"\\\1", text))


def _file(attempt: Attempt, item: StoredMedia, limit: int) -> tuple[_File | None, str]:
    """Return the file, a JPEG in its place, or nothing, and a remark on the difference. Blocking."""
    media = item.media
    if media.size <= limit:
        return _File(posts.file_name(attempt, item), media.type, item.path.read_bytes()), ""
    size = f"{media.size / 1e6:.1f} MB"
    data = posts.smaller(item.path, limit) if media.type.startswith("image/") else None
    if data is not None:
        jpeg = _File(posts.file_name(attempt, item, ".jpg"), "image/jpeg", data)
        return jpeg, f"Shown as a JPEG; the original has {size}."
    problem = f"A file of {size} is larger than the {limit / 1e6:.1f} MB Discord takes here."
    if media.type.startswith("image/") and not posts.CAN_SHRINK:
        problem += ' With pip install "imagine-receiver[images]", a JPEG is sent in its place.'
    return None, problem
