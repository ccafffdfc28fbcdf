"""Archive: download a result's files once, at its end, because links to them die within a day (PROTOCOL.md §9)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from receiver.clock import Clock
from receiver.errors import MediaError
from receiver.events import Media, Submission
from receiver.intake import Intake
from receiver.journal.base import Journal
from receiver.media import Fetcher, MediaStore

log = structlog.get_logger("receiver.archiver")

AT_ONCE = 4


class Archiver:
    """Downloads what is due into the media store and tells intake."""

    def __init__(self, *, journal: Journal, intake: Intake, fetcher: Fetcher, store: MediaStore, clock: Clock) -> None:
        self._journal = journal
        self._intake = intake
        self._fetcher = fetcher
        self._store = store
        self._clock = clock

    async def archive_once(self) -> int:
        """Try every download that is due, a few at once. Returns how many were."""
        due = await self._journal.due_media(self._clock.now_ms(), limit=AT_ONCE)
        await asyncio.gather(*(self._archive(row) for row in due))
        return len(due)

    async def download(self, urls: Sequence[str]) -> tuple[Media, ...]:
        """All files of one result, in order. Raises MediaError if one cannot be had."""
        if not urls:
            raise MediaError("The result has no link to a file.", permanent=True)
        return tuple([await self._fetcher.fetch(url, self._store, index=index) for index, url in enumerate(urls)])

    async def _archive(self, row: Submission) -> None:
        try:
            media = await self._first_of(row)
        except MediaError as exc:
            log.warning("media.unavailable", submission=row.id, problem=str(exc), tries=row.media_tries + 1)
            await self._intake.not_archived(row.id, str(exc), permanent=exc.permanent)
            return
        sizes = [item.size for item in media]
        log.info("media.archived", submission=row.id, files=len(media), bytes=sum(sizes))
        await self._intake.archived(row.id, media)

    async def _first_of(self, row: Submission) -> tuple[Media, ...]:
        """The fetch's links first, the callback's second."""
        links = row.task.result_urls if row.task else ()
        try:
            return await self.download(links)
        except MediaError as exc:
            if not row.fallback_urls:
                raise
            log.info("media.second_source", submission=row.id, problem=str(exc))
            return await self.download(row.fallback_urls)
