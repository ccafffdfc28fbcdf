"""One write, flush, sync or rename of the media store and the folder handler fails: each of a run in turn."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builds.replacing import replaced

from experiments.base import Experiment, Outcome
from receiver.clock import Clock
from receiver.errors import MediaError
from receiver.events import Event, Media, event_id, new_id
from receiver.handlers import file
from receiver.handlers.base import Attempt, StoredMedia
from receiver.handlers.file import FileHandler
from receiver.media import MediaStore
from receiver.tasks import Task

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 5000
"""Larger than a block of either, so that it is written in several."""
DIGEST = hashlib.sha256(PICTURE).hexdigest()
ERRORS = (errno.EIO, errno.ENOSPC)
Build = Callable[[], AbstractContextManager[None]]


class Fault:
    """Refuses the `number`-th of all writes, flushes, syncs and renames."""

    def __init__(self, number: int) -> None:
        self.count = 0
        self.injected = 0
        self._number = number

    def step(self, what: str) -> None:
        self.count += 1
        if self.count == self._number:
            self.injected += 1
            code = ERRORS[self._number % len(ERRORS)]
            raise OSError(code, f"{os.strerror(code)} at the {what}")


class _Refusing:
    """A file whose writes and flushes may be refused; of a refused write, half has arrived."""

    def __init__(self, opened: Any, fault: Fault) -> None:
        self._file = opened
        self._fault = fault

    def __enter__(self) -> _Refusing:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        try:
            self._fault.step("write")
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return int(self._file.write(data))

    def flush(self) -> None:
        self._fault.step("flush")
        self._file.flush()


@contextmanager
def refusing(fault: Fault) -> Iterator[None]:
    """Every file that is written while the block runs is on a disk with this fault."""
    path_open, copy, fsync, replace = Path.open, os.copy_file_range, os.fsync, os.replace

    def opened(path: Path, mode: str = "r", *values: Any, **more: Any) -> Any:
        item = path_open(path, mode, *values, **more)
        return _Refusing(item, fault) if mode in ("xb", "wb") else item

    def copied(source: int, target: int, count: int) -> int:
        try:
            fault.step("copy")
        except OSError:
            copy(source, target, count // 2)
            raise
        return copy(source, target, count)

    def synced(descriptor: int) -> None:
        fault.step("fsync")
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        fault.step("rename")
        replace(source, target)

    changes = (Path, "open", opened), (os, "copy_file_range", copied), (os, "fsync", synced), (os, "replace", renamed)
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(replaced(*change))
        yield


@dataclass
class Run:
    """The result of one fault."""

    fault: Fault
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    problem: str | None = None


class FileErrors:
    """The media store keeps a picture, and the folder handler delivers it; whatever failed is done once more, as the
    engine does. The faults are made where both call Python's `open`, `copy_file_range`, `fsync` and `replace`."""

    name = "file-errors"
    summary = "an error at the Nth write, copy, flush, sync or rename: never half a file, and the retry makes it whole"
    promises = ("P3",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        """Every N, quick or not: it takes no time."""
        return await self._each(folder, nullcontext)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Write under the final name of a file."""
        return await self._each(folder, without_draft)

    async def _each(self, folder: Path, build: Build) -> Outcome:
        begun = time.monotonic()
        with build():
            total = (await once(folder / "sound", Fault(0))).fault.count
            runs = [await once(folder / str(number), Fault(number)) for number in range(1, total + 1)]
        return Outcome(
            injected=sum(run.fault.injected for run in runs),
            acknowledged=sum(run.acknowledged for run in runs),
            lost=sum(run.lost for run in runs),
            doubled=sum(run.doubled for run in runs),
            seconds=time.monotonic() - begun,
            notes=f"{total} steps in a run",
            problem=next((run.problem for run in runs if run.problem), None),
        )


async def once(folder: Path, fault: Fault) -> Run:
    """Keep and deliver a picture, each again if it failed."""
    run, store = Run(fault), MediaStore(folder / "media")
    handler = FileHandler(FileHandler.Options(path=folder / "outputs"))
    with ExitStack() as stack:
        stack.enter_context(refusing(fault))
        media = await kept(store, run) or await kept(store, run)
        assert media is not None, "one fault fails once"
        attempt = _attempt(media, store)
        if not await delivered(handler, attempt, run):
            run.problem = _half(folder / "outputs")
            await delivered(handler, attempt, run)
    run.lost += not _whole(store.path(media))
    _count(folder, run)
    return run


async def kept(store: MediaStore, run: Run) -> Media | None:
    """None: refused."""

    async def chunks() -> AsyncIterator[bytes]:
        yield PICTURE

    try:
        media = await store.put(chunks(), url="https://cdn.discordapp.com/boat.png", index=0, max_bytes=len(PICTURE))
    except MediaError:
        return None
    run.acknowledged += 1
    return media


async def delivered(handler: FileHandler, attempt: Attempt, run: Run) -> bool:
    try:
        await handler.deliver(attempt)
    except OSError:
        return False
    run.acknowledged += 1
    return True


def _attempt(media: Media, store: MediaStore) -> Attempt:
    now_ms = Clock().now_ms()
    submission_id = new_id(now_ms)
    event = Event(
        id=event_id(submission_id, "task.succeeded"),
        type="task.succeeded",
        submission_id=submission_id,
        created_ms=now_ms,
        source="poll",
        task_id="1",
        status="SUCCESS",
        progress=100,
        prompt="a paper boat",
        kind="imagine",
        labels={},
        state=None,
        parent_id=None,
        confirmed=True,
        task=Task(id="1", status="SUCCESS", progress=100),
    )
    return Attempt(
        event=event,
        destination="folder",
        number=1,
        idempotency_key=new_id(now_ms),
        deadline=60,
        media=(StoredMedia(media=media, path=store.path(media)),),
        receipts={},
    )


def _whole(path: Path) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == DIGEST


def _half(outputs: Path) -> str | None:
    """A sentence about what a stranger could have taken for a result while it was none."""
    pictures = [path for path in outputs.glob("[!.]*.png") if not _whole(path)]
    pages = [path for path in outputs.glob("[!.]*.json") if not path.read_text().endswith("}\n")]
    alone = list(outputs.glob("[!.]*.json")) and not list(outputs.glob("[!.]*.png"))
    if pictures or pages or alone:
        return f"after a failed attempt the folder showed half of a result: {sorted(os.listdir(outputs))}"
    return None


def _count(folder: Path, run: Run) -> None:
    """Count the files in the end: one picture in the store, one in the folder with its page, and no draft."""
    pictures = list((folder / "outputs").glob("*.png"))
    pages = list((folder / "outputs").glob("*.json"))
    archived = [path for path in (folder / "media").rglob("*") if path.is_file()]
    run.lost += (not any(map(_whole, pictures))) + (not pages)
    run.doubled += sum(max(len(found) - 1, 0) for found in (pictures, pages, archived))
    if left := list(folder.rglob("*.part")):
        run.problem = f"a draft was left behind: {left[0].name}"


def without_draft() -> AbstractContextManager[None]:
    """Files grow under their own names, and what is there counts as done."""

    def careless(path: Path, draft: Path, digest: str, size: int, write: Callable[[Any], object]) -> None:
        if path.exists():
            return
        with path.open("xb") as opened:
            write(opened)

    return replaced(file, "_write_once", careless)


EXPERIMENTS: tuple[Experiment, ...] = (FileErrors(),)
