"""Retention: what is old goes, what is owed stays, and what is erased leaves no trace in the files."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from engine import PNG, Kit, Recording, answer, destination, engine
from journals import Store, submission

from receiver.engine.engine import Loops
from receiver.errors import InputError, JournalError
from receiver.events import Submission
from receiver.handlers.base import Rejected
from receiver.intake import transitions
from receiver.journal import Change, Journal
from receiver.journal.document import replace
from receiver.journal.journal import PAGE
from receiver.journal.store import Filter
from receiver.maintenance.replay import Replay
from receiver.maintenance.retention import Keep, Retention

DAY = 86400.0
ALL = Keep(callbacks=7 * DAY, media=30 * DAY, submissions=90 * DAY)
PICTURE = "/1.png"
SECRET = "a paper boat nobody may ever hear of"


def retaining(kit: Kit, keep: Keep = ALL) -> Retention:
    return Retention(journal=kit.journal, store=kit.store, clock=Quick(kit), keep=keep)


class Quick:
    """The kit's clock, on which nobody sleeps: the pauses between steps cost a test nothing."""

    def __init__(self, kit: Kit) -> None:
        self._clock = kit.clock
        self.slept: list[float] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._clock, name)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def archived(kit: Kit, content: bytes = PNG, prompt: str = "a boat") -> Submission:
    """A result whose picture has been archived and delivered."""
    kit.origin.files[PICTURE] = content
    task_id = f"t{len(kit.relay.submitted)}"
    kit.relay.submits = [answer(1, task_id)]
    row = await kit.submit(prompt)
    kit.relay.tasks[task_id] = {
        "id": task_id, "status": "SUCCESS", "progress": "100%", "action": "IMAGINE", "prompt": prompt,
        "imageUrl": f"{kit.origin.url}{PICTURE}",
    }  # fmt: skip
    await kit.calls_back(row, "SUCCESS", image_url=f"{kit.origin.url}{PICTURE}")
    await kit.reconciler.reconcile_once()
    await kit.archiver.archive_once()
    await kit.archiver.settle()
    await run(kit)
    return await kit.row(row.id)


async def run(kit: Kit, handler: Recording | None = None) -> Recording:
    handler = handler or Recording()
    dispatcher = kit.dispatcher(destination("main", handler))
    while await dispatcher.dispatch_once():
        await dispatcher.settle()
    return handler


def age(kit: Kit, days: float) -> None:
    """Let days pass, for the files too."""
    kit.clock.advance(days * DAY)
    old = time.time() - days * DAY
    for file in stored(kit):
        os.utime(file, (old, old))


def stored(kit: Kit) -> list[Path]:
    return [path for path in kit.store.folder.rglob("*") if path.is_file()]


async def test_each_kind_goes_at_its_age(tmp_path: Path, store: Store) -> None:
    """Callbacks after a week, files after a month, the submission with all that hangs on it after three."""
    async with engine(tmp_path, at=store) as kit:
        row = await archived(kit)
        retention = retaining(kit)
        assert await retention.purge(ALL) == {}
        age(kit, 8)
        assert await retention.purge(ALL) == {"callbacks": 1}
        assert await kit.journal.callbacks(row.id) == []
        age(kit, 23)
        assert await retention.purge(ALL) == {"files": 1}
        assert stored(kit) == []
        after = await kit.row(row.id)
        assert (after.media, after.media_problem) == ((), "the archived file was removed after 30 days")
        assert len(await kit.events(row.id)) == 2
        age(kit, 60)
        assert await retention.purge(ALL) == {
            "files": 0,
            "attempts": 1,
            "deliveries": 1,
            "events": 2,
            "callbacks": 0,
            "submissions": 1,
        }
        assert await kit.journal.get(row.id) is None
        assert await kit.journal.problems() == []


async def test_what_is_kept_for_ever(tmp_path: Path) -> None:
    """0 means that."""
    async with engine(tmp_path) as kit:
        await archived(kit)
        age(kit, 10_000)
        assert await retaining(kit).purge(Keep(callbacks=0, media=0, submissions=0)) == {}
        assert len(stored(kit)) == 1


async def test_a_dry_run_counts_and_deletes_nothing(tmp_path: Path) -> None:
    """What is announced is what a purge then takes."""
    async with engine(tmp_path) as kit:
        row = await archived(kit)
        age(kit, 100)
        assert await retaining(kit).foresee(ALL) == {"callbacks": 1, "media": 1, "submissions": 1}
        assert await kit.row(row.id)
        assert (await retaining(kit).purge(ALL))["submissions"] == 1
        assert await retaining(kit).foresee(ALL) == {"callbacks": 0, "media": 0, "submissions": 0}


@pytest.mark.parametrize("state", ["under way", "pending", "running", "polled", "replayed"])
async def test_what_is_owed_stays(tmp_path: Path, store: Store, state: str) -> None:
    """However old: tasks without an end, deliveries still to be made or under way, ends that may still change."""
    async with engine(tmp_path, at=store) as kit:
        if state == "under way":
            row = await kit.submit()
        elif state == "polled":
            row = await kit.submit()
            kit.clock.advance(5000)
            await kit.reconciler.reconcile_once()
            await run(kit)
            assert (await kit.row(row.id)).poll_due_ms is not None
        elif state == "replayed":
            row = await archived(kit)
            age(kit, 50)
            replay = Replay(journal=kit.journal, destinations=["main"], clock=kit.clock)
            await replay.carry_out(await replay.of_deliveries(Filter(submission_id=row.id)))
        else:
            row = await kit.succeeded()
            kit.clock.advance(121)
            if state == "running":
                assert await kit.journal.claim("main", owner="me", limit=1, now_ms=kit.clock.now_ms())
        age(kit, 1000)
        removed = await retaining(kit).purge(ALL)
        assert set(removed) <= {"callbacks"}
        assert await kit.journal.get(row.id) is not None
        assert await kit.events(row.id) != []
        if state == "replayed":
            assert len(stored(kit)) == 1
            [attempt] = (await run(kit)).attempts
            assert attempt.media[0].path.exists()


async def test_a_dead_delivery_is_not_owed(tmp_path: Path) -> None:
    """Nobody has replayed it in three months."""
    async with engine(tmp_path) as kit:
        row = await kit.succeeded()
        kit.clock.advance(121)
        await run(kit, Recording(Rejected("no")))
        age(kit, 91)
        await retaining(kit).purge(ALL)
        assert await kit.journal.get(row.id) is None


async def test_a_replay_after_the_files_have_gone(tmp_path: Path) -> None:
    """The handler gets no media, and the reason."""
    async with engine(tmp_path) as kit:
        row = await archived(kit)
        age(kit, 31)
        await retaining(kit).purge(ALL)
        replay = Replay(journal=kit.journal, destinations=["main"], clock=kit.clock)
        await replay.carry_out(await replay.of_deliveries(Filter(submission_id=row.id)))
        [attempt] = (await run(kit)).attempts
        assert attempt.media == ()
        assert attempt.media_problem == "the archived file was removed after 30 days"


async def test_a_file_that_another_submission_has_stays(tmp_path: Path) -> None:
    """Files are kept once for all; the last one who needs it keeps it."""
    async with engine(tmp_path) as kit:
        await archived(kit)
        age(kit, 20)
        young = await archived(kit)
        age(kit, 15)
        assert await retaining(kit).purge(ALL) == {"callbacks": 2, "files": 0}
        assert len(stored(kit)) == 1
        assert (await kit.row(young.id)).media


async def test_a_file_put_again_meanwhile_stays(tmp_path: Path, store: Store) -> None:
    """Somebody may be archiving the same picture right now, and has not said so yet: it goes with a later purge."""
    async with engine(tmp_path, at=store) as kit:
        await archived(kit)
        age(kit, 31)
        os.utime(stored(kit)[0])
        retention = retaining(kit)
        await retention.purge(ALL)
        assert len(stored(kit)) == 1
        age(kit, 1)
        await retention.purge(ALL)
        assert stored(kit) == []


async def test_more_than_a_step(tmp_path: Path) -> None:
    """Hundreds go in many short steps with a pause after each; those that are owed in between are passed over."""
    async with engine(tmp_path) as kit:
        rows = [await kit.prepared(f"boat {number}") for number in range(230)]
        for row in rows[::10]:
            await kit.intake.take(row.id, transitions.expired)  # nothing yet: the deadline has not come
        kit.clock.advance(5000)
        ended = [row for row in rows if row not in rows[::10]]
        for row in ended:
            await kit.intake.take(row.id, transitions.expired)
        await run(kit)
        age(kit, 91)
        retention = retaining(kit)
        assert (await retention.purge(ALL))["submissions"] == len(ended) > PAGE
        left = {row.id for row in await kit.journal.submissions(limit=1000)}
        assert left == {row.id for row in rows[::10]}


async def test_a_purge_gives_way_to_other_writers(tmp_path: Path, store: Store) -> None:
    """It rests after each step while others write, and now and then beside an engine that may wait for the lock of a
    file. Else it does not rest."""
    async with engine(tmp_path, at=store) as kit:
        other = await kit.journal.add(submission(1, deadline_ms=10**14))
        delete = kit.journal.delete

        async def written(*args: Any, **kwargs: Any) -> Any:
            touch = Change(submission=replace(other, polls=other.polls + 1))
            gone, _ = await asyncio.gather(delete(*args, **kwargs), kit.journal.change(other.id, lambda _: touch))
            return gone

        for turn in ("alone", "written", "beside"):
            row = await archived(kit, prompt=turn)
            age(kit, 91)
            clock = Quick(kit)
            if turn == "beside":
                await kit.journal.membership.join("worker", "other", store="")
            journal = Beside(kit.journal, written if turn == "written" else delete)
            purging = Retention(journal=journal, store=kit.store, clock=clock, keep=ALL)  # type: ignore[arg-type]
            assert (await purging.purge(ALL))["submissions"] == 1
            assert await kit.journal.get(row.id) is None
            first, *rests = [seconds > 0 for seconds in clock.slept]
            assert first or turn == "alone"  # a store may be late with what was written before
            assert rests[-1] == (turn == "written")


class Beside:
    """A journal whose steps of a purge are carried out by another function."""

    def __init__(self, journal: Journal, delete: Any) -> None:
        self._journal, self.delete = journal, delete

    def __getattr__(self, name: str) -> object:
        return getattr(self._journal, name)


async def test_the_engine_sweeps_once_a_day(tmp_path: Path) -> None:
    """Not at its start, which has better things to do, and again a day later, also when the clock was set back."""
    async with engine(tmp_path) as kit:
        retention = retaining(kit)
        await archived(kit)
        assert await retention.sweep_once() == 0
        age(kit, 8)
        await retention.sweep_once()
        assert len(await kit.journal.submissions(limit=10)) == 1
        [row] = await kit.journal.submissions(limit=10)
        assert await kit.journal.callbacks(row.id) == []
        kit.clock.advance(84 * DAY)
        age(kit, 0)
        await retention.sweep_once()
        assert await kit.journal.submissions(limit=10) == []


async def test_a_sweep_that_fails_comes_again_in_an_hour(tmp_path: Path) -> None:
    """Not with each turn of the engine, and not only the next day."""
    async with engine(tmp_path, faulty=True) as kit:
        retention = retaining(kit)
        row = await archived(kit)
        age(kit, 8)
        kit.journal.failing["old"] = 1  # type: ignore[attr-defined]
        with pytest.raises(JournalError):
            await retention.sweep_once()
        await retention.sweep_once()
        assert len(await kit.journal.callbacks(row.id)) == 1
        kit.clock.advance(3601)
        await retention.sweep_once()
        assert await kit.journal.callbacks(row.id) == []


async def test_the_sweep_is_a_step_of_the_engine(tmp_path: Path) -> None:
    """The loops run it like any other step, and it never asks to be called again at once."""
    async with engine(tmp_path) as kit:
        retention = retaining(kit)
        loops = Loops({"purge": retention.sweep_once}, clock=kit.clock)
        loops.start()
        assert loops.running
        await loops.stop()


# --- erase -------------------------------------------------------------------------------------------------------


async def test_erase_removes_all_of_one_submission(tmp_path: Path, store: Store) -> None:
    """Callbacks, events, deliveries, attempts, files and inputs; of another submission nothing."""
    async with engine(tmp_path, at=store) as kit:
        other = await archived(kit, PNG + b"other")
        picture = tmp_path / "in.png"
        picture.write_bytes(PNG + b"mine")
        kit.relay.submits = [answer(1, "mine")]
        row = await kit.submit("a boat", pictures=[str(picture)])
        await kit.calls_back(row, "FAILURE", fail_reason="timeout")
        kit.clock.advance(31)
        await kit.reconciler.reconcile_once()
        await run(kit)
        kit.clock.advance(5000)
        while (await kit.row(row.id)).poll_due_ms is not None:
            await kit.reconciler.reconcile_once()
            kit.clock.advance(301)
        await run(kit)
        age(kit, 0.1)
        erased = await retaining(kit).erase(await kit.row(row.id), force=False)
        assert erased.removed == {
            "files": 1, "attempts": 1, "deliveries": 1, "events": 2, "callbacks": 1, "submissions": 1,
        }  # fmt: skip
        assert erased.waiting == 0
        assert await kit.journal.get(row.id) is None
        assert [file.stem for file in stored(kit)] == [other.media[0].digest]
        assert await kit.journal.problems() == []


async def test_erase_refuses_what_is_owed_or_under_way(tmp_path: Path) -> None:
    """It says what, and what to do; --force gives it up."""
    async with engine(tmp_path) as kit:
        under_way = await kit.submit()
        with pytest.raises(InputError, match=f"under way.*receiver cancel {under_way.id}.*--force"):
            await retaining(kit).erase(under_way, force=False)
        owing = await kit.succeeded()
        with pytest.raises(InputError, match=r"1 of its deliveries are outstanding \(to main\)"):
            await retaining(kit).erase(owing, force=False)
        assert len(await kit.journal.submissions(limit=10)) == 2
        for row in (under_way, owing):
            await retaining(kit).erase(row, force=True)
        assert await kit.journal.submissions(limit=10) == []
        kit.clock.advance(5000)
        await kit.reconciler.reconcile_once()
        assert (await run(kit)).attempts == []


async def test_an_attempt_that_outlives_an_erased_delivery_is_refused(tmp_path: Path, store: Store) -> None:
    """Its completion finds no row, and writes none."""
    async with engine(tmp_path, at=store) as kit:
        row = await kit.succeeded()
        kit.clock.advance(121)

        async def erase(attempt: object) -> None:
            await retaining(kit).erase(row, force=True)

        await run(kit, Recording(erase))  # type: ignore[arg-type]
        assert await kit.deliveries(row.id) == []
        assert await kit.journal.problems() == []


async def test_follow_ups_are_named(tmp_path: Path) -> None:
    """They are submissions of their own, with the same prompt."""
    async with engine(tmp_path) as kit:
        kit.relay.submits = [answer(1, "t0")]
        row = await kit.submit("a boat", auto=("U1",))
        kit.relay.tasks["t0"] = {
            "id": "t0",
            "status": "SUCCESS",
            "progress": "100%",
            "action": "IMAGINE",
            "imageUrl": "https://x.test",
        }
        kit.clock.advance(16)
        await kit.reconciler.reconcile_once()
        await run(kit)
        [child] = [item.id for item in await kit.journal.family(row.id) if item.parent_id == row.id]
        erased = await retaining(kit).erase(await kit.row(row.id), force=True)
        assert erased.children == (child,)


def held(folder: Path, words: str) -> list[str]:
    """Names of the journal's files in which the words stand."""
    return [path.name for path in folder.iterdir() if path.is_file() and words.encode() in path.read_bytes()]


async def crowd(kit: Kit) -> list[Submission]:
    """Many submissions whose rows were rewritten often, so that pages were split and rows moved about."""
    rows = [await kit.submit(f"{SECRET} {number:04d} " + "x" * (number * 37 % 900)) for number in range(150)]
    for round in range(4):
        for number, row in enumerate(rows):
            prompt = f"{row.prompt} y" + "y" * ((number * 91 + round * 501) % 1500)
            await kit.calls_back(row, "IN_PROGRESS", progress=round * 20, prompt=prompt)
    kit.clock.advance(5000)
    for row in rows:
        await kit.intake.take(row.id, transitions.expired)
    await run(kit)
    return [await kit.row(row.id) for row in rows]


async def test_an_erased_prompt_stands_in_no_file(tmp_path: Path) -> None:
    """Not in unused space, not in the log: where no engine runs the file is written anew."""
    async with engine(tmp_path) as kit:
        rows = await crowd(kit)
        for row in rows[::30]:
            assert held(tmp_path, row.prompt[:41]) != []
            erased = await retaining(kit).erase(row, force=True)
            assert erased.traces is None
            assert held(tmp_path, row.prompt[:41]) == []
        assert held(tmp_path, rows[1].prompt[:41]) != []


async def test_beside_an_engine_a_trace_is_not_denied(tmp_path: Path) -> None:
    """SQLite overwrites what is deleted, except where it moved rows before. The answer says so, and compacting takes
    the rest away."""
    async with engine(tmp_path) as kit:
        rows = await crowd(kit)
        await kit.journal.membership.join("serve", "serve", store="")
        left = 0
        for row in rows[::3]:
            erased = await retaining(kit).erase(row, force=True)
            assert "receiver journal compact" in (erased.traces or "")
            left += bool(held(tmp_path, row.prompt))
        assert left < 10
        await kit.journal.membership.leave("serve")
        assert await kit.journal.store.compact()
        assert [row.id for row in rows[::3] if held(tmp_path, row.prompt[:41])] == []
