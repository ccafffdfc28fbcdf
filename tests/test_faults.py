"""`scripts/faults`: what counts as a broken promise, and what as a proof. The experiments themselves run there."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from builds.seams import BUILDS, LateCommit
from experiments import BESIDE, EXPERIMENTS
from experiments.__main__ import Result, harm, result_of, run, summary
from experiments.base import Outcome
from experiments.connections import on_disk
from experiments.disks import Operation, watched
from experiments.power import DATABASE, File, Recording, images, settle
from handbooks import PAGES

from receiver.errors import JournalError
from receiver.journal import Journal
from receiver.journal.sqlite import open_store

HELD = Outcome(injected=40, acknowledged=100, lost=0, doubled=0, seconds=1.0)
HARMED = replace(HELD, lost=3)


@dataclass
class Fake:
    """An experiment with set outcomes; an error is raised."""

    outcome: Outcome | Exception
    broken: Outcome | Exception | None
    name: str = "fake"
    summary: str = "nothing is done"
    promises: tuple[str, ...] = ("P2",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        assert not list(folder.iterdir()), "every run has an empty folder"
        return _or_raise(self.outcome)

    async def control(self, folder: Path, *, quick: bool) -> Outcome | None:
        return None if self.broken is None else _or_raise(self.broken)


@pytest.mark.parametrize(
    ("outcome", "broken", "again"),
    [
        (HELD, HARMED, False),
        (HARMED, HARMED, False),
        (replace(HELD, doubled=1), HARMED, False),
        (replace(HELD, problem="it took 6 s instead of 5 s"), HARMED, True),
        (HELD, HELD, True),
    ],
)
def test_only_an_experiment_that_lost_and_doubled_nothing_may_run_again(
    outcome: Outcome, broken: Outcome, again: bool
) -> None:
    assert Result(Fake(outcome, broken), outcome, broken).unsteady is again


def _or_raise(outcome: Outcome | Exception) -> Outcome:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@pytest.mark.parametrize(
    ("outcome", "broken", "complaint"),
    [
        (HELD, HARMED, None),
        (HELD, replace(HELD, doubled=1), None),
        (HELD, replace(HELD, problem="It hangs."), None),
        (HELD, None, None),
        (replace(HELD, lost=1), HARMED, "1 of 100 acknowledged were lost"),
        (replace(HELD, doubled=2), HARMED, "2 were done twice"),
        (replace(HELD, problem="It hangs."), HARMED, "It hangs."),
        (replace(HELD, injected=0), HARMED, "no fault was injected"),
        (HELD, HELD, "the control passes"),
        (ValueError("no port"), HARMED, "ValueError('no port')"),
        (HELD, ValueError("no port"), "its control did not run: ValueError('no port')"),
        (TimeoutError(), HARMED, "it was not done after"),
    ],
)
def test_what_holds_and_what_does_not(
    outcome: Outcome | Exception,
    broken: Outcome | Exception | None,
    complaint: str | None,
) -> None:
    """A loss, a double, a broken promise, an error, no fault, or a control that passes: each is complained of."""
    complaints = run(Fake(outcome, broken), quick=True).complaints
    assert len(complaints) == (complaint is not None)
    assert complaint is None or complaint in complaints[0]


@pytest.mark.parametrize(
    ("control", "words"),
    [(None, "none"), (HARMED, "3 lost"), (replace(HARMED, doubled=1), "3 lost, 1 doubled"), (HELD, "PASSES")],
)
def test_the_table_says_what_the_broken_build_did(control: Outcome | None, words: str) -> None:
    """One that passes cannot be overlooked."""
    assert harm(control) == words
    assert harm(replace(HELD, problem="It hangs.")) == "breaks"


def test_experiments_are_named_and_explained() -> None:
    """A name to type, a line to read, and the promises it proves."""
    names = [experiment.name for experiment in EXPERIMENTS]
    assert len(set(names)) == len(names)
    for experiment in EXPERIMENTS:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", experiment.name)
        assert "\n" not in experiment.summary
        assert experiment.promises
        assert all(re.fullmatch(r"P\d+", number) for number in experiment.promises)


def test_promises_name_experiments_that_exist() -> None:
    """And every experiment is the proof of one."""
    named = set(re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)*)`", PAGES["promises"]))
    known = {experiment.name for experiment in EXPERIMENTS}
    assert known <= named, "an experiment that proves no promise"


@pytest.mark.parametrize("control", [HARMED, None])
def test_results_of_the_process_beside_come_back_whole(control: Outcome | None) -> None:
    """As JSON on the way; names that run there exist."""
    experiment = Fake(HELD, control)
    result = Result(experiment, replace(HELD, notes="ü", problem="It hangs."), control)
    assert result_of(experiment, json.loads(json.dumps(summary(result)))) == result
    assert {item.name for item in EXPERIMENTS} >= {name for row in BESIDE for name in row}


# The instruments


def test_a_late_commit_is_lost_with_its_process(tmp_path: Path) -> None:
    """The broken build does break: what it reports as committed is not there for others at once."""
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
        other.execute("CREATE TABLE t (a)")
        values = {"isolation_level": None, "check_same_thread": False, "factory": LateCommit}
        with closing(sqlite3.connect(tmp_path / "db", **values)) as db:  # type: ignore[call-overload]
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO t VALUES (1)")
            db.execute("COMMIT")
            assert other.execute("SELECT count(*) FROM t").fetchone()[0] == 0


def test_seams_are_put_back() -> None:
    """A broken build lasts as long as its block."""
    connect = sqlite3.connect
    for build in BUILDS.values():
        with build():
            pass
    assert sqlite3.connect is connect


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[list[Operation]]:
    operations: list[Operation] = []
    with watched(operations.append) as disk, on_disk(disk):
        yield operations


async def test_the_journal_works_on_a_watched_disk(tmp_path: Path, recorded: list[Operation]) -> None:
    """All that Receiver asks of `sqlite3` is there, and what it does to the disk is seen."""
    journal = Journal(await open_store(tmp_path / DATABASE))
    await journal.register({"folder": "FileHandler"})
    assert [item.name for item in await journal.destinations() if item.pending] == []
    await journal.check()
    await journal.aclose()
    assert {"write", "sync"} <= {item.kind for item in recorded if item.file == f"{DATABASE}-wal"}


async def test_a_disk_that_refuses_is_an_error_of_the_journal(tmp_path: Path) -> None:
    """And it goes on when the disk does."""
    refused: list[str] = []

    def refuse(item: Operation) -> None:
        if refused and item.kind == "sync":
            raise OSError(refused.pop())

    with watched(refuse) as disk, on_disk(disk):
        journal = Journal(await open_store(tmp_path / DATABASE))
        refused.append("the experiment refuses")
        with pytest.raises(JournalError):
            await journal.register({"folder": "FileHandler"})
        await journal.register({"folder": "FileHandler"})
        await asyncio.shield(journal.aclose())


def test_a_power_cut_takes_what_was_not_synced() -> None:
    """Nothing of it, or all of it, and never what was synced before."""
    recording = Recording(before=b"old.")
    recording.operations += [
        Operation("write", DATABASE, 4, b"kept"),
        Operation("sync", DATABASE),
        Operation("write", DATABASE, 8, b"late"),
        Operation("sync", DATABASE),
    ]
    left = [disk[DATABASE] for _, disk in images(recording, {3})]
    assert left[:2] == [b"old.kept", b"old.keptlate"]
    assert all(content.startswith(b"old.kept") for content in left)


def test_a_file_made_anew_has_nothing_of_the_old_one() -> None:
    """A file that was deleted and made again has no old content after a power cut."""
    file = File(b"old", [Operation("delete", "wal"), Operation("open", "wal"), Operation("write", "wal", 0, b"n")])
    chance = random.Random(1)  # noqa: S311 - the same each time
    assert settle(file, "lost", chance) is None
    assert settle(file, "kept", chance) == b"n"
    assert settle(File(b"old", file.pending[:1]), "lost", chance) == b"old"


def test_a_result_shows_all_it_has_to_complain_of() -> None:
    """One complaint hides no other."""
    result = Result(Fake(HELD, HELD), replace(HELD, lost=1, doubled=1, problem="It hangs."), HELD)
    assert len(result.complaints) == 4
