"""What a post in a chat says about an event, in plain text. How it is marked up is each chat's own business."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Literal

from receiver.deliveries import Receipt
from receiver.events import Event, EventType
from receiver.handlers.base import Attempt, RetryLater

Mood = Literal["waiting", "asking", "good", "bad"]

PENDING_SECONDS = 15.0
"""How long to wait for a picture that is still being downloaded."""
LINK_PAUSE = 5.0
LINK_TRIES = 12
"""So many times the pause is the minute in which another destination may store its copy."""

_TITLES: dict[EventType, tuple[str, Mood]] = {
    "task.accepted": ("Submitted", "waiting"),
    "task.progressed": ("In progress", "waiting"),
    "task.input_required": ("Waiting for your input", "asking"),
    "task.succeeded": ("Ready", "good"),
    "task.failed": ("Failed", "bad"),
    "task.lost": ("No result", "bad"),
}
_ADVICE: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile("banned|sensitive|moderat|policy|blocked|敏感|违规|违禁", re.IGNORECASE),
        "The provider refuses what the prompt says: reword it and submit it again.",
    ),
    (
        re.compile("parameter|unrecogni[sz]ed|invalid (?:value|argument)|参数", re.IGNORECASE),
        "Correct what begins with -- at the prompt's end, and submit it again.",
    ),
    (re.compile("tim(?:ed?)[ -]?out|超时", re.IGNORECASE), "The provider ran out of time: submit it again."),
    (re.compile("quota|balance|credit|额度|余额", re.IGNORECASE), "Top up at the provider, then submit it again."),
    (
        re.compile("image|picture|link|url|图片", re.IGNORECASE),
        "Check that everybody can open the pictures the prompt names, and submit it again.",
    ),
)
_OTHERWISE = "Submit it again; if that fails as well, change the prompt."
_PLAIN_BUTTON = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .()]{0,30}\Z")
"""What a button may be called to stand in a title or in a command: nothing there is markup in any chat."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, and what turns the direction of a text around."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What a post says. Prompt, reason, facts and details hold words of users and the provider: never markup.

    Attributes:
        title: in a word or two, ours; no markup in any chat.
        prompt: as submitted, "" where there is none.
        texts: the prompts that a describe or shorten found.
        reason: why it failed.
        advice: what to do, ours.
        command: what to type for that, or for the next step, ours.
        steps: the names of the buttons there are.
        remark: what is missing from this post, and why.
        facts: one line: what it was, how long it took, its labels.
        details: names and values, for who wants to know all.
    """

    title: str
    mood: Mood
    prompt: str
    texts: tuple[str, ...] = ()
    reason: str = ""
    advice: str = ""
    command: str = ""
    steps: str = ""
    remark: str = ""
    facts: str = ""
    details: tuple[tuple[str, str], ...] = ()

    @property
    def alt_text(self) -> str:
        """What the picture shows, for who cannot see it."""
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
    """What to post about an attempt's event.

    Args:
        remark: what is missing from the post beside the picture, which is said in any case.
    """
    event = attempt.event
    title, mood = _TITLES[event.type]
    if event.type == "task.progressed" and event.progress is not None:
        title = f"{title}: {event.progress} %"
    if event.type == "task.succeeded" and event.supersedes:
        title = "Ready after all"
    if attempt.media_problem:
        title, mood = f"{title}, but without the picture", "asking"
    if event.button and _PLAIN_BUTTON.match(event.button):
        title = f"{title} ({event.button})"
    missing = f"It could not be downloaded: {cut(clean(attempt.media_problem), 160)}" if attempt.media_problem else ""
    return Post(
        title=title,
        mood=mood,
        prompt=clean(event.prompt),
        texts=_texts(event),
        reason=clean(event.reason or "") if mood == "bad" else "",
        advice=_advice(event),
        command=_command(event),
        steps=clean(", ".join(_buttons(event))),
        remark=" ".join(part for part in (missing, remark) if part),
        facts=" · ".join(_facts(event)),
        details=_details(event),
    )


def wait_for_media(attempt: Attempt) -> None:
    """Raises RetryLater while the picture is still being downloaded: a post is made once, and with it."""
    if not attempt.media and attempt.media_pending:
        raise RetryLater(PENDING_SECONDS, "the picture is still being downloaded")


def linked(attempt: Attempt, name: str | None) -> str | None:
    """The link in the receipt of the destination `name`; None where there is none after a minute, or none is wanted.

    Raises:
        RetryLater: it may still come.
    """
    if name is None or attempt.event.type != "task.succeeded":
        return None
    url = attempt.receipts.get(name, Receipt()).url
    if url is None and attempt.number <= LINK_TRIES:
        raise RetryLater(LINK_PAUSE, f"there is no link from {name} yet")
    return url if url is not None and url.startswith(("https://", "http://")) else None


def cut(text: str, length: int) -> str:
    """At most `length` characters, the last one … where something is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"


def clean(text: str) -> str:
    """Words of others without control characters."""
    return _UNPRINTABLE.sub(" ", text).strip()


def _advice(event: Event) -> str:
    if event.type == "task.input_required":
        return "Answer what the provider asks for:"
    if event.type == "task.lost":
        return "It may still come, and is then posted here. See how it stands:"
    if event.type != "task.failed":
        return ""
    found = (advice for pattern, advice in _ADVICE if pattern.search(event.reason or ""))
    return next(found, _OTHERWISE)


def _command(event: Event) -> str:
    """Of our own id and plain words only: it is shown as code."""
    if event.type == "task.input_required":
        return f'receiver modal {event.submission_id} --prompt "…"'
    if event.type == "task.lost":
        return f"receiver tasks show {event.submission_id}"
    button = next(filter(_PLAIN_BUTTON.match, _buttons(event)), None)
    if button is None or event.type != "task.succeeded":
        return ""
    return f"receiver action {event.submission_id} {shlex.quote(button)}"


def _buttons(event: Event) -> list[str]:
    return [button.text for button in (event.task.buttons if event.task else ()) if button.text]


def _facts(event: Event) -> list[str]:
    facts = [clean(event.button or event.kind)]
    if event.task and event.task.submit_ms and event.task.finish_ms:
        facts.append(_lasted(event.task.finish_ms - event.task.submit_ms))
    facts += [f"{clean(name)}: {clean(value)}" for name, value in sorted(event.labels.items())]
    if event.type == "task.succeeded" and not event.confirmed:
        facts.append("not confirmed by the provider")
    return [fact for fact in facts if fact]


def _lasted(ms: int) -> str:
    seconds = max(round(ms / 1000), 0)
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min {seconds % 60} s"


def _texts(event: Event) -> tuple[str, ...]:
    texts = event.task.texts if event.task is not None and event.type == "task.succeeded" else ()
    return tuple(clean(text) for text in texts)


def _details(event: Event) -> tuple[tuple[str, str], ...]:
    task = event.task
    final = task.final_prompt if task is not None and not task.texts else ""
    rows = (
        ("Task", event.task_id or ""),
        ("Submission", event.submission_id),
        ("Final prompt", final if final != event.prompt else ""),
        ("Seed", task.seed if task else ""),
        ("State", event.state or ""),
    )
    return tuple((name, clean(value)) for name, value in rows if clean(value))
