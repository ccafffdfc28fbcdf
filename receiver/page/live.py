"""One stream of changed regions for each open page.

Pages with the same address and role share one rendering. However many pages are open, all renderings together take at
most a fortieth of the processor time, so that callbacks are never held up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from receiver.page.render import partials
from receiver.telemetry import Log
from receiver.web.streams import HEARTBEAT, with_pauses

log = Log("receiver.page")

INTERVAL = 0.25
"""Least seconds between two renderings of a page."""
SHARE = 40
"""Seconds without any rendering that follow one which took a second of processor time."""
SAVED_SECONDS = 5.0
"""Seconds without any rendering that count as saved. Changes that are rare are shown at once, for all pages."""
LOOK_SECONDS = 5.0
"""Seconds after which a page is rendered although the journal has told of no change: another process may have made
one, and times go on."""
MAX_STREAMS = 200

Render = Callable[[], Awaitable[dict[str, str]]]


@dataclass(slots=True)
class Shown:
    """A page that is open somewhere: its last rendering, and a queue of changes for each reader."""

    render: Render
    regions: dict[str, str]
    readers: set[asyncio.Queue[str | None]] = field(default_factory=set)


class Live:
    """The open pages. A task renders them while there are any."""

    def __init__(self) -> None:
        self._pages: dict[tuple[str, ...], Shown] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """True if no more pages may be open."""
        return sum(len(page.readers) for page in self._pages.values()) >= MAX_STREAMS

    def changed(self, ids: frozenset[str] | None = None) -> None:
        """Note that the journal has changed. Callable as a subscriber of the journal."""
        self._changed.set()

    async def follow(self, key: tuple[str, ...], render: Render, regions: dict[str, str]) -> AsyncGenerator[str, None]:
        """Yield the messages of a page's stream (WHATWG HTML §9.2) until the reader leaves.

        Args:
            key: the same for readers who share a rendering.
            render: returns the HTML of each region.
            regions: the same as of now.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=4)
        page = self._pages.setdefault(key, Shown(render, regions))
        page.readers.add(queue)
        try:
            yield _message(partials(regions))
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run(), name="page")
            async with aclosing(with_pauses(_queued(queue), HEARTBEAT)) as texts:
                async for text in texts:
                    yield ": nothing new\n\n" if text is None else _message(text)
        finally:
            page.readers.discard(queue)
            if not page.readers:
                self._pages.pop(key, None)

    async def _run(self) -> None:
        paid_at = 0.0  # the monotonic time at which all renderings were followed by their seconds without any
        while self._pages:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass  # as `LOOK_SECONDS` says
            self._changed.clear()
            began = time.process_time()
            for page in list(self._pages.values()):
                await self._render(page)
            now = time.monotonic()
            paid_at = max(paid_at, now - SAVED_SECONDS) + SHARE * (time.process_time() - began)
            await asyncio.sleep(max(INTERVAL, paid_at - now))

    async def _render(self, page: Shown) -> None:
        try:
            regions = await page.render()
        except Exception as exc:  # the page shows what it had, and the next look tries again
            log.warning("page.not_rendered", problem=str(exc))
            return
        new = {name: text for name, text in regions.items() if page.regions.get(name) != text}
        page.regions = regions
        if new:
            for queue in list(page.readers):
                _put(queue, partials(new))


async def _queued(queue: asyncio.Queue[str | None]) -> AsyncGenerator[str, None]:
    """Yield what is queued. None ends it: its reader is too slow, and gets the whole when it connects again."""
    while (text := await queue.get()) is not None:
        yield text


def _put(queue: asyncio.Queue[str | None], text: str | None) -> None:
    if queue.full():
        while not queue.empty():
            queue.get_nowait()
        text = None
    queue.put_nowait(text)


def _message(text: str) -> str:
    return "".join(f"data: {line}\n" for line in text.splitlines() or [""]) + "\n"
