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
)  # fmt: skip
from postgres import PostgresStore, asked, open_journal, store_of
from proxies import Cut, Proxy, proxy
from waiting import PATIENCE

from receiver.deliveries import AttemptRecord, Delivery
from receiver.errors import JournalError
from receiver.events import Callback, Submission
from receiver.journal import Change, Journal
from receiver.journal.document import Document
from receiver.journal.postgres import connections, documents
from receiver.journal.postgres.connections import read_address
from receiver.journal.postgres.documents import fetch
from receiver.journal.postgres.maintenance import LOCK
from receiver.journal.store import StoredRow

replace = msgspec.structs.replace


@pytest.fixture
async def store() -> PostgresStore:
    return PostgresStore(await postgres.empty_database())


@pytest.fixture
async def journal(store: PostgresStore) -> AsyncIterator[Journal]:
    opened = await store.open()
    yield opened
    await opened.aclose()


# Opening


PASSWORD = "s3cret-and-long"


async def refused(url: str) -> str:
    with pytest.raises(JournalError) as caught:
        await open_journal(url)
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
    journal = await open_journal(f"{store.url}?{query}")
    await journal.add(submission(1, prompt="a \N{SAILBOAT}"))
    await journal.aclose()


def test_an_address_keeps_what_the_driver_knows() -> None:
    """As it was written."""
    base = "postgresql://u:p%3Fw@one:1,two:2/name"
    assert read_address(base) == (base, False)
    assert read_address(f"{base}?gssencmode=disable") == (base, False)
    asked = "options=-c%20work_mem%3D8MB&sslmode=require"
    assert read_address(f"{base}?keepalives=0&{asked}&connect_timeout=7") == (f"{base}?{asked}", False)


HOSTED = {  # the query as a hoster writes it: what the driver gets, and True behind a pooler in transaction mode
    "pgbouncer=true&connection_limit=1": ("", True),
    "sslmode=require&supa=base-pooler.x": ("?sslmode=require", True),
    "schema=public": ("", False),
    "sslmode=no-verify": ("?sslmode=require", False),
    "ssl=true": ("?sslmode=require", False),
    "ssl=0&pool_timeout=0": ("?sslmode=disable", False),
    "ssl=true&sslmode=verify-full": ("?sslmode=verify-full", False),
    "sslmode=require&channel_binding=require": ("?sslmode=require", False),
    "uselibpqcompat=true&sslmode=no-verify&pgbouncer=false": ("?sslmode=require", False),
    "statement_cache_size=0&prepareThreshold=0&options=endpoint%3Dx": ("?options=endpoint%3Dx", False),
}


@pytest.mark.parametrize("query", HOSTED)
@pytest.mark.parametrize("scheme", ["postgresql", "postgres+psycopg2", "postgresql+asyncpg"])
def test_an_address_as_hosters_write_it(scheme: str, query: str) -> None:
    """Parameters of other drivers are left out, and those that mean something here are read."""
    address, pooled = HOSTED[query]
    url = f"{scheme}://u:p@host:6543/db?{query}"
    assert read_address(url) == (f"{scheme.partition('+')[0]}://u:p@host:6543/db{address}", pooled)


async def test_a_hosted_address_keeps_a_journal(store: PostgresStore) -> None:
    """On a real server, with parameters that it would refuse. One that is not known is named, with the remedy."""
    url = store.url.replace("postgresql://", "postgresql+asyncpg://")
    journal = await open_journal(f"{url}?pgbouncer=true&connection_limit=1&schema=public&sslmode=disable")
    await journal.add(submission(1))
    await journal.aclose()
    assert '"nonesuch". If that is a parameter behind the ? of RECEIVER_DATABASE, remove it' in await refused(
        f"{store.url}?nonesuch=1"
    )


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
    assert "it does not offer TLS. See sslmode" in await refused(f"{store.url}?sslmode=require")
    assert "`sslmode` parameter must be one of: disable, allow," in await refused(f"{store.url}?sslmode=always")
    asked = "sslmode=require&ssl_min_protocol_version=TLSv9"
    assert "No such TLS version: TLSv9. See sslmode" in await refused(f"{store.url}?{asked}")
    assert "direct TLS requires sslmode=require" in await refused(f"{store.url}?sslmode=allow&sslnegotiation=direct")


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
    assert re.search(r"its certificate is not trusted \(.*certificate.*\)\. See sslmode and sslrootcert", said)
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


async def test_old_servers_are_refused(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their version is named, and the one that is needed."""
    monkeypatch.setattr(connections, "OLDEST_SERVER", 99)
    assert "Receiver needs 99 or newer. Upgrade it" in await refused(store.url)


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
    journal = await open_journal(modest)
    await journal.add(submission(1))
    await journal.aclose()
    await admin.execute("DROP OWNED BY modest CASCADE")
    await admin.execute("DROP ROLE modest")


# Tables


TABLES: dict[str, Any] = {
    "callbacks": Callback,
    "deliveries": Delivery,
    "attempts": AttemptRecord,
}


@pytest.mark.parametrize("table", TABLES)
async def test_every_field_has_a_column(store: PostgresStore, journal: Journal, table: str) -> None:
    """A table holds its struct, and the number of the row where that is its key."""
    names = "SELECT array_agg(attname::text) FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0"
    columns = set(await asked(journal, names, f"receiver.{table}"))
    assert columns - {"number"} == set(TABLES[table].__struct_fields__) - {"number"}


async def test_many_make_the_tables_at_once() -> None:
    """`web` and `worker` started together on an empty database find one schema, and each other's rows."""
    url = await postgres.new_database()
    opened = await asyncio.gather(*(open_journal(url) for _ in range(6)))
    for number, journal in enumerate(opened):
        await journal.add(submission(number))
    assert [len(await journal.submissions(limit=9)) for journal in opened] == [6] * 6
    await asyncio.gather(*(journal.aclose() for journal in opened))


async def test_whoever_makes_the_tables_stands_in_line() -> None:
    """While another process changes them, an opening waits."""
    url = await postgres.new_database()
    other = await asyncpg.connect(url)
    await other.execute("SELECT pg_advisory_lock($1)", LOCK)
    opening = asyncio.create_task(open_journal(url))
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
        await open_journal(url, migrate=False)
    assert caught.value.fault == "older"
    await (await open_journal(url)).aclose()
    await (await open_journal(url, migrate=False)).aclose()


async def test_an_older_receiver_goes_on_beside_a_newer_one() -> None:
    """During a deploy a new version has added to the tables; ours reads and writes as before, started before or
    after."""
    url = await postgres.new_database()
    before = await open_journal(url)
    newer = PostgresStore(url)
    for table in ("submissions", "callbacks", "events", "deliveries", "attempts", "shared_values"):
        await newer.execute(f"ALTER TABLE receiver.{table} ADD COLUMN novelty text DEFAULT 'x'")
        await newer.execute(f"CREATE INDEX ON receiver.{table} (novelty)")
    await newer.execute("INSERT INTO receiver.migrations (number, breaking) VALUES (9998, false)")
    after = await open_journal(url)
    for journal, start in ((before, 0), (after, 10)):
        await fill_one(journal, start + 1)
        (work,) = await take(journal)
        assert await journal.complete(completion(work))
        assert len(await journal.attempts(work.delivery.id)) == 1
    await before.aclose()
    await after.aclose()


async def fill_one(journal: Journal, number: int) -> None:
    row = submission(number)
    await journal.add(row)
    await owe(journal, row, "task.succeeded", number)


async def test_an_older_receiver_refuses_tables_it_would_break() -> None:
    """A newer one has changed what this one uses."""
    url = await postgres.new_database()
    await (await open_journal(url)).aclose()
    await PostgresStore(url).execute("INSERT INTO receiver.migrations (number, breaking) VALUES (9999, true)")
    assert "was changed by a newer Receiver (schema 9999" in await refused(url)


# Batches


async def test_writes_at_once_share_their_commits(journal: Journal) -> None:
    """One after the other, each write is a transaction; side by side, many share one."""
    transactions = "SELECT count(DISTINCT xmin::text) FROM receiver.submissions"
    for number in range(10):
        await journal.add(submission(number))
    assert await asked(journal, transactions) == 10
    await asyncio.gather(*(journal.add(submission(number)) for number in range(10, 210)))
    assert await asked(journal, transactions) <= 30


async def test_poison_in_a_batch_fails_alone(journal: Journal) -> None:
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
    assert (kept.prompt, kept.request) == ("a\x00b", {"prompt": "\x00\ufffd"})


async def test_a_busy_pool_is_told(store: PostgresStore) -> None:
    """Slow statements hold every connection: nobody waits for ever, and all goes on afterwards."""
    journal = await open_journal(store.url, connections=2, busy_seconds=0.2)  # one of them listens
    other = await asyncpg.connect(store.url)
    await other.execute("SELECT pg_advisory_lock(7)")
    slow = asyncio.create_task(asked(journal, "SELECT pg_advisory_lock_shared(7)"))
    await asyncio.sleep(0)
    with pytest.raises(JournalError, match=r"no connection came free within 0\.2 s") as caught:
        await journal.check()
    assert caught.value.fault == "crowded"
    await other.close()
    await slow
    await journal.check()
    await journal.aclose()


async def test_a_name_that_is_taken_meanwhile(
    store: PostgresStore, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for its owner, which finds none, and the insert, another process takes it. The answer of `add`
    is that owner, and what was added with it is in the journal all the same."""
    other = await store.open()

    async def fetching(db: Any, name: Any, /, *values: Any) -> Any:
        found = await fetch(db, name, *values)
        if name == "named":
            monkeypatch.undo()
            await other.add(submission(1, once="order 7"))
        return found

    monkeypatch.setattr(documents, "fetch", fetching)
    rows = [submission(2, once="order 7"), submission(3), submission(4, once="order 8"), submission(5, once="order 8")]
    found = await store_of(journal)._run_batch(rows)
    assert [row.id for row in found] == [submission(number).id for number in (1, 3, 4, 4)]
    assert [await journal.get(row.id) is not None for row in rows] == [False, True, True, False]
    await other.aclose()


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
    store: PostgresStore, journal: Journal
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


async def test_a_submission_that_cannot_be_read_holds_up_no_other(store: PostgresStore, journal: Journal) -> None:
    """The claims of its destination skip it."""
    await fill(journal, 3)
    await store.execute(
        "UPDATE receiver.submissions SET body = '{', version = version + 1 WHERE id = $1", submission(1).id
    )
    taken = [work.delivery.submission_id for _ in range(3) for work in await take(journal, limit=1)]
    assert sorted(taken) == [submission(2).id, submission(3).id]


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
    journal = await open_journal(through(store, wire), listen=False)
    await journal.add(submission(1))
    store_of(journal)._cache.clear()
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
    journal = await open_journal(through(store, wire), listen=False)
    wire.cut_at(b"ANALYZE", "before")
    async with journal.store.transfer(fill=True) as rows:
        await rows.put("submissions", [StoredRow((submission(1).id,), Document(submission=submission(1), version=1))])
    assert wire.cuts == 1
    assert await journal.get(submission(1).id) is not None
    await journal.aclose()


def _counted(row: Submission) -> Change:
    fact = event(row)
    return replace_row(owing(row, (fact, delivery(fact, 1))), callbacks=row.callbacks + 1)


def replace_row(change: Change, **fields: Any) -> Change:
    return replace(change, submission=replace(change.submission, **fields))


@pytest.mark.parametrize("question", ["before", "after"])
async def test_a_lost_answer_about_a_lost_commit_is_no_commit(store: PostgresStore, wire: Proxy, question: Cut) -> None:
    """A connection breaks before COMMIT reaches the server, and the next one over the question if it happened: what is
    acknowledged is kept."""
    journal = await open_journal(through(store, wire), listen=False)
    await journal.add(submission(1))
    wire.cut_at(b"COMMIT", "before")
    wire.cut_at(b"pg_xact_status", question)
    await journal.add(submission(2))
    assert wire.cuts == 2
    assert await journal.get(submission(2).id) == submission(2)
    await journal.aclose()


def _heard(row: Submission) -> Change:
    return Change(submission=replace(row, callbacks=row.callbacks + 1))


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_write_that_was_not_answered_happens_once(store: PostgresStore, wire: Proxy, cut: Cut) -> None:
    """The connection breaks in the middle of a transaction, which the server undoes. The next one keeps it."""
    journal = await open_journal(through(store, wire), listen=False)
    await journal.add(submission(1))
    await journal.change(submission(1).id, _heard, callback(1))
    wire.cut_at(b'{"number":7777}', cut)
    changed = await journal.change(submission(1).id, _heard, callback(7777))
    assert wire.cuts == 1
    assert changed is not None
    assert changed.submission.callbacks == 2
    assert [one.body for one in await journal.callbacks(submission(1).id)] == [b'{"number":1}', b'{"number":7777}']
    await journal.aclose()


@pytest.mark.parametrize("words", [OWNER.encode(), b"COMMIT"])
@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_claim_that_was_not_answered_happens_once(
    store: PostgresStore, wire: Proxy, cut: Cut, words: bytes
) -> None:
    """Nothing stays running that no engine runs, and no attempt is used up."""
    journal = await open_journal(through(store, wire), listen=False)
    await fill(journal, 3)
    wire.cut_at(words, cut)
    works = [work for _ in range(4) for work in await take(journal, limit=1)]
    assert wire.cuts == 1
    assert len({work.delivery.id for work in works}) == len(works) == 3
    for work in works:
        assert work.delivery.attempt == 1
        assert await journal.complete(completion(work))
        assert len(await journal.attempts(work.delivery.id)) == 1
    await journal.aclose()


async def test_a_claim_waits_until_it_is_known_to_be_committed(store: PostgresStore, wire: Proxy) -> None:
    """Its answer is lost, and the server cannot be reached for longer than a statement may take. Then the claim gets
    its work, which nothing else would run."""
    journal = await open_journal(through(store, wire), listen=False, answer_seconds=0.3)
    await fill(journal, 1)
    wire.cut_at(b"COMMIT", "after")
    wire.cut_at(b"pg_xact_status", "before")
    claim = asyncio.create_task(take(journal))
    async with asyncio.timeout(PATIENCE):
        while wire.cuts < 2:  # noqa: ASYNC110 - a count of the proxy
            await asyncio.sleep(0.01)
    wire.hold()
    done, _ = await asyncio.wait([claim], timeout=1)
    assert not done
    wire.release()
    (work,) = await claim
    assert (work.delivery.attempt, await journal.complete(completion(work)), await take(journal)) == (1, True, [])
    await journal.aclose()


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_completion_whose_answer_was_lost_is_kept_once(store: PostgresStore, wire: Proxy, cut: Cut) -> None:
    """Whoever asked hears that it was kept, and a stranger's is refused as ever."""
    journal = await open_journal(through(store, wire), listen=False)
    await fill(journal, 2)
    works = sorted(await take(journal), key=lambda work: work.delivery.id)
    wire.cut_at(b"the last words", cut)
    kept = await asyncio.gather(
        journal.complete(completion(works[0], detail="the last words")),
        journal.complete(completion(works[1], owner="a stranger")),
    )
    assert kept == [True, False]
    assert wire.cuts == 1
    assert (await status_of(journal, 1), await status_of(journal, 2)) == ("succeeded", "running")
    await journal.aclose()


class Load:
    """Ten clients that add submissions one after the other."""

    def __init__(self, journal: Journal) -> None:
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
    journal = await open_journal(await postgres.new_database("restarted", server=server))
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
    journal = await open_journal(through(store, wire), listen=False, answer_seconds=0.3)
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
    journal = await open_journal(await postgres.new_database("crowded", server=server), listen=False)
    others = [await asyncpg.connect(server.url()) for _ in range(16)]
    while not isinstance(
        one := (await asyncio.gather(asyncpg.connect(server.url()), return_exceptions=True))[0], Exception
    ):
        others.append(one)
    await store_of(journal)._connections._pool.expire_connections()
    found = await asyncio.gather(*(journal.get("x") for _ in range(9)), return_exceptions=True)
    problem = next(one for one in found if isinstance(one, JournalError))
    assert "Raise max_connections" in str(problem)
    assert problem.fault == "crowded"
    await asyncio.gather(*(one.close() for one in others))
    await journal.check()
    await journal.aclose()


# Other processes


async def test_notifications_reach_other_processes(store: PostgresStore) -> None:
    """Subscribers hear of what was written here and elsewhere. A listener that was cut off comes back."""
    one, two = await store.open(), await store.open()
    heard: list[frozenset[str] | None] = []
    news = asyncio.Event()

    def two_hears(ids: frozenset[str] | None) -> None:
        heard.append(ids)
        news.set()

    own: list[frozenset[str] | None] = []
    two.subscribe(two_hears)
    await store_of(two)._notifier.listening.wait()
    one.subscribe(own.append)
    await store_of(one)._notifier.listening.wait()
    heard.clear()
    own.clear()
    news.clear()
    await one.add(submission(1))
    await asyncio.wait_for(news.wait(), PATIENCE)
    assert heard == own == [frozenset({submission(1).id})]
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = $1"
    await store.execute(kill, urlsplit(store.url).path.strip("/"))
    news.clear()
    await asyncio.wait_for(news.wait(), PATIENCE)  # it hears again, and looks for what was missed
    assert heard[-1] is None
    news.clear()
    await one.add(submission(2))
    await asyncio.wait_for(news.wait(), PATIENCE)
    await one.aclose()
    await two.aclose()


async def test_a_command_that_ends_at_once_is_heard(store: PostgresStore, journal: Journal) -> None:
    """Also one that keeps no prepared statements, as it may behind any pooler."""
    heard = asyncio.Event()
    journal.subscribe(lambda ids: heard.set())
    await store_of(journal)._notifier.listening.wait()
    for number, options in enumerate(({}, {"statements": False})):
        heard.clear()
        command = await open_journal(store.url, **options)
        await command.add(submission(number))
        await command.aclose()
        await asyncio.wait_for(heard.wait(), PATIENCE)


async def test_without_a_listener_nothing_is_said_or_heard(store: PostgresStore) -> None:
    """`listen=False`: no connection listens, no notification is sent. Polling has to do."""
    one, two = await open_journal(store.url, listen=False), await store.open()
    heard: list[str] = []
    two.subscribe(lambda ids: heard.append("two"))
    await store_of(two)._notifier.listening.wait()
    one.subscribe(lambda ids: heard.append("one"))
    heard.clear()
    await one.add(submission(1))
    assert heard == ["one"]
    heard.clear()
    await two.add(submission(2))
    await asyncio.sleep(0.1)
    assert heard == ["two"]
    await one.aclose()
    await two.aclose()


async def test_tables_of_the_older_layout_are_refused() -> None:
    """A development version made them, and this one says how to start anew."""
    url = await postgres.new_database()
    old = PostgresStore(url)
    await old.execute("CREATE SCHEMA receiver")
    await old.execute("CREATE TABLE receiver.submissions (id text, told text)")
    await old.execute("CREATE TABLE receiver.migrations (number bigint, breaking boolean)")
    await old.execute("INSERT INTO receiver.migrations VALUES (1, false)")
    assert "DROP SCHEMA receiver CASCADE" in await refused(url)
