"""A power cut at every sync of the journal: what was not synced yet is gone, torn, or there in part."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.base import Experiment, Outcome
from experiments.connections import on_disk
from experiments.disks import Operation, watched
from experiments.servers import here
from experiments.stage import CLIENTS, Ledger, callbacks, load, seed

SECTOR = 512
"""Bytes a disk writes as a whole."""
DATABASE = "journal.db"
WAYS = ("lost", "kept", "torn", "some")
"""Fates of unsynced operations: none arrives, all arrive, all arrive but a torn last write, each arrives by chance."""


@dataclass
class Recording:
    """Everything done to the journal's files, in order, and when each callback was acknowledged."""

    before: bytes = b""
    """The journal file as it was on disk at the start."""
    operations: list[Operation] = field(default_factory=list)
    acknowledged: dict[int, int] = field(default_factory=dict)
    """Callback number → operations done by then."""


class RecordedLedger(Ledger):
    """A ledger that also says when."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self._recording = recording

    def note(self, item: Any, status: int, seconds: float) -> None:
        super().note(item, status, seconds)
        if item.number in self.acknowledged:
            self._recording.acknowledged[item.number] = len(self._recording.operations)


class PowerLoss:
    """A real Receiver works on a recorded disk; then images of that disk are made as power cuts could leave it.

    What is replayed: every write, truncate, sync and delete of the journal file and its WAL, by the engine, the
    callbacks and SQLite's checkpoints. SQLite is the one inside APSW, because Python's own offers no VFS; the images
    are read by Python's own.
    """

    name = "power-loss"
    summary = "a power cut at each sync, unsynced writes gone or torn: the journal is whole, with all acknowledged"
    promises = ("P2",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """Receiver as it is: `synchronous = FULL`."""
        return await self._cut(folder, quick=quick, synchronous="FULL")

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """`synchronous = NORMAL`, which syncs at checkpoints only."""
        return await self._cut(folder, quick=quick, synchronous="NORMAL")

    async def _cut(self, folder: Path, *, quick: bool, synchronous: str) -> Outcome:
        begun, recording = time.monotonic(), Recording()
        await self._record(folder, recording, 150 if quick else 1500, synchronous)
        syncs = [at for at, item in enumerate(recording.operations) if item.kind == "sync"]
        every = max(1, len(syncs) // 12) if quick else 1
        found = [
            await asyncio.to_thread(judge, folder / "image", disk, recording, at)
            for at, disk in images(recording, set(syncs[::every]))
        ]
        return Outcome(
            injected=len(found),
            acknowledged=len(recording.acknowledged),
            lost=max(missing for missing, _ in found),
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"images at {len(syncs[::every]):,} of {len(syncs):,} syncs; lost: in the worst of them",
            problem=next((problem for _, problem in found if problem), None),
        )

    async def _record(self, folder: Path, recording: Recording, count: int, synchronous: str) -> None:
        """Clients call back, the engine delivers, and at the end the journal is closed."""
        targets = await seed(folder / "data", count // 11 + CLIENTS)
        recording.before = (folder / "data" / DATABASE).read_bytes()
        instead = {"PRAGMA synchronous = FULL": f"PRAGMA synchronous = {synchronous}"}
        ledger = RecordedLedger(recording)
        with watched(recording.operations.append) as disk, on_disk(disk, instead):
            async with here(folder) as place, load(place.url, callbacks(targets), ledger, clients=8):
                while len(ledger.acknowledged) < count:  # noqa: ASYNC110 - a ledger is no event
                    await asyncio.sleep(0.01)


# The disk


@dataclass
class File:
    """A file: what is on disk for sure, and what was done since its last sync.

    `content` is None where there is no file yet, or no more.
    """

    content: bytes | None = None
    pending: list[Operation] = field(default_factory=list)


def images(recording: Recording, wanted: set[int]) -> Iterator[tuple[int, dict[str, bytes]]]:
    """(operations done, content of each file) for each way a power cut could go at each wanted sync."""
    files = {DATABASE: File(recording.before)}
    chance = random.Random(len(recording.operations))  # noqa: S311 - the same recording gives the same images
    for at, item in enumerate(recording.operations):
        if at in wanted:
            for way in WAYS:
                left = {name: settle(file, way, chance) for name, file in files.items()}
                yield at, {name: content for name, content in left.items() if content is not None}
        file = files.setdefault(item.file, File())
        file.pending.append(item)
        if item.kind == "sync":
            file.content, file.pending = settle(file, "kept", chance), []


def settle(file: File, way: str, chance: random.Random) -> bytes | None:
    """Return what a power cut leaves of a file."""
    content = None if file.content is None else bytearray(file.content)
    for item in survivors(file.pending, way, chance):
        if item.kind == "delete":
            content = None
            continue
        content = bytearray() if content is None else content
        if item.kind == "truncate":
            del content[item.offset :]
        elif item.kind == "write":
            content.extend(bytes(max(0, item.offset - len(content))))
            content[item.offset : item.offset + len(item.data)] = item.data
    return None if content is None else bytes(content)


def survivors(pending: list[Operation], way: str, chance: random.Random) -> list[Operation]:
    """Return the unsynced operations that arrived. A file that is made again was deleted before."""
    if way == "lost":
        last = max((at for at, item in enumerate(pending) if item.kind == "open" and at), default=0)
        return [item for item in pending[:last] if item.kind == "delete"]
    if way == "some":
        return [torn(item, chance) for item in pending if item.kind == "open" or chance.random() < 0.5]
    return [*pending[:-1], torn(pending[-1], chance)] if way == "torn" and pending else pending


def torn(item: Operation, chance: random.Random) -> Operation:
    """A write of which the first sectors arrived."""
    sectors = -(-len(item.data) // SECTOR)
    return item._replace(data=item.data[: SECTOR * chance.randint(0, sectors)]) if item.kind == "write" else item


def judge(folder: Path, disk: dict[str, bytes], recording: Recording, at: int) -> tuple[int, str | None]:
    """(acknowledged by then and not there, what else is wrong) of an image, opened as after the reboot."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, content in disk.items():
        (folder / name).write_bytes(content)
    due = {number for number, done in recording.acknowledged.items() if done <= at}
    with closing(sqlite3.connect(folder / DATABASE)) as db:
        state = db.execute("PRAGMA integrity_check").fetchone()[0]
        there = {json.loads(body)["number"] for (body,) in db.execute("SELECT body FROM callbacks")}
        owing = (
            "SELECT count(*) FROM events WHERE type = 'task.succeeded' AND id NOT IN (SELECT event_id FROM deliveries)"
        )
        halves = db.execute(owing).fetchone()[0]
    problem = f"an image is damaged: {state}" if state != "ok" else None
    return len(due - there), f"{halves} events have no delivery" if halves else problem


EXPERIMENTS: tuple[Experiment, ...] = (PowerLoss(),)
