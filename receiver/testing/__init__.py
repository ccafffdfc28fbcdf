"""Tools for tests of your own application and handler: a simulated provider, and a check of a handler.

The provider is real HTTP on a free loopback port, without a key and without waiting. With pytest, import the fixture
`simulator`. Without, or to choose what goes wrong::

    async with simulated(faults=["dropped"], profile="relay") as provider:
        client = MyClient(base_url=provider.url)

`provider.environment(folder)` has the settings for an application with a Receiver. `receiver help testing` shows whole
tests. `check_handler` delivers to a handler with every fault of a bad day (`receiver help handlers`).
"""

from collections.abc import Iterator

from receiver.testing.attempts import make_attempt, make_event, make_media
from receiver.testing.contract import Broken, HandlerBroken, check_handler
from receiver.testing.serving import SPEED, Simulated, simulated, simulating

__all__ = [
    "SPEED",
    "Broken",
    "HandlerBroken",
    "Simulated",
    "check_handler",
    "make_attempt",
    "make_event",
    "make_media",
    "simulated",
    "simulating",
]

try:
    import pytest
except ImportError:  # pragma: no cover - then there is no fixture, and the rest works
    pass
else:

    @pytest.fixture
    def simulator() -> Iterator[Simulated]:
        """Serve a simulator without faults for one test."""
        with simulating() as served:
            yield served

    __all__ += ["simulator"]
