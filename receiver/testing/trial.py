"""What the rules of `check_handler` work with: handlers made anew, attempts, and what can be seen of them outside."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from receiver.deliveries import Receipt
from receiver.events import EventType
from receiver.handlers.base import Attempt, Handler
from receiver.testing.attempts import make_attempt
from receiver.testing.stepping import Stepping, Stop

Effects = Callable[[], Awaitable[Iterable[Hashable]]]

END_SECONDS = 1.0
"""How long a cancelled attempt may take to end, and a handler to close: the engine waits no longer."""
HANG_SECONDS = 0.05
"""A deadline for attempts that hang."""
MAX_STEPS = 40
"""At how many awaits of one attempt the rules stop; of more, so many evenly spread."""


class RuleBroken(Exception):
    """The rule that is being checked is broken; the text says how, as a sentence."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A handler under test.

    Attributes:
        make: a handler ready for use, each time a new one.
        effects: what is visible outside now.
        once: whether an attempt made again must make nothing more.
        deadline: seconds an attempt that nothing disturbs may take.
        folder: for the pictures of attempts.
        usual: how many effects one result makes.
        closes: whether its handlers close as they should; else they are left open.
    """

    make: Callable[[], Handler]
    effects: Effects
    once: bool
    deadline: float
    folder: Path
    usual: int = 0
    closes: bool = True

    def attempt(self, type: EventType = "task.succeeded", **fields: Any) -> Attempt:
        """The first attempt at an event; of a new submission unless told otherwise."""
        return make_attempt(self.folder, type, deadline=self.deadline, **fields)

    @asynccontextmanager
    async def handler(self) -> AsyncIterator[Handler]:
        """A new handler, closed at the end."""
        handler = self.make()
        try:
            yield handler
        finally:
            if self.closes:
                with suppress(Exception):  # what is wrong about closing is for the rule about it
                    async with asyncio.timeout(END_SECONDS):
                        await handler.aclose()

    async def deliver(self, handler: Handler, attempt: Attempt) -> Receipt:
        """Deliver undisturbed. Raises RuleBroken when that fails."""
        try:
            async with asyncio.timeout(self.deadline):
                return await handler.deliver(attempt)
        except Exception as exc:
            raise RuleBroken(f"attempt {attempt.number} at {attempt.event.type} failed with {told(exc)}") from exc

    async def seen(self) -> Counter[Hashable]:
        """What is visible outside now, and how often."""
        return Counter(await self.effects())

    async def check_made(self, before: Counter[Hashable], *, attempts: int, after: str) -> None:
        """That what came since `before` is what one delivery makes; or, at least once, no more than `attempts` do."""
        now = await self.seen()
        if gone := before - now:
            raise RuleBroken(f"after {after}, effects of other deliveries are gone: {listed(gone)}")
        made = now - before
        most = self.usual if self.once else self.usual * attempts
        if made.total() > most:
            raise RuleBroken(
                f"after {after}, there are {made.total()} effects where {self._allowed(attempts)}: {listed(made)}"
            )
        if made.total() < self.usual:
            raise RuleBroken(f"after {after}, there are {made.total()} effects of {self.usual}: {listed(made)}")

    def _allowed(self, attempts: int) -> str:
        if self.once:
            return f"one delivery makes {self.usual}"
        return f"{attempts} attempts of {self.usual} make {attempts * self.usual} at most"

    async def steps(self) -> list[int]:
        """The awaits to stop at: an undisturbed attempt shows how many there are."""
        async with self.handler() as handler:
            stepping = Stepping(_coroutine(handler, self.attempt()))
            with suppress(TimeoutError):
                async with asyncio.timeout(self.deadline):
                    await stepping
        every = max(1, -(-stepping.steps // MAX_STEPS))
        return [*range(1, stepping.steps + 1, every)]

    async def check_stopped(self, handler: Handler, stop: Stop, at: int, *, how: str) -> None:
        """Stop an attempt at one await; then make it again, as the dispatcher would."""
        attempt, before = self.attempt(), await self.seen()
        await self._stop(handler, attempt, stop, at, how)
        between = await self.seen()
        await self.deliver(handler, replace(attempt, number=2))
        if half := (between - before) - (await self.seen() - before):
            raise RuleBroken(f"after an attempt {how}, something half made was visible: {listed(half)}")
        await self.check_made(before, attempts=2, after=f"an attempt {how}, and another one")

    async def _stop(self, handler: Handler, attempt: Attempt, stop: Stop, at: int, how: str) -> None:
        stepping = Stepping(_coroutine(handler, attempt), at=at, stop=stop)
        limit = HANG_SECONDS if stop == "hang" else self.deadline
        task = asyncio.create_task(_limited(stepping, limit))
        while not stepping.reached and not task.done():  # its end counts from the moment it was stopped
            await asyncio.wait([task], timeout=HANG_SECONDS / 5)
        _, running = await asyncio.wait([task], timeout=END_SECONDS + (limit if stop == "hang" else 0))
        if running:
            stepping.give_up()
            task.cancel()
            await asyncio.wait([task], timeout=END_SECONDS)
            raise RuleBroken(f"an attempt {how} was still running {END_SECONDS:g} s later")


async def _limited(stepping: Stepping[Receipt], limit: float) -> None:
    with suppress(Exception, asyncio.CancelledError):  # how it ends is free, only that it ends is not
        async with asyncio.timeout(limit):
            await stepping


async def _coroutine(handler: Handler, attempt: Attempt) -> Receipt:
    return await handler.deliver(attempt)


def told(exc: BaseException) -> str:
    """An error in a few words."""
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__


def listed(effects: Counter[Hashable]) -> str:
    """The first effects of several, shortened."""
    shown = [f"{str(item)[:120]}{f' ({count} times)' if count > 1 else ''}" for item, count in effects.items()]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "") or "none"
