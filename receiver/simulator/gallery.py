"""The pictures of all tasks: drawn off the event loop when first asked for, then kept."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from receiver.simulator.tasks import Task

_KEPT = 128
"""Grids kept in memory; they can always be drawn again, byte for byte."""


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
        self._grids: OrderedDict[str, asyncio.Task[bytes]] = OrderedDict()

    async def grid(self, task: Task, width: int | None = None) -> Picture:
        """The finished grid as PNG, made smaller when a width is given."""
        grid = await self._grid(task)
        if width is not None:
            grid = await asyncio.to_thread(self._pictures.resized, grid, width)
        return self._serve(grid, "image/png")

    async def tile(self, task: Task, index: int, *, small: bool) -> Picture:
        """One of the four pictures, 0–3 as one reads, as PNG, or as a small WebP."""
        cut = partial(self._pictures.tile, await self._grid(task), index, small=small)
        return self._serve(await asyncio.to_thread(cut), "image/webp" if small else "image/png")

    async def preview(self, task: Task, percent: int) -> Picture:
        """The unfinished grid as WebP, half as large."""
        grid = await self._grid(task)
        return self._serve(await asyncio.to_thread(self._pictures.preview, grid, percent), "image/webp")

    async def _grid(self, task: Task) -> bytes:
        if task.id not in self._grids:
            draw: Callable[[], bytes] = partial(self._pictures.grid, task.prompt, task.seed)
            self._grids[task.id] = asyncio.create_task(asyncio.to_thread(draw))
            while len(self._grids) > _KEPT:
                self._grids.popitem(last=False)
        # Shielded: one client that hangs up must not take the drawing from another.
        return await asyncio.shield(self._grids[task.id])

    def _serve(self, content: bytes, content_type: str) -> Picture:
        self.served += 1
        return Picture(content, content_type)

    async def aclose(self) -> None:
        """Wait for drawings under way: threads cannot be cancelled."""
        await asyncio.gather(*self._grids.values(), return_exceptions=True)
