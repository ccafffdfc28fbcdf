"""Provenance inside PNGs: read back by Pillow, without touching a pixel or the archive."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from attempts import EVENT, ID, attempt_of, event_of, grid_picture, stored
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from receiver.handlers.base import StoredMedia
from receiver.handlers.result_files import ArchiveError, gather, parameters, provenance

PICTURE = grid_picture()
CUT_AT = 33


def read(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


async def test_a_png_says_where_it_comes_from(tmp_path: Path) -> None:
    """Prompt, parameters, task and submission, for people and for programs; pixels and archive stay as they are."""
    item = stored(tmp_path, PICTURE)
    (piece,) = (await gather(attempt_of(EVENT, item), tiles=False, embed=True)).files
    data = b"".join(piece.blocks())
    with read(data) as image, read(PICTURE) as original:
        assert image.tobytes() == original.tobytes()
        text = image.text  # type: ignore[attr-defined]
    assert text["Description"] == EVENT.prompt
    assert text["Source"] == "Midjourney, task 1320098173412546"
    assert text["Software"] == "imagine-receiver"
    assert json.loads(text["Comment"]) == {
        "prompt": EVENT.prompt,
        "parameters": {"v": "6.1", "ar": "16:9"},
        "kind": "imagine",
        "button": None,
        "task": "1320098173412546",
        "seed": "42",
        "tile": None,
        "submission": ID,
    }
    assert (piece.digest, piece.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert item.path.read_bytes() == PICTURE
    assert b"secret" not in data


async def test_a_tile_says_which_it_is(tmp_path: Path) -> None:
    """U3 knows its name, and tiles follow the picture they were cut from."""
    grid, tile = stored(tmp_path, PICTURE), stored(tmp_path, grid_picture(20, 20))
    cut = StoredMedia(media=tile.media, path=tile.path, tile=3)

    async def tiles() -> tuple[StoredMedia, ...]:
        return (cut,)

    found = await gather(attempt_of(EVENT, grid, tiles=tiles), tiles=True, embed=True)
    assert [piece.mark for piece in found.files] == ["", "u3"]
    with read(b"".join(found.files[1].blocks())) as image:
        assert json.loads(image.text["Comment"])["tile"] == "U3"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (grid_picture(format="JPEG"), {"type": "image/jpeg", "extension": ".jpg"}),
        (b"\0\0\0\x18ftypmp42" + bytes(99), {"type": "video/mp4", "extension": ".mp4"}),
        (PICTURE[:20], {}),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), {}),
    ],
    ids=["jpeg", "video", "cut off", "no header"],
)
async def test_what_is_no_png_passes_as_it_is(tmp_path: Path, content: bytes, about: dict[str, str]) -> None:
    """Other kinds, and a PNG whose header is not where it belongs, are not written into."""
    (piece,) = (await gather(attempt_of(EVENT, stored(tmp_path, content, **about)), tiles=False, embed=True)).files
    assert (b"".join(piece.blocks()), piece.made) == (content, False)


async def test_a_damaged_picture_gets_no_provenance(tmp_path: Path) -> None:
    """What is not what the journal says is not passed off as if it were."""
    item = stored(tmp_path, PICTURE)
    item.path.write_bytes(PICTURE[:-1] + b"x")
    with pytest.raises(ArchiveError, match="is damaged"):
        await gather(attempt_of(EVENT, item), tiles=False, embed=True)


@given(prompt=st.text())
def test_any_prompt_makes_sound_chunks(prompt: str) -> None:
    """Every character a prompt can hold, NUL and lone surrogates too: the file stays a PNG, with its text."""
    event = event_of("task.succeeded", prompt=prompt)
    insert = provenance(event, 2)
    assert insert == provenance(event, 2)
    with read(PICTURE[:CUT_AT] + insert + PICTURE[CUT_AT:]) as image:
        said = image.text  # type: ignore[attr-defined]
    assert said.get("Description", "") == prompt.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    assert json.loads(said["Comment"])["tile"] == "U2"


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a boat", {}),
        ("a boat --v 6.1 --tile", {"v": "6.1", "tile": True}),
        ("a -- b --AR 1:2 --ar 3:4", {"ar": "3:4"}),
    ],
)
def test_parameters_are_the_flags(prompt: str, found: dict[str, str | bool]) -> None:
    """The last of a name counts."""
    assert parameters(prompt) == found
