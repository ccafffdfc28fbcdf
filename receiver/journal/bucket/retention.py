"""Deleting in a bucket. What is still owed stays.

Each submission is deleted by a transaction of its own: a purge that is broken off has done its first ones.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence

from receiver.deliveries import Delivery
from receiver.events import Submission, first_id
from receiver.journal.bucket import changes, keys
from receiver.journal.bucket.document import Document, replace
from receiver.journal.bucket.naming import free_name
from receiver.journal.bucket.operations import operation
from receiver.journal.bucket.plumbing import Plumbing
from receiver.journal.selection import Batch, Kind, Leftover

PAGE = 200
STEP = 25
"""Submissions that one step of a purge deletes."""


class Retention(Plumbing):
    """The part of `BucketJournal` about deleting."""

    @operation
    async def old(self, kind: Kind, before_ms: int, after: str) -> list[str]:
        behind = keys.before(first_id(before_ms))
        if kind == "media":
            before = first_id(before_ms)
            ids = {id async for _, id in self._files()}
            return await self._settled(sorted(id for id in ids if after < id < before))
        if kind == "submissions":
            documents = self._queries.documents(after=behind)
            found = [item.id async for item in documents if item.id > after and changes.is_settled(item)]
            return heapq.nsmallest(PAGE, found)
        return await self._old_callbacks(before_ms, behind, after)

    async def _old_callbacks(self, before_ms: int, behind: str, after: str) -> list[str]:
        """What was last written before the oldest document that still has a callback has none, and is not read again:
        a purge a day would else read every submission every day."""
        known_ms = await self._purged.read()
        items = [item async for page in self._objects.pages(keys.SUBMISSIONS) for item in page]
        written = {keys.submission_id(item.key): item.modified_ms for item in items}
        left = [item.modified_ms for item in items if item.key <= behind]
        old: list[str] = []
        some = [item for item in items if item.key > behind and item.modified_ms >= known_ms]
        async for document in self._queries.read(some):
            left += [written[document.id]] if document.callbacks else []
            old += [f"{document.id}.{item.number}" for item in document.callbacks if item.received_ms < before_ms]
        until_ms = min(left, default=max(written.values(), default=0))
        await self._purged.update(lambda found: max(found, until_ms))
        return heapq.nsmallest(PAGE, (key for key in old if key > after))

    async def _settled(self, ids: Sequence[str]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(ids), PAGE):
            documents = await asyncio.gather(*map(self._rows.get, ids[start : start + PAGE]))
            found += [item.id for item in documents if item is not None and changes.is_settled(item)]
            if len(found) >= PAGE:
                break
        return found[:PAGE]

    async def _files(self) -> AsyncIterator[tuple[str, str]]:
        """(digest, submission) of every file that one needs."""
        async for page in self._objects.pages("files"):
            for item in page:
                digest, _, id = item.key.removeprefix("files/").partition("/")
                yield keys.unescaped(digest), keys.unescaped(id)

    @operation
    async def delete(self, kind: Kind, keys: Sequence[str], *, problem: str) -> Batch:
        some = keys[:STEP] if kind != "callbacks" else keys
        removed: Counter[str] = Counter()
        if kind == "callbacks":
            by_id: dict[str, set[int]] = defaultdict(set)
            for key in some:
                id, _, number = key.partition(".")
                by_id[id].add(int(number))
            counts = await asyncio.gather(*(self._delete_callbacks(*item) for item in by_id.items()))
        elif kind == "media":
            counts = await asyncio.gather(*(self._drop_files(id, problem) for id in some))
        else:
            counts = [found or {} for found in await asyncio.gather(*(self._erase(id, force=False) for id in some))]
        for count in counts:
            removed.update(count)
        return Batch(removed=removed, after=some[-1]) if some else Batch()

    async def _delete_callbacks(self, id: str, numbers: set[int]) -> Mapping[str, int]:
        def mutate(document: Document) -> tuple[Document, int]:
            left = tuple(item for item in document.callbacks if item.number not in numbers)
            gone = len(document.callbacks) - len(left)
            return (replace(document, callbacks=left) if gone else document), gone

        gone = await self._rows.write(id, mutate) or 0
        apart = [item.key async for page in self._objects.pages(f"callbacks/{keys.escaped(id)}") for item in page]
        self._rows.sweep([key for key in apart if int(keys.last(key)) in numbers])
        return {"callbacks": gone}

    async def _drop_files(self, id: str, problem: str) -> Mapping[str, int]:
        document = await self._rows.get(id)
        if document is None or not changes.is_settled(document):
            return {}
        gone = await self._leave(id, document.files)

        def mutate(document: Document) -> tuple[Document, bool]:
            if not changes.is_settled(document):
                return document, False
            row = document.submission
            row = replace(row, media=(), media_problem=problem) if row.media else row
            return replace(document, submission=row, files=()), True

        if not await self._rows.write(id, mutate):
            return {}
        await self._objects.delete([keys.file(digest, id) for digest in document.files])
        return {"files": gone}

    async def _leave(self, id: str, digests: Sequence[str]) -> int:
        """Note the files that nobody else needs; they are removed afterwards. Returns how many."""
        alone = [digest for digest in digests if not await self._needed(digest, but=id)]
        await asyncio.gather(*(self._objects.put(keys.leftover(digest), b"") for digest in alone))
        return len(alone)

    async def _needed(self, digest: str, *, but: str = "") -> bool:
        """Whether a submission needs a file."""
        async for id in self._queries.names(keys.file(digest)):
            if id == but:
                continue
            if await self._rows.get(id) is not None:
                return True
            self._rows.sweep([keys.file(digest, id)])
        return False

    @operation
    async def owed(self, submission_id: str) -> list[Delivery]:
        document = await self._rows.get(submission_id)
        found = document.deliveries if document is not None else ()
        return sorted((item for item in found if item.status in ("pending", "running")), key=lambda item: item.id)

    @operation
    async def children(self, submission_id: str) -> list[str]:
        return await self._queries.children(submission_id)

    @operation
    async def erase(self, submission_id: str, *, force: bool) -> Mapping[str, int] | None:
        return await self._erase(submission_id, force=force)

    async def _erase(self, id: str, *, force: bool) -> Mapping[str, int] | None:
        """First the name, then what is needed of files, then the document is emptied: from then on it is gone, and
        nobody can write it. What led to it goes last."""
        document = await self._rows.get(id)
        if document is None:
            return _counts(None, 0)
        if not force and not changes.is_settled(document):
            return None
        await free_name(self._objects, document.submission)
        files = await self._leave(id, document.files)
        last = await self._rows.write(id, lambda found: _emptied(found, force=force))
        if last is None:
            return None
        self._rows.forget(id)
        row = last.submission
        apart = [item.key async for page in self._objects.pages(f"callbacks/{keys.escaped(id)}") for item in page]
        leading = [keys.file(digest, id) for digest in last.files]
        leading += [keys.task(row.task_id, id)] if row.task_id is not None else []
        leading += [keys.child(row.parent_id, id)] if row.parent_id is not None else []
        await self._objects.delete([*leading, *apart, keys.submission(id)])
        return _counts(last, files)

    @operation
    async def leftovers(self, after: str) -> list[Leftover]:
        found: list[str] = []
        async for page in self._objects.pages("leftovers", after=keys.leftover(after) if after else ""):
            found += [keys.unescaped(keys.last(item.key)) for item in page]
            if len(found) >= PAGE:
                break
        needed = await asyncio.gather(*map(self._needed, found[:PAGE]))
        return [Leftover(digest=digest, needed=item) for digest, item in zip(found, needed, strict=False)]

    @operation
    async def forget_leftovers(self, digests: Sequence[str]) -> None:
        await self._objects.delete([keys.leftover(digest) for digest in digests])


def _emptied(document: Document, *, force: bool) -> tuple[Document, Document | None]:
    """Nothing stays in it; gives what was."""
    if not force and not changes.is_settled(document):
        return document, None
    row = document.submission
    empty = Submission(
        id=row.id, kind=row.kind, created_ms=row.created_ms, prompt="", request={}, deadline_ms=row.deadline_ms
    )
    return Document(submission=empty, version=document.version, erased=True), document


def _counts(document: Document | None, files: int) -> Mapping[str, int]:
    kinds = ("attempts", "deliveries", "callbacks")
    counts = {kind: len(getattr(document, kind)) if document is not None else 0 for kind in kinds}
    events = len(document.facts) if document is not None else 0
    return {"files": files, **counts, "events": events, "submissions": int(document is not None)}
