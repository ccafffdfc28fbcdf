"""Storage that refuses for a while: a full disk, and a journal locked by another process."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

from experiments.base import Experiment, Outcome
from experiments.servers import Server, server
from experiments.stage import (
    PATIENCE,
    Ledger,
    callbacks,
    delivered,
    doubled,
    http_client,
    load,
    lost,
    results,
    seed,
)

DISK = 24 * 1024 * 1024
ROOM = 3 * 1024 * 1024
"""Bytes left for Receiver on a disk that is otherwise full."""
COUNT = 1500
"""Tasks that call back eleven times each."""
RECOVERY = 10.0
"""Seconds within which Receiver must go on by itself once the storage works."""
LONGEST = 12.0
"""Seconds an answer may take while the journal is locked: SQLite waits 10 s for a lock."""


class DiskFull:
    """A small disk of its own (a tmpfs; without the right to mount one, a limit on the size of files, at which writes
    fail as I/O errors), filled by the callbacks; then space is freed."""

    name = "disk-full"
    summary = "the journal's disk is full: no 200 without a row, 503, and it goes on by itself when there is space"
    promises = ("P2",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._fill(folder, seconds=1 if quick else 10, build=None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Acknowledge what the journal refused."""
        return await self._fill(folder, seconds=1 if quick else 10, build="acknowledge-failures")

    async def _fill(self, folder: Path, *, seconds: float, build: str | None) -> Outcome:
        data = folder / "data"
        with small_disk(data) as mounted:
            filler = data / "filler"

            async def fill(item: Server) -> None:
                if mounted:
                    filler.write_bytes(bytes(shutil.disk_usage(data).free - ROOM))
                else:
                    limit_files(item.pid, (data / "journal.db-wal").stat().st_size + ROOM // 4)
                await until_unready(item)
                if mounted:  # it is unready before the last byte, and a slow server would not fill the rest
                    with suppress(OSError), filler.open("ab") as file:
                        file.write(bytes(shutil.disk_usage(data).free))
                await asyncio.sleep(seconds)

            async def free(item: Server) -> None:
                filler.unlink() if mounted else limit_files(item.pid, resource.RLIM_INFINITY)

            how = "a full tmpfs" if mounted else "a limit on the size of files"
            return await refusing(folder, COUNT, fill, free, build=build, how=how)


class Locked:
    """Another process holds the journal's write lock, as a backup tool or a forgotten shell may."""

    name = "locked"
    summary = "another process locks the journal for 12 s: late 200 or 503, nothing lost, and it goes on by itself"
    promises = ("P2",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """Quick: for 3 s, which SQLite waits out."""
        return await self._lock(folder, seconds=3 if quick else 12, build=None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Wait half a second for the lock, then acknowledge what could not be written."""
        return await self._lock(folder, seconds=3, build="acknowledge-locked")

    async def _lock(self, folder: Path, *, seconds: float, build: str | None) -> Outcome:
        code = (
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=30); db.execute('BEGIN IMMEDIATE'); "
            "print('locked', flush=True); input()"
        )
        async with AsyncExitStack() as stack:

            async def lock(item: Server) -> None:
                command = [sys.executable, "-c", code, str(folder / "data" / "journal.db")]
                await stack.enter_async_context(other_process(command))
                await asyncio.sleep(seconds)

            async def release(item: Server) -> None:
                await stack.aclose()

            return await refusing(folder, COUNT, lock, release, build=build, how=f"locked for {seconds:g} s")


Step = Callable[[Server], Awaitable[None]]


async def refusing(folder: Path, count: int, begin: Step, end: Step, *, build: str | None, how: str) -> Outcome:
    """Clients call back before, while and after the storage refuses; then everything acknowledged must be there."""
    begun, ledger, data = time.monotonic(), Ledger(), folder / "data"
    targets = await seed(data, count)
    async with server(folder, build=build) as item:
        await item.start()
        async with load(item.url, callbacks(targets), ledger, clients=8):
            await asyncio.sleep(0.5)
            await begin(item)
            refused = ledger.answers[503]
            before = len(ledger.acknowledged)
            await end(item)
            recovery = await until_more(ledger, before)
            await asyncio.sleep(0.5)
        await item.ready()
        await delivered(data)
    there = results(folder / "outputs")
    return Outcome(
        injected=1,
        acknowledged=len(ledger.acknowledged),
        lost=lost(data, ledger) + len(ledger.ended - there.keys()),
        doubled=doubled(data) + sum(times - 1 for times in there.values()),
        seconds=time.monotonic() - begun,
        notes=f"{how}: {refused:,} answered 503; the next one kept {recovery:.1f} s after",
        problem=_problem(ledger, recovery),
    )


def _problem(ledger: Ledger, recovery: float) -> str | None:
    if ledger.answers.keys() - {200, 202, 503} or ledger.broken:
        return f"clients got {dict(ledger.answers)} and {ledger.broken} broken connections"
    if recovery > RECOVERY:
        return f"it took {recovery:.1f} s to go on once the storage worked"
    slowest = max(ledger.slowest.values())
    return f"an answer took {slowest:.1f} s" if slowest > LONGEST else None


async def until_more(ledger: Ledger, before: int) -> float:
    """Seconds until another callback was acknowledged."""
    begun = time.monotonic()
    while len(ledger.acknowledged) <= before:
        if time.monotonic() - begun > PATIENCE:
            raise RuntimeError(f"It has not gone on {PATIENCE:g} s after the storage worked again.")
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


async def until_unready(item: Server) -> None:
    """Until `/readyz` says 503."""
    async with asyncio.timeout(PATIENCE), http_client(item.url) as http:
        while (await http.get("/readyz")).status_code == 200:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


@asynccontextmanager
async def other_process(command: list[str]) -> AsyncIterator[None]:
    """A process that has said something, and is killed at the end of the block: the system takes its locks away."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        assert process.stdout is not None
        if not await process.stdout.readline():
            raise RuntimeError("The process that should do harm has ended; what it says is above.")
        yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of its own at `folder`; False: we may not mount one, so it is an ordinary folder."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "receiver-experiments", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def limit_files(pid: int, size: int) -> None:
    """Let no file of a process grow beyond `size` bytes."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


EXPERIMENTS: tuple[Experiment, ...] = (DiskFull(), Locked())
