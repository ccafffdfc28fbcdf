"""Answers of the API: records of what a caller may see, as JSON, and errors as problems.

Times are epoch milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from receiver.deliveries import AttemptRecord, Delivery, DeliveryStatus, DestinationStatus
from receiver.errors import (
    Conflict,
    InputError,
    JournalError,
    MediaError,
    NotFound,
    ProviderError,
    ReceiverError,
    Refused,
)
from receiver.events import DisplayStatus, Submission
from receiver.journal.selection import ReplayOutcome
from receiver.settings.kinds import show_url
from receiver.telemetry import redact
from receiver.web.admission import RETRY
from receiver.web.problems import Problem

MAX_TEXT = 1000
PROVIDER_FAULTS = frozenset({"unauthorized", "turned_away", "wrong_address", "unreachable", "failed"})
"""Outcomes about which the caller can do nothing."""
_SHELL = re.compile(r"\s?See: receiver .*\Z", re.DOTALL)
"""Advice for a shell, which a caller does not have."""


class MediaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An archived file, sent by `GET /submissions/{id}/media/{index}`. `digest` is its SHA-256."""

    index: int
    type: str
    size: int
    digest: str


MediaStatus = Literal["waiting for links", "downloading files", "complete", "incomplete"]


class DeliveryRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery of an event to a destination. `ref` and `url` say where it went. `due_ms` is the time of the next
    attempt while it is pending. Only `GET /deliveries/{id}` shows its `history`."""

    id: str
    submission: str
    event: str
    destination: str
    status: DeliveryStatus
    attempts: int
    created_ms: int
    due_ms: int | None
    finished_ms: int | None
    ref: str | None
    url: str | None
    detail: str | None
    history: tuple[AttemptRecord, ...] | UnsetType = UNSET


class SubmissionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A submission and its result.

    `task` is the provider's id. `reason` says why it failed or what it waits for. `texts` are the prompts that a
    describe or shorten found. `parent` is the submission followed up by `button`. `media_due_ms` is the time of the
    next try at files that are still missing. `reply_to` shows no path and no query. A list of
    submissions shows no `deliveries`.
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
    reply_to: str | None
    created_ms: int
    deadline_ms: int
    reason: str | None
    texts: tuple[str, ...]
    buttons: tuple[str, ...]
    media: tuple[MediaRecord, ...]
    media_status: MediaStatus | None
    media_due_ms: int | None
    media_problem: str | None
    deliveries: tuple[DeliveryRecord, ...] | UnsetType = UNSET


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a replay, or with `preview` the one it would have, for one delivery.

    `again`: it was final and is due again. `new`: a new delivery. `sooner`: it waited for a retry and is due now.
    `owed`, `running`: nothing changes. `gone`: its event was deleted. `delivery` is null for a new one that is
    foreseen. `was` is its status before.
    """

    delivery: str | None
    event: str
    destination: str
    outcome: ReplayOutcome
    was: DeliveryStatus | None


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """Health of a destination. `configured` is false for one that is no longer in the settings. `reason` is that of a
    pause. `failures` are those in a row, `pending` and `dead` numbers of deliveries."""

    name: str
    handler: str
    configured: bool
    status: DestinationStatus
    failures: int
    pending: int
    dead: int
    paused_until_ms: int | None
    reason: str | None
    last_success_ms: int | None
    last_error_ms: int | None
    last_error: str | None


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """An erased submission. `removed` counts rows and files. The next purge removes `waiting_files`, and those of
    `files_problem`. `follow_ups` remain, with prompts of their own. `traces` says where the prompt may still be."""

    submission: str
    removed: dict[str, int]
    waiting_files: int
    files_problem: str | None
    follow_ups: tuple[str, ...]
    traces: str | None


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """Links to uploaded pictures, in their order."""

    urls: tuple[str, ...]


class Seed(msgspec.Struct, frozen=True, kw_only=True):
    """The seed of a finished picture."""

    task: str
    seed: str


class ProblemRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An error (RFC 9457). `detail` is a sentence for a person. `outcome` names the reason if the provider refused.
    `submission` is the one it concerns. `help` is the command that shows the page of the handbook about it."""

    type: str
    title: str
    status: int
    detail: str
    outcome: str | UnsetType = UNSET
    submission: str | UnsetType = UNSET
    help: str | UnsetType = UNSET


def submission_record(row: Submission, deliveries: Iterable[Delivery] | None = None) -> SubmissionRecord:
    """Return the record of a row."""
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
        reply_to=None if row.reply_to is None else show_url(row.reply_to),
        created_ms=row.created_ms,
        deadline_ms=row.deadline_ms,
        reason=clean(row.reason) if row.reason else None,
        texts=task.texts if task and row.ended == "task.succeeded" else (),
        buttons=tuple(button.text for button in task.buttons) if task else (),
        media=tuple(
            MediaRecord(index=item.index, type=item.type, size=item.size, digest=item.digest) for item in row.media
        ),
        media_status=media_status(row),
        media_due_ms=row.media_due_ms,
        media_problem=clean(row.media_problem) if row.media_problem else None,
        deliveries=UNSET if deliveries is None else tuple(map(delivery_record, deliveries)),
    )


def delivery_record(row: Delivery, attempts: Iterable[AttemptRecord] | None = None) -> DeliveryRecord:
    """Return the record of a delivery."""
    return DeliveryRecord(
        id=row.id,
        submission=row.submission_id,
        event=row.event_id,
        destination=row.destination,
        status=row.status,
        attempts=row.attempt,
        created_ms=row.created_ms,
        due_ms=row.due_ms if row.status == "pending" else None,
        finished_ms=row.finished_ms,
        ref=row.receipt.ref if row.receipt else None,
        url=row.receipt.url if row.receipt else None,
        detail=clean(row.detail) if row.detail else None,
        history=UNSET
        if attempts is None
        else tuple(
            msgspec.structs.replace(item, detail=clean(item.detail) if item.detail else None) for item in attempts
        ),
    )


def media_status(row: Submission) -> MediaStatus | None:
    """Return the state of a result's files in words. None before the result, and for a result of text."""
    if row.ended is None and row.unlinked_ms is not None:
        return "waiting for links"
    if not row.expected:
        return None
    if row.media_due_ms is not None:
        return "downloading files"
    return "complete" if len(row.media) == len(row.expected) else "incomplete"


def clean(text: str) -> str:
    """Return a sentence without secrets and control characters, of at most 1,000 characters."""
    return "".join(char if char.isprintable() else "�" for char in redact(text)[:MAX_TEXT])


def json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return records as JSON that no cache may store: they change, and not everyone may see them."""
    fields = {"Cache-Control": "no-store", **(headers or {})}
    return Response(msgspec.json.encode(value), status, fields, media_type="application/json")


def problem_of(exc: ReceiverError, submission_id: str | None = None) -> Problem:
    """Return the problem for an error of an endpoint. An unknown kind of error is raised again."""
    members: dict[str, str] = {} if submission_id is None else {"submission": submission_id}
    if exc.help:
        members["help"] = exc.help
    if isinstance(exc, Refused):
        status = 502 if exc.outcome in PROVIDER_FAULTS else 503 if exc.retry else 422
        headers = {"Retry-After": str(int(exc.retry_after or 5))} if status == 503 else {}
        return Problem(status, clean(str(exc)), headers, members={"outcome": exc.outcome, **members})
    if isinstance(exc, Conflict):
        return Problem(409, "That Idempotency-Key was used with another request.", cause=str(exc), members=members)
    if isinstance(exc, InputError | NotFound):
        status = 404 if isinstance(exc, NotFound) else 422
        return Problem(status, clean(_SHELL.sub("", str(exc))), members=members)
    if isinstance(exc, ProviderError):
        return Problem(502, clean(str(exc)), members={"outcome": type(exc).__name__.lower(), **members})
    if isinstance(exc, JournalError | MediaError):
        name = "journal" if isinstance(exc, JournalError) else "media store"
        return Problem(503, f"The {name} cannot be used now. Send it again.", RETRY, cause=str(exc), members=members)
    raise exc
