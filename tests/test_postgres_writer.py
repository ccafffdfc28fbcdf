"""How the journal on PostgreSQL shares what waits among the batches it writes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest
from waiting import PATIENCE

from receiver.journal.postgres.batch import Writer


class Lanes:
    """Where batches are written: each takes until it is let go."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._gates: list[asyncio.Event] = []
        self._begun = asyncio.Condition()

    async def run(self, batch: Sequence[str]) -> list[str]:
        gate = asyncio.Event()
        async with self._begun:
            self.sizes.append(len(batch))
            self._gates.append(gate)
            self._begun.notify_all()
        await gate.wait()
        return list(batch)

    async def until(self, count: int) -> None:
        """So many batches have begun."""
        async with asyncio.timeout(PATIENCE), self._begun:
            await self._begun.wait_for(lambda: len(self.sizes) >= count)

    def let_go(self, number: int) -> None:
        self._gates[number].set()


def put(writer: Writer[str], names: Sequence[str]) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(writer.put(name)) for name in names]


def names(count: int) -> list[str]:
    return [str(number) for number in range(count)]


async def test_lanes_take_a_share_each_and_leave_one() -> None:
    """So that a lane that has ended finds its next batch."""
    lanes = Lanes()
    writer: Writer[str] = Writer(lanes.run, width=3, key=lambda name: name)
    waiting = put(writer, names(400))
    await lanes.until(3)
    assert lanes.sizes == [100, 100, 100]
    lanes.let_go(0)
    await lanes.until(4)
    assert lanes.sizes == [100, 100, 100, 75]
    for number in range(1, 4):
        lanes.let_go(number)
    await lanes.until(5)
    lanes.let_go(4)
    assert await asyncio.gather(*waiting) == names(400)
    assert lanes.sizes == [100, 100, 100, 75, 25]


async def test_a_small_share_is_not_worth_a_batch() -> None:
    """A commit costs the same for few."""
    lanes = Lanes()
    writer: Writer[str] = Writer(lanes.run, width=3, key=lambda name: name)
    waiting = put(writer, names(70))
    await lanes.until(2)
    assert lanes.sizes == [64, 6]
    lanes.let_go(0)
    lanes.let_go(1)
    assert await asyncio.gather(*waiting) == names(70)


async def test_nothing_overtakes_another_about_the_same() -> None:
    """Whichever lane is free."""
    lanes = Lanes()
    writer: Writer[str] = Writer(lanes.run, width=3, key=lambda name: name[0])
    waiting = put(writer, ["a1", "b1"])
    await lanes.until(1)
    waiting += put(writer, ["a2", "c1"])
    await lanes.until(2)
    assert lanes.sizes == [2, 1]
    lanes.let_go(0)
    await lanes.until(3)
    lanes.let_go(1)
    lanes.let_go(2)
    assert await asyncio.gather(*waiting) == ["a1", "b1", "a2", "c1"]


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

    writer: Writer[str] = Writer(fail, width=1, key=lambda name: name)
    outcomes = await asyncio.gather(*put(writer, names(4)), return_exceptions=True)
    assert outcomes == [problem] * 4
    assert len(sizes) == times
