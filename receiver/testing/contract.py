"""The contract of handlers, as a check any author runs."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from receiver.handlers.base import Guarantee, Handler, HandlerOptions
from receiver.handlers.registry import contract_problem
from receiver.testing.rules import RULES, close
from receiver.testing.trial import Effects, RuleBroken, Trial, told


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule of the contract, and how a handler broke it, as a sentence."""

    rule: str
    problem: str


class HandlerBroken(AssertionError):
    """A handler does not keep the contract; a line for each rule it breaks.

    Attributes:
        broken: the rules, in the order they were checked.
    """

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
    """Deliver to a handler as a bad day would, and hold what is visible outside against the contract.

    Rules: `plug-in` (what the class must have), `effects` (a result shows), `close`, `same key` (an attempt made
    again), `crash` (between effect and record), `duplicate` (two attempts at once), `deadline`, `cancellation` (at
    every await), `order` (progress, then the result), `media` (several, none, gone, still to come), `receipt`.

    What a handler guarantees decides what is asked of it: `once` — an attempt made again makes nothing more;
    `at least once` — each attempt makes at most what one makes.

    Args:
        make: the handler's class, or whatever gives a new handler with each call.
        options: of the class, validated as `receiver.toml` would be. None: `make` is called without arguments.
        effects: what is visible outside now, awaited often: anything hashable, for instance names and contents of
            files, or the messages a fake server got. The place should be the handler's alone while the check runs.
        guarantee: in place of what the handler's class declares.
        deadline: seconds an undisturbed attempt may take.

    Raises:
        HandlerBroken: with every rule that is broken, and how.
    """
    maker = _maker(make, options)
    with tempfile.TemporaryDirectory(prefix="receiver-check-") as folder:
        once = (guarantee or getattr(maker(), "guarantee", "once")) == "once"
        trial = Trial(make=maker, effects=effects, once=once, deadline=deadline, folder=Path(folder))
        trial = replace(trial, usual=await _usual(trial))
        unclosed = await _broken("close", close, trial)
        trial = replace(trial, closes=unclosed is None)
        found = [unclosed, *[await _broken(rule, check, trial) for rule, check in RULES.items()]]
    if broken := tuple(item for item in found if item is not None):
        raise HandlerBroken(broken)


def _maker(make: Callable[..., Handler], options: HandlerOptions | Mapping[str, Any] | None) -> Callable[[], Handler]:
    if options is None:
        return make
    plugin: Any = make
    if problem := contract_problem(plugin, getattr(plugin, "name", "")):
        raise HandlerBroken((Broken("plug-in", f"{getattr(plugin, '__name__', plugin)} {problem}"),))
    validated = plugin.Options.model_validate(options)
    return lambda: plugin(validated)


async def _usual(trial: Trial) -> int:
    """How many effects one result makes. Without any, no rule could be seen broken."""
    before = await trial.seen()
    try:
        async with trial.handler() as handler:
            await trial.deliver(handler, trial.attempt())
    except RuleBroken as exc:
        raise HandlerBroken((Broken("effects", f"a result cannot be delivered at all: {exc}"),)) from exc
    made = await trial.seen() - before
    if not made:
        problem = "a delivered result shows nowhere: either nothing was made, or `effects` does not look at it"
        raise HandlerBroken((Broken("effects", problem),))
    return made.total()


async def _broken(rule: str, check: Callable[[Trial], Awaitable[None]], trial: Trial) -> Broken | None:
    try:
        await check(trial)
    except RuleBroken as exc:
        return Broken(rule, str(exc))
    except Exception as exc:  # of the handler's class or of `effects`: it belongs to the report as well
        return Broken(rule, f"it could not be checked: {told(exc)}")
    return None
