"""A journal with many submissions: some that the journal itself has written, then copies of their rows made by SQL.

Each copy is as if everything had happened some hours later: ids, times and task ids are moved, and nothing else is. Ids
of the same window of 2^25 ms begin with the same five characters, so moving an id replaces these.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from msgspec.structs import replace

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from journals import OWNER, SetClock, completion
from postgres_server import Server

from receiver.deliveries import Completion, Delivery, DeliveryStatus, Receipt
from receiver.events import Media, Submission, first_id, new_id
from receiver.intake import Intake, Policy, Route, transitions
from receiver.journal import Journal
from receiver.journal.postgres import open_store as open_postgres
from receiver.journal.sqlite import open_store as open_sqlite
from receiver.settings import Settings
from receiver.tasks import Task, decode_task

PAYLOAD = Path(__file__).parent.parent / "tests" / "payloads" / "callback_13_csharp_success.json"
SECRET = "bench" * 4
WINDOW_MS = 2**25
WRITTEN = 5000
"""Submissions of a window, which the journal itself writes. That is 12,900 a day."""
RARE = 1000
"""One of so many has the values that listings look for."""
KEPT_MS = 7 * 86_400_000
"""Age up to which callbacks are kept, as by default."""
DESTINATIONS = ("place-0", "place-1", "place-2", "rare")
ROUTES = tuple(Route(destination=name) for name in DESTINATIONS)
AT_ONCE = 500
SHARED = 5
"""Characters that the ids of a window have in common."""
TABLES = {
    "submissions": "id", "requests": "id", "callbacks": "number", "events": "number", "deliveries": "id",
    "attempts": "delivery_id", "files": "submission_id",
}  # fmt: skip
"""Tables whose rows are copied, with the columns that tell their order."""
_TIME = re.compile(r'_ms":(\d{13})')


@asynccontextmanager
async def database(kind: str, folder: Path, keep: str | None = None) -> AsyncIterator[Settings]:
    """Yield settings with a database, empty unless `keep` names one with rows: a file, or a URL of PostgreSQL."""
    given: dict[str, Any] = {
        "provider_key": "s" * 20, "provider_url": "http://127.0.0.1:9", "data": folder, "poll_interval": 3600.0,
        "page_users": {"bench": f"operator:{SECRET}"}, "keys": ("bench" * 10,),
    }  # fmt: skip
    if kind == "sqlite":
        yield Settings(**given, database=f"sqlite:{keep or folder / 'journal.db'}")
    elif keep:
        yield Settings(**given, database=keep)
    else:
        with Server(max_wal_size="4GB") as server:
            yield Settings(**given, database=server.url())


async def fill(settings: Settings, count: int) -> None:
    """Fill an empty journal with at least so many submissions. Leave one that has rows as it is."""
    began, url = time.perf_counter(), settings.database or ""
    written = min(count, WRITTEN)
    copies = -(-count // written)
    begin = (time.time_ns() // 10**6 // WINDOW_MS - copies) * WINDOW_MS
    path = Path(url.removeprefix("sqlite:")) if url.startswith("sqlite:") else None
    journal = Journal(await (open_postgres(url) if path is None else open_sqlite(path)))
    try:
        if await journal.submissions(limit=1):
            return
        await write(journal, begin, written)
    finally:
        await journal.aclose()
    await (copy_database(url, begin, copies) if path is None else copy_file(path, begin, copies))
    print(f"{written * copies:,} submissions made in {time.perf_counter() - began:.0f} s, {written:,} by the journal")


def fresh() -> dict[str, Any]:
    """Return the id, time and task id of a submission made now, so that it is the newest."""
    now_ms = time.time_ns() // 10**6
    return {"id": (id := new_id(now_ms)), "created_ms": now_ms, "task_id": f"task-{id}"}


async def cpu_clock(settings: Settings) -> Callable[[], tuple[float, float]]:
    """Return a function that tells the CPU seconds of this process, and of a PostgreSQL server on this machine."""
    url, server = settings.database or "", ""
    if not url.startswith("sqlite:"):
        db = await asyncpg.connect(url)
        server = _fields(Path(f"/proc/{db.get_server_pid()}/stat"))[1]
        await db.close()

    def seconds() -> tuple[float, float]:
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat") if server else ():
            with suppress(OSError):  # it has just ended
                fields = _fields(path)
                own, ended = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
                ticks += own + ended if path.parent.name == server else own if fields[1] == server else 0
        return time.process_time(), ticks / os.sysconf("SC_CLK_TCK")

    return seconds


def _fields(path: Path) -> list[str]:
    """Return the fields of `proc_pid_stat(5)` from the third on: the second is the parent, then come CPU times."""
    return path.read_text().rpartition(") ")[2].split()


# Submissions that the journal writes


async def write(journal: Journal, begin: int, count: int) -> None:
    """Write submissions with all that became of them, evenly within a window that begins at `begin`."""
    await journal.register(dict.fromkeys(DESTINATIONS, "noop"))
    task, step = decode_task(PAYLOAD.read_bytes()), (WINDOW_MS - 1_000_000) / count
    numbers: dict[str, int] = {}
    for first in range(0, count, AT_ONCE):
        some = range(first, min(first + AT_ONCE, count))
        ids = await asyncio.gather(*(_happen(journal, task, number, begin + int(number * step)) for number in some))
        numbers.update(zip(ids, some, strict=True))
    for name in DESTINATIONS:
        while works := await journal.claim(name, owner=OWNER, limit=AT_ONCE, now_ms=begin + WINDOW_MS):
            made = [item.delivery for item in works]
            await asyncio.gather(*(journal.complete(_end(item, numbers[item.submission_id])) for item in made))


async def _happen(journal: Journal, task: Task, number: int, now_ms: int) -> str:
    """Submit, call back, archive. A rare one is lost, some fail, and the others have a picture. Return the id."""
    clock, rare, id = SetClock(now_ms / 1000), number % RARE == 0, new_id(now_ms)
    intake = Intake(journal, policy=Policy(confirm_ms=0), routes=ROUTES, clock=clock)
    row = Submission(
        id=id, kind="describe" if rare else "imagine", created_ms=now_ms, hooked=True, status="accepted", sends=1,
        prompt=f"a paper {'zeppelin' if rare else 'boat'} floating on calm water at sunrise, number {number}",
        request={"prompt": "a paper boat floating on calm water at sunrise --v 6.1"}, task_id=f"task-{id}",
        labels={"team": "art"} | ({"order": "rare"} if rare else {}), deadline_ms=now_ms + 900_000,
        destinations=("rare" if rare else f"place-{number % 3}",),
    )  # fmt: skip
    await journal.add(row)
    task = replace(task, id=f"task-{id}")
    clock.seconds += 20
    await intake.received(id, replace(task, status="IN_PROGRESS", progress=50), b'{"progress": "50%"}', None)
    clock.seconds += 40
    if rare:
        clock.seconds = row.deadline_ms / 1000
        row = await intake.take(id, transitions.expired)
    elif number % 50 == 1:
        await intake.received(id, replace(task, status="FAILURE", fail_reason="Banned words"), b"{}", None)
        row = await journal.find(id)
    else:
        await intake.received(id, task, PAYLOAD.read_bytes(), None)
        found = Media(digest=id, type="image/png", size=1, extension=".png", url="")
        places = [item.place for item in (await journal.find(id)).files if item.due_ms]
        row = await intake.tried(id, None, {place: replace(found, digest=f"{id}-{place}") for place in places})
    while row.poll_due_ms is not None:
        clock.seconds = row.poll_due_ms / 1000
        row = await intake.polled(id, None)
    assert row.settled, row
    return id


def _end(item: Delivery, number: int) -> Completion:
    """A few deliveries are dead, fewer wait for their next attempt, and the others have succeeded."""
    status: DeliveryStatus = "pending" if number == 2 else "dead" if number % 500 in (0, 1) else "succeeded"
    done, at = status == "succeeded", item.created_ms + 1000
    return completion(
        item, outcome="succeeded" if done else "failed", status=status, finished_ms=at, counts=not done,
        due_ms=item.created_ms + WINDOW_MS, detail=None if done else "The server answered 500.",
        receipt=Receipt(ref=f"/pictures/{item.id}.png") if done else None,
    )  # fmt: skip


# Copies of their rows


class Database(Protocol):
    """A connection as asyncpg has it, as far as it is used here."""

    async def execute(self, statement: str) -> Any: ...

    async def fetch(self, statement: str) -> Sequence[Any]: ...


class _File:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    async def execute(self, statement: str) -> Any:
        self._db.execute(statement)

    async def fetch(self, statement: str) -> Sequence[Any]:
        return self._db.execute(statement).fetchall()


async def copy_file(path: Path, begin: int, copies: int) -> None:
    """Copy in a SQLite file that nobody else has open. Nothing of it is safe from a crash meanwhile."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = _File(connection)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -500000", "temp_store = MEMORY"):
            await db.execute(f"PRAGMA {pragma}")
        await db.execute("BEGIN")
        await copy(db, begin, copies, "SELECT name, type FROM pragma_table_info('{table}')")
        await db.execute("COMMIT")
        await db.execute("PRAGMA journal_mode = WAL")


async def copy_database(url: str, begin: int, copies: int) -> None:
    """Copy in a PostgreSQL database. Its statistics are new afterwards, as autovacuum would have made them by then."""
    db = await asyncpg.connect(url, server_settings={"search_path": "receiver", "synchronous_commit": "off"})
    try:
        columns = (
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'receiver' AND table_name = '{table}' ORDER BY ordinal_position"
        )
        await copy(db, begin, copies, columns)
        await db.execute("VACUUM ANALYZE")
    finally:
        await db.close()


async def copy(db: Database, begin: int, copies: int, columns_of: str) -> None:
    """Copy all rows, which are of the window from `begin` on, into the windows behind it, oldest first.

    Args:
        copies: windows that have the rows in the end.
        columns_of: query for the name and type of each column of `{table}`.
    """
    first, statements = first_id(begin)[:SHARED], {}
    for table, key in TABLES.items():
        times, columns = await _stage(db, table), await db.fetch(columns_of.format(table=table))
        names, values = [], []
        for name, type in columns:
            if name == key == "number":
                continue  # given by the database
            value = f"{name} + {{shift}}" if name.endswith("_ms") else name
            for number in range(times if name == "body" else 0):
                value = f"""replace({value}, '_ms":' || t{number}, '_ms":' || (t{number} + {{shift}}))"""
            names.append(name)
            values.append(f"replace({value}, '{first}', '{{prefix}}')" if type.lower() == "text" else value)
        select = f"SELECT {', '.join(values)} FROM staged_{table} ORDER BY {key}"  # noqa: S608 - ours, as below
        statements[table] = f"INSERT INTO {table} ({', '.join(names)}) {select}"
    for turn in range(1, copies):
        shift = turn * WINDOW_MS
        for table, statement in statements.items():
            if table != "callbacks" or turn >= copies - KEPT_MS // WINDOW_MS:
                await db.execute(statement.format(shift=shift, prefix=first_id(begin + shift)[:SHARED]))


async def _stage(db: Database, table: str) -> int:
    """Put the rows of a table aside, each with the times in its body (-1: none). Return the number of these."""
    bodies = await db.fetch(f"SELECT id, body FROM {table}") if table in ("submissions", "events") else ()  # noqa: S608
    found = {id: sorted(set(_TIME.findall(body))) for id, body in bodies}
    most, join = max(map(len, found.values()), default=0), ""
    if most:
        names = ", ".join(f"t{number} bigint" for number in range(most))
        await db.execute(f"CREATE TEMP TABLE times_{table} (id text, {names})")
        rows = [f"('{id}', {', '.join((times + ['-1'] * most)[:most])})" for id, times in found.items()]
        await db.execute(f"INSERT INTO times_{table} VALUES {', '.join(rows)}")  # noqa: S608
        join = f"JOIN times_{table} USING (id)"
    await db.execute(f"CREATE TEMP TABLE staged_{table} AS SELECT * FROM {table} {join}")  # noqa: S608
    return most
