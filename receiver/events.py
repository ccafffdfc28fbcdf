"""Submissions, events and what the journal keeps of a callback: the facts everything else speaks of.

Status of a submission (who moves in → who moves out; what a crash does):

    prepared   journalled, not sent (submissions.prepare) → sending; after a crash the engine sends it
    sending    the request is under way → accepted | refused | unknown | prepared (no task was made, send again later);
               after a crash it becomes unknown and is NEVER sent again: it may have been charged
    accepted   a task id is bound (submit answer or a doubly signed callback); stays
    refused    the provider made no task and never will (banned word, quota, …); stays
    unknown    the answer was lost or unclear; a good callback makes it accepted, else it ends `task.lost`
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from functools import lru_cache
from typing import Any, Literal

import msgspec
from ulid import ULID

from receiver.tasks import EventType as EventType  # noqa: PLC0414 - everyone above speaks of events, not of tasks
from receiver.tasks import Task

SCHEMA = 1
"""Version of the event's shape, sent with every event."""

SubmissionStatus = Literal["prepared", "sending", "accepted", "refused", "unknown"]
DisplayStatus = Literal[
    "prepared",
    "sending",
    "accepted",
    "refused",
    "unknown",
    "in_progress",
    "input_required",
    "succeeded",
    "failed",
    "lost",
]
Source = Literal["submit", "callback", "poll", "deadline"]

EVENT_TYPES: tuple[EventType, ...] = (
    "task.accepted",
    "task.progressed",
    "task.input_required",
    "task.succeeded",
    "task.failed",
    "task.lost",
)
TERMINAL_TYPES: tuple[EventType, ...] = ("task.succeeded", "task.failed", "task.lost")
PROVISIONAL_TYPES: tuple[EventType, ...] = ("task.failed", "task.lost")
"""Ends that a later SUCCESS may supersede (PROTOCOL.md §6, §8: a FAILURE may be false)."""


_last_id = 0
_last_id_lock = threading.Lock()
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ENDINGS = tuple(high + low for high in _DIGITS for low in _DIGITS)
"""The last two characters of an id: ten bits of it."""


def new_id(now_ms: int) -> str:
    """A time-ordered id of 26 characters (ULID), so that unique keys stay sorted by time.

    Within one process ids made in the same millisecond only rise.
    """
    global _last_id  # noqa: PLW0603 - the order is a promise of the process, not of a caller
    with _last_id_lock:
        _last_id = _last_id + 1 if _last_id >> 80 == now_ms else now_ms << 80 | secrets.randbits(79)
        return _beginning(_last_id >> 10) + _ENDINGS[_last_id & 1023]


@lru_cache(maxsize=1)
def _beginning(high: int) -> str:
    """All but the last two characters: the same for most ids of a millisecond, and dear to write."""
    return str(ULID.from_int(high << 10))[:-2]


def first_id(ms: int) -> str:
    """The smallest id `new_id` could have made at that time, so that ids can be compared with a time."""
    return str(ULID.from_int(max(ms, 0) << 80))


def steady_id(event_id: str, destination: str) -> str:
    """Return a delivery id that depends on nothing but the event and the destination: for processes without a lasting
    journal, so that a destination that remembers idempotency keys drops repeats."""
    digest = hashlib.sha256(f"{event_id}.{destination}".encode()).digest()
    return str(ULID.from_int(ULID.from_str(event_id[:26]).milliseconds << 80 | int.from_bytes(digest[:10], "big")))


def event_id(submission_id: str, type: EventType, percent: int | None = None) -> str:
    """The same fact by callback, duplicate or poll has the same id: `<submission>.<type>[.<percent>]`."""
    base = f"{submission_id}.{type}"
    return f"{base}.{percent}" if type == "task.progressed" and percent is not None else base


class Media(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One archived file of a result.

    Attributes:
        digest: SHA-256 in hex; also its name in the media store.
        type: media type by magic bytes, e.g. `image/png`.
        size: bytes.
        extension: with the dot, e.g. `.png`.
        url: where it came from.
        index: position among the files of one result, from 0.
    """

    digest: str
    type: str
    size: int
    extension: str
    url: str
    index: int = 0


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """A picture sent with a request: kept in the media store, in the journal as digest and size only.

    `field` is the one of the request's body that it goes into.
    """

    digest: str
    type: str
    size: int
    field: str = "base64Array"


ReplyStatus = Literal["waiting", "sending", "sent", "unknown", "refused"]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Our answer to a task that asks for input (MODAL); the same task goes on (PROTOCOL.md §2, modal).

    Status: `waiting` until the task asks → `sending` → `sent`, or `refused` (a person may reply again), or `unknown`
    when the answer was lost: it is never sent again. A busy provider puts it back to `waiting`.

    Attributes:
        body: what goes out beside the task id: `prompt`, if given.
        mask: where to repaint.
    """

    body: dict[str, Any]
    mask: Input | None = None
    status: ReplyStatus = "waiting"
    sends: int = 0


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal callback that waits for the provider's own word ("confirmation").

    Attributes:
        task: the task as the callback gave it.
        since_ms: when it came.
        asked: how many fetches have been spent on it.
    """

    task: Task
    since_ms: int
    asked: int = 0


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """Our request that creates a task, and what is known of that task. One row; changed only by `intake`
    and `submissions`. Times are epoch milliseconds."""

    id: str
    kind: str
    created_ms: int
    prompt: str
    request: dict[str, Any]
    """The request fields as they go out, without `state`, `notifyHook` and pictures."""
    inputs: tuple[Input, ...] = ()
    speed: str | None = None
    labels: dict[str, str] = {}
    user_state: str | None = None
    """The caller's own `state`; ours goes to the provider, theirs comes back in every event."""
    parent_id: str | None = None
    """The submission whose task this one follows up."""
    button: str | None = None
    """For a follow-up by button: what the person called it. Its `customId` is looked up as it is sent."""
    auto: tuple[str, ...] = ()
    """Buttons to follow up by ourselves, once, when the task has succeeded."""
    destinations: tuple[str, ...] | None = None
    """Where the results go; None: everywhere."""
    once: str | None = None
    """A name under which this submission exists once; None once it was refused."""
    once_digest: str | None = None
    """SHA-256 of the request that took the name, to tell a repeat from another request."""
    reply: Reply | None = None
    hooked: bool = False
    """Whether a callback URL was sent along, so that a callback can come at all."""
    status: SubmissionStatus = "prepared"
    outcome: str | None = None
    """The provider's last answer to the submit, a name from `provider.OUTCOMES`."""
    detail: str | None = None
    """A sentence about that answer, or about the end."""
    sends: int = 0
    send_due_ms: int | None = None
    """prepared: when to send; sending: when the send counts as lost."""
    task_id: str | None = None
    task: Task | None = None
    """The task as last merged; None before the first word."""
    ended: EventType | None = None
    """The last terminal event, None while under way."""
    deadline_ms: int
    poll_due_ms: int | None = None
    polls: int = 0
    """Polls since the task ended provisionally; the pace after the end depends on it."""
    misses: int = 0
    """Failed or empty polls in a row."""
    claim: Claim | None = None
    callbacks: int = 0
    media: tuple[Media, ...] = ()
    media_problem: str | None = None
    media_tries: int = 0
    media_due_ms: int | None = None
    """When to try the download next; None: nothing to download, or done, or given up."""
    fallback_urls: tuple[str, ...] = ()
    """Links the callback gave where the fetch gave others (PROTOCOL.md §10.4: the fetch's first, these second)."""

    @property
    def task_status(self) -> str:
        """The task's status, "" before the first word."""
        return self.task.status if self.task else ""

    @property
    def awaits_input(self) -> bool:
        """Whether the task stands in MODAL and no reply of ours is on its way."""
        return self.task_status == "MODAL" and (self.reply is None or self.reply.status == "refused")

    @property
    def display_status(self) -> DisplayStatus:
        """Status in one word, for people."""
        if self.ended is not None:
            return _END_STATUSES[self.ended]
        if self.awaits_input:
            return "input_required"
        if self.status != "accepted":
            return self.status
        return "in_progress" if self.task_status == "IN_PROGRESS" else "accepted"

    @property
    def reason(self) -> str | None:
        """Why it failed, was lost or refused, or what it waits for: the provider's words first."""
        said = self.task.fail_reason if self.task is not None and self.ended == "task.failed" else ""
        return said or self.detail

    @property
    def last_word(self) -> EventType | None:
        """The type of the event after which nothing comes by itself; None while under way."""
        return self.ended or ("task.input_required" if self.awaits_input else None)


_END_STATUSES: dict[EventType, DisplayStatus] = {
    "task.succeeded": "succeeded",
    "task.failed": "failed",
    "task.lost": "lost",
}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable, verified, journalled fact. This is what handlers see and what leaves the house.

    Attributes:
        id: `<submission>.<type>[.<percent>]`.
        confirmed: a terminal fact that the provider's own answer agreed with; False when only a callback
            said so until time ran out.
        supersedes: the id of the provisional end that this one corrects.
        reason: why it failed or was lost, a sentence.
        state: the caller's own `state`, if one was given.
    """

    id: str
    type: EventType
    submission_id: str
    created_ms: int
    source: Source
    task_id: str | None
    status: str
    progress: int | None
    prompt: str
    kind: str
    labels: dict[str, str]
    state: str | None
    parent_id: str | None
    button: str | None = None
    confirmed: bool
    supersedes: str | None = None
    reason: str | None = None
    task: Task | None = None
    schema: int = SCHEMA


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """A verified callback as it came; kept 7 days.

    Attributes:
        cause: None when it was accepted (both tokens and the task id agree); else why the provider was asked instead:
            `no_url_token`, `no_state`, `bad_state`, `other_state`, `other_task`, or `error` (a fault of ours).
        body: UTF-8 without NUL. As bytes, because one emoji makes four bytes of each character of a `str`, and each
            step on the way would turn them over.
    """

    submission_id: str
    received_ms: int
    cause: str | None
    body: bytes
