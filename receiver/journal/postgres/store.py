"""The PostgreSQL store, for many processes on many machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from receiver.errors import InputError
from receiver.events import Submission
from receiver.journal.document import Document, Transition
from receiver.journal.membership import SharedMembership
from receiver.journal.pages import due_query
from receiver.journal.postgres import maintenance
from receiver.journal.postgres.connections import (
    Changed,
    Connection,
    Connections,
    Notifier,
    Transaction,
    read_address,
    translated,
)
from receiver.journal.postgres.documents import (
    DIALECT,
    Operation,
    RowCache,
    Update,
    Writer,
    commit,
    execute,
    fetch,
    fetch_page,
    load,
    write,
)
from receiver.journal.rows import REMOVED, counts_of, from_row, read_submission
from receiver.journal.store import Counts, DueKind, Filter, Key, RowKind, Rows, SharedValue, StoredRow

T = TypeVar("T")

CONNECTIONS = 5
"""Connections of one process, including the one that listens."""


class PostgresStore:
    """See `journal.store.Store`. Made by `open_store`."""

    shared: ClassVar[bool] = True
    cache_seconds = 0.0

    def __init__(self, connections: Connections, cache: RowCache, *, listen: bool) -> None:
        self.place = connections.where
        self._connections = connections
        self._cache = cache
        self._notifier = Notifier(connections, enabled=listen)
        self._writer: Writer[Operation] = Writer(self._run_batch)

    async def aclose(self) -> None:
        self._connections.closing = True
        await self._writer.aclose()
        await self._notifier.aclose()
        await self._connections.aclose()

    async def settle(self) -> None:
        await self._notifier.flush()

    async def check(self, *, space: bool = False) -> None:
        if space:
            return  # the server's disk is its operator's business, and a full one fails the other check

        async def operation(db: Connection) -> None:
            (row,) = await fetch(db, "add_value", f"check/{id(self)}", "")
            await fetch(db, "delete_value", f"check/{id(self)}", row["version"])

        await self._connections.write(operation)

    # Documents

    async def create(self, submission: Submission) -> Submission:
        return await self._put(submission)  # type: ignore[no-any-return]

    async def load(self, ids: Sequence[str]) -> dict[str, Document]:
        return await self._connections.read(lambda db: load(db, ids))

    async def update(self, id: str, transition: Transition[T]) -> T | None:
        return await self._put(Update(id, transition))  # type: ignore[no-any-return]

    async def _put(self, operation: Operation) -> Any:
        self._connections.check_open()
        with translated(self.place):
            return await self._writer.put(operation)

    async def _run_batch(self, operations: Sequence[Operation]) -> list[Any]:
        outcomes, written = await commit(self._connections, self._cache, operations)
        self._written(written)
        return outcomes

    def _written(self, documents: Sequence[Document]) -> None:
        self._cache.keep(documents)
        self._notifier.notify(document.id for document in documents)

    async def claim(
        self, destination: str, now_ms: int, limit: int, transition: Transition[T | None], *, fresh: float | None = None
    ) -> list[T]:
        statement, value = ("candidates", "running") if fresh is None else ("fresh", fresh)

        async def attempt(transaction: Transaction) -> tuple[list[T], list[Document]]:
            results, tried, pairs = list[T](), list[str](), list[tuple[Document, Document]]()
            while (wanted := limit - len(results)) > 0:
                found = await fetch(transaction.db, statement, destination, now_ms, tried, value, wanted)
                versions = dict(map(tuple, found))  # a submission may have two due deliveries
                cached = [self._cache[id] for id in versions if id in self._cache]
                known = {item.id: item for item in cached if item.version == versions[item.id]}
                # One that cannot be read holds up no other.
                known |= await load(transaction.db, [id for id in versions if id not in known], skip=True)
                for document in (known[id] for id in versions if id in known):
                    after, result = transition(document)
                    if after is not document:
                        pairs.append((document, after))
                    if result is not None:
                        results.append(result)
                tried += versions
                if len(versions) < wanted:
                    break
            return results, await write(transaction, pairs)

        # A look without a transaction first, because an idle engine asks often.
        (due,) = await self._connections.read(lambda db: fetch(db, "look", destination, now_ms))
        if limit <= 0 or not due[0]:
            return []
        with translated(self.place):
            # Nothing else would ever run the results of a claim that was committed.
            results, written = await self._connections.transact(attempt, patient=True)
        self._written(written)
        return results

    async def remove(
        self, ids: Sequence[str], transition: Callable[[Document], Document | None], *, files_only: bool = False
    ) -> Mapping[str, int]:
        async def operation(db: Connection) -> Mapping[str, int]:
            await fetch(db, "one_deletes")
            await fetch(db, "lock", ids)
            pairs = [(found, transition(found)) for found in (await load(db, ids)).values()]
            decided = [(before, after) for before, after in pairs if after is not None]
            gone = [before.id for before, _ in decided]
            removed = dict.fromkeys(REMOVED, 0)
            removed |= {"kept": len(pairs) - len(decided), "files": await execute(db, "leave_files", gone)}
            await execute(db, "remove_files", gone)
            if files_only:
                await write(Transaction(db), [pair for pair in decided if pair[0] is not pair[1]])
                return removed
            await execute(db, "remove_requests", gone)
            return removed | {kind: await execute(db, f"remove_{kind}", gone) for kind in REMOVED}

        removed = await self._connections.write(operation)
        self._cache.forget(ids)
        self._notifier.notify(ids)
        return removed

    async def forget(self, kind: Literal["callbacks", "leftovers"], keys: Sequence[Key]) -> int:
        found = [key[0] for key in keys]
        return await self._connections.write(lambda db: execute(db, f"forget_{kind}", found))

    # Reading

    async def due(self, kind: DueKind, now_ms: int, limit: int) -> list[Submission]:
        rows = await self._connections.read(lambda db: fetch(db, due_query(DIALECT, kind), now_ms, limit))
        with translated(self.place):
            return [read_submission(row["body"]) for row in rows]

    async def page(
        self, kind: RowKind, wanted: Filter, *, after: Key | None = None, limit: int, newest_first: bool = False
    ) -> list[StoredRow]:
        return await self._connections.read(
            lambda db: fetch_page(db, kind, wanted, after, limit, newest_first=newest_first)
        )

    async def counts(self, *, submissions: bool = False) -> Counts:
        async def operation(db: Connection) -> Counts:
            return counts_of(
                await fetch(db, "count_deliveries"), await fetch(db, "count_submissions") if submissions else ()
            )

        return await self._connections.read(operation)

    # Shared values

    async def values(self, prefix: str) -> dict[str, SharedValue]:
        rows = await self._connections.read(lambda db: fetch(db, "values", prefix))
        return {row["key"]: from_row(SharedValue, row) for row in rows}

    async def swap(self, key: str, data: bytes | None, version: str | None) -> str | None:
        if data is None and version is None:
            return "" if key not in await self.values(key) else None
        given = [key, *([] if data is None else [data.decode()]), *([] if version is None else [version])]
        name = "delete_value" if data is None else "add_value" if version is None else "replace_value"
        rows = await self._connections.write(lambda db: fetch(db, name, *given))
        return rows[0]["version"] if rows else None

    def subscribe(self, changed: Changed) -> None:
        self._notifier.subscribe(changed)

    # The store as a whole

    async def problems(self, owners: frozenset[str]) -> list[str]:
        return await maintenance.problems(self._connections, owners)

    async def back_up(self, target: Path) -> int:
        raise InputError(
            f"The journal at {self.place} is backed up with PostgreSQL's own tools, beside running servers: "
            f"pg_dump --format=custom --schema=receiver --file={target} and the database's URL. Restore it with "
            "pg_restore.",
            page="backup",
        )

    async def compact(self) -> tuple[int, int] | None:
        running = await SharedMembership(self).engines()
        return None if running else await maintenance.compact(self._connections)

    async def scrub(self, words: str) -> str | None:
        await maintenance.vacuum(self._connections)
        if not words:
            return None
        return (
            "PostgreSQL may still hold its prompt in free space of its tables, in its write-ahead log, in replicas and "
            "in backups. To write the tables anew, stop Receiver everywhere and run: receiver journal compact"
        )

    def transfer(self, *, fill: bool) -> AbstractAsyncContextManager[Rows]:
        return maintenance.transfer(self._connections, fill=fill)


async def open_store(
    url: str,
    *,
    connections: int = CONNECTIONS,
    listen: bool = True,
    statements: bool = True,
    migrate: bool = True,
    busy_seconds: float = 10.0,
    answer_seconds: float = 30.0,
) -> PostgresStore:
    """Connect, and bring the tables up to date with `migrate`.

    Args:
        url: `postgresql://user:password@host:port/database`. It may say that a pooler is there (`read_address`).
        listen: hear from other processes what was written. False where a transaction pooler is in front of the server.
        statements, busy_seconds, answer_seconds: see `Connections`.
    """
    address, pooled = read_address(url)
    listen, statements = listen and connections > 1 and not pooled, statements and not pooled
    opened = Connections(
        address, maximum=max(1, connections - listen), statements=statements, busy_seconds=busy_seconds,
        answer_seconds=answer_seconds,
    )  # fmt: skip
    cache = RowCache()
    await opened.open(cache.clear)
    try:
        if migrate:
            await maintenance.migrate(opened)
        await maintenance.check_schema(opened)
    except BaseException:
        await opened.aclose()
        raise
    return PostgresStore(opened, cache, listen=listen)
