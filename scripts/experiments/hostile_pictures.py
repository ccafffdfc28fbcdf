"""Pictures that are made to be decoded for ever, in front of good ones."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from experiments.base import Experiment, Outcome
from experiments.bounds import ANSWER, plain_answer
from experiments.kills import BUSY
from experiments.servers import Server, served, server
from experiments.shutdown import DRAIN_SECONDS
from experiments.sizes import GROWTH, peak_memory
from experiments.stage import PATIENCE, Callback, Ledger, Target, callbacks, http_client, post, rows, seed

WITHIN = 10.0
"""Seconds within which a good picture is delivered with its tiles."""
GOOD = 8
HOSTILE = ("scans", "deep", "bomb", "garbled")
WAITS = (
    "SELECT submission_id, finished_ms - created_ms FROM deliveries WHERE status = 'succeeded' AND submission_id IN "
    "(SELECT value FROM json_each(:good))"
)


class HostilePictures:
    """Hostile pictures and good ones go to a folder with tiles. SIGTERM comes while hostile ones are decoded."""

    name = "hostile-pictures"
    summary = "20,000 scans, 25 megapixels of 16 bits, a bomb: good tiles come within 10 s, and SIGTERM ends in 10 s"
    promises = ("P5", "P8", "P9")

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._send(folder, 1 if quick else 3, build=None)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Decode in a thread of the server under one lock, without limits."""
        return await self._send(folder, 1, build="decode-inside")

    async def _send(self, folder: Path, times: int, *, build: str | None) -> Outcome:
        begun, ledger, data = time.monotonic(), Ledger(), folder / "data"
        hostile = HOSTILE * times
        targets = await seed(data, len(hostile) + GOOD + 2)
        names = [*hostile, *["good"] * GOOD, "scans", "deep"]
        async with served(origin(pictures())) as url:
            ends = results(targets, [f"{url}/{name}" for name in names])
            good = {end.target.id for end, name in zip(ends, names, strict=True) if name == "good"}
            album = {
                "RECEIVER_TO": "",
                "RECEIVER_MEDIA_HOSTS": url,
                "RECEIVER_DESTINATIONS__ALBUM__HANDLER": "file",
                "RECEIVER_DESTINATIONS__ALBUM__PATH": str(folder / "outputs"),
                "RECEIVER_DESTINATIONS__ALBUM__TILES": "true",
            }
            async with server(folder, build=build, **album) as item:
                await item.start()
                async with http_client(item.url) as http:
                    limit = max(ANSWER, BUSY * await plain_answer(http))
                before = peak_memory(item.pid)
                await send(item, ends[: len(hostile)], ledger)
                await archived(data, len(HOSTILE))
                await send(item, ends[len(hostile) : -2], ledger)
                waits = await delivered(data, good, WITHIN + 1)
                grown = peak_memory(item.pid) - before
                await send(item, ends[-2:], ledger)
                await asyncio.sleep(1)  # they are archived already
                ending = await stop(item)
        late = GOOD - sum(seconds <= WITHIN for seconds in waits)
        whole = sum(
            len(record["media"]) == 5
            for record in records(folder / "outputs")
            if record["lineage"]["submission"] in good
        )
        slowest = max(ledger.slowest.values())
        problems = {
            f"{late} of {GOOD} good pictures came later than {WITHIN:g} s": late > 0,
            f"{GOOD - whole} of {GOOD} good pictures came without tiles": whole < GOOD,
            f"a callback was answered after {slowest:.1f} s": slowest > limit,
            f"SIGTERM took {ending:.1f} s": ending > DRAIN_SECONDS,
            f"memory grew by {grown:.0f} MB": grown > GROWTH,
        }
        return Outcome(
            injected=len(hostile) + 2,
            acknowledged=len(ledger.acknowledged),
            lost=0,
            doubled=0,
            seconds=time.monotonic() - begun,
            notes=f"good within {max(waits, default=0):.1f} s; SIGTERM {ending:.1f} s; memory + {grown:.0f} MB",
            problem="; ".join(text for text, broken in problems.items() if broken) or None,
        )


def pictures() -> Mapping[str, bytes]:
    """Return the files by name. The hostile ones have at most 2 MB."""
    flat = saved(Image.new("RGB", (4800, 4800), (120, 130, 140)), "JPEG", progressive=True)
    scan = flat.rindex(b"\xff\xda")
    good = saved(Image.effect_noise((512, 512), 90).convert("RGB"), "PNG")
    return {
        "scans": flat[:scan] + flat[scan:-2] * 20_000 + flat[-2:],
        "deep": png(5000, 5000, depth=16),
        "bomb": png(60_000, 20_000, depth=1),
        "garbled": good[: len(good) // 2] + bytes(range(256)) * 16,
        "good": good,
    }


def saved(picture: Image.Image, format: str, **options: bool) -> bytes:
    held = io.BytesIO()
    picture.save(held, format, **options)
    return held.getvalue()


def png(width: int, height: int, *, depth: int) -> bytes:
    """Return a black picture, of 16 bits in three colours or of one bit."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    row = bytes(1 + (width * 6 if depth == 16 else width // 8))
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, 2 if depth == 16 else 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def origin(files: Mapping[str, bytes]) -> Starlette:
    async def answer(request: Request) -> Response:
        return Response(files[request.path_params["name"]])

    return Starlette(routes=[Route("/{name}", answer)])


def results(targets: list[Target], links: list[str]) -> list[Callback]:
    """Return the last callback of each target, with its picture's link."""
    ends = [item for item in callbacks(targets, steps=1) if item.final]
    bodies = [json.loads(end.body) | {"imageUrl": link} for end, link in zip(ends, links, strict=True)]
    return [dataclasses.replace(end, body=json.dumps(body).encode()) for end, body in zip(ends, bodies, strict=True)]


async def send(item: Server, ends: list[Callback], ledger: Ledger) -> None:
    async with http_client(item.url) as http:
        await asyncio.gather(*(post(http, end, ledger) for end in ends))


async def stop(item: Server) -> float:
    """Return the seconds until SIGTERM has ended it, at most one more than are allowed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS + 1):
            return await item.stop()
    return DRAIN_SECONDS + 1


async def archived(data: Path, count: int) -> None:
    """Wait until so many files are in the archive, and their deliveries have begun."""
    until = time.monotonic() + PATIENCE
    while len(list((data / "media").glob("*/*.*"))) < count:
        if time.monotonic() > until:
            raise RuntimeError("The hostile pictures were not archived.")
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)


async def delivered(data: Path, good: set[str], seconds: float) -> list[float]:
    """Wait for the good ones, or for so long. Return the seconds from callback to receipt of those that came."""
    until = time.monotonic() + seconds
    values = {"good": json.dumps(sorted(good))}
    while len(found := rows(data, WAITS, values)) < len(good) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return [ms / 1000 for _, ms in found]


def records(outputs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in outputs.glob("*.json")]


EXPERIMENTS: tuple[Experiment, ...] = (HostilePictures(),)
