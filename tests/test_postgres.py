"""What PostgreSQL adds to the promises of every journal: its refusals, its tables, and broken connections."""

from __future__ import annotations

import asyncio
import itertools
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec
import postgres
import pytest
import trustme
from journals import (
    NOW,
    OWNER,
    callback,
    completion,
    delivery,
    event,
    fill,
    owe,
    owing,
    status_of,
    submission,
    take,
    take_alone,
)  # fmt: skip
from postgres import PostgresStore
from proxies import Cut, Proxy, proxy
from receiver.journal.copying import Kept
from receiver.journal.postgres.address import understood
from receiver.journal.postgres.connecting import check_version
from receiver.journal.postgres.migrations import LOCK

from receiver.deliveries import AttemptRecord, Delivery
from receiver.errors import JournalError
from receiver.events import Callback, Submission
from receiver.journal import Change, Work
from receiver.journal.postgres import PostgresJournal, batch, completions, open_postgres, statements
from receiver.journal.postgres.connections import Mark
from receiver.journal.postgres.statements import run
from receiver.tasks import Task

replace = msgspec.structs.replace


@pytest.fixture
async def store() -> PostgresStore:
    return PostgresStore(await postgres.empty_database())


@pytest.fixture
async def journal(store: PostgresStore) -> AsyncIterator[PostgresJournal]:
    opened = await store.open()
    yield opened
    await opened.aclose()


# Opening


PASSWORD = "s3cret-and-long"


async def refused(url: str) -> str:
    with pytest.raises(JournalError) as caught:
        await open_postgres(url)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


async def test_a_server_that_is_not_there() -> None:
    """One sentence with the place and the remedy, and without the password."""
    said = await refused(f"postgresql://someone:{PASSWORD}@127.0.0.1:9/receiver")
    assert said.startswith("The journal at 127.0.0.1:9/receiver cannot be reached: nothing listens there.")


async def test_a_database_that_is_not_there(store: PostgresStore) -> None:
    """It is named, and how to make it."""
    said = await refused(urlsplit(store.url)._replace(path="/nowhere").geturl())
    assert 'database "nowhere" does not exist. Make the database (createdb)' in said


async def test_a_wrong_password(store: PostgresStore) -> None:
    """The server's refusal, and where to look."""
    await store.execute("DROP ROLE IF EXISTS guarded")
    await store.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    parts = urlsplit(store.url)
    said = await refused(parts._replace(netloc=f"guarded:{PASSWORD}@{parts.hostname}:{parts.port}").geturl())
    assert 'password authentication failed for user "guarded". Its password' in said
    await store.execute("DROP ROLE guarded")


@pytest.mark.parametrize("url", [f"postgresql://u:{PASSWORD}@host:port/db", f"postgresql://u:{PASSWORD}@[::1/db"])
async def test_an_address_that_is_none(url: str) -> None:
    """The sentence shows what one looks like."""
    assert "postgresql://user:password@host:5432/name" in await refused(url)


@pytest.mark.parametrize(
    "query",
    [
        "channel_binding=prefer",
        "connect_timeout=5",
        "keepalives=1&keepalives_idle=30&gssencmode=prefer",
        "application_name=other&client_encoding=latin1&load_balance_hosts=disable",
        "target_session_attrs=any&connect_timeout=0",
    ],
)
async def test_any_parameter_that_libpq_knows(store: PostgresStore, query: str) -> None:
    """What the driver does not know of libpq's own side is left out. (The URL that Neon hands out ends in
    `?sslmode=require&channel_binding=require`.)"""
    journal = await open_postgres(f"{store.url}?{query}")
    await journal.add(submission(1, prompt="a \N{SAILBOAT}"))
    await journal.aclose()


def test_an_address_keeps_what_the_driver_knows() -> None:
    """As it was written, and the time that a connection may take is told apart."""
    base = "postgresql://u:p%3Fw@one:1,two:2/name"
    assert understood(base) == (base, None)
    assert understood(f"{base}?gssencmode=disable") == (base, None)
    asked = "options=-c%20work_mem%3D8MB&sslmode=require"
    assert understood(f"{base}?keepalives=0&{asked}&connect_timeout=7") == (f"{base}?{asked}", 7.0)


async def test_a_check_that_cannot_be_made_is_no_start(store: PostgresStore) -> None:
    """It is named."""
    assert '"require_auth"' in await refused(f"{store.url}?require_auth=scram-sha-256")


async def test_a_certificate_that_is_not_there_is_named(
    store: PostgresStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is right, and something else is missing: the default one, or the one it names."""
    monkeypatch.setenv("HOME", str(tmp_path))
    said = await refused(f"{store.url}?sslmode=verify-full")
    assert f'root certificate file "{tmp_path}/.postgresql/root.crt" does not exist' in said
    said = await refused(f"{store.url}?sslmode=verify-full&sslrootcert={tmp_path}/other.crt")
    assert f"names a file with sslrootcert that is not there: {tmp_path}/other.crt" in said


async def test_a_server_without_tls_that_is_asked_for_it(store: PostgresStore) -> None:
    """And a way to ask that is none."""
    assert "its server does not offer it" in await refused(f"{store.url}?sslmode=require")
    assert "`sslmode` parameter must be one of: disable, allow," in await refused(f"{store.url}?sslmode=always")


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    """The reason is told, and what to name."""
    known, context = tmp_path / "root.crt", ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().cert_pem.write_to_path(known)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"S")  # TLS from here on
        with suppress(OSError):
            await writer.start_tls(context)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    said = await refused(f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/db?sslmode=verify-full&sslrootcert={known}")
    assert re.search(r"cannot be trusted: .*certificate.*\. Name the certificate that signed its server's", said)
    server.close()


async def test_a_server_that_keeps_nothing_is_refused() -> None:
    """With synchronous_commit = off a crash loses what was acknowledged."""
    url = await postgres.new_database("careless")
    name = urlsplit(url).path.strip("/")
    await PostgresStore(url).execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    assert "has synchronous_commit = off" in await refused(url)


async def test_other_encodings_are_refused() -> None:
    """A prompt may hold any character."""
    url = await postgres.new_database("latin", encoding="LATIN1")
    assert "is encoded in LATIN1; prompts need UTF8" in await refused(url)


def test_old_servers_are_refused() -> None:
    """From 14 on all is there that the statements need."""
    check_version(14, "here")
    with pytest.raises(JournalError, match="PostgreSQL 13; Receiver needs 14 or newer"):
        check_version(13, "here")


async def test_a_user_who_may_not_make_tables_is_told_what_is_enough() -> None:
    """A schema that was made for it will do."""
    url = await postgres.new_database("strict")
    admin = PostgresStore(url)
    await admin.execute("DROP ROLE IF EXISTS modest")
    await admin.execute("CREATE ROLE modest LOGIN")
    parts = urlsplit(url)
    modest = parts._replace(netloc=f"modest@{parts.hostname}:{parts.port}").geturl()
    assert "CREATE SCHEMA receiver AUTHORIZATION" in await refused(modest)
    await admin.execute("CREATE SCHEMA receiver AUTHORIZATION modest")
    journal = await open_postgres(modest)
    await journal.add(submission(1))
    await journal.aclose()
    await admin.execute("DROP OWNED BY modest CASCADE")
    await admin.execute("DROP ROLE modest")


# Tables


TABLES: dict[str, Any] = {
    "submissions": Submission,
    "callbacks": Callback,
    "deliveries": Delivery,
    "attempts": AttemptRecord,
}


ADDED = {"number", "task_status", "told", "started_ms"}
"""The order; for listings; the event that holds the task; of the attempt that runs."""


@pytest.mark.parametrize("table", TABLES)
async def test_every_field_has_a_column(journal: PostgresJournal, table: str) -> None:
    """A table holds its struct, and what the journal alone has to know."""
    asked = "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped"
    columns = {row["attname"] for row in await journal._read(lambda db: db.fetch(asked, f"receiver.{table}"))}
    assert columns - ADDED == set(TABLES[table].__struct_fields__) - ADDED


async def test_many_make_the_tables_at_once() -> None:
    """`web` and `worker` started together on an empty database find one schema, and each other's rows."""
    url = await postgres.new_database()
    opened = await asyncio.gather(*(open_postgres(url) for _ in range(6)))
    for number, journal in enumerate(opened):
        await journal.add(submission(number))
    assert [len(await journal.submissions(limit=9)) for journal in opened] == [6] * 6
    await asyncio.gather(*(journal.aclose() for journal in opened))


async def test_whoever_makes_the_tables_stands_in_line() -> None:
    """While another process changes them, an opening waits."""
    url = await postgres.new_database()
    other = await asyncpg.connect(url)
    await other.execute("SELECT pg_advisory_lock($1)", LOCK)
    opening = asyncio.create_task(open_postgres(url))
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while not await other.fetchval(waits):  # each look gives the opening its turn
        assert not opening.done()
    await other.execute("SELECT pg_advisory_unlock($1)", LOCK)
    await (await opening).aclose()
    await other.close()


async def test_no_tables_are_made_unasked() -> None:
    """`migrate=False` says what to run."""
    url = await postgres.new_database()
    with pytest.raises(JournalError, match=r"The tables .* are not there\. Run: receiver migrate") as caught:
        await open_postgres(url, migrate=False)
    assert caught.value.fault == "older"
    await (await open_postgres(url)).aclose()
    await (await open_postgres(url, migrate=False)).aclose()


async def test_an_older_receiver_goes_on_beside_a_newer_one() -> None:
    """During a deploy a new version has added to the tables; ours reads and writes as before, started before or
    after."""
    url = await postgres.new_database()
    before = await open_postgres(url)
    newer = PostgresStore(url)
    for table in ("submissions", "callbacks", "events", "deliveries", "attempts", "destinations", "engines"):
        await newer.execute(f"ALTER TABLE receiver.{table} ADD COLUMN novelty text DEFAULT 'x'")
        await newer.execute(f"CREATE INDEX ON receiver.{table} (novelty)")
    await newer.execute("INSERT INTO receiver.migrations (number, breaking) VALUES (9998, false)")
    after = await open_postgres(url)
    for journal, start in ((before, 0), (after, 10)):
        await fill_one(journal, start + 1)
        (work,) = await take(journal)
        assert await journal.complete(completion(work))
        assert len(await journal.attempts(work.delivery.id)) == 1
    await before.aclose()
    await after.aclose()


async def fill_one(journal: PostgresJournal, number: int) -> None:
    row = submission(number)
    await journal.add(row)
    await owe(journal, row, "task.succeeded", number)


async def test_an_older_receiver_refuses_tables_it_would_break() -> None:
    """A newer one has changed what this one uses."""
    url = await postgres.new_database()
    await (await open_postgres(url)).aclose()
    await PostgresStore(url).execute("INSERT INTO receiver.migrations (number, breaking) VALUES (9999, true)")
    assert "was changed by a newer Receiver (schema 9999" in await refused(url)


# Batches


async def test_writes_at_once_share_their_commits(journal: PostgresJournal) -> None:
    """One after the other, each write is a transaction; side by side, many share one."""
    transactions = "SELECT count(DISTINCT xmin::text) FROM receiver.submissions"
    for number in range(10):
        await journal.add(submission(number))
    assert await journal._read(lambda db: db.fetchval(transactions)) == 10
    await asyncio.gather(*(journal.add(submission(number)) for number in range(10, 210)))
    assert await journal._read(lambda db: db.fetchval(transactions)) <= 30


async def test_poison_in_a_batch_fails_alone(journal: PostgresJournal) -> None:
    """Numbers no column holds, and an id that is taken: each gets its error, all others are kept."""
    await journal.add(submission(1))
    rows = [submission(number) for number in range(2, 60)]
    rows[7] = submission(9, deadline_ms=2**63)
    rows[20] = submission(1, prompt="another")
    rows[33] = submission(35, prompt="a\x00b", request={"prompt": "\x00\ud800"})
    results = await asyncio.gather(*(journal.add(row) for row in rows), return_exceptions=True)
    assert [number for number, result in enumerate(results) if isinstance(result, JournalError)] == [7, 20]
    assert len(await journal.submissions(limit=99)) == 57
    kept = await journal.get(rows[33].id)
    assert kept is not None
    assert kept.prompt == "a\ufffdb"


async def test_a_busy_pool_is_told(store: PostgresStore) -> None:
    """Slow statements hold every connection: nobody waits for ever, and all goes on afterwards."""
    journal = await open_postgres(store.url, connections=2, busy_seconds=0.2)  # one of them listens
    slow = asyncio.create_task(journal._read(lambda db: db.execute("SELECT pg_sleep(1)")))
    await asyncio.sleep(0)
    with pytest.raises(JournalError, match=r"no connection came free within 0\.2 s") as caught:
        await journal.check()
    assert caught.value.fault == "crowded"
    await slow
    await journal.check()
    await journal.aclose()


# Last words, from two processes


async def test_a_retry_and_a_newer_event_at_once_leave_one_last_word(store: PostgresStore) -> None:
    """Whichever comes first, of what failed and the event that came meanwhile one is owed: the newer."""
    one, two = await store.open(), await store.open()
    for number in range(1, 41):
        row = submission(number)
        await one.add(row)
        await owe(one, row, "task.progressed", number, percent=15)
        await two.change(row.id, lambda row: Change(submission=row))  # by now it knows the row, and need not ask
    works = await take(one, limit=40)

    async def fail(work: Any) -> None:
        assert await one.complete(completion(work, outcome="failed", status="pending", counts=True, due_ms=NOW + 5))

    async def news(number: int) -> None:
        await owe(two, submission(number), "task.succeeded", number + 100)

    for start in range(0, 40, 4):
        some = works[start : start + 4]
        await asyncio.gather(*(news(int(work.delivery.id[10:])) for work in some), *(fail(work) for work in some))
    for number in range(1, 41):
        assert (await status_of(one, number), await status_of(one, number + 100)) == ("cancelled", "pending")
    await one.aclose()
    await two.aclose()


async def test_an_event_that_waits_for_a_retry_outdates_it(store: PostgresStore, journal: PostgresJournal) -> None:
    """One process has made a delivery pending again and not committed it yet, while another adds the result, deciding
    on the row as it knows it."""
    row = submission(1)
    await journal.add(row)
    await owe(journal, row, "task.progressed", 1, percent=15)
    (work,) = await take(journal)
    other = await asyncpg.connect(store.url)
    watching = await asyncpg.connect(store.url)
    retrying = other.transaction()
    await retrying.start()
    again = completion(work, outcome="failed", status="pending", counts=True, due_ms=NOW + 5)
    assert await completions.complete(other, [again], Mark("of the other", [])) == [True]
    adding = asyncio.create_task(owe(journal, row, "task.succeeded", 2))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while not await watching.fetchval(waits):  # each look gives the adding its turn
        assert not adding.done()
    await retrying.commit()
    await adding
    assert [await status_of(journal, number) for number in (1, 2)] == ["cancelled", "pending"]
    await other.close()
    await watching.close()


async def test_two_due_of_one_submission_are_never_claimed_by_two(store: PostgresStore) -> None:
    """Two processes look at the same moment; one of them gets one of the two."""
    one, two = await store.open(), await store.open()
    for number in range(1, 31):
        row = submission(number)
        await one.add(row)
        await owe(one, row, "task.progressed", 2 * number, percent=15)
        await owe(one, row, "task.progressed", 2 * number + 1, percent=46, manual=True)
    claims = await asyncio.gather(*(take(journal, limit=1) for _ in range(40) for journal in (one, two)))
    taken = [work.delivery.submission_id for works in claims for work in works]
    assert len(taken) == len(set(taken)) == 30
    await one.aclose()
    await two.aclose()


async def test_what_was_claimed_beside_something_unreadable_is_not_stuck(
    store: PostgresStore, journal: PostgresJournal
) -> None:
    """One of two has lost its event, and the server's disk is full when that is to be written down: both are given
    back, and claimed again when there is room."""
    await fill(journal, 2)
    await store.lose_event(event(submission(1)).id)
    await store.execute(
        """CREATE FUNCTION receiver.full_disk() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON receiver.attempts EXECUTE FUNCTION receiver.full_disk()"""
    )
    try:
        with pytest.raises(JournalError) as caught:
            await take(journal)
    finally:
        await store.execute("DROP FUNCTION receiver.full_disk() CASCADE")
    assert caught.value.fault == "full"
    (work,) = await take(journal)
    assert (work.delivery.id, work.delivery.attempt) == (delivery(event(submission(2)), 2).id, 1)
    assert await status_of(journal, 1) == "dead"


async def test_one_probe_at_a_time_from_all_processes(store: PostgresStore) -> None:
    """A destination that is down gets one delivery, whoever asks."""
    journals = [await store.open() for _ in range(3)]
    await journals[0].register({"folder": "file"})
    await fill(journals[0], 20)
    for work in await take(journals[0], limit=5):
        assert await journals[0].complete(completion(work, outcome="failed", status="dead", counts=True))
    claims = await asyncio.gather(*(take(journal, 60_000) for journal in journals * 3))
    assert sum(len(works) for works in claims) == 1
    for journal in journals:
        await journal.aclose()


async def test_each_process_knows_what_the_other_has_added(store: PostgresStore) -> None:
    """Events of one submission, told by two processes in turn: the newest is owed, wherever it was told, and
    whether or not the row itself was changed."""
    one, two = await store.open(), await store.open()
    row = submission(1)
    await one.add(row)
    tellers = [(one, 15), (one, 20), (two, 25), (one, 30), (two, 35), (two, 40), (one, 45)]
    for number, (journal, percent) in enumerate(tellers, 1):
        await owe(journal, row, "task.progressed", number, percent=percent)
        statuses = [await status_of(one, earlier) for earlier in range(1, number + 1)]
        assert statuses == ["cancelled"] * (number - 1) + ["pending"]
    await one.aclose()
    await two.aclose()


# Tasks, which stand once


STANDS = "SELECT task IS NULL AS elsewhere, told FROM receiver.submissions"


async def stands(store: PostgresStore) -> tuple[bool, str | None]:
    """Whether the task stands in an event, and in which."""
    db = await asyncpg.connect(store.url)
    row = await db.fetchrow(STANDS)
    await db.close()
    return row["elsewhere"], row["told"]


def telling(row: Submission, percent: int, **fields: Any) -> Change:
    """A callback that is news: the row and the event have one task."""
    task = Task(id="1773", status="IN_PROGRESS", progress=percent, prompt='a "boat" \\ \u2028 \N{SAILBOAT}')
    row = replace(row, task_id="1773", task=task, callbacks=row.callbacks + 1, **fields)
    fact = replace(event(row, "task.progressed", percent), task=task)
    return Change(submission=row, events=(fact,), deliveries=(delivery(fact, percent),))


async def test_a_name_that_comes_free_meanwhile_is_taken(
    store: PostgresStore, journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the insert, which finds it taken, and the look for who has it, that one is refused and gives it up: what
    `add` answers is in the journal all the same, and so is what was added with it."""
    other = await store.open()
    await other.add(submission(1, once="order 7"))
    asked = 0

    async def rows(db: Any, name: str, /, **values: Any) -> Any:
        nonlocal asked
        if name == "get_once":
            asked += 1
            await other.change(
                submission(1).id, lambda row: Change(submission=replace(row, status="refused", once=None))
            )
        return await statements.rows(db, name, **values)

    monkeypatch.setattr(batch, "rows", rows)
    two, three, four = await asyncio.gather(
        journal.add(submission(2, once="order 7")),
        journal.add(submission(3)),
        journal.add(submission(4, once="order 7")),
    )
    assert (two.id, three.id, four.id) == (submission(2).id, submission(3).id, submission(2).id)
    for row in (two, three):
        assert await journal.get(row.id) == row
    assert await journal.get(submission(4).id) is None
    assert asked == 2
    await other.aclose()


@pytest.mark.parametrize("fields", [{}, {"detail": "more than a callback changes"}], ids=["heard", "more"])
@pytest.mark.parametrize("known", [True, False], ids=["known", "read"])
async def test_a_task_stands_once(store: PostgresStore, known: bool, fields: dict[str, Any]) -> None:
    """In the event that told of it; what is told of no event stands in its row. Everybody reads the same."""
    journal, other = await store.open(), await store.open()
    row = submission(1)
    await journal.add(row)
    if known:
        await journal.change(row.id, lambda row: Change(submission=row))
    first = await journal.change(row.id, lambda row: telling(row, 15, **fields))
    assert first is not None
    assert await stands(store) == (True, first.events[0].id)
    assert await journal.get(row.id) == await other.get(row.id) == first.submission

    later = replace(first.submission.task, progress=20)  # type: ignore[type-var]
    second = await other.change(row.id, lambda row: Change(submission=replace(row, task=later)))
    assert second is not None
    assert await stands(store) == (False, None)
    assert await journal.get(row.id) == second.submission
    assert second.submission.task == later
    await journal.aclose()
    await other.aclose()


async def test_nothing_a_task_says_keeps_it_from_being_read(store: PostgresStore) -> None:
    """The server cuts nothing out of JSON with NUL in it, so such an event is not where the task stands."""
    journal = await store.open()
    row = submission(1, poll_due_ms=NOW)
    await journal.add(row)
    task = Task(id="1773", status="IN_PROGRESS", progress=15, prompt="a \\ b")
    fact = replace(event(row, "task.progressed", 15), task=task, labels={"a": "\0"})
    await journal.change(row.id, lambda row: Change(submission=replace(row, task=task), events=(fact,)))
    assert await stands(store) == (False, None)
    (found,) = await journal.due_polls(NOW, limit=9)
    assert found.task == task
    assert await journal.events(limit=9) == [fact]
    await journal.aclose()


async def test_an_attempt_that_was_written_already_ends_all_the_same(store: PostgresStore) -> None:
    """A row that should not be there holds up nobody."""
    journal = await store.open()
    await fill_one(journal, 1)
    (work,) = await take(journal)
    await store.execute(
        "INSERT INTO receiver.attempts (delivery_id, number, started_ms, manual) "  # noqa: S608
        f"VALUES ('{work.delivery.id}', 1, {NOW}, false)"
    )
    assert await journal.complete(completion(work))
    assert [(one.number, one.outcome) for one in await journal.attempts(work.delivery.id)] == [(1, "succeeded")]
    await journal.aclose()


async def test_a_task_whose_event_is_gone_is_named(store: PostgresStore) -> None:
    """By the check; nothing else fails for it."""
    journal = await store.open()
    row = submission(1)
    await journal.add(row)
    await journal.change(row.id, lambda row: telling(row, 15))
    told = await journal.change(row.id, lambda row: replace(telling(row, 20), deliveries=()))
    assert told is not None
    await store.execute(f"DELETE FROM receiver.events WHERE id = '{told.events[0].id}'")  # noqa: S608
    (problem,) = await journal.problems()
    assert "1 submissions have their task in an event that is gone" in problem
    found = await journal.get(row.id)
    assert found is not None
    assert (found.task, found.callbacks) == (None, 2)
    assert [work.event.progress for work in await take(journal)] == [15]
    await journal.aclose()


# Broken connections


@pytest.fixture
async def wire(store: PostgresStore) -> AsyncIterator[Proxy]:
    port = urlsplit(store.url).port
    assert port is not None
    async with proxy(port) as made:
        yield made


def through(store: PostgresStore, wire: Proxy) -> str:
    parts = urlsplit(store.url)
    user = f"{parts.username}:{parts.password or ''}@" if parts.username else ""
    return parts._replace(netloc=f"{user}127.0.0.1:{wire.port}").geturl()


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_that_nobody_answered_is_looked_up(store: PostgresStore, wire: Proxy, cut: Cut) -> None:
    """Its connection broke in the middle: what was asked for happened once, and is answered as it was."""
    journal = await open_postgres(through(store, wire), listen=False)
    await journal.add(submission(1))
    journal._connections.seen.forget()  # what it knows, it writes with one statement
    wire.cut_at(b"COMMIT", cut)
    changed = await journal.change(submission(1).id, _counted)
    assert changed is not None
    assert (changed.submission.callbacks, [fact.type for fact in changed.events]) == (1, ["task.succeeded"])
    wire.cut_at(b"COMMIT", cut)
    await journal.add(submission(2))
    assert wire.cuts == 2
    kept = await journal.get(submission(1).id)
    assert kept is not None
    assert kept.callbacks == 1
    assert len(await journal.submissions(limit=9)) == 2
    assert len(await journal.deliveries(limit=9)) == 1
    await journal.aclose()


async def test_a_copy_that_was_committed_is_whole(store: PostgresStore, wire: Proxy) -> None:
    """The connection breaks while the server counts what came, which it does by itself, too: that is no failure."""
    journal = await open_postgres(through(store, wire), listen=False)
    wire.cut_at(b"ANALYZE", "before")
    async with journal.filling() as rows:
        await rows.put("submissions", [Kept((submission(1).id,), submission(1))])
    assert wire.cuts == 1
    assert await journal.get(submission(1).id) is not None
    await journal.aclose()


def _counted(row: Submission) -> Change:
    fact = event(row)
    return replace_row(owing(row, (fact, delivery(fact, 1))), callbacks=row.callbacks + 1)


def replace_row(change: Change, **fields: Any) -> Change:
    return replace(change, submission=replace(change.submission, **fields))


@pytest.mark.parametrize("asked", ["before", "after"])
async def test_a_lost_answer_about_a_lost_commit_is_no_commit(store: PostgresStore, wire: Proxy, asked: Cut) -> None:
    """A connection breaks before COMMIT reaches the server, and the next one over the question whether it happened:
    our own mark is not taken for the transaction's, and what is acknowledged is kept."""
    journal = await open_postgres(through(store, wire), listen=False)
    await journal.add(submission(1))
    wire.cut_at(b"COMMIT", "before")
    wire.cut_at(journal._connections.process.encode(), asked)
    await journal.add(submission(2))
    assert wire.cuts == 2
    assert await journal.get(submission(2).id) == submission(2)
    await journal.aclose()


async def test_a_lost_answer_about_a_lost_statement_is_no_commit(store: PostgresStore, wire: Proxy) -> None:
    """The same for a callback of a submission that is known, which is one statement."""
    journal = await open_postgres(through(store, wire), listen=False)
    await journal.add(submission(1))
    await journal.change(submission(1).id, _heard, callback(1))
    wire.cut_at(b'{"number":7777}', "before")
    wire.cut_at(journal._connections.process.encode(), "after")
    await journal.change(submission(1).id, _heard, callback(7777))
    assert wire.cuts == 2
    assert [one.body for one in await journal.callbacks(submission(1).id)] == [b'{"number":1}', b'{"number":7777}']
    await journal.aclose()


def _heard(row: Submission) -> Change:
    return Change(submission=replace(row, callbacks=row.callbacks + 1))


async def test_the_marks_of_questions_are_wiped_off_by_age(store: PostgresStore, wire: Proxy) -> None:
    """They keep a transaction from being committed later, for an hour and not for ever."""
    journal = await open_postgres(through(store, wire), listen=False)
    wire.cut_at(b"COMMIT", "before")
    await journal.add(submission(1))
    ahead = "SELECT count(*) FROM receiver.commits WHERE made > now() + interval '500 years'"
    for age, left in (("59 minutes", 1), ("2 minutes", 0)):
        await store.execute(f"UPDATE receiver.commits SET made = made - interval '{age}'")  # noqa: S608
        await journal._read(lambda db: run(db, "wipe_marks"))
        assert await journal._read(lambda db: db.fetchval(ahead)) == left
    await journal.aclose()


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_claim_whose_answer_was_lost_is_given_back(store: PostgresStore, wire: Proxy, cut: Cut) -> None:
    """Nothing stays running that nobody runs, and no attempt is used up."""
    journal = await open_postgres(through(store, wire), listen=False)
    await fill(journal, 3)
    (first,) = await take(journal, limit=1)
    wire.cut_at(OWNER.encode(), cut)
    claims = [await asyncio.gather(take(journal, limit=1), return_exceptions=True) for _ in range(3)]
    faults = [claim.fault for (claim,) in claims if isinstance(claim, JournalError)]
    works = [work for (claim,) in claims if isinstance(claim, list) for work in claim]
    assert (faults, wire.cuts) == (["uncertain"] * (cut == "after"), 1)
    assert len({work.delivery.id for work in works}) == len(works) == 2
    assert all(work.delivery.attempt == 1 for work in works)
    assert await journal.complete(completion(first))
    for work in works:
        assert await journal.complete(completion(work))
        assert len(await journal.attempts(work.delivery.id)) == 1
    await journal.aclose()


@pytest.mark.parametrize("alone", [False, True])
async def test_the_last_claim_is_given_back_by_who_finds_nothing_due(
    store: PostgresStore, wire: Proxy, alone: bool
) -> None:
    """An engine that goes on looking delivers it, also where nothing else ever comes due."""
    journal = await open_postgres(through(store, wire), listen=False)
    await fill(journal, 1)
    await store.execute("UPDATE receiver.deliveries SET alone = $1", alone)

    async def look() -> list[Work]:
        if not alone:
            return await take(journal)
        work = await take_alone(journal)
        return [] if work is None else [work]

    wire.cut_at(OWNER.encode(), "after")
    with pytest.raises(JournalError):
        await look()
    assert [work.delivery.attempt for _ in range(3) for work in await look()] == [1]
    await journal.aclose()


async def test_a_lost_claim_of_what_was_held_under_an_old_name_is_given_back(store: PostgresStore, wire: Proxy) -> None:
    """An engine was taken for dead while it claimed something, and drops that: when it claims the same again under its
    new name, and does not hear of it, nobody takes it for what runs."""
    journal = await open_postgres(through(store, wire), listen=False)
    await fill(journal, 1)
    await journal.become_engine("worker", "the old name", store="s")
    assert len(await take(journal, owner="the old name")) == 1
    await store.execute("DELETE FROM receiver.engines")
    await journal.become_engine("worker", "the new name", store="s")
    assert await journal.free_running("the new name", NOW) == 1
    wire.cut_at(b"the new name", "after")
    with pytest.raises(JournalError):
        await take_alone(journal, owner="the new name")
    work = await take_alone(journal, owner="the new name")
    assert work is not None
    assert (work.delivery.attempt, await journal.complete(completion(work))) == (2, True)
    await journal.aclose()


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_completion_whose_answer_was_lost_is_kept_once(store: PostgresStore, wire: Proxy, cut: Cut) -> None:
    """Whoever asked hears that it was kept, and a stranger's is refused as ever."""
    journal = await open_postgres(through(store, wire), listen=False)
    await fill(journal, 2)
    works = await take(journal)
    wire.cut_at(b"the last words", cut)
    kept = await asyncio.gather(
        journal.complete(completion(works[0], detail="the last words")),
        journal.complete(completion(works[1], owner="a stranger")),
    )
    assert (kept, wire.cuts) == ([True, False], 1)
    assert (await status_of(journal, 1), await status_of(journal, 2)) == ("succeeded", "running")
    await journal.aclose()


class Load:
    """Ten clients that add submissions one after the other."""

    def __init__(self, journal: PostgresJournal) -> None:
        self._journal = journal
        self._numbers = itertools.count()
        self.answered: list[int] = []
        self.failed: list[JournalError] = []
        self._news = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run()) for _ in range(10)]

    async def _run(self) -> None:
        for number in self._numbers:
            try:
                await self._journal.add(submission(number))
            except JournalError as exc:
                self.failed.append(exc)
                await asyncio.sleep(0.01)
            else:
                self.answered.append(number)
                self._news.set()

    async def more(self, count: int) -> None:
        """Wait for so many answers more."""
        until = len(self.answered) + count
        while len(self.answered) < until:
            self._news.clear()
            await self._news.wait()

    async def stop(self) -> None:
        """Let nobody begin any more, and wait for those under way."""
        self._numbers = itertools.count()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_a_server_that_was_restarted_is_found_again() -> None:
    """Killed again and again under load: what was answered is there, what failed is not, and nobody has to do
    anything."""
    server = postgres.own_server()
    journal = await open_postgres(await postgres.new_database("restarted", server=server))
    load = Load(journal)
    for _ in range(2):
        await load.more(50)
        await asyncio.to_thread(server.restart, "immediate")
    await load.more(50)
    await load.stop()
    await journal.check()  # what was under way at the stop has ended
    there = [int(row.id[10:]) for row in await journal.submissions(limit=10**6)]
    assert len(there) - len(set(there)) == 0
    assert set(load.answered) <= set(there)
    assert len(there) - len(load.answered) <= 10  # those that nobody waited for any more
    assert {exc.fault for exc in load.failed} <= {"unreachable"}
    await journal.aclose()


async def test_a_server_that_falls_silent_is_given_up(store: PostgresStore, wire: Proxy) -> None:
    """A black hole instead of a network: calls end with a sentence, and work again when it is gone."""
    journal = await open_postgres(through(store, wire), listen=False, answer_seconds=0.3)
    await journal.add(submission(1))
    wire.hold()
    with pytest.raises(JournalError) as caught:
        await journal.add(submission(2))
    assert caught.value.fault in ("unreachable", "uncertain")
    wire.release()
    await journal.add(submission(3))
    assert submission(3).id in [row.id for row in await journal.submissions(limit=9)]
    await journal.aclose()


async def test_no_more_connections(store: PostgresStore) -> None:
    """The server takes no more: a sentence, and on it goes when there is room."""
    server = postgres.own_server()
    journal = await open_postgres(await postgres.new_database("crowded", server=server), listen=False)
    others = [await asyncpg.connect(server.url()) for _ in range(16)]
    while not isinstance(
        one := (await asyncio.gather(asyncpg.connect(server.url()), return_exceptions=True))[0], Exception
    ):
        others.append(one)
    await journal._connections._pool.expire_connections()
    found = await asyncio.gather(*(journal.get("x") for _ in range(9)), return_exceptions=True)
    problem = next(one for one in found if isinstance(one, JournalError))
    assert "Raise max_connections" in str(problem)
    assert problem.fault == "crowded"
    await asyncio.gather(*(one.close() for one in others))
    await journal.check()
    await journal.aclose()


# Other processes


async def test_word_goes_round(store: PostgresStore) -> None:
    """What one process commits wakes the others at once, and not itself; a listener that was cut off comes back."""
    one, two = await store.open(), await store.open()
    heard: list[str] = []
    word = asyncio.Event()

    def two_hears() -> None:
        heard.append("two")
        word.set()

    one.listen(lambda: heard.append("one"))
    two.listen(two_hears)
    await one._waking.hears.wait()
    await two._waking.hears.wait()
    heard.clear()
    word.clear()
    await one.add(submission(1))
    await asyncio.wait_for(word.wait(), 5)
    assert set(heard) == {"two"}
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = $1"
    await one._read(lambda db: db.fetch(kill, urlsplit(store.url).path.strip("/")))
    word.clear()
    await asyncio.wait_for(word.wait(), 5)  # it hears again, and looks for what was said meanwhile
    word.clear()
    await one.add(submission(2))
    await asyncio.wait_for(word.wait(), 5)
    await one.aclose()
    await two.aclose()


async def test_deaf_journals_say_and_hear_nothing(store: PostgresStore) -> None:
    """`listen=False`: no connection listens, no word is sent; polling has to do."""
    one, two = await open_postgres(store.url, listen=False), await store.open()
    heard: list[str] = []
    one.listen(lambda: heard.append("one"))
    two.listen(lambda: heard.append("two"))
    await two._waking.hears.wait()
    heard.clear()
    await one.add(submission(1))
    await two.add(submission(2))
    await asyncio.sleep(0.1)
    assert heard == []
    await one.aclose()
    await two.aclose()
