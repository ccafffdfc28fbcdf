"""A process that ends at each step of the folder handler, one after the other. Run by `experiments.effects`.

usage: python -m experiments.crashing FOLDER BUILD EVERY     BUILD: real, or in-place (writes under the final name);
EVERY: 1 for each step, 2 for every second one …

A step is a call of a function that touches the disk, from the handler's modules, before it and after it. Each kills a
process of its own, forked from here, so that nothing is cleaned up. Then the same attempt is made again, as the next
engine would. Says on standard output, as JSON, what was visible in between and at the end of each.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

import msgspec

from receiver.handlers import file
from receiver.handlers.base import Attempt, StoredMedia
from receiver.handlers.file import FileHandler
from receiver.testing import make_attempt, make_media

MODULES = (
    "/receiver/handlers/file.py", "/receiver/handlers/result_files.py", "/receiver/disk.py", "/pathlib.py",
    "/contextlib.py",
)  # fmt: skip
CALLS = frozenset(
    {"open", "fdopen", "flock", "write", "copy_file_range", "flush", "fsync", "replace", "unlink", "mkdir", "close"}
)
KILLED = 9
PADDING = 2_500_000
"""Bytes behind a picture's end, so that it is written in several steps."""


@dataclass(frozen=True)
class Seen:
    """The files after a crash, and after the attempt that follows it."""

    step: str
    half: list[str]
    missing: list[str]
    left: list[str]


def main() -> None:
    folder, build, every = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if build == "in-place":
        file._write_once = in_place
    print(json.dumps([asdict(seen) for seen in crashes(folder, every)]))


def crashes(folder: Path, every: int) -> Iterator[Seen]:
    """A crash at each step, until an attempt ends before the next one."""
    media = large(folder / "media")
    attempt = make_attempt(folder, pictures=len(media), media=media)
    asyncio.run(deliver(folder / "whole", attempt))
    whole = files(folder / "whole")
    for number in itertools.count(1, every):
        outputs = folder / f"outputs-{number}"
        name = die_at(number, outputs, attempt)
        if name is None:
            return
        between = files(outputs)
        asyncio.run(deliver(outputs, replace(attempt, number=2)))
        after = files(outputs)
        yield Seen(
            step=f"{number} {name}",
            half=[name for name, data in between.items() if not name.startswith(".") and whole.get(name) != data],
            missing=[name for name in whole if after.get(name) != whole[name]],
            left=[name for name in after if name not in whole],
        )


def die_at(number: int, outputs: Path, attempt: Attempt) -> str | None:
    """Make the attempt in a process that ends at a step. Return the step's name. None: there are fewer steps."""
    told, tell = os.pipe()
    if not (child := os.fork()):
        os.close(told)
        threading.setprofile(killer(number, tell))
        asyncio.run(deliver(outputs, attempt))
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as stream:
        name = stream.read()
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    if ended not in (0, KILLED):
        raise RuntimeError(f"The attempt of step {number} ended with {ended}.")
    return name if ended == KILLED else None


def killer(number: int, tell: int) -> Any:
    """Counts the steps of the handler's threads, and ends the process at one."""
    steps = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal steps
        if event not in ("c_call", "c_return") or argument.__name__ not in CALLS:
            return
        if not frame.f_code.co_filename.endswith(MODULES) or isinstance(argument.__self__, str):  # text.replace
            return
        steps += 1
        if steps == number:
            os.write(tell, f"{'before' if event == 'c_call' else 'after'} {argument.__name__}".encode())
            os._exit(KILLED)

    return profile


async def deliver(outputs: Path, attempt: Attempt) -> None:
    handler = FileHandler(FileHandler.Options(path=outputs))
    await handler.deliver(attempt)
    await handler.aclose()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def large(folder: Path) -> tuple[StoredMedia, ...]:
    """Two pictures of several blocks."""
    grown = []
    for item in make_media(folder, 2):
        data = item.path.read_bytes() + bytes(PADDING)
        item.path.write_bytes(data)
        media = msgspec.structs.replace(item.media, digest=hashlib.sha256(data).hexdigest(), size=len(data))
        grown.append(replace(item, media=media))
    return tuple(grown)


def in_place(path: Path, draft: Path, digest: str, size: int, write: Callable[[BinaryIO], object]) -> None:
    """The control: no draft, no rename."""
    with path.open("wb") as stream:
        write(stream)


if __name__ == "__main__":
    main()
