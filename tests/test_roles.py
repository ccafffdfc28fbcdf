"""Many processes on one PostgreSQL: `serve` without an engine, `worker`, what they refuse, and what they do when others
die. One house of real processes, from its building to its last engine's end: the tests follow its days in order, and
each can do without those before it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from postgres import new_database
from servers import Command, Result, receiver, simulating
from waiting import PATIENCE

from receiver import Event, Receiver
from receiver.journal import EngineRecord, Journal
from receiver.journal.membership import HEARTBEAT_SECONDS
from receiver.journal.postgres import open_store as open_postgres
from receiver.testing.serving import simulated

"""Seconds; others use this machine, too."""


class House:
    """Processes of one installation, in one folder and on one database."""

    def __init__(self, stack: ExitStack, folder: Path, env: Mapping[str, str]) -> None:
        self._stack = stack
        self.folder = folder
        self.env = dict(env)
        self.webs: list[tuple[Command, str]] = []
        self.workers: list[Command] = []

    def start(self, *arguments: str, **env: str) -> Command:
        return self._stack.enter_context(Command(*arguments, folder=self.folder, env=self.env | env))

    def run(self, *arguments: str, **env: str) -> Result:
        return receiver(*arguments, folder=self.folder, env=self.env | env)

    def engines(self) -> list[EngineRecord]:
        async def ask() -> list[EngineRecord]:
            journal = Journal(await open_postgres(self.env["DATABASE_URL"], connections=2, listen=False))
            try:
                return await journal.engines()
            finally:
                await journal.aclose()

        return asyncio.run(ask())

    def leader(self) -> Command:
        (pid,) = (pid_of(item) for item in self.engines() if item.leads)
        return next(worker for worker in self.workers if worker.pid == pid)

    def readyz(self, url: str) -> tuple[int, dict[str, Any]]:
        response = httpx.get(f"{url}/readyz", trust_env=False, timeout=PATIENCE)
        return response.status_code, response.json()

    def pictures(self) -> list[Path]:
        return list((self.folder / "outputs").glob("*.png"))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Two webs without engines, three workers, and a provider that calls the first web back."""
    folder = tmp_path_factory.mktemp("roles")
    with ExitStack() as stack:
        provider = stack.enter_context(simulating(folder, speed=20))
        env = {
            "COMETAPI_KEY": "sk-simulator-0001",
            "RECEIVER_PROVIDER_URL": provider,
            "RECEIVER_KEYS": "0123456789abcdef" * 4,
            "RECEIVER_POLL_INTERVAL": "1s",
            "DATABASE_URL": asyncio.run(new_database("roles")),
        }
        house = House(stack, folder, env)
        assert house.run("migrate").code == 0
        started = [house.start("serve", "--no-engine", "--port", "0") for _ in range(2)]
        house.webs = [(web, web.out.line("http://").split()[3].rstrip(";")) for web in started]
        house.env["RECEIVER_PUBLIC_URL"] = house.webs[0][1]
        house.workers = [house.start("worker") for _ in range(3)]
        for worker in house.workers:
            worker.err.line("engine.started")
        yield house


def pid_of(item: EngineRecord) -> int:
    return int(item.owner.split("-")[1])


def until(condition: Callable[[], bool]) -> float:
    """Look until it holds; the seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE, "it did not come about"
        time.sleep(0.2)
    return time.monotonic() - began


def test_every_worker_is_an_engine_and_one_leads(house: House) -> None:
    """None of the webs is; whoever takes callbacks says that engines live."""
    until(lambda: any(item.leads for item in house.engines()))
    found = json.loads(house.run("engines", "--json").out)
    assert [(item["role"], item["leads"]) for item in found] == [("worker", True), *[("worker", False)] * 2]
    assert {pid_of(item) for item in house.engines()} == {worker.pid for worker in house.workers}
    for _, url in house.webs:
        status, said = house.readyz(url)
        assert (status, said["ready"], said["engines"]) == (200, True, "ok")


@pytest.mark.parametrize("command", [("worker",), ("serve", "--port", "0"), ("serve", "--no-engine", "--port", "0")])
def test_another_media_store_is_refused(house: House, command: tuple[str, ...], tmp_path: Path) -> None:
    """A folder the others do not see: the sentence tells the two apart, and names the setting; nothing listens."""
    result = house.run(*command, RECEIVER_DATA=str(tmp_path / "elsewhere"))
    assert (result.code, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert last.startswith("Error: ")
    for folder in (tmp_path / "elsewhere", house.folder / ".receiver"):
        assert (folder / "media/.id").read_text().strip() in last
    assert "RECEIVER_MEDIA" in last


def test_no_keys_are_made_up(house: House) -> None:
    """They would refuse what the others signed."""
    result = house.run("worker", RECEIVER_KEYS="")
    assert result.code == 1
    assert "RECEIVER_KEYS is not set. All processes on the database that DATABASE_URL names" in result.err
    assert not (house.folder / ".receiver" / "keys").exists()


def test_submit_watches_where_engines_live(house: House) -> None:
    """It is none itself, and says where the picture lies all the same."""
    result = house.run("submit", "a boat", "--wait", RECEIVER_LOG_LEVEL="info")
    assert result.code == 0, result
    assert Path(result.last_line).read_bytes()
    assert "engine.started" not in result.err
    assert "engine.waiting" in result.err


def test_a_leader_that_stops_gives_way_at_once(house: House) -> None:
    """SIGTERM: its membership ends, so that the next heartbeat of another finds no leader."""
    leader = house.leader()
    house.workers.remove(leader)
    assert leader.stop().code == 0
    assert until(lambda: any(item.leads for item in house.engines())) < HEARTBEAT_SECONDS + 1
    assert house.leader() in house.workers


def test_without_any_engine_callbacks_are_still_taken(house: House) -> None:
    """The web is ready, and says what is missing; `submit --wait` is the engine itself then."""
    for worker in house.workers:
        assert worker.stop().code == 0
    status, said = house.readyz(house.webs[1][1])
    assert (status, said["ready"]) == (200, True)
    assert said["engines"].startswith("No engine runs: callbacks are accepted, but nothing is polled or delivered")
    result = house.run("submit", "a last boat", "--wait", RECEIVER_LOG_LEVEL="info")
    assert result.code == 0, result
    assert "engine.started" in result.err
    assert house.engines() == []


async def come(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.02)


async def test_several_embedded_receivers_share_the_work(tmp_path: Path) -> None:
    """As the workers of a web server each have one: all are engines, one leads, and each result is told to one of them,
    once."""
    url = await new_database("embedded")
    heard: list[tuple[int, str]] = []
    async with simulated(speed=100, side=128) as provider, AsyncExitStack() as stack:

        async def embedded(number: int) -> Receiver:
            one = Receiver(
                database=url, data=tmp_path, keys=("k" * 32,), provider_url=provider.url, provider_key="sk-simulator-1",
                poll_interval=0.2, to=f"file:{tmp_path / 'outputs'}",
            )  # fmt: skip

            @one.on("task.succeeded", name="catalogue")
            async def add(event: Event) -> None:
                heard.append((number, event.submission_id))

            return await stack.enter_async_context(one)

        receivers = [await embedded(number) for number in range(3)]
        journal = receivers[0]._started().journal
        tasks = [await receivers[number % 3].imagine(f"boat {number}") for number in range(6)]
        for task in tasks:
            assert (await task.result(timeout=PATIENCE)).type == "task.succeeded"
        await come(lambda: len(heard) == 6)
        await come(lambda: all(one._started().engine_running for one in receivers))
        found = await journal.engines()
        assert sorted(id for _, id in heard) == sorted(task.id for task in tasks)
        assert [item.role for item in found] == ["python"] * 3
        assert [item.leads for item in found] == [True, False, False]
