"""`/livez` and `/readyz` over real HTTP, with a real journal and media folder behind them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from servers import serving
from waiting import PATIENCE

from receiver.clock import Clock
from receiver.errors import JournalError
from receiver.intake import Intake, Policy
from receiver.journal import Journal
from receiver.journal.sqlite import open_store
from receiver.media import MediaStore
from receiver.tokens import Tokens
from receiver.web.admission import Admission
from receiver.web.app import create_app
from receiver.web.callbacks import Callbacks
from receiver.web.health import Check, Readyz


@dataclass(frozen=True)
class House:
    """A running server, and what its health depends on."""

    client: httpx.AsyncClient
    journal: Journal
    folder: Path


@contextlib.asynccontextmanager
async def running(journal: Journal, checks: dict[str, Check]) -> AsyncIterator[httpx.AsyncClient]:
    clock = Clock()
    intake = Intake(journal, policy=Policy(), routes=(), clock=clock, changed=lambda row: None)
    tokens = Tokens(["k" * 32], max_age=60, clock=clock)
    callbacks = Callbacks(intake=intake, tokens=tokens, admission=Admission(journal.check))
    app = create_app(callbacks=callbacks, readyz=Readyz(checks, timeout=0.3))
    async with serving(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    journal = Journal(await open_store(tmp_path / "journal.db"))
    store = MediaStore(tmp_path / "media")
    try:
        async with running(journal, {"journal": journal.check, "media": store.check}) as client:
            yield House(client, journal, tmp_path)
    finally:
        await journal.aclose()


async def test_all_well(house: House) -> None:
    """Both answer 200."""
    assert (await house.client.get("/livez")).text == "ok"
    ready = await house.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "journal": "ok", "media": "ok"}


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_head(house: House, path: str) -> None:
    """HEAD answers like GET, without a body."""
    response = await house.client.head(path)
    assert (response.status_code, response.content) == (200, b"")


async def test_media_folder_unusable(house: House) -> None:
    """Without its media folder Receiver is alive but not ready, says why, and is ready again with it."""
    media = house.folder / "media"
    await house.client.get("/readyz")
    media.rmdir()
    media.write_text("a file where the folder should be")
    response = await house.client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["ready"] is False
    assert response.json()["journal"] == "ok"
    assert response.json()["media"] == "The media store cannot be used. Receiver's log says why."
    assert (await house.client.get("/livez")).status_code == 200
    media.unlink()
    assert (await house.client.get("/readyz")).status_code == 200


async def test_journal_closed(house: House) -> None:
    """Without its journal Receiver is not ready."""
    await house.journal.aclose()
    response = await house.client.get("/readyz")
    assert response.status_code == 503
    assert "journal" in response.json()["journal"]
    assert response.json()["media"] == "ok"


async def test_journal_locked(house: House) -> None:
    """While another connection holds the journal's write lock, the answer is a quick 503, and 200 afterwards."""
    with contextlib.closing(sqlite3.connect(house.folder / "journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(PATIENCE):
            response = await house.client.get("/readyz")
        assert response.status_code == 503
        assert response.json() == {"ready": False, "journal": "It has not answered within 0.3 s.", "media": "ok"}
        other.execute("ROLLBACK")
    await house.journal.check()
    assert (await house.client.get("/readyz")).status_code == 200


async def test_checks_run_side_by_side(house: House) -> None:
    """Checks that hang or fail are shown within the time of one."""

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def fails() -> None:
        raise JournalError("It is broken.")

    async with (
        running(house.journal, {"one": hangs, "two": hangs, "three": fails}) as client,
        asyncio.timeout(PATIENCE),
    ):
        found = (await client.get("/readyz")).json()
    late = "It has not answered within 0.3 s."
    assert found == {
        "ready": False,
        "one": late,
        "two": late,
        "three": "The journal cannot be used. Receiver's log says why.",
    }


async def test_fault_in_a_check(house: House) -> None:
    """A fault of ours is a 500 as a problem, without its traceback."""

    async def broken() -> None:
        raise RuntimeError("secret detail")

    async with running(house.journal, {"one": broken}) as client:
        response = await client.get("/readyz")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret detail" not in response.text
