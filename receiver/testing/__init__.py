"""Tools for your own tests: the simulated provider, and a check of your own handler.

The provider: real HTTP on a free loopback port, without a key and without waiting. With pytest, import the fixture for
sync and async tests::

    from receiver.testing import simulator


    def test_picture(simulator):
        client = MyClient(base_url=simulator.url)
        ...

Without pytest, or to choose what goes wrong::

    async with simulated(faults=["dropped"], profile="relay") as provider:
        client = MyClient(base_url=provider.url)

The names of faults and profiles are in `receiver.simulator.FAULTS` and `PROFILES`. `receiver simulate --help`
explains them. Pictures are drawn with Pillow, of the extra `simulator`.

A handler: `check_handler` delivers to it with every fault of a bad day, and `make_attempt` makes its argument::

    async def test_my_handler(tmp_path):
        async def effects():
            return [(path.name, path.read_bytes()) for path in tmp_path.iterdir()]

        await check_handler(MyHandler, {"path": tmp_path}, effects=effects)
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
