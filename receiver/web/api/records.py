"""What callers get: a submission with what became of it, without what only we need. Times are epoch milliseconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import msgspec
from msgspec import UNSET, UnsetType

from receiver.deliveries import Delivery, DeliveryStatus
from receiver.events import DisplayStatus, Submission
from receiver.telemetry import redact

STATUSES: tuple[str, ...] = get_args(DisplayStatus)
MAX_TEXT = 1000


class MediaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An archived file; `GET /submissions/{id}/media/{index}` sends it. `digest` is its SHA-256."""

    index: int
    type: str
    size: int
    digest: str


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event owed to a destination, and what came of it. `ref` and `url` say where it went."""

    id: str
    event: str
    destination: str
    status: DeliveryStatus
    attempts: int
    ref: str | None
    url: str | None
    detail: str | None


class SubmissionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A submission and what became of it.

    `task` is the provider's id, `reason` says why it failed or what it waits for, `texts` are the prompts that a
    describe or shorten found, `parent` is the submission whose task this one follows up, by `button`. Only a single
    submission shows `deliveries`, a list does not.
    """

    id: str
    kind: str
    status: DisplayStatus
    outcome: str | None
    task: str | None
    progress: int | None
    prompt: str
    speed: str | None
    labels: dict[str, str]
    state: str | None
    parent: str | None
    button: str | None
    auto: tuple[str, ...]
    to: tuple[str, ...] | None
    created_ms: int
    deadline_ms: int
    reason: str | None
    texts: tuple[str, ...]
    buttons: tuple[str, ...]
    media: tuple[MediaRecord, ...]
    media_problem: str | None
    deliveries: tuple[DeliveryRecord, ...] | UnsetType = UNSET


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """Links to uploaded pictures, in their order."""

    urls: tuple[str, ...]


class Seed(msgspec.Struct, frozen=True, kw_only=True):
    """The seed of a finished picture."""

    task: str
    seed: str


class ProblemRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong (RFC 9457). `detail` is a sentence for a person. Where the provider refused, `outcome` names why;
    `submission` is the one it happened to."""

    type: str
    title: str
    status: int
    detail: str
    outcome: str | UnsetType = UNSET
    submission: str | UnsetType = UNSET


def submission_record(row: Submission, deliveries: Iterable[Delivery] | None = None) -> SubmissionRecord:
    """A row as callers see it."""
    task = row.task
    return SubmissionRecord(
        id=row.id,
        kind=row.kind,
        status=row.display_status,
        outcome=row.outcome,
        task=row.task_id,
        progress=task.progress if task else None,
        prompt=row.prompt,
        speed=row.speed,
        labels=row.labels,
        state=row.user_state,
        parent=row.parent_id,
        button=row.button,
        auto=row.auto,
        to=row.destinations,
        created_ms=row.created_ms,
        deadline_ms=row.deadline_ms,
        reason=clean(row.reason) if row.reason else None,
        texts=task.texts if task and row.ended == "task.succeeded" else (),
        buttons=tuple(button.text for button in task.buttons) if task else (),
        media=tuple(
            MediaRecord(index=item.index, type=item.type, size=item.size, digest=item.digest) for item in row.media
        ),
        media_problem=clean(row.media_problem) if row.media_problem else None,
        deliveries=UNSET if deliveries is None else tuple(_delivery(item) for item in deliveries),
    )


def clean(text: str) -> str:
    """A sentence without secrets, control characters and endless quotations."""
    return "".join(char if char.isprintable() else "�" for char in redact(text)[:MAX_TEXT])


def _delivery(item: Delivery) -> DeliveryRecord:
    receipt = item.receipt
    return DeliveryRecord(
        id=item.id,
        event=item.event_id,
        destination=item.destination,
        status=item.status,
        attempts=item.attempt,
        ref=receipt.ref if receipt else None,
        url=receipt.url if receipt else None,
        detail=clean(item.detail) if item.detail else None,
    )
