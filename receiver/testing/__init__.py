"""Tools for tests of your own application and handler: a simulated provider, and a check of a handler.

The provider: real HTTP on a free loopback port, without a key and without waiting. With pytest, import the fixture for
sync and async tests::

    from receiver.testing import simulator


    def test_picture(simulator):
        client = MyClient(base_url=simulator.url)
        ...

Without pytest, or to choose what goes wrong::

    async with simulated(faults=["dropped"], profile="relay") as provider:
        client = MyClient(base_url=provider.url)

`environment` of either has the settings for an application with a Receiver::

    async def test_pictures(simulator, tmp_path, monkeypatch):
        for name, value in simulator.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        client = AsyncClient(transport=ASGITransport(app=app), base_url="http://app")
        async with receiver.lifespan(), client:
            await client.post("/pictures", params={"prompt": "a paper boat"})
            ...

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
