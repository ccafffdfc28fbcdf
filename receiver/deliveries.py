"""Deliveries: one event owed to one destination, and the attempts made at it.

Status of a delivery (who moves in → who moves out; what a crash does):

    pending    owed, due at `due_ms` (intake, or a failed attempt) → running, cancelled
    running    claimed under `attempt`, which is the fence (dispatcher) → succeeded | pending | dead; after a crash the
               engine's next holder frees it: an attempt that vanished counts as a failure, and the next one runs alone
    succeeded  the handler returned; stays
    dead       the handler said `Rejected`, or the retries are used up; stays until a person replays it
    cancelled  a newer event of the same submission took its place before it ran; stays

Nothing renews a claim; its owner does, or does not, live. Where one engine at a time runs deliveries (SQLite) its lock
tells: the system takes it from its holder the moment it dies, and whoever gets it next knows that all that is `running`
was left behind. Where several do, each gives signs of life on the journal's own time, and the leader frees
what the silent have left (`runtime.display_status`).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

DeliveryStatus = Literal["pending", "running", "succeeded", "dead", "cancelled"]
AttemptOutcome = Literal["succeeded", "failed", "rejected", "postponed", "interrupted", "vanished"]
"""`postponed` and `interrupted` use up no attempt: the handler asked to wait, or we were shut down. `vanished` counts
like `failed`, for the attempt may be what ended its engine, but the destination has said nothing."""

DELIVERY_STATUSES: tuple[DeliveryStatus, ...] = ("pending", "running", "succeeded", "dead", "cancelled")


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a handler reports on success.

    Attributes:
        ref: the thing made, as its place names it: a path, a message id, a key.
        url: a link a person can open, if there is one.
        data: whatever the same handler needs later (`attempt.previous`, `attempt.parent`); JSON values only.
    """

    ref: str | None = None
    url: str | None = None
    data: dict[str, Any] = {}


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event owed to one destination. Times are epoch milliseconds.

    Attributes:
        id: time-ordered; also the idempotency key, the same over all retries (see `idempotency_key`).
        attempt: attempts started so far; the fence of the running one.
        failures: attempts that count against the retry policy.
        owner: the engine that runs it.
        manual: a person asked for it, so it is no part of the last word: newer events leave it alone, and it leaves
            other deliveries alone.
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
        """The delivery id. It does not change over retries, so a destination that remembers keys drops repeats;
        it differs between destinations, so two of them never share one."""
        return self.id


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt as journalled. `outcome` is None while it runs; `manual` tells a person's replay from a retry."""

    delivery_id: str
    number: int
    started_ms: int
    finished_ms: int | None = None
    outcome: AttemptOutcome | None = None
    detail: str | None = None
    manual: bool = False


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended and what becomes of its delivery."""

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
    """Whether it counts as a failure of the retry policy."""
    detail: str | None = None
    receipt: Receipt | None = None


DestinationStatus = Literal["working", "failing", "paused"]


class DestinationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a destination does. Times are epoch milliseconds.

    Attributes:
        handler: the name of its handler.
        failures: attempts in a row that failed.
        paused_until_ms: nothing is claimed for it until then; in the past: what is claimed next is a probe, if
            failures were the reason.
        paused_reason: why, a sentence.
        last_success_ms: to the second.
        last_error: what the last attempt that failed or was rejected said.
        pending: deliveries that are still to be made.
    """

    name: str
    handler: str
    failures: int = 0
    paused_until_ms: int | None = None
    paused_reason: str | None = None
    last_success_ms: int | None = None
    last_error_ms: int | None = None
    last_error: str | None = None
    pending: int = 0
    dead: int = 0

    def paused(self, now_ms: int) -> bool:
        """Whether nothing is claimed for it now."""
        return self.paused_until_ms is not None and self.paused_until_ms > now_ms

    def display_status(self, now_ms: int) -> DestinationStatus:
        """Return the status in one word, for people."""
        if self.paused(now_ms):
            return "paused"
        return "failing" if self.failures else "working"
