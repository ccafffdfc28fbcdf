"""The simulator as users' tests have it."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import PATIENCE

from receiver import Event, Receiver, testing
from receiver.testing import Simulated, simulated, simulating, simulator

__all__ = ["simulator"]


def test_exported_members() -> None:
    """What the module offers is there, and listed in order."""
    assert all(hasattr(testing, name) for name in testing.__all__)
    assert testing.__all__ == sorted(testing.__all__, key=lambda name: (not name.isupper(), name))


def test_fixture_for_sync_tests(simulator: Simulated) -> None:
    """A client without an event loop goes from prompt to picture."""
    with httpx.Client(base_url=simulator.url) as client:
        task_id = client.post("/mj/submit/imagine", json={"prompt": "a boat"}).json()["result"]
        while (task := client.get(f"/mj/task/{task_id}/fetch").json())["status"] != "SUCCESS":
            assert task["status"] != "FAILURE"
        assert client.get(task["imageUrl"]).content.startswith(b"\x89PNG")
    assert simulator.simulator.submits == [{"prompt": "a boat"}]
    assert simulator.simulator.endpoints == ["imagine"]
    assert simulator.simulator.pictures == 1


async def test_fixture_for_async_tests(simulator: Simulated) -> None:
    """The same fixture in a test with an event loop of its own."""
    async with httpx.AsyncClient(base_url=simulator.url) as client:
        answer = await client.post("/mj/submit/imagine", json={"prompt": "a boat"})
        assert answer.json()["code"] == 1


async def test_an_application_is_tested_without_a_server(
    simulator: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`environment` is all that a Receiver needs: from a request to the picture in a function."""
    for name, value in simulator.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    receiver = Receiver()
    added = asyncio.Event()
    types = []

    @receiver.on("task.succeeded", name="catalogue")
    async def add(event: Event) -> None:
        types.extend(file.type for file in event.files)
        added.set()

    async def make(request: Request) -> Response:
        return Response((await receiver.imagine("a paper boat")).id)

    app = Starlette(routes=[Route("/pictures", make, methods=["POST"])])
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app")
    async with receiver.lifespan(), client:
        assert (await client.post("/pictures")).status_code == 200
        await asyncio.wait_for(added.wait(), PATIENCE)
    assert types == ["image/png"]


async def test_chosen_faults_and_profile() -> None:
    """Faults, profile and key are the user's choice."""
    async with (
        simulated(faults=["queue_full"], profile="csharp", key="k") as provider,
        httpx.AsyncClient(base_url=provider.url) as client,
    ):
        assert (await client.post("/mj/submit/imagine", json={"prompt": "x"})).status_code == 401
        client.headers["Authorization"] = "Bearer k"
        codes = [(await client.post("/mj/submit/imagine", json={"prompt": "x"})).json()["code"] for _ in range(2)]
        assert codes == [23, 1]


async def test_callbacks_reach_another_simulator() -> None:
    """Callbacks go out over real HTTP, and what they were answered is noted."""
    async with simulated() as provider, simulated() as receiver, httpx.AsyncClient() as client:
        body = {"prompt": "x", "notifyHook": f"{receiver.url}/hook"}
        await client.post(f"{provider.url}/mj/submit/imagine", json=body)
        async with asyncio.timeout(PATIENCE):
            while len(provider.simulator.callbacks) < 9:  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.01)
        assert {sent.http_status for sent in provider.simulator.callbacks} == {404}


def test_nothing_stays_behind() -> None:
    """The port is free and the thread gone when the block ends, also when it ends at once or with callbacks to come."""
    with simulating() as provider:
        pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(provider.url)
    with simulating(speed=1) as provider:
        httpx.post(f"{provider.url}/mj/submit/imagine", json={"prompt": "x", "notifyHook": provider.url})
    assert "simulator" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("options", [{"faults": ["nonsense"]}, {"profile": "nonsense"}, {"speed": 0.0}])
async def test_unknown_names(options: dict[str, object]) -> None:
    """What the simulator refuses is refused before anything is started."""
    with pytest.raises(ValueError, match=r"nonsense|speed"), simulating(**options):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match=r"nonsense|speed"):
        async with simulated(**options):  # type: ignore[arg-type]
            pass


def test_without_pytest() -> None:
    """Where pytest is not installed the rest can still be imported."""
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from receiver import testing\n"
        "assert not hasattr(testing, 'simulator')\n"
        "assert 'simulator' not in testing.__all__"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
