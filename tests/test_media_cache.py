"""The cache of a bucket's files: bounded, checked, shared between processes, and harmless to lose."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from attempts import media_of

from receiver.errors import MediaError
from receiver.events import Media
from receiver.media import MediaStore
from receiver.media.cache import KEEP_SECONDS, SPARE_SECONDS, Cache
from receiver.media.files import Draft, tile_paths_in


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Room for ten of the files below."""
    return Cache(tmp_path / "cache", limit=100_000, disk=lambda folder: (10**9, 0, 10**9))


def content(number: int, size: int = 10_000) -> bytes:
    return number.to_bytes(8, "big") + bytes(size - 8)


def keep(cache: Cache, data: bytes, *, unused: float = 0.0) -> Media:
    """Takes it in, as if it had been used so many seconds ago."""
    media, draft = media_of(data), Draft(cache.folder, durable=False)
    draft.add(data)
    cache.keep(draft, media)
    draft.drop()
    if unused:
        aged(cache.path(media), unused)
    return media


def aged(path: Path, seconds: float) -> None:
    found = path.stat()
    os.utime(path, ns=(time.time_ns() - int(seconds * 1e9), found.st_mtime_ns))


def here(cache: Cache, *files: Media) -> list[bool]:
    return [cache.path(media).exists() for media in files]


def held(cache: Cache, media: Media) -> bool:
    with ExitStack() as stack:
        return cache.hold(media, stack)


def test_what_was_used_longest_ago_makes_room(cache: Cache) -> None:
    """Beyond the limit, down to nine tenths of it, in the order of use; what has just come always stays."""
    files = [keep(cache, content(number), unused=1000 - number) for number in range(9)]
    assert held(cache, files[0])
    last = [keep(cache, content(number)) for number in (9, 10)]
    assert here(cache, *files) == [True, False, False, *[True] * 6]
    assert here(cache, *last) == [True, True]


def test_a_disk_that_is_nearly_full_is_left_to_others(tmp_path: Path) -> None:
    """A tenth of it stays free, whatever the limit says: a full disk would stop the journal."""
    free = 200_000
    cache = Cache(tmp_path / "cache", limit=10**9, disk=lambda folder: (1_000_000, 0, free))
    files = [keep(cache, content(number), unused=1000 - number) for number in range(10)]
    cache.make_room()
    assert all(here(cache, *files))
    free = 50_000  # fifty too few
    cache.make_room()
    assert here(cache, *files) == [*[False] * 6, *[True] * 4]
    free = 0
    cache.make_room()
    assert not any(here(cache, *files))


def test_what_is_held_stays(cache: Cache) -> None:
    """However long ago it was used and however little room there is; released, it goes with the others."""
    with ExitStack() as holding:
        old = keep(cache, content(0), unused=KEEP_SECONDS + 1)
        assert cache.hold(old, holding)
        aged(cache.path(old), KEEP_SECONDS + 1)
        more = [keep(cache, content(number), unused=100) for number in range(1, 30)]
        assert here(cache, old) == [True]
        assert sum(here(cache, *more)) <= 10
    cache.make_room()
    assert here(cache, old) == [False]


def test_what_another_process_holds_stays(cache: Cache) -> None:
    """Its lock counts here, and ends with it, even if it is killed."""
    media = keep(cache, content(0), unused=KEEP_SECONDS + 1)
    program = (
        "import sys, fcntl; file = open(sys.argv[1], 'rb'); fcntl.flock(file, fcntl.LOCK_SH); "
        "print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, cache.path(media)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        cache.make_room()
        assert here(cache, media) == [True]
        other.kill()
    cache.make_room()
    assert here(cache, media) == [False]


def test_what_nobody_has_used_for_a_day_goes(cache: Cache) -> None:
    """Even where there is room: its submission may have been erased."""
    old, young = keep(cache, content(1), unused=KEEP_SECONDS + 1), keep(cache, content(2), unused=KEEP_SECONDS - 60)
    cache.make_room()
    assert here(cache, old, young) == [False, True]


def test_what_was_used_a_moment_ago_is_spared(cache: Cache) -> None:
    """Who was told a path has some seconds to open it, though the cache is too full then."""
    files = [keep(cache, content(number)) for number in range(30)]
    cache.make_room()
    assert all(here(cache, *files))
    for media in files:
        aged(cache.path(media), SPARE_SECONDS + 1)
    cache.make_room()
    assert sum(here(cache, *files)) == 9


def test_tiles_go_with_their_grid(cache: Cache) -> None:
    """Never before it: one file and what was made of it are one."""
    grid = keep(cache, content(0), unused=KEEP_SECONDS + 1)
    tiles = tile_paths_in(cache.folder, grid.digest)
    for tile in tiles:
        cache.write(tile, b"tile")
    cache.make_room()
    assert here(cache, grid) == [True]  # a tile has just been made
    for tile in tiles:
        aged(tile, KEEP_SECONDS + 1)
    cache.make_room()
    assert [path.exists() for path in (cache.path(grid), *tiles)] == [False] * 5


def test_what_is_not_ours_is_left_alone(cache: Cache) -> None:
    """A folder somebody else uses, too: only names we give are ever removed."""
    keep(cache, content(0), unused=KEEP_SECONDS + 1)
    others = [cache.folder / "ab" / "notes.txt", cache.folder / "album.png", cache.folder / "ab" / f"{'a' * 64}.backup"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        aged(path, KEEP_SECONDS * 9)
    cache.make_room()
    assert [path.exists() for path in others] == [True] * 3


def test_a_damaged_file_is_not_here(cache: Cache) -> None:
    """Cut off by a power cut or changed by a person, also after it was read once: as if it had never come."""
    media = keep(cache, content(0))
    assert held(cache, media)
    cache.path(media).write_bytes(content(0)[:-1])
    assert not held(cache, media)
    assert here(cache, media) == [False]
    earlier = Cache(cache.folder, limit=10**6)  # another process, which has not compared it yet
    cache.path(media).write_bytes(content(1))
    assert not held(earlier, media)
    assert earlier.read(hashlib.sha256(content(0)).hexdigest()) is None


def test_the_first_of_two_stays(cache: Cache) -> None:
    """Whoever holds it keeps it; the second draft is dropped."""
    media = keep(cache, content(0))
    inode = cache.path(media).stat().st_ino
    keep(cache, content(0))
    assert cache.path(media).stat().st_ino == inode
    assert [path.name for path in cache.folder.iterdir()] == [media.digest[:2]]


def test_it_may_vanish(cache: Cache) -> None:
    """With all that is in it; the next file makes it again."""
    media = keep(cache, content(0))
    shutil.rmtree(cache.folder)
    assert not held(cache, media)
    cache.make_room()
    cache.drop(media.digest)
    assert held(cache, keep(cache, content(0)))


def test_no_descriptor_is_left_open(cache: Cache) -> None:
    """Held and released, missing, damaged: as many files are open as before."""
    before = len(os.listdir("/proc/self/fd"))
    media = keep(cache, content(0))
    for _ in range(10):
        held(cache, media)
        held(cache, media_of(b"never kept"))
    cache.path(media).write_bytes(b"damaged")
    held(cache, media)
    cache.make_room()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_media_store_is_no_cache(cache: Cache) -> None:
    """Emptied in time, it would lose what nobody else has."""
    await MediaStore(cache.folder).identity()
    with pytest.raises(MediaError, match=r"that folder is a media store itself\. Set RECEIVER_MEDIA_CACHE to another"):
        cache.check()
