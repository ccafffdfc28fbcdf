"""Submissions, events and callbacks: the values that all other modules use.

Status of a submission (cause → next status, effect of a crash):

    prepared   journalled, not sent (submissions.prepare) → sending. After a crash the engine sends it.
    sending    the request is under way → accepted | refused | unknown | prepared (no task was made, send again later).
               After a crash it becomes unknown and is NEVER sent again, because it may have been charged.
    accepted   a task id is bound (submit answer or a doubly signed callback). Final.
    refused    the provider made no task and never will (banned word, quota, …). Final.
    unknown    the answer was lost or unclear. A good callback makes it accepted, else it ends as `task.lost`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from ulid import ULID

from receiver.tasks import EventType as EventType  # noqa: PLC0414 - the modules above import events, not tasks
from receiver.tasks import Task

SCHEMA = 1
"""Version of the event's fields, sent with every event."""

SubmissionStatus = Literal["prepared", "sending", "accepted", "refused", "unknown"]
DisplayStatus = Literal[SubmissionStatus, "in_progress", "input_required", "succeeded", "failed", "lost", "alert"]
ALERT_KIND = "alert"
"""Kind of the submissions that hold an alert (`engine.alerts`) and no request. No list of tasks shows them."""
DISPLAY_STATUSES: tuple[DisplayStatus, ...] = tuple(name for name in get_args(DisplayStatus) if name != ALERT_KIND)
Source = Literal["submit", "callback", "poll", "deadline", "engine"]

EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
ALERT_TYPES: tuple[EventType, ...] = tuple(type for type in EVENT_TYPES if type.startswith("receiver."))
TERMINAL_TYPES: tuple[EventType, ...] = ("task.succeeded", "task.failed", "task.lost")
PROVISIONAL_TYPES: tuple[EventType, ...] = ("task.failed", "task.lost")
"""Ends that a later SUCCESS may supersede (PROTOCOL.md §6, §8: a FAILURE may be false)."""


_last_id = 0
_last_id_lock = threading.Lock()
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ENDINGS = tuple(high + low for high in _DIGITS for low in _DIGITS)
"""The last two characters of an id: ten bits of it."""
_ID = re.compile(f"[0-7][{_DIGITS}]{{25}}")
_BASE_32 = str.maketrans(_DIGITS, "0123456789abcdefghijklmnopqrstuv")
"""From the digits of an id to those of `int`."""


def new_id(now_ms: int) -> str:
    """Return a time-ordered id of 26 characters (ULID), so that unique keys stay sorted by time.

    Within one process, ids of the same millisecond only rise.
    """
    global _last_id  # noqa: PLW0603 - the order is a promise of the process, not of a caller
    with _last_id_lock:
        _last_id = _last_id + 1 if _last_id >> 80 == now_ms else now_ms << 80 | secrets.randbits(79)
        return _beginning(_last_id >> 10) + _ENDINGS[_last_id & 1023]


@lru_cache(maxsize=1)
def _beginning(high: int) -> str:
    """Return all but the last two characters. They are slow to make, and the same for most ids of a millisecond."""
    return str(ULID.from_int(high << 10))[:-2]


def id_ms(id: str) -> int:
    """Return the epoch milliseconds at which an id was made. Raise ValueError for any other text."""
    if not _ID.fullmatch(id):
        raise ValueError("it is no ULID")
    return int(id[:10].translate(_BASE_32), 32)


def first_id(ms: int) -> str:
    """Return the smallest id that `new_id` could have made at that time, to compare ids with a time."""
    return str(ULID.from_int(max(ms, 0) << 80))


def steady_id(event_id: str, destination: str) -> str:
    """Return a delivery id that depends only on the event and the destination.

    For processes without a lasting journal, so that a destination that remembers idempotency keys drops repeats.
    """
    digest = hashlib.sha256(f"{event_id}.{destination}".encode()).digest()
    return str(ULID.from_int(id_ms(event_id[:26]) << 80 | int.from_bytes(digest[:10], "big")))


def is_at(url: str, origins: Iterable[str]) -> bool:
    """Return True if a URL in normal form is at one of these origins, e.g. `https://n8n.example.com`."""
    return any(url.startswith(f"{origin}/") for origin in origins)


def event_id(submission_id: str, type: EventType, percent: int | None = None, further: int = 0) -> str:
    """Return `<submission>.<type>[.<number>]`: the same for the same fact by callback, duplicate or poll.

    The number is the percentage of progress, or that of a further event of a result whose files came late.
    """
    number = percent if type == "task.progressed" else further or None
    return f"{submission_id}.{type}" if number is None else f"{submission_id}.{type}.{number}"


class Media(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One archived file of a result.

    Attributes:
        digest: SHA-256 in hex, and its name in the media store.
        type: media type by magic bytes, e.g. `image/png`.
        size: bytes.
        extension: with the dot, e.g. `.png`.
        url: its source.
        index: position among the files of one result, from 0.
    """

    digest: str
    type: str
    size: int
    extension: str
    url: str
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMedia:
    """Archived file that a handler may read: its entry in the journal and its path.

    The path is valid during the attempt. Copy the file to keep it, and do not change it.
    """

    media: Media
    path: Path
    tile: int = 0  # 1 to 4 for a picture of a grid: U1 top left, U2 top right, U3 bottom left, U4 bottom right

    @property
    def type(self) -> str:
        """Media type by magic bytes, e.g. `image/png`."""
        return self.media.type

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.media.size


class ExpectedFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of a result and the state of its download (rules: `journal.files`).

    due        downloaded at `due_ms` → archived | due again | lost | reserve
    archived   `media` is in the media store. Retention makes it lost.
    lost       given up, and `problem` says why. A replay or a new link makes it due.
    reserve    a further copy that is not needed, until another file fails → due

    Attributes:
        place: the field of the task that named it, e.g. `video_urls.2`. "" while there is no link at all.
        links: the candidates, the best one first.
        tries: downloads that failed since it became due.
        problem: reason of the last failure, a sentence.
    """

    place: str
    links: tuple[str, ...] = ()
    media: Media | None = None
    tries: int = 0
    due_ms: int | None = None
    problem: str | None = None

    @property
    def reserve(self) -> bool:
        """True for a copy that is not needed."""
        return self.media is None and self.due_ms is None and self.problem is None

    @property
    def missing(self) -> bool:
        """True if it is needed and not here."""
        return self.media is None and not self.reserve

    @property
    def fetchable(self) -> bool:
        """True if it is missing and can be downloaded anew. What retention has removed cannot."""
        return self.missing and (self.links != () or not self.place)


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """A picture sent with a request. The media store has its bytes, and the journal its digest and size.

    `field` is its field in the request's body.
    """

    digest: str
    type: str
    size: int
    field: str = "base64Array"


ReplyStatus = Literal["waiting", "sending", "sent", "unknown", "refused"]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Our reply to a task that asks for input (MODAL). The same task goes on (PROTOCOL.md §2, modal).

    Status: `waiting` until the task asks → `sending` → `sent`, or `refused` (a person may reply again), or `unknown`
    (the answer was lost, and it is never sent again). A busy provider puts it back to `waiting`.

    Attributes:
        body: fields besides the task id: `prompt`, if given.
        mask: area to repaint.
    """

    body: dict[str, Any]
    mask: Input | None = None
    status: ReplyStatus = "waiting"
    sends: int = 0


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal callback that waits for its confirmation by the provider.

    Attributes:
        task: the task in the callback.
        since_ms: time of arrival.
        asked: number of fetches made for it.
        contradicted: True if the provider's last answer that carried our state said otherwise.
    """

    task: Task
    since_ms: int
    asked: int = 0
    contradicted: bool = False


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """Our request that creates a task, and the state of that task. One row, changed only by `intake` and `submissions`.
    Times are epoch milliseconds."""

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
    """The caller's own `state`. It is not sent to the provider, and every event carries it."""
    parent_id: str | None = None
    """The submission whose task this one follows up."""
    button: str | None = None
    """Name of the button of a follow-up, as given. Its `customId` is looked up at the send."""
    auto: tuple[str, ...] = ()
    """Buttons that Receiver presses, once, when the task has succeeded."""
    destinations: tuple[str, ...] | None = None
    """Destinations of the results. None: all."""
    reply_to: str | None = None
    """URL that gets the events too, from a destination with reply origins. Its path and query are secret."""
    traceparent: str | None = None
    """The span of its last send, for links to it (W3C Trace Context). None where no traces are collected."""
    once: str | None = None
    """A name under which this submission exists once. None after a refusal."""
    once_digest: str | None = None
    """SHA-256 of the request with the name. Another request with that name is a conflict."""
    reply: Reply | None = None
    hooked: bool = False
    """True if a callback URL was sent, so that a callback can come at all."""
    status: SubmissionStatus = "prepared"
    outcome: str | None = None
    """The provider's last answer to the submit, a name from `provider.OUTCOMES`."""
    detail: str | None = None
    """A sentence about that answer, or about the end."""
    sends: int = 0
    send_due_ms: int | None = None
    """Time to send it (prepared), or time at which the send counts as lost (sending)."""
    task_id: str | None = None
    task: Task | None = None
    """The task as last merged. None before the first view of it."""
    ended: EventType | None = None
    """The last terminal event, None while under way."""
    deadline_ms: int
    poll_due_ms: int | None = None
    polls: int = 0
    """Polls since the task ended provisionally. They set the interval to the next one."""
    misses: int = 0
    """Failed or empty polls in a row."""
    claim: Claim | None = None
    unconfirmed: bool = False
    """True while its SUCCESS is the word of a callback alone. The provider is asked on."""
    callbacks: int = 0
    """Number of journalled callbacks."""
    callback_bytes: int = 0
    """Bytes of these callbacks in all."""
    late_callbacks: int = 0
    """Number of callbacks that came after an end."""
    risen_ms: int | None = None
    """Time at which its task was accepted, or last seen with a higher percentage."""
    asked_ms: int | None = None
    """Time of the provider's last answer to a question about it."""
    unlinked_ms: int | None = None
    """Time of the first SUCCESS without a link to a file. Links may come late (PROTOCOL.md §13.4)."""
    files: tuple[ExpectedFile, ...] = ()
    """The files of the result."""
    late_ms: int | None = None
    """Time until which deliveries of the result wait for its files. One that comes later makes a further event."""
    further: int = 0
    """Number of further events of the result."""

    @property
    def expected(self) -> tuple[ExpectedFile, ...]:
        """The files of the result without the copies that are not needed. Their positions are their indexes."""
        return tuple([item for item in self.files if not item.reserve])

    @property
    def media(self) -> tuple[Media, ...]:
        """The archived files."""
        return tuple(
            [
                item.media if item.media.index == at else msgspec.structs.replace(item.media, index=at)
                for at, item in enumerate(self.expected)
                if item.media is not None
            ]
        )

    @property
    def media_due_ms(self) -> int | None:
        """Time of the next download. None: nothing to download, done, or given up."""
        if not self.files:
            return None  # of nearly every row that is written
        return min((item.due_ms for item in self.files if item.due_ms is not None), default=None)

    @property
    def media_problem(self) -> str | None:
        """Sentence about the missing files, with the command if one was given up. None before a failure."""
        missing = [item for item in self.expected if item.media is None]
        reason = next((item.problem for item in missing if item.problem), None)
        if reason is None:
            return None
        if len(missing) < len(self.expected):
            verb = "is" if len(missing) == 1 else "are"
            reason = f"{len(missing)} of {len(self.expected)} files {verb} missing. {reason}"
        given_up = any(item.fetchable and item.due_ms is None for item in missing)
        if not given_up:
            return reason
        end = "" if reason.endswith((".", "!", "?")) else "."
        return f"{reason}{end} To try again: receiver media fetch {self.id}"

    def awaits_files(self, now_ms: int) -> bool:
        """Return True while the deliveries of the result wait for its files."""
        return self.media_due_ms is not None and now_ms < (self.late_ms or 0)

    @property
    def task_status(self) -> str:
        """The task's status, "" before the first view of it."""
        return self.task.status if self.task else ""

    @property
    def awaits_input(self) -> bool:
        """True if the task is in MODAL and no reply of ours is on its way."""
        return self.task_status == "MODAL" and (self.reply is None or self.reply.status == "refused")

    @property
    def display_status(self) -> DisplayStatus:
        """Status in one word, for people."""
        if self.kind == ALERT_KIND:
            return "alert"
        if self.ended is not None:
            return _END_STATUSES[self.ended]
        if self.awaits_input:
            return "input_required"
        if self.status != "accepted":
            return self.status
        return "in_progress" if self.task_status in ("IN_PROGRESS", "SUCCESS") else "accepted"

    @property
    def settled(self) -> bool:
        """True if it has ended or was refused, and nothing is to be sent, polled, downloaded or confirmed."""
        ended = self.ended is not None or self.status == "refused"
        return ended and (self.send_due_ms, self.poll_due_ms, self.media_due_ms, self.claim) == (None,) * 4

    @property
    def reason(self) -> str | None:
        """Reason of a failure, loss, refusal or wait. The provider's own reason comes first."""
        said = self.task.fail_reason if self.task is not None and self.ended == "task.failed" else ""
        return said or self.detail

    @property
    def last_word(self) -> EventType | None:
        """Type of the event after which nothing comes by itself. None while under way."""
        return self.ended or ("task.input_required" if self.awaits_input else None)


_END_STATUSES: dict[EventType, DisplayStatus] = {
    "task.succeeded": "succeeded",
    "task.failed": "failed",
    "task.lost": "lost",
}


class Event(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """An immutable, verified, journalled fact, as handlers get it.

    Attributes:
        id: `<submission>.<type>[.<number>]`.
        confirmed: False for an end that only a callback reported, without the provider's confirmation in time.
        supersedes: the id of the provisional end that this one corrects.
        reason: reason of a failure or loss, a sentence.
        further: 0, or the number of this further event of a result whose files came late.
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
    further: int = 0
    task: Task | None = None
    schema: int = SCHEMA

    @property
    def files(self) -> tuple[StoredMedia, ...]:
        """The files of the result that are here, while a handler or function is called with this event.

        They are no field: JSON of the event does not have them.
        """
        found: tuple[StoredMedia, ...] = self.__dict__.get("files", ())
        return found

    def with_files(self, files: tuple[StoredMedia, ...]) -> Event:
        """Return this event with the files of a delivery."""
        if not files:
            return self
        event = msgspec.structs.replace(self)
        event.__dict__["files"] = files
        return event


def alert_event(
    type: EventType, text: str, *, created_ms: int, labels: dict[str, str], submission_id: str | None = None
) -> Event:
    """Return the event of an alert, of a new submission unless its id is given. It has no task and no prompt."""
    row_id = submission_id or new_id(created_ms)
    return Event(
        id=event_id(row_id, type), type=type, submission_id=row_id, created_ms=created_ms, source="engine",
        task_id=None, status="", progress=None, prompt="", kind=ALERT_KIND, labels=labels, state=None, parent_id=None,
        confirmed=True, reason=text,
    )  # fmt: skip


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """A verified callback as it came. Deleted after 7 days.

    Attributes:
        cause: None if it was accepted (both tokens and the task id agree). Otherwise the reason why the provider was
            asked: `no_url_token`, `no_state`, `bad_state`, `other_state`, `other_task`, `encoding` (no UTF-8), or
            `error` (a fault of ours).
        body: UTF-8 without NUL. Bytes, because one emoji makes a `str` four times as large, and each step would encode
            it again.
    """

    submission_id: str
    received_ms: int
    cause: str | None
    body: bytes
