"""Tiles of archived grids, cut once for all destinations."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from attempts import COLORS, EVENT, colors_of, grid_picture, media_of
from engine import Recording, destination, engine

from receiver.deliveries import Receipt
from receiver.errors import MediaError
from receiver.events import Media
from receiver.handlers.base import Attempt, StoredMedia
from receiver.media import MediaStore, Tiles


@pytest.fixture
def store(tmp_path: Path) -> MediaStore:
    return MediaStore(tmp_path / "media")


async def kept(store: MediaStore, content: bytes) -> Media:
    return await store.put_bytes(content, url="https://cdn.test/a.png")


async def test_tiles_lie_beside_the_grid_and_are_made_once(store: MediaStore) -> None:
    """Ten who ask at once and one who asks later get the same four files; the grid is as it was."""
    grid = await kept(store, grid_picture())
    tiles = Tiles(store)
    first, *others = await asyncio.gather(*(tiles.of(grid) for _ in range(10)))
    inodes = [tiles.path(grid, number).stat().st_ino for number in range(1, 5)]
    again = await Tiles(store).of(grid)
    assert all(other == first for other in [*others, again])
    assert [tiles.path(grid, number).stat().st_ino for number in range(1, 5)] == inodes
    contents = [tiles.path(grid, number).read_bytes() for number in range(1, 5)]
    assert colors_of(contents) == [{color} for color in COLORS]
    assert [hashlib.sha256(data).hexdigest() for data in contents] == [item.digest for item in first]
    assert [len(data) for data in contents] == [item.size for item in first]
    assert await store.read(grid.digest) == grid_picture()


async def test_one_that_is_cancelled_takes_nothing_from_the_other(store: MediaStore) -> None:
    """Two attempts wait for one cut, and one of them reaches its deadline."""
    grid, tiles = await kept(store, grid_picture(1024, 1024)), Tiles(store)
    one, other = (asyncio.create_task(tiles.of(grid)) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    assert len(await other) == 4
    assert one.cancelled()


async def test_a_tile_that_is_missing_is_made_again(store: MediaStore) -> None:
    """What a crash left half done is completed, to the same bytes."""
    grid, tiles = await kept(store, grid_picture()), Tiles(store)
    first = await tiles.of(grid)
    tiles.path(grid, 3).unlink()
    assert await tiles.of(grid) == first
    assert not list(store.folder.glob(".*"))


async def test_a_damaged_grid_is_not_cut(store: MediaStore) -> None:
    """The archive's fault is named, and may be mended: it is no reason to go without tiles for good."""
    grid = await kept(store, grid_picture())
    store.path(grid).write_bytes(grid_picture(32, 32))
    with pytest.raises(MediaError, match="is damaged") as caught:
        await Tiles(store).of(grid)
    assert not caught.value.permanent


async def test_tiles_go_with_their_grid(store: MediaStore) -> None:
    """Retention and erasing remove the grid by its digest; nothing of it stays, and never a tile alone counts as it."""
    grid, tiles = await kept(store, grid_picture()), Tiles(store)
    await tiles.of(grid)
    assert not await store.remove(grid.digest, unless_younger=3600)
    assert all(path.exists() for path in store.tile_paths(grid.digest))
    assert await store.remove(grid.digest, unless_younger=0)
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []
    assert await store.missing([grid.digest]) == [grid.digest]


class Cutting(Recording):
    """A handler that asks for tiles."""

    def __init__(self) -> None:
        self.tiles: list[tuple[StoredMedia, ...]] = []
        super().__init__(self._cut)

    async def _cut(self, attempt: Attempt) -> Receipt:
        self.tiles.append(await attempt.tiles())
        return Receipt()


@pytest.mark.parametrize(
    ("content", "action", "count"),
    [
        (grid_picture(), "IMAGINE", 4),
        (grid_picture(), "UPSCALE", 0),
        (b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(600), "IMAGINE", 0),
    ],
    ids=["grid", "single", "video"],
)
async def test_one_download_and_one_cut_serve_every_destination(
    tmp_path: Path, content: bytes, action: str, count: int
) -> None:
    """One event to six destinations: the picture is fetched once, and all six get the same four tiles of a grid;
    a single picture and a video pass whole."""
    names = [f"place-{number}" for number in range(6)]
    async with engine(tmp_path, routes=names) as kit:
        kit.origin.files["/grid.png"] = content
        await kit.succeeded(imageUrl=f"{kit.origin.url}/grid.png", action=action, buttons=[])
        await kit.archiver.archive_once()
        await kit.archiver.settle()
        handlers = [Cutting() for _ in names]
        dispatcher = kit.dispatcher(*map(destination, names, handlers))
        assert await dispatcher.dispatch_once() == 6
        await dispatcher.settle()
        assert kit.origin.requests == ["/grid.png"]
        for handler in handlers:
            (got,) = handler.tiles
            assert [item.tile for item in got] == list(range(1, count + 1))
            assert got == handlers[0].tiles[0]
            assert handler.attempts[0].media[0].path.read_bytes() == content
            assert all(media_of(item.path.read_bytes()).digest == item.media.digest for item in got)


async def test_an_attempt_made_by_hand_has_no_tiles() -> None:
    """Whoever builds one for a test need not know of them."""
    attempt = Attempt(event=EVENT, destination="a", number=1, idempotency_key="k", deadline=1, receipts={})
    assert await attempt.tiles() == ()
