"""Foreign pictures: tiles, smaller copies and thumbnails, made by a child process for each (`program.py`).

A decoder is the largest thing that a hostile file can reach. The child process has limits on pixels, scans, memory and
time, and its end is no end of ours. Two run at a time. A picture that waits for them holds up no other work.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO
from weakref import WeakKeyDictionary

from receiver.disk import in_thread
from receiver.errors import MediaError
from receiver.extras import install
from receiver.telemetry import Log

AVAILABLE = find_spec("PIL") is not None
"""True if the extra `images` is installed."""
AT_ONCE = 2
"""Child processes at a time."""
PROCESSOR_SECONDS, SECONDS = 10, 30
"""Limits of one picture: processor time, and time. The largest picture of Midjourney takes about 4 s."""
MEMORY = 512 * 1024 * 1024
"""Limit of one child process: a picture of 25 million pixels, twice, and the program."""
PROGRAM = Path(__file__).with_name("program.py")
_REFUSED, _FAILED = 3, 64  # exit statuses of the program
_DONE = {"tiles": "cut into tiles", "smaller": "made smaller", "thumbnail": "made into a thumbnail"}

log = Log("receiver.media")

_places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
"""The limit on processes, for each event loop of this process."""


@asynccontextmanager
async def tiles(path: Path) -> AsyncIterator[Iterator[bytes]]:
    """Yield the quarters of a picture as PNG, upright and without loss, in reading order. Read them in a thread.

    Raises:
        MediaError: permanent. It cannot be decoded, or the limits forbid it.
        OSError: the file cannot be read, or its disk is full.
    """
    async with _results("tiles", path) as found:
        yield found


async def smaller_copy(path: Path, limit: int) -> bytes:
    """Return the picture as an upright JPEG of at most `limit` bytes, as good as that allows. Raise as `tiles`."""
    async with _results("smaller", path, limit) as found:
        return next(found)


async def thumbnail(path: Path) -> bytes:
    """Return the picture as an upright WebP of at most 640 × 640 pixels. Raise as `tiles`."""
    async with _results("thumbnail", path) as found:
        return next(found)


@asynccontextmanager
async def _results(operation: str, path: Path, *numbers: int) -> AsyncIterator[Iterator[bytes]]:
    if not AVAILABLE:
        raise MediaError(f"To decode pictures, Pillow is needed: {install('images')}", permanent=True)
    places = _places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))
    # The file has no name, so that nothing is left of it wherever we end. Where the picture is we can write.
    with await in_thread(lambda: tempfile.TemporaryFile(dir=path.parent)) as file:
        async with places:
            status = await _run(file, operation, str(path), PROCESSOR_SECONDS, SECONDS, MEMORY, *numbers)
        file.seek(0)
        if status >= _FAILED:
            raise OSError(status - _FAILED, os.strerror(status - _FAILED), str(path))
        if status != 0:
            reason = _reason(status, file)
            log.warning("picture.refused", operation=operation, path=str(path), reason=reason)
            raise MediaError(f"The picture was not {_DONE[operation]}: {reason}.", permanent=True)
        yield _read(file)


async def _run(results: BinaryIO, *arguments: str | int) -> int:
    """Run the program. Return its exit status, or minus the signal that ended it. It never outlives this call."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-S", str(PROGRAM), *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL, stdout=results, stderr=asyncio.subprocess.DEVNULL,
        env=_environment(), start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS):
            return await process.wait()
    except TimeoutError:
        return -signal.SIGKILL
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    """Return variables for Python to find Pillow as we do. None of our secrets is among them."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}


def _reason(status: int, file: BinaryIO) -> str:
    if status == _REFUSED:
        *_, reason = _read(file)
        return reason.decode()
    if -status in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL):
        return f"decoding it takes more than {PROCESSOR_SECONDS} s of processor time, or {SECONDS} s"
    return f"its decoder ended with {status}"


def _read(file: BinaryIO) -> Iterator[bytes]:
    """Yield the results that the program wrote."""
    while length := file.read(4):
        yield file.read(int.from_bytes(length, "big"))
