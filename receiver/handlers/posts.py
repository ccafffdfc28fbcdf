"""Post in a chat: its words in plain text, its pictures, and its refusals. Each chat adds its markup."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, TypeVar

from receiver import pictures
from receiver.deliveries import Receipt
from receiver.errors import MediaError
from receiver.events import ALERT_TYPES, Event, EventType
from receiver.handlers.base import Attempt, Rejected, RetryLater, StoredMedia
from receiver.handlers.result_files import file_stem, texts
from receiver.tasks import Task
from receiver.tasks.reasons import advice_on

T = TypeVar("T")
Mood = Literal["waiting", "asking", "good", "bad"]

LINK_PAUSE = 5.0
LINK_TRIES = 12
"""Attempts that wait for another destination's link: a minute in all."""
COPY_SECONDS = 20.0
"""Time for the smaller copies of one post. It leaves most of an attempt's time for the post itself."""
RATE_SECONDS = 30.0
"""Pause after a rate limit that names no time."""
REMEMBERED = 1000
"""Unfinished deliveries of which a chat remembers something for the retry."""
_TITLES: dict[EventType, tuple[str, Mood]] = {
    "task.accepted": ("Submitted", "waiting"),
    "task.progressed": ("In progress", "waiting"),
    "task.input_required": ("Waiting for your input", "asking"),
    "task.succeeded": ("Ready", "good"),
    "task.failed": ("Failed", "bad"),
    "task.lost": ("No result", "bad"),
    "receiver.destination_paused": ("A destination gets nothing", "bad"),
    "receiver.destination_resumed": ("A destination works again", "good"),
    "receiver.delivery_dead": ("A delivery is dead", "bad"),
    "receiver.delivery_recovered": ("No delivery is dead any more", "good"),
    "receiver.provider_unreachable": ("The provider cannot be used", "bad"),
    "receiver.provider_recovered": ("The provider answers again", "good"),
    "receiver.callbacks_missing": ("Callbacks are missing", "bad"),
    "receiver.callbacks_returned": ("Callbacks come again", "good"),
    "receiver.disk_low": ("The disk is nearly full", "bad"),
    "receiver.disk_recovered": ("There is space on the disk again", "good"),
}
_PLAIN_BUTTON = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .()]{0,30}\Z")
"""Name of a button that may be in a title or command: it contains no chat's markup."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, and characters that reverse the direction of a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Words of a post. Prompt, reason, facts and details come from outside: never treat them as markup."""

    title: str  # our own word or two, without any chat's markup
    mood: Mood
    prompt: str  # as submitted, "" if there is none
    texts: tuple[str, ...] = ()  # the prompts that a describe or shorten found
    reason: str = ""  # why it failed
    advice: str = ""  # our own words on what to do
    command: str = ""  # what to type for that, or for the next step
    steps: str = ""  # names of the buttons there are
    remark: str = ""  # what is missing from this post, and why
    facts: str = ""  # one line: what it was, how long it took, its labels
    details: tuple[tuple[str, str], ...] = ()  # further names and values

    @property
    def alt_text(self) -> str:
        """Description of the picture in words."""
        return self.prompt or "A picture made by Midjourney"

    @property
    def why(self) -> str:
        """The reason as a line."""
        return f"Why: {self.reason}" if self.reason else ""

    @property
    def what_to_do(self) -> str:
        """The advice as a line, without the command."""
        return f"What to do: {self.advice}" if self.advice else ""

    @property
    def body(self) -> str:
        """Everything but the title, as paragraphs of plain text."""
        step = f"{self.what_to_do or 'Next step:'} {self.command}" if self.command else self.what_to_do
        parts = [self.prompt, *self.texts, self.why, step, self.remark, self.facts]
        return "\n\n".join(part for part in parts if part)


def post_of(attempt: Attempt, *, remark: str = "") -> Post:
    """Return the words about an attempt's event. `remark` says what else than a picture is missing from the post."""
    event = attempt.event
    title, mood = _TITLES[event.type]
    if event.type == "task.progressed" and event.progress is not None:
        title = f"{title}: {event.progress} %"
    if event.type == "task.succeeded" and event.supersedes:
        title = "Ready after all"
    if attempt.media_problem:
        lacks = "not all files" if attempt.media else "without the picture"
        title, mood = f"{title}, but {lacks}", "asking"
    if event.button and _PLAIN_BUTTON.match(event.button):
        title = f"{title} ({event.button})"
    missing = ""
    if attempt.media_problem:
        missing = f"{'' if attempt.media else 'It could not be downloaded: '}{cut(clean(attempt.media_problem), 160)}"
        missing += " It is still tried for, and comes here then." if attempt.media_pending else ""
    task = event.task or Task(id="")
    buttons = [button.text for button in task.buttons if button.text]
    what_to_do, command = _next_step(event, buttons)
    final = "" if task.texts or task.final_prompt == event.prompt else task.final_prompt
    rows = {
        "Task": event.task_id or "",
        "Submission": event.submission_id,
        "Final prompt": final,
        "Seed": task.seed,
        "State": event.state or "",
    }
    return Post(
        title=title,
        mood=mood,
        prompt=clean(event.prompt),
        texts=tuple(clean(text) for text in texts(event)),
        reason=clean(event.reason or "") if mood == "bad" or event.type in ALERT_TYPES else "",
        advice=what_to_do,
        command=command,
        steps=clean(", ".join(buttons)),
        remark=" ".join(part for part in (missing, remark) if part),
        facts=" · ".join(_facts(event)),
        details=tuple((name, clean(value)) for name, value in rows.items() if clean(value)),
    )


def linked(attempt: Attempt, name: str | None) -> str | None:
    """Return the link in the receipt of the destination `name`, or None. Raise RetryLater for a minute."""
    if name is None or attempt.event.type != "task.succeeded":
        return None
    url = attempt.receipts.get(name, Receipt()).url
    if url is None and attempt.number <= LINK_TRIES:
        raise RetryLater(LINK_PAUSE, f"there is no link from {name} yet")
    return url if url is not None and url.startswith(("https://", "http://")) else None


def cut(text: str, length: int) -> str:
    """Return at most `length` characters, the last one … if something is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def clean(text: str) -> str:
    """Return a text from outside without control characters."""
    return _UNPRINTABLE.sub(" ", text).strip()


def _next_step(event: Event, buttons: list[str]) -> tuple[str, str]:
    """Return our advice and a command, which has our own id and plain words only, because it is shown as code."""
    if event.type == "task.input_required":
        return "Answer what the provider asks for:", f'receiver modal {event.submission_id} --prompt "…"'
    if event.type == "task.lost":
        return (
            "It may still come, and is then posted here. See how it stands:",
            f"receiver tasks show {event.submission_id}",
        )
    if event.type == "task.failed":
        return advice_on(event.reason or "", event.prompt), ""
    button = next(filter(_PLAIN_BUTTON.match, buttons), None)
    if button is None or event.type != "task.succeeded":
        return "", ""
    return "", f"receiver action {event.submission_id} {shlex.quote(button)}"


def _facts(event: Event) -> list[str]:
    facts = [clean(event.button or event.kind)]
    if event.task and event.task.submit_ms and event.task.finish_ms:
        seconds = max(round((event.task.finish_ms - event.task.submit_ms) / 1000), 0)
        facts.append(f"{seconds} s" if seconds < 120 else f"{seconds // 60} min {seconds % 60} s")
    facts += [f"{clean(name)}: {clean(value)}" for name, value in sorted(event.labels.items())]
    if event.type == "task.succeeded" and not event.confirmed:
        facts.append("not confirmed by the provider")
    return [fact for fact in facts if fact]


# Pictures


def file_name(attempt: Attempt, item: StoredMedia, extension: str | None = None) -> str:
    """Return a readable file name for an archived file or a tile, with its own extension unless another is given."""
    number = f"_{item.media.index + 1}" if attempt.numbered else ""
    number = f"_u{item.tile}" if item.tile else number
    return f"{file_stem(attempt.event)}{number}{extension or item.media.extension}"


async def smaller(paths: Iterable[Path], limit: int) -> dict[Path, bytes]:
    """Return JPEGs of at most `limit` bytes, of the pictures for which there can be one within `COPY_SECONDS`."""
    copies: dict[Path, bytes] = {}

    async def copy(path: Path) -> None:
        with suppress(MediaError, OSError):
            copies[path] = await pictures.smaller_copy(path, limit)

    with suppress(TimeoutError):
        async with asyncio.timeout(COPY_SECONDS):
            await asyncio.gather(*map(copy, paths))
    return copies


# Retries and refusals


def remember(memory: dict[str, T], attempt: Attempt, value: T) -> T:
    """Keep a value for the next attempt at a delivery, and return it. The oldest of too many is dropped."""
    memory[attempt.idempotency_key] = value
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]
    return value


class ChatError(Exception):
    """A chat refused a call. `remedy` is what a person must do, or None if a retry may help."""

    remedy: str | None = None

    def raise_for_delivery(self) -> NoReturn:
        """Raise Rejected if a person must do something, else this error, which is retried."""
        if self.remedy:
            raise Rejected(f"{self}: {self.remedy}.") from self
        raise self
