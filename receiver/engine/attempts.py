"""One attempt: the files and values that a handler gets, and the completion that follows from how it ended.

Nothing is written here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import msgspec
import structlog

from receiver.backoff import DELIVERY, STORE, wait, wait_forever
from receiver.deliveries import AttemptOutcome, Completion, DeliveryStatus, Receipt
from receiver.errors import MediaError
from receiver.events import Event, Media
from receiver.handlers.base import Attempt, Handler, Rejected, RetryLater, StoredMedia, no_tiles
from receiver.journal import Work
from receiver.media import Store, Tiles
from receiver.tasks import clean_text, is_grid
from receiver.telemetry import redact

log = structlog.get_logger("receiver.engine.dispatcher")

MAX_DETAIL = 500
"""Characters of an error kept with an attempt."""
LONGEST_PAUSE = max(DELIVERY)
"""Seconds; a handler that asks for more is called again after that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDestination:
    """A destination ready for use: its handler, and how much of it may run at once.

    Attributes:
        concurrency: attempts at once.
        timeout: seconds one attempt may take in all.
    """

    name: str
    handler: Handler
    concurrency: int
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a handler that raised came to do so.

    Attributes:
        late: our own deadline had passed.
        interrupted: somebody cancelled the attempt; a handler may raise CancelledError without that.
    """

    error: BaseException
    late: bool
    interrupted: bool


BRING_SECONDS = 60.0
"""How long an attempt waits for its files. What is still coming then goes on coming, and the next attempt finds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a handler may read. `problem` says why there is nothing although the journal knows of files."""

    media: tuple[StoredMedia, ...] = ()
    problem: str | None = None


@asynccontextmanager
async def bring(work: Work, store: Store) -> AsyncIterator[Files]:
    """The files of a result. What the store has no more is no reason to keep back the rest.

    It has time of its own: a handler gets all of its deadline, and a store that is down is no failure of a destination.

    Raises:
        RetryLater: the store cannot be read now.
    """
    media = work.media if work.event.type == "task.succeeded" else ()
    if not media:
        yield Files()
        return
    async with AsyncExitStack() as held:
        try:
            async with asyncio.timeout(BRING_SECONDS):
                paths = await held.enter_async_context(store.holding(media))
            found = zip(media, paths, strict=True)
            files = Files(media=tuple(StoredMedia(media=item, path=path) for item, path in found))
        except TimeoutError as exc:
            raise _later(work, f"The files have not come from {store.place} within {BRING_SECONDS:g} s.") from exc
        except MediaError as exc:
            if not exc.permanent:
                raise _later(work, str(exc)) from exc
            files = Files(problem=str(exc))
        yield files


def _later(work: Work, problem: str) -> RetryLater:
    """Longer each time it was put off."""
    return RetryLater(wait_forever(STORE, work.delivery.attempt - work.delivery.failures), problem)


def build(destination: OpenDestination, work: Work, files: Files, tiles: Tiles) -> Attempt:
    """What the handler gets."""
    result = work.event.type == "task.succeeded"
    media = tuple(item.media for item in files.media)
    return Attempt(
        event=work.event,
        destination=destination.name,
        number=work.delivery.attempt,
        idempotency_key=work.delivery.idempotency_key,
        deadline=destination.timeout,
        media=files.media,
        media_problem=files.problem or _media_problem(work) if result and not media else None,
        media_pending=result and work.media_due_ms is not None,
        previous=work.receipts.get(destination.name),
        parent=work.parent,
        receipts={name: receipt for name, receipt in work.receipts.items() if name != destination.name},
        tiles=partial(tiles_of, media[0], tiles) if _shows_four(work.event, media) else no_tiles,
    )


def _shows_four(event: Event, media: tuple[Media, ...]) -> bool:
    if len(media) != 1 or not media[0].type.startswith("image/") or event.task is None:
        return False
    return is_grid(event.task, event.kind, event.button)


async def tiles_of(grid: Media, tiles: Tiles) -> tuple[StoredMedia, ...]:
    """What `Attempt.tiles` gives a handler."""
    made = await tiles.of(grid)
    return tuple(
        StoredMedia(media=media, path=tiles.path(grid, number), tile=number) for number, media in enumerate(made, 1)
    )


def succeeded(work: Work, receipt: Receipt | None, now_ms: int) -> Completion:
    """The handler returned."""
    return _completion(work, "succeeded", now_ms, receipt=_storable(work, receipt))


def raised(work: Work, ending: Ending, timeout: float, now_ms: int) -> Completion:
    """The handler raised: every exception is a failure, but for the two it may say and our own interruption."""
    error = ending.error
    if isinstance(error, RetryLater):
        return _completion(work, "postponed", now_ms, wait_ms=pause_ms(error), detail=text_of(error))
    if isinstance(error, Rejected):
        return _completion(work, "rejected", now_ms, detail=text_of(error))
    if ending.interrupted:
        return _completion(work, "interrupted", now_ms, detail="Receiver was stopped during the attempt")
    if isinstance(error, TimeoutError) and ending.late:
        return failed(work, f"the attempt took longer than {timeout:g} s", now_ms)
    if isinstance(error, asyncio.CancelledError):
        return failed(work, "the handler was cancelled by its own code", now_ms)
    return failed(work, text_of(error), now_ms)


def failed(work: Work, detail: str, now_ms: int) -> Completion:
    """Again by schedule, or dead when that is used up."""
    seconds = wait(DELIVERY, work.delivery.failures + 1, random=random.random)
    if seconds is None:
        return _completion(work, "failed", now_ms, status="dead", detail=f"{detail}; the retries are used up")
    return _completion(work, "failed", now_ms, wait_ms=int(seconds * 1000), detail=detail)


def pause_ms(later: RetryLater) -> int:
    """At least a second, so that no handler keeps us spinning; NaN becomes that too."""
    return int(min(max(1.0, float(later.after)), LONGEST_PAUSE) * 1000)


def text_of(error: BaseException) -> str:
    """An error as a person and every database can read it, without secrets."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return clean_text(redact(text or type(error).__name__))[:MAX_DETAIL]


_STATUS_AFTER: Mapping[AttemptOutcome, DeliveryStatus] = {
    "succeeded": "succeeded",
    "failed": "pending",
    "rejected": "dead",
    "postponed": "pending",
    "interrupted": "pending",
}


def _completion(
    work: Work,
    outcome: AttemptOutcome,
    now_ms: int,
    *,
    status: DeliveryStatus | None = None,
    wait_ms: int = 0,
    detail: str | None = None,
    receipt: Receipt | None = None,
) -> Completion:
    return Completion(
        delivery_id=work.delivery.id,
        submission_id=work.delivery.submission_id,
        destination=work.delivery.destination,
        attempt=work.delivery.attempt,
        owner=work.delivery.owner or "",
        outcome=outcome,
        status=status or _STATUS_AFTER[outcome],
        finished_ms=now_ms,
        due_ms=now_ms + wait_ms,
        counts=outcome == "failed",
        detail=detail,
        receipt=receipt,
    )


def _storable(work: Work, receipt: Receipt | None) -> Receipt | None:
    """The receipt, if the journal can keep it and give it back. What it reports has happened either way."""
    try:
        msgspec.json.decode(msgspec.json.encode(receipt), type=Receipt | None)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
        log.warning("receipt.unusable", delivery=work.delivery.id, problem=text_of(exc))
        return None
    return receipt


def _media_problem(work: Work) -> str | None:
    has_links = work.event.task is not None and work.event.task.result_urls
    if not has_links:
        return None
    return work.media_problem or "the picture has not been downloaded yet"
