"""The pictures and videos of all tasks: drawn off the event loop when first asked for, then kept."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from receiver.simulator import uploads
from receiver.simulator.tasks import Task

_KEPT = 128
"""Pictures kept in memory; they can always be drawn again, byte for byte."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is served."""

    content: bytes
    content_type: str


class Gallery:
    """Draws each picture once, even when two ask at the same time, and counts how many were served.

    Raises:
        ImportError: Pillow is not installed.
    """

    def __init__(self) -> None:
        # Pillow is an optional extra: whoever only reads FAULTS and PROFILES needs none.
        from receiver.simulator import pictures  # noqa: PLC0415

        self.served = 0
        self._pictures = pictures
        self._drawn: OrderedDict[str, asyncio.Task[bytes]] = OrderedDict()

    async def whole(self, task: Task, width: int | None = None) -> Picture:
        """The finished picture or grid as PNG, made smaller when a width is given."""
        grid = await self._grid(task)
        if width is not None:
            grid = await asyncio.to_thread(self._pictures.resized, grid, width)
        return self._serve(grid, "image/png")

    async def film(self, task: Task, index: int) -> Picture:
        """One of a task's videos as MP4."""
        film = task.work.film
        motion = film.motion if film else "low"
        # Every second one shows the other camera: four videos of one picture still differ.
        motion = motion if index % 2 == 0 else {"low": "high", "high": "low"}[motion]
        draw = partial(self._pictures.filmed, task.work.shots[index], motion)
        return self._serve(await self._once(f"{task.id}/{index}", draw), "video/mp4")

    def upload(self, content: bytes) -> Picture:
        """A picture somebody sent, as it was."""
        return self._serve(content, uploads.media_type(content) or "image/png")

    async def tile(self, task: Task, index: int, *, small: bool) -> Picture:
        """One of the four pictures, 0–3 as one reads, as PNG, or as a small WebP."""
        shown = task.work.shots
        cut = partial(self._pictures.tile, await self._grid(task), index, len(shown), small=small)
        return self._serve(await asyncio.to_thread(cut), "image/webp" if small else "image/png")

    async def preview(self, task: Task, percent: int) -> Picture:
        """The unfinished grid as WebP, half as large."""
        grid = await self._grid(task)
        return self._serve(await asyncio.to_thread(self._pictures.preview, grid, percent), "image/webp")

    async def _grid(self, task: Task) -> bytes:
        work = task.work
        # What four videos start from is one picture, drawn once.
        shown = work.shots[:1] if work.film else work.shots
        caption, note = (work.prompt, f"seed {task.seed}") if work.captioned else ("", "")
        return await self._once(task.id, partial(self._pictures.compose, shown, caption, note, work.enlarged))

    async def _once(self, name: str, draw: Callable[[], bytes]) -> bytes:
        if name not in self._drawn:
            self._drawn[name] = asyncio.create_task(asyncio.to_thread(draw))
            while len(self._drawn) > _KEPT:
                self._drawn.popitem(last=False)
        # Shielded: one client that hangs up must not take the drawing from another.
        return await asyncio.shield(self._drawn[name])

    def _serve(self, content: bytes, content_type: str) -> Picture:
        self.served += 1
        return Picture(content, content_type)

    async def aclose(self) -> None:
        """Wait for drawings under way: threads cannot be cancelled."""
        await asyncio.gather(*self._drawn.values(), return_exceptions=True)
