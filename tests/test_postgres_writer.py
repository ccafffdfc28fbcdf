"""Batches of the journal on PostgreSQL: what waits shares one, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest
from waiting import PATIENCE

from receiver.journal.postgres.documents import MAX_BATCH, SMALL_BATCH, WIDTH, Writer


def put(writer: Writer[str], names: Sequence[str]) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(writer.put(name)) for name in names]


def names(count: int) -> list[str]:
    return [str(number) for number in range(count)]


class Gate:
    """Where batches are written: each takes until the gate is open."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.open = asyncio.Event()
        self._begun = asyncio.Condition()

    async def run(self, batch: Sequence[str]) -> list[str]:
        async with self._begun:
            self.sizes.append(len(batch))
            self._begun.notify_all()
        await self.open.wait()
        return list(batch)

    async def until(self, count: int) -> None:
        """So many batches have begun."""
        async with asyncio.timeout(PATIENCE), self._begun:
            await self._begun.wait_for(lambda: len(self.sizes) >= count)


async def test_few_wait_for_the_batch_under_way() -> None:
    """They share the next one."""
    gate = Gate()
    writer: Writer[str] = Writer(gate.run)
    waiting = put(writer, ["first", "second"])
    await gate.until(1)
    waiting += put(writer, names(SMALL_BATCH - 1))
    await asyncio.sleep(0)
    gate.open.set()
    assert await asyncio.gather(*waiting) == ["first", "second", *names(SMALL_BATCH - 1)]
    assert gate.sizes == [2, SMALL_BATCH - 1]
    await writer.aclose()


async def test_many_have_batches_at_once() -> None:
    """Up to a number of batches, and up to a size of each."""
    gate = Gate()
    writer: Writer[str] = Writer(gate.run)
    waiting = []
    for number in range(1, WIDTH + 1):
        waiting += put(writer, names(SMALL_BATCH))
        await gate.until(number)
    waiting += put(writer, names(MAX_BATCH + 7))
    await asyncio.sleep(0)
    assert gate.sizes == [SMALL_BATCH] * WIDTH
    gate.open.set()
    assert await asyncio.gather(*waiting) == [*names(SMALL_BATCH) * WIDTH, *names(MAX_BATCH + 7)]
    assert gate.sizes[WIDTH:] == [MAX_BATCH, 7]
    await writer.aclose()


@pytest.mark.parametrize(
    ("problem", "times"),
    [(asyncpg.PostgresIOError("a disk fails"), 1), (asyncpg.DataError("a value is wrong"), 7)],
)
async def test_only_what_one_of_them_may_be_guilty_of_is_tried_in_halves(problem: Exception, times: int) -> None:
    """Four in a batch, all of which fail: halves of a batch that met a broken disk would meet it, too."""
    sizes: list[int] = []

    async def fail(batch: Sequence[str]) -> list[str]:
        sizes.append(len(batch))
        raise problem

    writer: Writer[str] = Writer(fail)
    outcomes = await asyncio.gather(*put(writer, names(4)), return_exceptions=True)
    assert outcomes == [problem] * 4
    assert len(sizes) == times
