"""Check of the handler contract: a handler meets faults of every kind, and its effects are compared with the rules."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Hashable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from receiver.deliveries import Receipt
from receiver.events import EventType, new_id
from receiver.handlers.base import Attempt, Guarantee, Handler, HandlerOptions, Rejected
from receiver.handlers.registry import contract_problem, in_words
from receiver.settings.options import read_options
from receiver.testing.attempts import make_attempt

Effects = Callable[[], Awaitable[Iterable[Hashable]]]

END_SECONDS = 1.0
"""Time limit for a cancelled attempt to end and for a handler to close, as in the engine."""
HANG_SECONDS = 0.05
"""Deadline of attempts that hang."""
MAX_STEPS = 40
"""Number of awaits of one attempt at which the rules stop, evenly spread over more."""
ROUNDS = 8
"""Number of pairs of attempts side by side, which may meet elsewhere each time."""
GONE = "The picture could not be downloaded: 404 from cdn.discordapp.com."


@dataclass(frozen=True, slots=True)
class Broken:
    """Broken rule of the contract, and the problem as a sentence."""

    rule: str
    problem: str


class HandlerBroken(AssertionError):
    """A handler breaks the contract. The text has a line for each rule of `broken`, in the order of their checks."""

    def __init__(self, broken: tuple[Broken, ...]) -> None:
        super().__init__("\n".join(["The handler breaks its contract:", *(f"{b.rule}: {b.problem}." for b in broken)]))
        self.broken = broken


async def check_handler(
    make: Callable[..., Handler],
    options: HandlerOptions | Mapping[str, Any] | None = None,
    *,
    effects: Effects,
    guarantee: Guarantee | None = None,
    deadline: float = 10.0,
) -> None:
    """Deliver to a handler with every fault of a bad day, and compare the effects with the contract.

    Rules: `plug-in` (members of the class), `effects` (a result shows), `close`, `same key` (a repeated attempt),
    `crash` (between effect and record), `duplicate` (two attempts at once), `deadline`, `cancellation` (at every
    await), `order` (progress, then the result), `media` (several, none, gone, still to come), `receipt`.

    The handler's guarantee sets the limit. With `once`, a repeated attempt has no further effect. With `at least once`,
    each attempt has at most the effects of one.

    Args:
        make: the handler's class, or a function that returns a new handler.
        options: of the class, validated like `receiver.toml`. None to call `make` without arguments.
        effects: returns the effects that are visible outside now, awaited often. They are hashable, for instance names
            and contents of files, or requests to a fake server. Only the handler may work there during the check.
        guarantee: in place of the one that the handler's class declares.
        deadline: seconds an undisturbed attempt may take.

    Raises:
        HandlerBroken: with every broken rule and its problem.
    """
    maker: Callable[[], Handler] = make
    if options is not None:
        plugin: Any = make
        if problem := contract_problem(plugin, getattr(plugin, "name", "")):
            raise HandlerBroken((Broken("plug-in", f"{getattr(plugin, '__name__', plugin)} {problem}"),))
        given = options if isinstance(options, HandlerOptions) else read_options(plugin.Options, options)
        maker = partial(plugin, given)
    with tempfile.TemporaryDirectory(prefix="receiver-check-") as folder:
        once = (guarantee or getattr(maker(), "guarantee", "once")) == "once"
        trial = Trial(make=maker, effects=effects, once=once, deadline=deadline, folder=Path(folder))
        before = await trial.seen()
        try:
            async with trial.handler() as handler:
                await trial.deliver(handler, trial.attempt())
        except RuleBroken as exc:
            raise HandlerBroken((Broken("effects", f"a result cannot be delivered at all: {exc}"),)) from exc
        if not (made := await trial.seen() - before):
            problem = "a delivered result shows nowhere: either nothing was made, or `effects` does not look at it"
            raise HandlerBroken((Broken("effects", problem),))
        trial = replace(trial, usual=made.total())
        unclosed = await _broken("close", close, trial)
        trial = replace(trial, closes=unclosed is None)
        found = [unclosed, *[await _broken(rule, check, trial) for rule, check in RULES.items()]]
    if broken := tuple(item for item in found if item is not None):
        raise HandlerBroken(broken)


async def _broken(rule: str, check: Callable[[Trial], Awaitable[None]], trial: Trial) -> Broken | None:
    try:
        await check(trial)
    except RuleBroken as exc:
        return Broken(rule, str(exc))
    except Exception as exc:  # of the handler's class or of `effects`: part of the report
        return Broken(rule, f"it could not be checked: {in_words(exc)}")
    return None


# The rules: each delivers results of new submissions and compares the effects before and after.


async def same_key(trial: Trial) -> None:
    """A repeated attempt with the same idempotency key has no further effect and reports the same ref."""
    attempt, before = trial.attempt(), await trial.seen()
    async with trial.handler() as handler:
        first = await trial.deliver(handler, attempt)
        again = await trial.deliver(handler, replace(attempt, number=2))
    await trial.check_made(before, attempts=2, after="a second attempt under the same key")
    if trial.once and _ref(first) != _ref(again):
        raise RuleBroken(f"the second attempt reports another ref: {_ref(again)} after {_ref(first)}")


def _ref(receipt: Receipt) -> str | None:
    return getattr(receipt, "ref", None)  # the rule `receipt` reports what is none


async def crash(trial: Trial) -> None:
    """A process ends between the effect and its record, and another one repeats the attempt."""
    attempt, before = trial.attempt(), await trial.seen()
    async with trial.handler() as handler:
        await trial.deliver(handler, attempt)
    async with trial.handler() as handler:
        await trial.deliver(handler, replace(attempt, number=2))
    await trial.check_made(before, attempts=2, after="a crash between effect and record, and another attempt")


async def duplicate(trial: Trial) -> None:
    """Two engines make the same attempt at once, with the effect of one. If both fail, it is repeated."""
    for _ in range(ROUNDS):
        attempt, before = trial.attempt(), await trial.seen()
        async with trial.handler() as one, trial.handler() as other:
            both = [trial.within(one, attempt), trial.within(other, replace(attempt, number=2))]
            ends = await asyncio.gather(*both, return_exceptions=True)
            between = await trial.seen()
            if not any(isinstance(end, Receipt) for end in ends):
                await trial.deliver(one, replace(attempt, number=3))
        if half := between - await trial.seen():
            raise RuleBroken(f"after two attempts side by side, something half made was visible: {listed(half)}")
        await trial.check_made(before, attempts=3, after="two attempts side by side")


async def deadline(trial: Trial) -> None:
    """A place does not answer. The attempt ends within a second of its deadline and leaves nothing half made."""
    async with trial.handler() as handler:
        for step in await trial.steps():
            await trial.check_stopped(handler, "hang", step, how=f"that hung at await {step} until its deadline")


async def cancellation(trial: Trial) -> None:
    """An engine stops. Cancelled at any await, the attempt ends within a second and leaves nothing half made."""
    async with trial.handler() as handler:
        for step in await trial.steps():
            await trial.check_stopped(handler, "before", step, how=f"cancelled at await {step}")
            await trial.check_stopped(handler, "after", step, how=f"cancelled just after await {step}")


COURSES: tuple[tuple[EventType, ...], ...] = (
    ("task.accepted", "task.progressed", "task.succeeded"),
    ("task.accepted", "task.input_required", "task.progressed", "task.failed"),
    ("task.lost", "task.succeeded"),
)


async def order(trial: Trial) -> None:
    """Events come in order, each with the last one's receipt. A result shows, and a repeat changes nothing."""
    for course in COURSES:
        submission_id, last, previous = new_id(int(time.time() * 1000)), trial.attempt(), None
        async with trial.handler() as handler:
            for type in course:
                before = await trial.seen()
                last = trial.attempt(type, submission_id=submission_id, previous=previous)
                previous = await trial.deliver(handler, last)
            after = await trial.seen()
            if last.event.type == "task.succeeded" and after == before:
                raise RuleBroken(f"after {' and '.join(course[:-1])}, the result changed nothing that is visible")
            await trial.deliver(handler, replace(last, number=2))
        if trial.once and await trial.seen() != after:
            raise RuleBroken(f"after {' and '.join(course)}, the last one again changed what is visible")


async def media(trial: Trial) -> None:
    """A result has four pictures, texts only, a lost picture, or one of two that come later."""
    gone = "delivered or Rejected, which says that there will be no picture"
    async with trial.handler() as handler:
        await trial.deliver(handler, trial.attempt(pictures=4))
        await trial.deliver(handler, trial.attempt(pictures=0))
        without = trial.attempt(media=(), media_problem=GONE)
        try:
            await trial.within(handler, without)
        except Rejected:
            pass
        except Exception as exc:
            raise RuleBroken(f"a result whose picture is gone must be {gone}, but failed with {in_words(exc)}") from exc
        part = trial.attempt(pictures=1, media_problem=GONE, media_expected=2, media_pending=True)
        await trial.deliver(handler, part)


async def receipt(trial: Trial) -> None:
    """The returned value is a Receipt that the journal can keep and return unchanged."""
    async with trial.handler() as handler:
        given = await trial.deliver(handler, trial.attempt())
    if not isinstance(given, Receipt):
        raise RuleBroken(f"deliver returned {type(given).__name__} instead of a Receipt")
    try:
        kept = msgspec.json.decode(msgspec.json.encode(given), type=Receipt)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as exc:
        raise RuleBroken(f"the receipt cannot be kept: {in_words(exc)}. `data` may hold JSON values only") from exc
    if kept != given:
        raise RuleBroken(f"the receipt comes back changed from the journal: {given} becomes {kept}")


async def close(trial: Trial) -> None:
    """A handler closes within a second, used or unused, and a second time without effect."""
    for used in (False, True):
        handler = trial.make()
        if used:
            await trial.deliver(handler, trial.attempt())
        for again in ("", " a second time"):
            what = f"closing a {'used' if used else 'new'} handler{again}"
            try:
                async with asyncio.timeout(END_SECONDS):
                    await handler.aclose()
            except TimeoutError as exc:
                raise RuleBroken(f"{what} took longer than {END_SECONDS:g} s") from exc
            except Exception as exc:
                raise RuleBroken(f"{what} failed with {in_words(exc)}") from exc


RULES: Mapping[str, Callable[[Trial], Awaitable[None]]] = {
    check.__name__.replace("_", " "): check
    for check in (same_key, crash, duplicate, deadline, cancellation, order, media, receipt)
}
"""All rules but `close`, which is checked first, because the others close what they open."""


# Tools of the rules


class RuleBroken(Exception):
    """A rule is broken. The text says how, as a sentence."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Handler under test."""

    make: Callable[[], Handler]  # returns a new handler, ready for use
    effects: Effects  # returns the effects that are visible outside now
    once: bool  # whether a repeated attempt must have no further effect
    deadline: float  # seconds an undisturbed attempt may take
    folder: Path  # for the pictures of attempts
    usual: int = 0  # the number of effects of one result
    closes: bool = True  # whether its handlers close as they should. Else they are left open

    def attempt(self, type: EventType = "task.succeeded", **fields: Any) -> Attempt:
        """Return the first attempt at an event, of a new submission unless `fields` say otherwise."""
        return make_attempt(self.folder, type, deadline=self.deadline, **fields)

    @asynccontextmanager
    async def handler(self) -> AsyncIterator[Handler]:
        """Open a new handler, closed at the end of the block."""
        handler = self.make()
        try:
            yield handler
        finally:
            if self.closes:
                with suppress(Exception):  # the rule `close` reports it
                    async with asyncio.timeout(END_SECONDS):
                        await handler.aclose()

    async def within(self, handler: Handler, attempt: Attempt) -> Receipt:
        """Deliver within the deadline."""
        async with asyncio.timeout(self.deadline):
            return await handler.deliver(attempt)

    async def deliver(self, handler: Handler, attempt: Attempt) -> Receipt:
        """Deliver undisturbed. Raise RuleBroken if that fails."""
        try:
            return await self.within(handler, attempt)
        except Exception as exc:
            raise RuleBroken(f"attempt {attempt.number} at {attempt.event.type} failed with {in_words(exc)}") from exc

    async def seen(self) -> Counter[Hashable]:
        """Count the effects that are visible outside now."""
        return Counter(await self.effects())

    async def check_made(self, before: Counter[Hashable], *, attempts: int, after: str) -> None:
        """Raise RuleBroken unless one delivery, or for `at least once` up to `attempts` of it, made the effects."""
        now = await self.seen()
        if gone := before - now:
            raise RuleBroken(f"after {after}, effects of other deliveries are gone: {listed(gone)}")
        made = now - before
        most = self.usual if self.once else self.usual * attempts
        if made.total() > most:
            allowed = (
                f"one delivery makes {self.usual}"
                if self.once
                else f"{attempts} attempts of {self.usual} make {most} at most"
            )
            raise RuleBroken(f"after {after}, there are {made.total()} effects where {allowed}: {listed(made)}")
        if made.total() < self.usual:
            raise RuleBroken(f"after {after}, there are {made.total()} effects of {self.usual}: {listed(made)}")

    async def steps(self) -> list[int]:
        """Return the awaits to stop at, as an undisturbed attempt has them."""
        async with self.handler() as handler:
            stepping = Stepping(_coroutine(handler, self.attempt()))
            with suppress(TimeoutError):
                async with asyncio.timeout(self.deadline):
                    await stepping
        every = max(1, -(-stepping.steps // MAX_STEPS))
        return [*range(1, stepping.steps + 1, every)]

    async def check_stopped(self, handler: Handler, stop: Stop, at: int, *, how: str) -> None:
        """Stop an attempt at one await. Then repeat it, as the dispatcher does."""
        attempt, before = self.attempt(), await self.seen()
        stepping = Stepping(_coroutine(handler, attempt), at=at, stop=stop)
        limit = HANG_SECONDS if stop == "hang" else self.deadline

        async def limited() -> None:
            with suppress(Exception, asyncio.CancelledError):  # any end will do
                async with asyncio.timeout(limit):
                    await stepping

        task = asyncio.create_task(limited())
        while not stepping.reached and not task.done():  # its end counts from the moment of the stop
            await asyncio.wait([task], timeout=HANG_SECONDS / 5)
        _, running = await asyncio.wait([task], timeout=END_SECONDS + (limit if stop == "hang" else 0))
        if running:
            stepping.give_up()
            task.cancel()
            await asyncio.wait([task], timeout=END_SECONDS)
            raise RuleBroken(f"an attempt {how} was still running {END_SECONDS:g} s later")
        between = await self.seen()
        await self.deliver(handler, replace(attempt, number=2))
        if half := (between - before) - (await self.seen() - before):
            raise RuleBroken(f"after an attempt {how}, something half made was visible: {listed(half)}")
        await self.check_made(before, attempts=2, after=f"an attempt {how}, and another one")


async def _coroutine(handler: Handler, attempt: Attempt) -> Receipt:
    return await handler.deliver(attempt)


def listed(effects: Counter[Hashable]) -> str:
    """Return the first effects of several, shortened."""
    shown = [f"{str(item)[:120]}{f' ({count} times)' if count > 1 else ''}" for item, count in effects.items()]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "") or "none"


Stop = Literal["before", "after", "hang"]
"""Way to stop at an await: cancelled while it waits, cancelled just after the awaited event (a server has done its
part, and we do not know yet), or left without the event, so that only a deadline ends it."""


class Stepping:
    """Await of a coroutine that stops it at its await number `at` (1 is the first). `steps` counts its awaits."""

    def __init__(self, coroutine: Coroutine[Any, Any, Receipt], *, at: int = 0, stop: Stop = "before") -> None:
        self.steps = 0
        self.reached = False
        self._coroutine = coroutine
        self._at = at
        self._stop = stop
        self._given_up = False

    def __await__(self) -> Generator[Any, Any, Receipt]:
        error: BaseException | None = None
        while True:
            try:
                awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            except StopIteration as end:
                return cast("Receipt", end.value)
            self.steps += 1
            error = yield from self._wait(awaited)
            if self._given_up:
                with suppress(RuntimeError):  # it awaits even now
                    self._coroutine.close()
                raise asyncio.CancelledError

    def give_up(self) -> None:
        """Drop the coroutine at its next await, whatever it does about cancellation."""
        self._given_up = True

    def _wait(self, awaited: Any) -> Generator[Any, Any, BaseException | None]:
        """Wait as asked. Return the error to raise at this await, if any."""
        here = self.steps == self._at
        self.reached = self.reached or here
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that is awaited runs in a task
        if here and self._stop == "before":
            task.cancel()
        try:
            yield awaited
            if here and self._stop == "hang" and not task.cancelling():  # else the clean-up would hang
                yield from asyncio.get_running_loop().create_future()
        except BaseException as exc:  # it belongs to the coroutine
            return exc
        return asyncio.CancelledError() if here and self._stop == "after" else None
