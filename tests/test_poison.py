"""Deliveries that end the process they run in, in a real `receiver worker`: each harms only itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

from journals import NOW, submission
from servers import Command
from test_journal import owe

from receiver.deliveries import Delivery
from receiver.journal import Journal
from receiver.journal.sqlite import open_store

PLUGIN = """
import asyncio, os, time
from receiver.deliveries import Receipt
from receiver.handlers.base import HandlerOptions

class Poison:
    name, summary, schemes = "poison", "For tests.", ("poison",)
    class Options(HandlerOptions): ...

    @staticmethod
    def options_from_url(url):
        return {}

    def __init__(self, options): ...

    async def deliver(self, attempt):
        if attempt.event.prompt == "exit":
            os._exit(3)
        while attempt.event.prompt == "loop":
            time.sleep(1)
        await asyncio.sleep(0.05)
        return Receipt(ref="made")

    async def aclose(self): ...
"""
ENV = {
    "COMETAPI_KEY": "sk-0123456789",
    "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9",
    "RECEIVER_KEYS": "k" * 32,
    "RECEIVER_DESTINATIONS__A__HANDLER": "poison",
    "RECEIVER_DESTINATIONS__B__HANDLER": "poison",
    "PYTHONPATH": "site",
}
POISON = 3
"""Number of the poisonous one of twelve."""


def prepare(folder: Path, poison: str) -> None:
    """Install the handler, and make twelve deliveries due: six to each destination, one of them poison."""
    info = folder / "site" / "receiver_poison-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: receiver-poison\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[receiver.handlers]\npoison = receiver_poison:Poison\n")
    (folder / "site" / "receiver_poison.py").write_text(PLUGIN)
    asyncio.run(_fill(folder, poison))


async def _fill(folder: Path, poison: str) -> None:
    journal = Journal(await open_store(folder / ".receiver/journal.db"))
    await journal.register({"a": "poison", "b": "poison"})
    for number in range(1, 13):
        prompt = poison if number == POISON else "a boat"
        row = submission(number, status="refused", send_due_ms=None, prompt=prompt)
        await journal.add(row)
        await owe(journal, row, "task.failed", number, destination="a" if number <= 6 else "b", due_ms=NOW + number)
    await journal.aclose()


def deliveries(folder: Path) -> dict[int, Delivery]:
    async def read() -> list[Delivery]:
        journal = Journal(await open_store(folder / ".receiver/journal.db"))
        try:
            return await journal.deliveries(limit=50)
        finally:
            await journal.aclose()

    return {int(item.id[10:]): item for item in asyncio.run(read())}


def run(folder: Path) -> tuple[int, str]:
    """Run a worker until it ends by itself."""
    with Command("worker", folder=folder, env=ENV) as command:
        result = command.wait()
    return result.code, result.err


def test_a_handler_that_ends_the_process(tmp_path: Path) -> None:
    """It costs the poison a failure each time, and the company of the first time one. The second worker delivers all
    the rest or ends in the poison alone, the third delivers what is left."""
    prepare(tmp_path, "exit")
    assert run(tmp_path)[0] == 3
    assert run(tmp_path)[0] == 3
    suspects = deliveries(tmp_path)
    assert (suspects[POISON].status, suspects[POISON].failures, suspects[POISON].attempt) == ("running", 1, 2)
    assert run(tmp_path)[0] == 3
    found = deliveries(tmp_path)
    poison = found.pop(POISON)
    assert (poison.status, poison.failures, poison.attempt) == ("running", 2, 3)
    assert {item.status for item in found.values()} == {"succeeded"}
    assert all(item.failures <= 1 and item.attempt <= 2 for item in found.values())


def test_a_handler_that_never_gives_the_loop_back(tmp_path: Path) -> None:
    """The watchdog ends the worker after eight seconds and writes where it stood. Then it goes on as above."""
    prepare(tmp_path, "loop")
    for failures in (0, 1):
        code, err = run(tmp_path)
        assert code == 1
        assert "Timeout (0:00:08)!" in err
        assert "receiver_poison.py" in err
        found = deliveries(tmp_path)
        poison = found.pop(POISON)
        assert (poison.status, poison.failures, poison.attempt) == ("running", failures, failures + 1)
    assert all(item.failures <= 1 and item.attempt <= 2 for item in found.values())
