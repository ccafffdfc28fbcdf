"""One attempt: the files and values that a handler gets, and the completion that its end makes. Nothing is written."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import msgspec

from receiver.backoff import DELIVERY, STORE, wait, wait_forever
from receiver.deliveries import AttemptOutcome, Completion, DeliveryStatus, Receipt
from receiver.errors import MediaError
from receiver.events import Media
from receiver.handlers.base import Attempt, Handler, Rejected, RetryLater, StoredMedia, no_tiles
from receiver.journal import Work
from receiver.media import Store, Tiles
from receiver.tasks import clean_text, is_grid
from receiver.telemetry import Log, redact, redact_known

log = Log("receiver.engine.dispatcher")

MAX_DETAIL = 500
"""Characters of an error kept with an attempt."""
MAX_TRACEBACK, FRAMES = 2000, 8
"""Characters and frames of its traceback."""
_BUGS = (LookupError, TypeError, AttributeError, NameError, ArithmeticError, AssertionError, ImportError)
"""Errors whose text says little without their type."""
LONGEST_PAUSE = max(DELIVERY)
"""Longest `RetryLater`, in seconds. A handler that asks for more is called again after that."""
BRING_SECONDS = 60.0
"""Time an attempt waits for its files. A slower download goes on, and the next attempt finds the files."""

_read_receipt = msgspec.json.Decoder(Receipt | None).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDestination:
    """A destination ready for use: its handler and limits.

    Attributes:
        concurrency: attempts at once.
        timeout: seconds one attempt may take in all.
    """

    name: str
    handler: Handler
    concurrency: int
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Files that a handler may read. `problem` is the reason why none can be read, although the journal lists some."""

    media: tuple[StoredMedia, ...] = ()
    problem: str | None = None


async def bring(work: Work, store: Store, held: ExitStack) -> Files:
    """Return the files of a result, which stay until `held` is closed. Lost ones do not hold up the delivery.

    This has its own time limit. A handler gets all of its deadline, and a store that is down is no failure of a
    destination.

    Raises:
        RetryLater: the store cannot be read now.
    """

    def later(problem: str) -> RetryLater:  # longer each time it was postponed
        return RetryLater(wait_forever(STORE, work.delivery.attempt - work.delivery.failures), problem)

    media = work.submission.media if work.event.type == "task.succeeded" else ()
    if not media:
        return Files()
    try:
        async with asyncio.timeout(BRING_SECONDS):
            paths = await store.hold(media, held)
    except TimeoutError as exc:
        raise later(f"The files have not come from {store.place} within {BRING_SECONDS:g} s.") from exc
    except MediaError as exc:
        if not exc.permanent:
            raise later(str(exc)) from exc
        return Files(problem=str(exc))
    return Files(media=tuple(StoredMedia(media=item, path=path) for item, path in zip(media, paths, strict=True)))


def build(destination: OpenDestination, work: Work, files: Files, tiles: Tiles) -> Attempt:
    """Return the attempt that the handler gets."""
    event, row, media = work.event, work.submission, tuple(item.media for item in files.media)
    result = event.type == "task.succeeded"
    problem, expected = files.problem, len(row.expected)
    if problem is None and result and len(media) < expected:
        problem = row.media_problem or "The files have not been downloaded yet."
    grid = (
        len(media) == expected == 1
        and media[0].type.startswith("image/")
        and event.task is not None
        and is_grid(event.task, event.kind, event.button)
    )
    return Attempt(
        event=event,
        destination=destination.name,
        number=work.delivery.attempt,
        idempotency_key=work.delivery.idempotency_key,
        deadline=destination.timeout,
        media=files.media,
        media_problem=problem,
        media_expected=expected if result else 0,
        media_pending=result and row.media_due_ms is not None,
        previous=work.receipts.get(destination.name),
        parent=work.parent,
        receipts={name: receipt for name, receipt in work.receipts.items() if name != destination.name},
        tiles=partial(tiles_of, media[0], tiles) if grid else no_tiles,
        reply_to=row.reply_to,
    )


async def tiles_of(grid: Media, tiles: Tiles) -> tuple[StoredMedia, ...]:
    """Return the four tiles of a grid, for `Attempt.tiles`."""
    made = await tiles.of(grid)
    return tuple(
        StoredMedia(media=media, path=tiles.path(grid, number), tile=number) for number, media in enumerate(made, 1)
    )


def succeeded(work: Work, receipt: Receipt | None, now_ms: int) -> Completion:
    """Return the completion of a handler that returned. A receipt that the journal cannot hold is dropped."""
    try:
        _read_receipt(msgspec.json.encode(receipt))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
        log.warning("receipt.unusable", delivery=work.delivery.id, problem=text_of(exc))
        receipt = None
    if receipt is not None:  # a server or a program may have repeated what it was sent
        receipt = msgspec.structs.replace(receipt, ref=_known(receipt.ref), url=_known(receipt.url))
    return _completion(work, "succeeded", now_ms, receipt=receipt)


def _known(text: str | None) -> str | None:
    return None if text is None else redact_known(text)


def raised(
    work: Work, error: BaseException, now_ms: int, *, timeout: float, late: bool, interrupted: bool
) -> Completion:
    """Return the completion of a handler that raised. Every exception is a failure, except RetryLater, Rejected and our
    own interruption.

    Args:
        timeout: seconds of the deadline, and `late` is True if it had passed.
        interrupted: True if the attempt was cancelled. A handler may raise CancelledError without that.
    """
    if isinstance(error, RetryLater):
        # At least a second, so that no handler runs in a tight loop. NaN becomes a second, too.
        wait_ms = int(min(max(1.0, float(error.after)), LONGEST_PAUSE) * 1000)
        return _completion(work, "postponed", now_ms, wait_ms=wait_ms, detail=text_of(error))
    if isinstance(error, Rejected):
        return _completion(work, "rejected", now_ms, detail=text_of(error))
    if interrupted:
        return _completion(work, "interrupted", now_ms, detail="Receiver was stopped during the attempt")
    if isinstance(error, TimeoutError) and late:
        return failed(work, f"the attempt took longer than {timeout:g} s", now_ms)
    if isinstance(error, asyncio.CancelledError):
        return failed(work, "the handler was cancelled by its own code", now_ms)
    named = f"{type(error).__name__}: {text_of(error)}" if isinstance(error, _BUGS) else text_of(error)
    about_event = getattr(error, "about_event", False) is True
    return failed(work, named[:MAX_DETAIL], now_ms, traceback_of(error), about_event=about_event)


def failed(
    work: Work, detail: str, now_ms: int, traceback: str | None = None, *, about_event: bool = False
) -> Completion:
    """Return the completion of a failure: a retry on schedule, or dead after the last one."""
    seconds = wait(DELIVERY, work.delivery.failures + 1, random=random.random)
    if seconds is None:
        detail = f"{detail}; the retries are used up"
        end = _completion(work, "failed", now_ms, status="dead", detail=detail, traceback=traceback)
    else:
        wait_ms = int(seconds * 1000)
        end = _completion(work, "failed", now_ms, wait_ms=wait_ms, detail=detail, traceback=traceback)
    return msgspec.structs.replace(end, about_event=about_event)


def text_of(error: BaseException) -> str:
    """Return an error's text without secrets, and with nothing that a database refuses."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return clean_text(redact(text or type(error).__name__))[:MAX_DETAIL]


def traceback_of(error: BaseException) -> str | None:
    """Return the end of an error's traceback without secrets. None for an error that is a sentence of ours."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    ours = frame is not None and str(frame.tb_frame.f_globals.get("__name__", "")).startswith("receiver.")
    if ours and (isinstance(error, OSError) or type(error).__module__.startswith("receiver.")):
        return None
    try:
        lines = traceback.format_exception(error, limit=-FRAMES)
    except Exception:
        return None
    return clean_text(redact("".join(lines)))[-MAX_TRACEBACK:]


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
    traceback: str | None = None,
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
        traceback=traceback,
    )
