"""What all methods of the journal have in common: they count as under way, and a closed journal refuses them."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Closing(Protocol):
    """Counts what is under way."""

    def _begin(self) -> None: ...

    def _end(self) -> None: ...


C = TypeVar("C", bound=Closing)


def operation(
    method: Callable[Concatenate[C, P], Awaitable[T]],
) -> Callable[Concatenate[C, P], Coroutine[Any, Any, T]]:
    """Make a coroutine method an operation of its journal: whoever closes waits for it, and none begins afterwards."""

    @functools.wraps(method)
    async def call(self: C, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self._begin()
        try:
            return await method(self, *args, **kwargs)
        finally:
            self._end()

    return call
