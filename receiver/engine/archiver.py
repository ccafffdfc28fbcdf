"""Archive: download each file of a result, because links to them expire within a day (PROTOCOL.md §9).

Files are downloaded one by one, on their own schedules (`journal.files`). No result takes more than a share:

    16 files · 4 downloads at once · 4 times the largest file in bytes · 2 minutes for one try of a file

If all slots are taken and files wait, the downloads that have lasted longest give way, and are tried again later.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

from receiver import metrics
from receiver.clock import Clock
from receiver.errors import JournalError, MediaError, ProviderError
from receiver.events import ExpectedFile, Media, Submission
from receiver.intake import Intake
from receiver.journal import Journal, files
from receiver.journal.files import Failure, Outcome
from receiver.media import Fetcher, Store, Thumbnails
from receiver.provider import Provider
from receiver.tasks import Task
from receiver.telemetry import Log, redact, span

log = Log("receiver.engine.archiver")

AT_ONCE = 64
"""Downloads at once."""
PER_RESULT = 4
"""Downloads at once of one result, and its limit in bytes as a multiple of the largest file's."""
LOOK = 4 * AT_ONCE
"""Results looked at in one step, so that the running ones hide no others."""
TURN_SECONDS = 5.0
"""Time after which a download gives way to files that wait."""
MAX_PROBLEM = 600
"""Characters of a reason that are kept."""
_SINGLE = ("video_url", "image_url")
"""Places that the provider's own relay can serve, too (PROTOCOL.md §13.5)."""


@dataclass(eq=False, kw_only=True)
class _Download:
    """One download under way."""

    since: float
    max_bytes: int
    limit: asyncio.Timeout
    task: asyncio.Task[None] | None = None


class Archiver:
    """Downloads files into the media store and reports to intake. Downloads run beside the step that starts them.

    Deliveries do not wait for `thumbnails`. Without them, a page makes each at its first look.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        intake: Intake,
        provider: Provider,
        fetcher: Fetcher,
        store: Store,
        clock: Clock,
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._provider = provider
        self._fetcher = fetcher
        self._store = store
        self._clock = clock
        self._thumbnails = thumbnails
        self._running: dict[tuple[str, str], _Download] = {}
        self._full = False

    async def archive_once(self) -> int:
        """Start the downloads that are due, as far as slots are free. Return how many started."""
        now_ms = self._clock.now_ms()
        started, self._full = 0, False
        for row in await self._journal.due("media", now_ms, limit=LOOK):
            due = [item for item in row.files if item.due_ms is not None and item.due_ms <= now_ms]
            due = [item for item in due if (row.id, item.place) not in self._running]
            own = sum(id == row.id for id, _ in self._running)
            free = AT_ONCE - len(self._running)
            if due and own < PER_RESULT and free <= 0:
                self._full = True
                self._make_room()
                break
            started += self._start(row, due[: min(PER_RESULT - own, free)])
        return started

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
            await asyncio.wait([item.task for item in self._running.values() if item.task is not None])

    async def stop(self) -> None:
        """Cancel the downloads. They are still due."""
        running = [item.task for item in self._running.values() if item.task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def proves(self, task: Task) -> bool:
        """Return True if a file of a claimed SUCCESS can be downloaded. Raise MediaError if not."""
        for url in task.result_urls[:1]:
            await self._fetcher.fetch(url, self._store)
            return True
        return False

    def _make_room(self) -> None:
        """End the downloads that have had their turn."""
        now = self._clock.monotonic()
        for item in self._running.values():
            if now - item.since >= TURN_SECONDS:
                item.limit.reschedule(asyncio.get_running_loop().time())

    def _start(self, row: Submission, due: list[ExpectedFile]) -> int:
        """Start downloads of one result, as many as its bytes allow. They share one question to the provider."""
        running = [item.max_bytes for (id, _), item in self._running.items() if id == row.id]
        left = PER_RESULT * self._fetcher.max_bytes - sum(item.size for item in row.media) - sum(running)
        share = min(self._fetcher.max_bytes, left)
        if not due or (running and share < self._fetcher.max_bytes):
            return 0
        due = due[: max(1, left // self._fetcher.max_bytes)]
        asks = any(item.problem or not item.place for item in due)
        fresh = asyncio.ensure_future(self._fresh(row) if asks else _nothing())
        for item in due:
            download = _Download(since=self._clock.monotonic(), max_bytes=share, limit=asyncio.timeout(None))
            download.task = asyncio.create_task(
                self._archive(row, item.place, fresh, download), name=f"archive {row.id}"
            )
            self._running[row.id, item.place] = download
            download.task.add_done_callback(partial(self._ended, row.id, item.place))
        return len(due)

    def _ended(self, submission_id: str, place: str, task: asyncio.Task[None]) -> None:
        del self._running[submission_id, place]
        error = None if task.cancelled() else task.exception()
        if isinstance(error, JournalError):
            log.warning("media.unrecorded", submission=submission_id, problem=str(error))  # it is still due
        elif error is not None:
            log.error("media.unrecorded", submission=submission_id, exc_info=error)

    async def _fresh(self, row: Submission) -> Task | None:
        """Return the task as the provider shows it now, because its links may be new."""
        try:
            view = await self._provider.fetch(row.task_id or "")
        except ProviderError as exc:
            log.info("task.unanswered", task=row.task_id, problem=str(exc))
            return None
        return view if view is not None and view.id == row.task_id else None

    async def _archive(
        self, row: Submission, place: str, fresh: asyncio.Future[Task | None], download: _Download
    ) -> None:
        try:
            async with download.limit:
                view = await asyncio.shield(fresh)
                with span("receiver.archive", link=row.traceparent, submission=row.id, file=place):
                    outcome = await self._outcome(row, place, view, download.max_bytes)
        except TimeoutError:
            view = None
            outcome = Failure(problem=f"It took longer than {TURN_SECONDS:g} s while other downloads waited.")
        if isinstance(outcome, Media):
            log.info("media.archived", submission=row.id, file=place, bytes=outcome.size)
            metrics.ARCHIVED.add("archived")
            metrics.ARCHIVED_BYTES.add(amount=outcome.size)
        else:
            log.warning("media.unavailable", submission=row.id, file=place, problem=outcome.problem)
            metrics.ARCHIVED.add("lost" if outcome.permanent else "failed")
        metrics.ARCHIVE_SECONDS.observe(self._clock.monotonic() - download.since)
        await self._intake.tried(row.id, view, {place: outcome})
        if isinstance(outcome, Media) and self._thumbnails is not None:
            self._thumbnails.begin(outcome)

    async def _outcome(self, row: Submission, place: str, view: Task | None, max_bytes: int) -> Outcome:
        """Try the links of a file one after the other. The failure is permanent only if all are."""
        known = {item.place: item for item in files.with_links(row.files, view, self._clock.now_ms())}
        links = list(files.candidates(known[place])) if place in known else []
        problems: dict[str, bool] = {}
        if max_bytes <= 0:
            most = PER_RESULT * self._fetcher.max_bytes
            problem = f"The files of one result are limited to {most:,} bytes in all; see RECEIVER_MEDIA_MAX_BYTES."
            return Failure(problem=problem, permanent=True)
        try:
            async with asyncio.timeout(self._fetcher.timeout):
                while links:
                    url = links.pop(0)
                    try:
                        return await self._fetcher.fetch(url, self._store, max_bytes=max_bytes)
                    except MediaError as exc:
                        problems[str(exc)] = exc.permanent
                        relay = self._provider.image_url(row.task_id or "")
                        if exc.permanent and place in _SINGLE and relay != url and relay not in links:
                            links.append(relay)
        except TimeoutError:
            problems[f"It was not here within {self._fetcher.timeout:g} s."] = False
        if not problems:
            return Failure(problem=files.no_link(row.task))
        return Failure(problem=redact(" ".join(problems))[:MAX_PROBLEM], permanent=all(problems.values()))


async def _nothing() -> None:
    """Return None, where the provider need not be asked."""
