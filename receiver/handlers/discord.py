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
from urllib.parse import parse_qsl

from msgspec import Meta

from receiver import pictures
from receiver.deliveries import Receipt
from receiver.disk import in_thread
from receiver.extras import install
from receiver.handlers import posts
from receiver.handlers.answers import about_event, by_proxy, call, chat_client
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions, Kind, RetryLater, Secret, StoredMedia
from receiver.settings.kinds import parse_size, show_size
from receiver.settings.options import KnownAs

MOST_FILES = 10
"""Files of one post."""
_MARKUP = re.compile(r"([\\*_~`|<>@#:\[\]])")
_FIRST_ON_LINE = re.compile(r"(?m)^([^\S\n]*\d*)([.+-])")
_COLORS: dict[posts.Mood, int] = {"waiting": 0x9CA3AF, "asking": 0xF59E0B, "good": 0x22C55E, "bad": 0xEF4444}
_URL = re.compile(r"(https?://[^\s/?#]+(?:/[^\s/?#]+)*)/webhooks/([^\s/?#]+/[^\s/?#]+)/?(?:\?([^\s#]*))?\Z")
_OWN_HOST = re.compile(r"https?://(?:(?:www|ptb|canary)\.)?discord(?:app)?\.com/api(?:/v\d+)?\Z", re.IGNORECASE)
_API = "https://discord.com/api/v10"
"""Address of the API with its version. Without one, Discord answers in the form of an old version."""
_THREAD = r"^\d{15,21}\Z"
_NEW = "Make a new one (channel settings, Integrations, Webhooks), and set DISCORD_WEBHOOK_URL or webhook_url to it"

UNKNOWN_CHANNEL, UNKNOWN_MESSAGE, UNKNOWN_WEBHOOK, INVALID_TOKEN = 10003, 10008, 10015, 50027
"""Discord's JSON error codes (docs.discord.com/developers/topics/opcodes-and-status-codes)."""
THREAD_ARCHIVED, INVALID_FORM, THREAD_WANTED = 50083, 50035, 220001
_NO_MEANING = frozenset({0, 50001, 50013})
"""Codes that leave it to the HTTP status: none, no access, no permission."""
_FILE_REFUSED = frozenset({20009, 40005, 50045, 50046})
"""Codes about a file: explicit, request too large, file too large, file invalid."""
_REMEDIES: Mapping[int, str] = {
    UNKNOWN_CHANNEL: "the channel or thread is gone. Check thread_id, or make a webhook for another channel",
    UNKNOWN_WEBHOOK: f"the webhook was deleted. {_NEW}",
    INVALID_TOKEN: f"the webhook's URL is wrong. {_NEW}",
    THREAD_ARCHIVED: "the thread is archived. Open it again, or set thread_id to another one",
    INVALID_FORM: "that is a fault of Receiver; please report it",
    THREAD_WANTED: "this is a forum, where posts need a thread. Set thread_id to one of its posts",
}


def read_url(url: str) -> tuple[str, str | None]:
    """Return the address of a webhook without its query, and the thread in the query.

    An address of Discord's gets the API's version. A ValueError leaves out the URL.
    """
    match = _URL.match(url.strip())
    if match is None:
        extra = " Leave out /slack or /github at its end." if re.search(r"/(?:slack|github)/?(?:\?|\Z)", url) else ""
        raise ValueError(
            f"it is not a webhook's URL.{extra} Copy it from the channel's settings, Integrations, Webhooks"
        )
    base, path, query = match.groups()
    given = dict(parse_qsl(query or ""))
    thread = given.pop("thread_id", None)
    if thread is not None and not re.match(_THREAD, thread):
        raise ValueError("its thread_id is not an id of 15 to 21 digits")
    if unknown := sorted(given.keys() - {"wait", "with_components"}):
        raise ValueError(f"its query may hold thread_id and wait only, but it has {unknown[0][:40]!r}")
    return f"{_API if _OWN_HOST.match(base) else base}/webhooks/{path}", thread


def _check_url(url: Secret) -> Secret:
    read_url(url.text)
    return url


class DiscordOptions(HandlerOptions):
    """Options of a `discord` destination."""

    webhook_url: Annotated[
        Secret,
        Kind(check=_check_url),
        "The channel's webhook, `https://discord.com/api/webhooks/…`; `DISCORD_WEBHOOK_URL` if not given.",
        KnownAs("DISCORD_WEBHOOK_URL"),
    ]
    thread_id: Annotated[
        str | None,
        Meta(pattern=_THREAD),
        Kind(write="an id of 15 to 21 digits"),
        "The id (15 to 21 digits) of a thread or forum post of that channel to post to; "
        "else the `thread_id` of the webhook's URL.",
    ] = None
    username: Annotated[
        str | None,
        Meta(min_length=1, max_length=80),
        Kind(write="a name of 1 to 80 characters"),
        "The name it posts under, in place of the webhook's own.",
    ] = None
    max_bytes: Annotated[
        int,
        Kind(parse_size, write="100000 bytes or more, for instance 8MiB", show=show_size),
        Meta(ge=100_000),
        "The largest file Discord takes here (10 MB, more on a boosted server). "
        "A larger picture is sent as a JPEG, which needs the extra `images`.",
    ] = 10_000_000


@dataclass(frozen=True, slots=True)
class _File:
    """Attachment of a post."""

    name: str
    type: str
    data: bytes


class DiscordError(posts.ChatError):
    """Discord refused a call. `code` is its own number of the error, 0 if it gave none.

    A refusal by a proxy in front of Discord has no remedy, and so is never final.
    """

    def __init__(self, status: int, code: int, text: str, *, proxy: bool = False) -> None:
        super().__init__(f"Discord answered {status} ({f'{code}: ' if code else ''}{text})")
        self.status = status
        self.code = code
        self.about_file = status == 413 or code in _FILE_REFUSED
        self.about_event = about_event(status) and not proxy
        if not proxy:
            dead = status in (401, 403, 404) and code in _NO_MEANING
            self.remedy = _REMEDIES.get(code) or (f"the webhook does not work. {_NEW}" if dead else None)


class DiscordHandler:
    """Posts results by a Discord webhook."""

    name = "discord"
    summary = "Posts in a Discord channel, with the picture, edited from progress to result."
    schemes = ("discord",)
    guarantee: ClassVar[Guarantee] = "at least once"
    Options = DiscordOptions

    def __init__(self, options: DiscordOptions) -> None:
        self._options = options
        self._url, thread = read_url(options.webhook_url.text)
        self._thread = options.thread_id or thread
        self._client = chat_client()
        self._unfinished: dict[str, list[str]] = {}

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Return options from `discord://ID/TOKEN`, `discord:https://…` or `discord://` (for DISCORD_WEBHOOK_URL).

        Each may end with `?thread_id=…`.
        """
        place = url.partition(":")[2]
        if place.startswith(("https:", "http:")):
            return {"webhook_url": place}
        path = place.strip("/")
        if path.startswith("?"):
            return dict(parse_qsl(path[1:]))
        return {"webhook_url": f"https://discord.com/api/webhooks/{path}"} if path else {}

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Post, or edit the existing post. Raise Rejected if Discord refuses until a person has done something."""
        limit = self._options.max_bytes
        smaller = min(limit, 8_000_000) // 2
        steps: list[tuple[int, int | None]] = [(limit, None), (limit, limit), (smaller, smaller), (0, None)]
        if len(attempt.media) < 2:
            del steps[1]
        ids = self._known(attempt)
        # Discord may take less than the option says, or less in one post: divide, send smaller pictures, then words.
        for each, together in steps:
            try:
                channel = await self._put(attempt, ids, each, together)
                break
            except DiscordError as exc:
                if not attempt.media or not exc.about_file or each == 0:
                    exc.raise_for_delivery()
        self._unfinished.pop(attempt.idempotency_key, None)
        return Receipt(ref=ids[0], data={"channel": channel, "more": ids[1:]})

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _known(self, attempt: Attempt) -> list[str]:
        """Return the ids of the posts that a failed attempt or the event before left. New posts are added to it."""
        if (ids := self._unfinished.get(attempt.idempotency_key)) is not None:
            return ids
        before = attempt.previous
        ids = [before.ref, *map(str, before.data.get("more") or ())] if before and before.ref else []
        return posts.remember(self._unfinished, attempt, ids)

    async def _put(self, attempt: Attempt, ids: list[str], each: int, together: int | None) -> str:
        """Edit the posts, or make those that are not there. Return the channel's id.

        No file has more than `each` bytes, and no post more than `together`.
        """
        large = [item.path for item in attempt.media if item.media.size > each and item.media.type.startswith("image/")]
        copies = await posts.smaller(large, each) if each else {}
        attached = [await in_thread(_file, attempt, item, each, copies.get(item.path)) for item in attempt.media]
        groups = grouped([file for file, _ in attached if file], together)
        post = posts.post_of(attempt, remark=" ".join(dict.fromkeys(remark for _, remark in attached if remark)))
        channel = ""
        for at, files in enumerate(groups):
            payload = payload_of(post, [file.name for file in files], [file.type for file in files])
            if at > 0:
                title = f"{post.title}, continued: {at + 1} of {len(groups)}"
                payload["embeds"] = [{"title": title, "color": _COLORS[post.mood]}]
            answer = await self._edit_or_post(ids[at] if at < len(ids) else None, payload, files)
            ids[at : at + 1] = [str(answer["id"])]
            channel = channel or str(answer.get("channel_id", ""))
        return channel

    async def _edit_or_post(self, known: str | None, payload: dict[str, Any], files: list[_File]) -> dict[str, Any]:
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
        if self._thread:
            query["thread_id"] = self._thread
        parts: dict[str, Any] = {"payload_json": (None, json.dumps(payload).encode(), "application/json")}
        parts |= {f"files[{at}]": (file.name, file.data, file.type) for at, file in enumerate(files)}
        response = await call(self._client, "Discord", verb, self._url + path, params=query, files=parts)
        answer = response.object or {}
        if response.status == 429:
            # Discord's own header, and a fraction in the body, are in seconds at every address. Retry-After is so only
            # where that has a version.
            headers, after = {**response.headers}, answer.get("retry_after")
            own = headers.get("x-ratelimit-reset-after") or (str(after) if isinstance(after, float) else "")
            headers["retry-after"] = own or headers.get("retry-after", "")
            reason = "Discord is posted to too often"
            raise RetryLater.from_headers(headers, otherwise=posts.RATE_SECONDS, reason=reason)
        if response.is_success and answer.get("id"):
            return answer
        if by_proxy("discord", response.body):
            raise DiscordError(response.status, 0, "not in Discord's own form: by a proxy in front of it?", proxy=True)
        code, errors = answer.get("code"), answer.get("errors")  # `errors` names the wrong fields of the form
        said = (str(answer.get("message", "")), json.dumps(errors, ensure_ascii=False)[:200] if errors else "")
        text = " ".join(part for part in said if part) or "no reason given"
        raise DiscordError(response.status, code if isinstance(code, int) else 0, text[:300])


def grouped(files: list[_File], together: int | None) -> list[list[_File]]:
    """Return files as posts in order, each of at most ten files and `together` bytes. Without files, one empty post."""
    groups: list[list[_File]] = [[]]
    for file in files:
        size = sum(len(other.data) for other in groups[-1]) + len(file.data)
        if len(groups[-1]) == MOST_FILES or (groups[-1] and together is not None and size > together):
            groups.append([])
        groups[-1].append(file)
    return groups


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


def _file(attempt: Attempt, item: StoredMedia, limit: int, copy: bytes | None) -> tuple[_File | None, str]:
    """Return the file, a JPEG `copy` in its place, or nothing, and a remark on the difference. Blocking."""
    media = item.media
    if media.size <= limit:
        return _File(posts.file_name(attempt, item), media.type, item.path.read_bytes()), ""
    if limit == 0:
        return None, "Discord does not take the file, so the post is without it."
    size = f"{media.size / 1e6:.1f} MB"
    if copy is not None:
        jpeg = _File(posts.file_name(attempt, item, ".jpg"), "image/jpeg", copy)
        return jpeg, f"Shown as a JPEG; the original has {size}."
    problem = f"A file of {size} is larger than the {limit / 1e6:.1f} MB Discord takes here."
    if media.type.startswith("image/") and not pictures.AVAILABLE:
        problem += f" With the extra images ({install('images')}), a JPEG is sent in its place."
    return None, problem
