"""Parts of most experiments: accepted submissions, callbacks for them over real HTTP, and a ledger of what was
acknowledged, to be compared with the journal's rows."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from receiver.clock import Clock
from receiver.events import Submission, new_id
from receiver.journal import Journal
from receiver.journal.sqlite import open_store
from receiver.tokens import Tokens

ROOT = Path(__file__).resolve().parent.parent.parent
PAYLOAD = ROOT / "tests" / "payloads" / "callback_13_csharp_success.json"
KEY = "a-key-of-the-experiments-alone-of-32-bytes-or-more"
CLIENTS = 16
STEPS = 10
"""Progress callbacks of a task, 10 % apart; then comes its end."""
HOUR = 3600.0
PATIENCE = 30.0
"""Limit in seconds for something that should happen."""
START = 60.0
"""The same for a start of Receiver, also of several at once on a busy machine."""


@dataclass(frozen=True)
class Target:
    """A submission that callbacks can come for."""

    id: str
    url_token: str
    state_token: str
    task_id: str


async def seed(
    data: Path, count: int, *, deadline: float = HOUR, prompts: Mapping[int, str] | None = None
) -> list[Target]:
    """Journal submissions that the provider has accepted and not called back yet.

    Args:
        data: the folder of the journal.
        count: of submissions.
        deadline: of each, in seconds from now.
        prompts: of some, by number.
    """
    journal = Journal(await open_store(data / "journal.db"))
    return await sow(journal, count, deadline=deadline, prompts=prompts)


async def sow(
    journal: Journal, count: int, *, deadline: float = HOUR, prompts: Mapping[int, str] | None = None
) -> list[Target]:
    """Do the same in any journal, and close it."""
    try:
        rows = [accepted(number, deadline=deadline, prompt=(prompts or {}).get(number)) for number in range(count)]
        await asyncio.gather(*map(journal.add, rows))
    finally:
        await journal.aclose()
    tokens = Tokens([KEY], max_age=HOUR, clock=Clock())
    return [Target(row.id, tokens.url_token(row.id), tokens.state_token(row.id), row.task_id or "") for row in rows]


def accepted(number: int, *, deadline: float = HOUR, prompt: str | None = None) -> Submission:
    now_ms = Clock().now_ms()
    prompt = prompt or f"a paper boat {number}"
    return Submission(
        id=new_id(now_ms),
        kind="shorten",  # its result is a text: a SUCCESS without a link is its end
        created_ms=now_ms,
        prompt=prompt,
        request={"prompt": prompt},
        hooked=True,
        status="accepted",
        outcome="accepted",
        sends=1,
        task_id=f"17733149421{number:05}",
        deadline_ms=now_ms + int(deadline * 1000),
    )


# Callbacks and their answers


@dataclass(frozen=True)
class Callback:
    """One callback; its number is in its body, where the journal keeps it."""

    number: int
    target: Target
    final: bool
    body: bytes


def callbacks(targets: Iterable[Target], *, steps: int = STEPS) -> Iterator[Callback]:
    """Yield the callbacks of each task: its progress, then its end, which has no picture to download."""
    task = json.loads(PAYLOAD.read_text()) | {"imageUrl": None, "imageUrls": None}
    numbers = itertools.count(1)
    for target in targets:
        for step in range(steps + 1):
            number, final = next(numbers), step == steps
            told = {"id": target.task_id, "state": target.state_token, "number": number}
            told |= {"status": "SUCCESS" if final else "IN_PROGRESS", "progress": f"{100 * step // steps}%"}
            yield Callback(number, target, final, json.dumps(task | told).encode())


@dataclass
class Ledger:
    """The answers that the clients got."""

    acknowledged: set[int] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    """Submissions whose end was acknowledged."""
    answers: Counter[int] = field(default_factory=Counter)
    """By status."""
    broken: int = 0
    """Connections refused or broken off."""
    slowest: dict[int, float] = field(default_factory=dict)
    """Seconds, by status."""
    times: list[float] = field(default_factory=list)
    """Time of each acknowledgement, by the monotonic clock."""

    def note(self, item: Callback, status: int, seconds: float) -> None:
        self.answers[status] += 1
        self.slowest[status] = max(self.slowest.get(status, 0), seconds)
        if 200 <= status < 300:
            self.acknowledged.add(item.number)
            self.times.append(time.monotonic())
            if item.final:
                self.ended.add(item.target.id)


class _Transport(httpx.AsyncHTTPTransport):
    """Reports a server that died as it accepted. There anyio asks for the peer of a socket that uvloop has dropped."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except AttributeError as exc:
            if "getpeername" not in str(exc):
                raise
            raise httpx.ConnectError("The connection was reset while it opened.", request=request) from exc


def http_client(url: str) -> httpx.AsyncClient:
    """Return a client without certificates, which take longer to read than Receiver takes to start."""
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE, transport=_Transport(verify=False))


async def post(http: httpx.AsyncClient, item: Callback, ledger: Ledger) -> int | None:
    """Send a callback once, as the provider does. Return the status; None: there was no answer."""
    begun = time.monotonic()
    headers = {"Content-Type": "application/json"}
    try:
        answer = await http.post(f"/callbacks/{item.target.url_token}", content=item.body, headers=headers)
    except httpx.TransportError:
        ledger.broken += 1
        return None
    ledger.note(item, answer.status_code, time.monotonic() - begun)
    return answer.status_code


async def send_all(url: str, items: Iterator[Callback], ledger: Ledger, *, clients: int = CLIENTS) -> None:
    """Send every callback once, by some clients at a time."""
    await asyncio.gather(*(_client(url, items, ledger, asyncio.Event()) for _ in range(clients)))


@asynccontextmanager
async def load(url: str, items: Iterator[Callback], ledger: Ledger, *, clients: int = CLIENTS) -> AsyncIterator[None]:
    """Send callbacks while the block runs. Requests under way at its end are still waited for."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(url, items, ledger, stop))
        try:
            yield
        finally:
            stop.set()
    if next(items, None) is None:
        raise RuntimeError("There were too few callbacks for this experiment.")


async def _client(url: str, items: Iterator[Callback], ledger: Ledger, stop: asyncio.Event) -> None:
    async with http_client(url) as http:
        for item in items:
            if await post(http, item, ledger) in (None, 503):
                await asyncio.sleep(0.1)  # the server is down or in trouble: fewer are enough
            if stop.is_set():
                return


# The journal afterwards


def rows(data: Path, statement: str, values: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """Return rows of the journal's file, as any program can read them."""
    with closing(sqlite3.connect(data / "journal.db", timeout=PATIENCE)) as db:
        return db.execute(statement, values or {}).fetchall()


def kept(data: Path) -> Counter[int]:
    """Return how often each callback is in the journal, by its number."""
    return Counter(json.loads(body)["number"] for (body,) in rows(data, "SELECT body FROM callbacks"))


def lost(data: Path, ledger: Ledger) -> int:
    """Return the number of acknowledged callbacks that are not in the journal."""
    return len(ledger.acknowledged - kept(data).keys())


def doubled(data: Path) -> int:
    """Return the number of surplus rows. Each callback was sent once."""
    return sum(count - 1 for count in kept(data).values())


async def delivered(data: Path, seconds: float = PATIENCE) -> None:
    """Wait until nothing is owed. Raise RuntimeError after so many seconds."""
    until = time.monotonic() + seconds
    statement = "SELECT count(*) FROM deliveries WHERE status IN ('pending', 'running')"
    while left := rows(data, statement)[0][0]:
        if time.monotonic() > until:
            raise RuntimeError(f"After {seconds:g} s {left} deliveries are still owed.")
        await asyncio.sleep(0.1)


def results(outputs: Path) -> Counter[str]:
    """Return how many results of each submission are in the folder."""
    found = (json.loads(path.read_text()) for path in outputs.glob("*.json"))
    return Counter(record["lineage"]["submission"] for record in found if record["event"]["type"] == "task.succeeded")
