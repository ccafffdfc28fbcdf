"""Where what lies, in a media store's folder and in a cache of one alike, and under which keys in a bucket.

`<first two hex digits>/<digest><extension>`, and `<digest>.u1.png` to `.u4.png` where a grid was cut into tiles (never
in a bucket). While a file is coming in, it is `.<random>.part` at the top.
"""

from __future__ import annotations

import re
from pathlib import Path

TILES = 4
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
DRAFTS = ".*.part"


def key_of(digest: str, extension: str) -> str:
    """The place of a file, relative and with slashes."""
    return f"{digest[:2]}/{digest}{extension}"


def path_in(folder: Path, digest: str, extension: str) -> Path:
    """The place of a file in a folder."""
    return folder / key_of(digest, extension)


def tile_paths_in(folder: Path, digest: str) -> tuple[Path, ...]:
    """The places of a grid's four tiles, U1 to U4: beside it."""
    return tuple(path_in(folder, digest, f".u{number}.png") for number in range(1, TILES + 1))
