"""Deliveries: one event for one destination, and the attempts made at it.

Status of a delivery (cause → next status, effect of a crash):

    pending    due at `due_ms` (intake, or a failed attempt) → running | cancelled
    running    claimed under `attempt`, which is the fence (dispatcher) → succeeded | pending | dead. After a crash
               another engine frees it. An attempt that vanished counts as a failure.
    succeeded  the handler returned. Final.
    dead       the handler raised `Rejected`, or the retries are used up. Final until a person replays it.
    cancelled  a newer event of the same submission took its place before it ran. Final.

A claim lasts as long as the membership of its owner (`journal.membership`). On SQLite, the owner's lock ends with its
process. Elsewhere each engine sends heartbeats, and the leader frees the deliveries of expired ones.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

DeliveryStatus = Literal["pending", "running", "succeeded", "dead", "cancelled"]
AttemptOutcome = Literal["succeeded", "failed", "rejected", "postponed", "interrupted", "vanished"]
"""`postponed` and `interrupted` use up no attempt: the handler asked to wait, or we were shut down. `vanished` counts
like `failed`, because the attempt may have ended its engine, but it says nothing about the destination."""

DELIVERY_STATUSES: tuple[DeliveryStatus, ...] = ("pending", "running", "succeeded", "dead", "cancelled")


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A handler's report of a success.

    Attributes:
        ref: the destination's name of the result: a path, a message id, a key.
        url: a link for people, if there is one.
        data: values for the same handler's later attempts (`attempt.previous`, `attempt.parent`). JSON values only.
    """

    ref: str | None = None
    url: str | None = None
    data: dict[str, Any] = {}


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one destination. Times are epoch milliseconds.

    Attributes:
        id: time-ordered, and the idempotency key (see `idempotency_key`).
        attempt: number of attempts started, and the fence of the running one.
        failures: attempts that count against the retry policy.
        owner: the engine that runs it.
        manual: True if a person ordered it. It neither cancels other deliveries nor is cancelled by newer events.
    """

    id: str
    event_id: str
    submission_id: str
    destination: str
    created_ms: int
    due_ms: int
    status: DeliveryStatus = "pending"
    attempt: int = 0
    failures: int = 0
    owner: str | None = None
    detail: str | None = None
    receipt: Receipt | None = None
    finished_ms: int | None = None
    manual: bool = False

    @property
    def idempotency_key(self) -> str:
        """The delivery id. It is the same over retries, so that a destination that remembers keys drops repeats. It
        differs between destinations, so that two of them never share one."""
        return self.id


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt as journalled. `outcome` is None while it runs. `manual` marks a person's replay.

    `traceback` is the end of that of an exception which is a fault of the handler's code.
    """

    delivery_id: str
    number: int
    started_ms: int
    finished_ms: int | None = None
    outcome: AttemptOutcome | None = None
    detail: str | None = None
    manual: bool = False
    traceback: str | None = None


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an attempt, and the next status of its delivery."""

    delivery_id: str
    submission_id: str
    destination: str
    attempt: int
    owner: str
    outcome: AttemptOutcome
    status: DeliveryStatus
    finished_ms: int
    due_ms: int
    counts: bool
    """True if it counts as a failure of the retry policy."""
    about_event: bool = False
    """True for a failure that says nothing about the destination."""
    detail: str | None = None
    receipt: Receipt | None = None
    traceback: str | None = None


DestinationStatus = Literal["working", "failing", "paused"]
PAUSE_SECONDS = 24 * 3600
"""Length of a pause by hand if none is given."""
MAX_PAUSE_SECONDS = 30 * PAUSE_SECONDS
"""Longest pause by hand."""


class DestinationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Health of a destination. Times are epoch milliseconds.

    Attributes:
        handler: the name of its handler.
        failures: attempts in a row that failed.
        paused_until_ms: nothing is claimed for it until then, except probes.
        probe_due_ms: not None while it is down. From then on, one delivery that has not failed may run in a pause.
        paused_reason: a sentence.
        paused_by_hand: True if a person paused it, up to MAX_PAUSE_SECONDS.
        last_success_ms: it lags by up to a minute while all goes well.
        last_error: error of the last attempt that failed or was rejected.
        pending: number of pending deliveries.
    """

    name: str
    handler: str
    failures: int = 0
    paused_until_ms: int | None = None
    probe_due_ms: int | None = None
    paused_reason: str | None = None
    paused_by_hand: bool = False
    last_success_ms: int | None = None
    last_error_ms: int | None = None
    last_error: str | None = None
    pending: int = 0
    dead: int = 0

    def paused(self, now_ms: int) -> bool:
        """Return True if nothing is claimed for it now."""
        return self.paused_until_ms is not None and self.paused_until_ms > now_ms

    def display_status(self, now_ms: int) -> DestinationStatus:
        """Return the status in one word, for people."""
        if self.paused(now_ms):
            return "paused"
        return "failing" if self.failures else "working"
