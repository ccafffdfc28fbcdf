"""Retention: delete old rows and files in short steps, and erase one submission on request.

Rows of outstanding deliveries and running tasks are never deleted by age.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from receiver.clock import Clock
from receiver.errors import InputError, MediaError
from receiver.events import Submission
from receiver.journal import Journal
from receiver.journal.selection import KINDS, Kind
from receiver.journal.store import EVERYTHING, Key, RowKind
from receiver.media import Store
from receiver.telemetry import Log

log = Log("receiver.retention")

SWEEP_SECONDS = 24 * 3600.0
FIRST_SWEEP_SECONDS = 60.0
"""Delay after the start, which is busy enough."""
AGAIN_SECONDS = 3600.0
"""Delay after a sweep that failed or was interrupted."""
SHARE = 24
"""Length of the pause after a step, in steps, where others write as many submissions a second as a step deletes. The
pause is shorter, in proportion, where they write fewer."""
PAUSE_SECONDS = 0.1
"""Least pause beside an engine, longer than a process that waits for the write lock sleeps between tries."""
PAUSE_AFTER = 0.25
"""Seconds of steps after which there is such a pause."""
FRESH_SECONDS = 60.0
"""Age below which a file may belong to a submission that is being journalled right now."""


_FACTS: tuple[RowKind, ...] = ("callbacks", "events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Seconds to keep each kind. 0 means forever."""

    callbacks: float
    media: float
    submissions: float

    def seconds(self, kind: Kind) -> float:
        """Return the seconds for one kind."""
        return {"callbacks": self.callbacks, "media": self.media, "submissions": self.submissions}[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """Result of erasing a submission.

    Attributes:
        removed: number of rows of each kind, and of files.
        waiting: files too young to remove. The next purge removes them.
        problem: reason why files were not removed: the media store is out of reach. The next purge tries again.
        children: ids of follow-ups that remain, each with its own prompt, often the same.
        traces: a sentence about where the journal may still hold the prompt, or None.
    """

    submission: Submission
    removed: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    problem: str | None = None
    children: tuple[str, ...] = ()
    traces: str | None = None


class Retention:
    """Deletes by age and on request.

    Args:
        keep: ages from the settings, for `sweep_once`.
    """

    def __init__(self, *, journal: Journal, store: Store, clock: Clock, keep: Keep) -> None:
        self._journal = journal
        self._store = store
        self._clock = clock
        self._keep = keep
        self._started = clock.now()
        self._swept: float | None = None
        self._deleting: set[object] = set()
        self._listening = False
        self._others = 0
        """Submissions that others have written since the last step."""

    def _changed(self, ids: frozenset[str] | None) -> None:
        """Count submissions that others have written. None says nothing of it: it comes when a listener connects."""
        self._others += len(ids - self._deleting) if ids is not None else 0

    async def sweep_once(self) -> int:
        """Delete by the ages of the settings, once a day. Return 0, so that the worker waits its full interval."""
        now = self._clock.now()
        since, wait = (self._started, FIRST_SWEEP_SECONDS) if self._swept is None else (self._swept, SWEEP_SECONDS)
        if not 0 <= now - since < wait:  # also when the clock was set back
            self._swept = now - SWEEP_SECONDS + AGAIN_SECONDS
            removed = await self._purge(self._keep, beside=False)
            self._swept = now
            if removed:
                log.info("journal.purged", **removed)
        return 0

    async def purge(self, keep: Keep) -> dict[str, int]:
        """Delete everything older, in steps. Return the count of each kind. Gives way to all other writers."""
        return await self._purge(keep, beside=bool(await self._journal.engines()))

    async def _purge(self, keep: Keep, *, beside: bool) -> dict[str, int]:
        """`beside`: an engine runs in another process, whose writes may not be known here."""
        if not self._listening:
            self._journal.subscribe(self._changed)
            self._listening = True
        removed: Counter[str] = Counter()
        unheard = beside and not self._journal.store.shared
        facts = await self._facts() if unheard else 0
        ended, worked, ids = 0.0, PAUSE_AFTER, set[object]()
        for kind in KINDS:
            problem = f"the archived file was removed after {keep.seconds(kind) / 86400:g} days"
            async for page in self._old(kind, keep):
                before, began = ended, time.monotonic()
                if not before:
                    self._others, before = 0, began
                last, ids = ids, {key[0] for key in page}
                self._deleting = ids | last  # the store may tell late what we have deleted
                removed.update(await self._journal.delete(kind, page, problem=problem))
                ended = time.monotonic()
                if unheard:
                    facts, known = await self._facts(), facts
                    self._others += max(facts - known, 0)
                took, others, self._others = ended - began, self._others, 0
                pause = SHARE * took * min(others / (ended - before) * took / len(page), 1.0)
                worked += took
                if beside and worked >= PAUSE_AFTER:
                    pause, worked = max(pause, PAUSE_SECONDS), 0.0
                await self._clock.sleep(pause)
        await self._clear_away()
        return dict(removed)

    async def _facts(self) -> int:
        """Return a number that rises by one with each callback and event, also of other processes on a file."""
        newest = [await self._journal.store.page(kind, EVERYTHING, limit=1, newest_first=True) for kind in _FACTS]
        return sum(int(row.key[0]) for page in newest for row in page)

    async def foresee(self, keep: Keep) -> dict[str, int]:
        """Count the callbacks, submissions with files, and submissions that `purge` would visit. Writes nothing."""
        counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        for kind in KINDS:
            async for page in self._old(kind, keep):
                counts[kind] += len(page)
        return dict(counts)

    async def _old(self, kind: Kind, keep: Keep) -> AsyncIterator[list[Key]]:
        seconds = keep.seconds(kind)
        after: Key | None = None
        before_ms = self._clock.now_ms() - int(seconds * 1000)
        while seconds and (page := await self._journal.old(kind, before_ms, after)):
            yield page
            after = page[-1]

    async def erase(self, row: Submission, *, force: bool) -> Erased:
        """Delete one submission with its callbacks, events, deliveries, attempts and unshared files.

        The freed space is overwritten as far as the journal's database can do that.

        Raises:
            InputError: a delivery is outstanding or the task is under way, and `force` was not given.
        """
        children = await self._journal.children(row.id)
        removed = await self._journal.erase(row.id, force=force)
        if removed is None:
            raise InputError(await self._problem(row), page="operate")
        waiting, problem = 0, None
        try:
            waiting = await self._clear_away()
        except MediaError as exc:  # still scrub the journal: the submission is gone, so a second erase cannot
            problem = str(exc)
        traces = await self._journal.store.scrub(row.prompt)
        log.info("submission.erased", submission=row.id, **removed)
        return Erased(
            submission=row, removed=removed, waiting=waiting, problem=problem, children=tuple(children), traces=traces
        )

    async def _clear_away(self) -> int:
        """Remove files of deleted submissions. Return the number of files still too young."""
        after, waiting = "", 0
        while page := await self._journal.leftovers(after):
            done = []
            for item in page:
                if item.needed or await self._store.remove(item.digest, unless_younger=FRESH_SECONDS):
                    done.append(item.digest)
            await self._journal.forget_leftovers(done)
            waiting += len(page) - len(done)
            after = page[-1].digest
        return waiting

    async def _problem(self, row: Submission) -> str:
        """Return the reason why a submission may not be erased, with the remedy."""
        if outstanding := await self._journal.outstanding(row.id):
            names = ", ".join(sorted({item.destination for item in outstanding}))
            what = f"{len(outstanding)} of its deliveries are outstanding (to {names})"
            remedy = f"Wait for them (receiver wait {row.id})"
        else:
            what = f"its task is under way or may still change (status {row.display_status})"
            remedy = (
                f"Wait for its end (receiver wait {row.id}), or ask the provider to stop it (receiver cancel {row.id})"
            )
        return f"Submission {row.id} is not erased: {what}. {remedy}, or give up on it with --force."
