"""A coroutine run await by await, so that it can be stopped at each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import suppress
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

Stop = Literal["before", "after", "hang"]
"""Cancelled while it waits; cancelled when what it waited for has just happened (a server has done its part, and we
have not heard yet); never told that it happened, so that only a deadline ends it."""


class Stepping(Generic[T]):
    """Awaits `coroutine`, and stops it at its await number `at` (1 is the first).

    Attributes:
        steps: awaits so far.
        reached: whether it came to the one where it was to be stopped.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], *, at: int = 0, stop: Stop = "before") -> None:
        self.steps = 0
        self.reached = False
        self._coroutine = coroutine
        self._at = at
        self._stop = stop
        self._given_up = False

    def __await__(self) -> Generator[Any, Any, T]:
        error: BaseException | None = None
        while True:
            try:
                awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            self.steps += 1
            error = yield from self._wait(awaited)
            if self._given_up:
                self._close()
                raise asyncio.CancelledError

    def give_up(self) -> None:
        """At its next await it is dropped, whatever it does about cancellation."""
        self._given_up = True

    def _close(self) -> None:
        with suppress(RuntimeError):  # it awaits even now
            self._coroutine.close()

    def _wait(self, awaited: Any) -> Generator[Any, Any, BaseException | None]:
        """Wait as asked; returns what shall be raised at this await, if anything."""
        here = self.steps == self._at
        self.reached = self.reached or here
        if here and self._stop == "before" and (task := asyncio.current_task()) is not None:
            task.cancel()
        try:
            yield awaited
            if (
                here and self._stop == "hang" and not _cancelled()
            ):  # too late: then it would be the cleaning-up that hangs
                yield from asyncio.get_running_loop().create_future()
        except BaseException as exc:  # whatever it is, it belongs to the coroutine
            return exc
        return asyncio.CancelledError() if here and self._stop == "after" else None


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
