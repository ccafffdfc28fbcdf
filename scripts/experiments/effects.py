"""Effects of a handler whose process ends in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from experiments.base import Experiment, Outcome


class CrashAtEachStep:
    """A process ends at each step of the folder handler that touches the disk. The next one makes the attempt again."""

    name = "crash-each-step"
    summary = (
        "a crash at every open, write, fsync and rename of the folder handler: no half file shows, none is left over"
    )
    promises = ("P3",)

    async def run(self, folder: Path, *, quick: bool) -> Outcome:
        return await self._crash(folder, "real", 3 if quick else 1)

    async def control(self, folder: Path, *, quick: bool) -> Outcome:
        """Writes under the final name."""
        return await self._crash(folder, "in-place", 3)

    async def _crash(self, folder: Path, build: str, every: int) -> Outcome:
        begun = time.monotonic()
        found = await _crashes(folder, build, every)
        half = [item["step"] for item in found if item["half"]]
        left = [item["step"] for item in found if item["left"]]
        return Outcome(
            injected=len(found),
            acknowledged=len(found),
            lost=sum(bool(item["missing"]) for item in found),
            doubled=len(left),
            seconds=time.monotonic() - begun,
            notes=f"{len(found)} steps, from {found[0]['step']} to {found[-1]['step']}",
            problem=f"half a file showed after step {', '.join(half)}" if half else None,
        )


async def _crashes(folder: Path, build: str, every: int) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "experiments.crashing", str(folder), build, str(every)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("The crashing process failed; what it says is above.")
    found: list[dict[str, Any]] = json.loads(out)
    return found


EXPERIMENTS: tuple[Experiment, ...] = (CrashAtEachStep(),)
