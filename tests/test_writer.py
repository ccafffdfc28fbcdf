"""The one thread that writes: shared commits, and errors that hit only who made them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from receiver.journal.sqlite.documents import RowCache
from receiver.journal.sqlite.store import MAX_BATCH, Writer

Operation = Callable[[sqlite3.Connection], Any]


class Bench:
    """A writer on a file of its own, whose transactions are counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        connection = sqlite3.connect(path, timeout=0.05, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("CREATE TABLE numbers (number INTEGER PRIMARY KEY)")
        connection.execute(
            "CREATE TABLE owed (number INTEGER REFERENCES numbers (number) DEFERRABLE INITIALLY DEFERRED)"
        )
        self.statements: list[str] = []
        connection.set_trace_callback(self.statements.append)
        self.writer = Writer(connection, RowCache())

    def count(self, statement: str) -> int:
        return self.statements.count(statement)

    def numbers(self) -> list[int]:
        with sqlite3.connect(self.path) as db:
            found = [row[0] for row in db.execute("SELECT number FROM numbers ORDER BY number")]
        db.close()
        return found


def insert(number: int) -> Operation:
    def operation(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return operation


class Hold:
    """An operation that keeps the thread busy until `let_go`, so that what comes meanwhile queues."""

    def __init__(self) -> None:
        self.entered, self._gate = threading.Event(), threading.Event()

    def __call__(self, db: sqlite3.Connection) -> None:
        self.entered.set()
        self._gate.wait(5)

    def let_go(self) -> None:
        self._gate.set()


async def together(bench: Bench, *operations: Operation) -> list[Any]:
    """Run operations as one batch."""
    hold = Hold()
    first = asyncio.create_task(bench.writer.run(hold))
    await asyncio.to_thread(hold.entered.wait)
    waiting = [asyncio.create_task(bench.writer.run(operation)) for operation in operations]
    await asyncio.sleep(0)
    hold.let_go()
    await first
    return await asyncio.gather(*waiting, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    made = Bench(tmp_path / "numbers.db")
    yield made
    await made.writer.aclose()


async def test_writes_that_queue_share_a_commit(bench: Bench) -> None:
    """A hundred writes that wait for one commit are in the next one."""
    results = await together(bench, *(insert(number) for number in range(100)))
    assert results == list(range(100))
    assert bench.count("COMMIT") == 2
    assert bench.numbers() == list(range(100))


async def test_a_batch_has_an_end(bench: Bench) -> None:
    """More than a batch is more commits, so that nobody waits for ever."""
    await together(bench, *(insert(number) for number in range(MAX_BATCH + 1)))
    assert bench.count("COMMIT") == 3


async def test_a_result_comes_after_its_commit(bench: Bench) -> None:
    """Whoever has the answer can read the row from another connection."""
    for number in range(20):
        await bench.writer.run(insert(number))
        assert bench.numbers()[-1] == number
    assert bench.count("COMMIT") == 20


async def test_every_transaction_takes_the_write_lock_first(bench: Bench) -> None:
    """A deferred transaction that upgrades would fail at once, whatever the busy time."""
    await bench.writer.run(insert(1))
    assert {statement for statement in bench.statements if statement.startswith("BEGIN")} == {"BEGIN IMMEDIATE"}


async def test_an_error_undoes_its_own_operation_only(bench: Bench) -> None:
    """One of a batch fails half-way: what it wrote is gone, the others stand, and only it gets the error."""

    def fails(db: sqlite3.Connection) -> None:
        insert(50)(db)
        raise ValueError("guilty")

    results = await together(bench, insert(1), fails, insert(1), insert(2))
    assert results[0] == 1
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], sqlite3.IntegrityError)
    assert results[3] == 2
    assert bench.numbers() == [1, 2]


async def test_a_failed_commit_answers_everybody(bench: Bench) -> None:
    """Nothing of the batch was kept, every waiter hears so, and the next batch works."""
    broken = "INSERT INTO owed VALUES (99)"  # judged at the commit only
    results = await together(bench, insert(1), lambda db: db.execute(broken), insert(2))
    assert all(isinstance(result, sqlite3.IntegrityError) for result in results)
    assert bench.numbers() == []
    assert await bench.writer.run(insert(3)) == 3
    assert bench.numbers() == [3]


async def test_a_transaction_that_vanishes_is_made_again(bench: Bench) -> None:
    """A full disk can roll the whole transaction back under an operation: nobody is told that his write stands unless
    it does."""

    def vanishes(db: sqlite3.Connection) -> None:
        db.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    one, error, two = await together(bench, insert(1), vanishes, insert(2))
    assert (one, two) == (1, 2)
    assert isinstance(error, sqlite3.OperationalError)
    assert bench.numbers() == [1, 2]
    assert await bench.writer.run(insert(3)) == 3


async def test_a_locked_file_answers_everybody(bench: Bench) -> None:
    """Another program holds the write lock beyond the busy time: an error for each, and the writer goes on after."""
    other = sqlite3.connect(bench.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    results = await asyncio.gather(*(bench.writer.run(insert(n)) for n in range(3)), return_exceptions=True)
    assert all(isinstance(result, sqlite3.OperationalError) for result in results)
    other.execute("ROLLBACK")
    other.close()
    assert await bench.writer.run(insert(7)) == 7


async def test_whoever_stops_waiting_holds_up_nobody(bench: Bench) -> None:
    """A cancelled caller's write stands, and the others of its batch are answered."""
    hold = Hold()
    first = asyncio.create_task(bench.writer.run(hold))
    gone, stays = (asyncio.create_task(bench.writer.run(insert(number))) for number in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    hold.let_go()
    await first
    assert await stays == 2
    assert bench.numbers() == [1, 2]


async def test_closing_finishes_what_was_accepted(bench: Bench) -> None:
    """What is queued is written before the thread ends; afterwards nothing is accepted; closing twice is closing."""
    waiting = [asyncio.create_task(bench.writer.run(insert(number))) for number in range(50)]
    await asyncio.sleep(0)
    await bench.writer.aclose()
    assert await asyncio.gather(*waiting) == list(range(50))
    await bench.writer.aclose()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        await bench.writer.run(insert(99))
    assert bench.numbers() == list(range(50))


def test_an_event_loop_that_ended_does_not_end_the_thread(tmp_path: Path) -> None:
    """Whoever waited in a closed loop is gone; another loop's write still works."""
    bench = Bench(tmp_path / "numbers.db")
    hold = Hold()

    async def leave() -> None:
        for operation in (hold, insert(1)):
            asyncio.create_task(bench.writer.run(operation)).add_done_callback(lambda task: task.cancelled())
        await asyncio.sleep(0)

    asyncio.run(leave())
    hold.let_go()

    async def come() -> int:
        try:
            return int(await bench.writer.run(insert(2)))
        finally:
            await bench.writer.aclose()

    assert asyncio.run(come()) == 2
    assert bench.numbers() == [1, 2]
