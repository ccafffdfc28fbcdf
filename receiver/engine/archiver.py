"""Archive: download a result's files once, at its end, because links to them expire within a day (PROTOCOL.md §9)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog

from receiver.clock import Clock
from receiver.errors import JournalError, MediaError
from receiver.events import Media, Submission
from receiver.intake import Intake
from receiver.journal import Journal
from receiver.media import Fetcher, Store

log = structlog.get_logger("receiver.engine.archiver")

AT_ONCE = 8
"""Results downloaded at once. One that hangs takes a single slot until its time-out."""


class Archiver:
    """Downloads results into the media store and reports to intake. Downloads run beside the step that starts them."""

    def __init__(self, *, journal: Journal, intake: Intake, fetcher: Fetcher, store: Store, clock: Clock) -> None:
        self._journal = journal
        self._intake = intake
        self._fetcher = fetcher
        self._store = store
        self._clock = clock
        self._running: dict[str, asyncio.Task[None]] = {}
        self._full = False

    async def archive_once(self) -> int:
        """Start the downloads that are due, never more than `AT_ONCE`. Return how many started."""
        due = await self._journal.due_media(self._clock.now_ms(), limit=AT_ONCE)
        free = AT_ONCE - len(self._running)
        started = [row for row in due if row.id not in self._running][:free]
        for row in started:
            task = asyncio.create_task(self._archive(row), name=f"archive {row.id}")
            self._running[row.id] = task
            task.add_done_callback(partial(self._ended, row.id))
        self._full = len(self._running) >= AT_ONCE
        return len(started)

    @property
    def more(self) -> bool:
        """True if more may be due than there were slots for, and a slot is free now."""
        return self._full and len(self._running) < AT_ONCE

    @property
    def running(self) -> bool:
        """True while a download runs."""
        return bool(self._running)

    async def settle(self) -> None:
        """Wait until no download runs."""
        while self._running:
            await asyncio.wait(self._running.values())

    async def stop(self) -> None:
        """Cancel the downloads. They are still due."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def download(self, urls: Sequence[str]) -> tuple[Media, ...]:
        """Return all files of one result, in order. Raise MediaError if one cannot be downloaded."""
        return await self._fetcher.fetch_all(urls, self._store)

    def _ended(self, submission_id: str, task: asyncio.Task[None]) -> None:
        del self._running[submission_id]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, JournalError):
            log.warning("media.unrecorded", submission=submission_id, problem=str(error))  # it is still due
        elif error is not None:
            log.error("media.unrecorded", submission=submission_id, exc_info=error)

    async def _archive(self, row: Submission) -> None:
        try:
            media = await self._from_either(row)
        except MediaError as exc:
            log.warning("media.unavailable", submission=row.id, problem=str(exc), tries=row.media_tries + 1)
            await self._intake.not_archived(row.id, str(exc), permanent=exc.permanent)
            return
        sizes = [item.size for item in media]
        log.info("media.archived", submission=row.id, files=len(media), bytes=sum(sizes))
        await self._intake.archived(row.id, media)

    async def _from_either(self, row: Submission) -> tuple[Media, ...]:
        """Try the fetch's links, then the callback's. The failure is permanent only if both are."""
        try:
            return await self.download(row.task.result_urls if row.task else ())
        except MediaError as exc:
            if not row.fallback_urls:
                raise
            first = exc
        log.info("media.second_source", submission=row.id, problem=str(first))
        try:
            return await self.download(row.fallback_urls)
        except MediaError as exc:
            raise MediaError(f"{first} {exc}", permanent=first.permanent and exc.permanent) from exc
