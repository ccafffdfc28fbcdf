"""Foreign pictures: tiles, smaller copies and thumbnails, and a process that ends whatever is in the file."""

from __future__ import annotations

import asyncio
import io
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attempts import COLORS, colors_of, grid_picture
from PIL import Image, ImageOps

from receiver import pictures
from receiver.errors import MediaError
from receiver.handlers import posts

ORIENTATION = 0x0112
"""EXIF tag (CIPA DC-008, 4.6.4)."""


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    held = io.BytesIO()
    picture.save(held, format, **options)
    return held.getvalue()


def pixels(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


async def cut(path: Path) -> list[bytes]:
    async with pictures.tiles(path) as found:
        return list(found)


@pytest.mark.parametrize("size", [(160, 90), (65, 33), (2, 2), (1024, 256)])
async def test_a_grid_is_cut_in_the_order_of_its_buttons(tmp_path: Path, size: tuple[int, int]) -> None:
    """U1 top left, U2 top right, U3 bottom left, U4 bottom right, at any proportions; no pixel is lost or blended."""
    tiles = await cut(written(tmp_path / "a", grid_picture(*size)))
    assert colors_of(tiles) == [{color} for color in COLORS]
    sizes = [pixels(tile).size for tile in tiles]
    assert (sizes[0][0] + sizes[1][0], sizes[0][1] + sizes[2][1]) == size
    assert (sizes[2][0], sizes[1][1], sizes[3]) == (sizes[0][0], sizes[0][1], (sizes[1][0], sizes[2][1]))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(("format", "mode"), [("WEBP", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("JPEG", "L")])
async def test_pictures_of_every_kind_are_decoded(tmp_path: Path, format: str, mode: str) -> None:
    """WebP and JPEG come too. Tiles are PNG, so that cutting loses nothing more."""
    path = written(tmp_path / "a", saved(Image.new(mode, (32, 32)), format))
    for tile in await cut(path):
        assert tile.startswith(b"\x89PNG")
        assert pixels(tile).size == (16, 16)
    assert pixels(await pictures.thumbnail(path)).size == (32, 32)


async def test_tiles_are_exactly_the_quarters(tmp_path: Path) -> None:
    """Put together again, the tiles are the grid, pixel by pixel."""
    noise = Image.effect_noise((70, 50), 90).convert("RGB")
    tiles = [pixels(tile) for tile in await cut(written(tmp_path / "a", saved(noise, "PNG")))]
    whole = Image.new("RGB", noise.size)
    for tile, at in zip(tiles, ((0, 0), (35, 0), (0, 25), (35, 25)), strict=True):
        whole.paste(tile, at)
    assert whole.tobytes() == noise.tobytes()


@pytest.mark.parametrize("turned", [6, 2])
async def test_pictures_are_made_upright(tmp_path: Path, turned: int) -> None:
    """The EXIF orientation is applied to tiles, copies and thumbnails, and no reader applies it again."""
    exif = Image.Exif()
    exif[ORIENTATION] = turned
    path = written(tmp_path / "a", saved(Image.open(io.BytesIO(grid_picture(64, 32))), "PNG", exif=exif))
    with Image.open(path) as image:
        shown = ImageOps.exif_transpose(image)
    upright = [shown.getpixel((x, y)) for y in (2, shown.height - 2) for x in (2, shown.width - 2)]
    assert colors_of(await cut(path)) == [{color} for color in upright]
    for data in (await pictures.smaller_copy(path, 100_000), await pictures.thumbnail(path)):
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == shown.size
            assert ORIENTATION not in image.getexif()
            corner = image.convert("RGB").getpixel((2, 2))
        assert all(abs(one - other) < 20 for one, other in zip(corner, upright[0], strict=True))


async def test_sixteen_bits_keep_their_tones(tmp_path: Path) -> None:
    """Tiles keep all sixteen. Copies scale them to eight, where a plain conversion would make nearly all white."""
    picture = Image.new("I;16", (256, 16))
    picture.putdata([tone * 257 for _ in range(16) for tone in range(256)])
    path = written(tmp_path / "a", saved(picture, "PNG"))
    first, *_ = await cut(path)
    with Image.open(io.BytesIO(first)) as tile:
        assert (tile.mode, tile.getpixel((100, 4))) == ("I;16", 100 * 257)
    for data in (await pictures.smaller_copy(path, 100_000), await pictures.thumbnail(path)):
        with Image.open(io.BytesIO(data)) as image:
            tones = [image.convert("L").getpixel((tone, 8)) for tone in (0, 64, 128, 192, 255)]
        assert all(abs(one - other) < 8 for one, other in zip(tones, (0, 64, 128, 192, 255), strict=True))


async def test_quality_goes_first_then_size(tmp_path: Path) -> None:
    """As good as the limit allows; a picture with transparency, too."""
    noise = Image.effect_noise((1200, 800), 90).convert("RGBA")
    path = written(tmp_path / "noise.png", saved(noise, "PNG"))
    sizes = []
    for limit in (2_000_000, 450_000):
        data = (await posts.smaller([path], limit))[path]
        assert len(data) <= limit
        sizes.append(pixels(data).size)
    assert sizes == [(1200, 800), (1024, 683)]
    assert await posts.smaller([path], 100) == {}


async def test_a_thumbnail_is_small_and_keeps_what_is_transparent(tmp_path: Path) -> None:
    """Its longest side has 640 pixels; a smaller picture is not blown up."""
    path = written(tmp_path / "a", saved(Image.new("RGBA", (1000, 3000), (200, 30, 30, 0)), "PNG"))
    with Image.open(io.BytesIO(await pictures.thumbnail(path))) as image:
        assert (image.format, image.size) == ("WEBP", (213, 640))
        assert image.convert("RGBA").getpixel((100, 100))[3] == 0


# Hostile files


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png(width: int, height: int, *, depth: int, color: int, rows: bytes) -> bytes:
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, color, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few KB that says it is so large, and is: zeros compress a thousand to one."""
    return png(width, height, depth=1, color=0, rows=bytes(min((width // 8 + 1) * height, 20_000_000)))


def many_scans(count: int = 20_000) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = saved(Image.effect_noise((64, 64), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def moving() -> bytes:
    frames = [Image.new("RGB", (8, 8), color) for color in COLORS[:2]]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda: bomb(8000, 7000), "8000 × 7000 pixels large, and was not decoded"),
        (lambda: bomb(2**31 - 1, 2**31 - 1), "not decoded|broken"),
        (many_scans, "more than 32 scans, and was not decoded"),
        (lambda: grid_picture()[:-200], "broken"),
        (lambda: b"GIF89a" + bytes(100), "broken"),
        (lambda: b"<svg/>", "no PNG, JPEG, WebP or GIF"),
        (lambda: grid_picture(1, 40), "only 1 × 40 pixels"),
        (moving, "it moves"),
        (lambda: b"", "broken"),
    ],
)
async def test_a_picture_that_is_not_decoded_says_why(tmp_path: Path, content: Callable[[], bytes], why: str) -> None:
    """Its header and its scans are read first. Broken, tiny and moving pictures are left whole, for good."""
    path = written(tmp_path / "a", content())
    begun = time.monotonic()
    with pytest.raises(MediaError, match=rf"not cut into tiles: .*({why})") as caught:
        await cut(path)
    assert caught.value.permanent
    assert time.monotonic() - begun < pictures.SECONDS


async def test_no_broken_file_raises_anything_else(tmp_path: Path) -> None:
    """Cut short or garbled at any place: there is a picture, or a permanent MediaError."""
    noise = Image.effect_noise((64, 64), 90)
    whole = [saved(noise, format) for format in ("PNG", "JPEG", "WEBP", "GIF")]
    garbled = [data[:at] + bytes(3) + data[at + 3 :] for data in whole for at in (10, 24, len(data) // 2)]
    short = [data[: len(data) * part // 4] for data in whole for part in (1, 3)]

    async def outcome(number: int, content: bytes) -> str:
        try:
            return str(len(await cut(written(tmp_path / str(number), content))))
        except MediaError as exc:
            return "refused" if exc.permanent else str(exc)

    outcomes = await asyncio.gather(*(outcome(*item) for item in enumerate(garbled + short)))
    assert set(outcomes) == {"4", "refused"}


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("raise IndexError()", "its file is broken"),
        ("raise SyntaxError()", "its file is broken"),
        ("raise RuntimeError()", "its file is broken"),
        ("raise MemoryError()", "takes more than 512 MB of memory"),
        ("os.abort()", "its decoder ended with -6"),
        ("bytearray(4 << 30)", "takes more than 512 MB of memory"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "takes more than 10 s of processor time"),
    ],
)
async def test_any_end_of_a_decoder_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, message: str
) -> None:
    """A decoder may raise anything, end its process or use all it may: the post goes out without a smaller copy."""
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "PIL.py").write_text(
        f"import os, signal\n\nclass Image:\n    @staticmethod\n    def open(*_, **__):\n        {statement}\n\n"
        "Image.Image = object\nImageOps = None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "decoder"))
    path = written(tmp_path / "a", grid_picture())
    with pytest.raises(MediaError, match=message) as caught:
        await cut(path)
    assert caught.value.permanent
    assert await posts.smaller([path], 10_000) == {}


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


async def test_a_cancelled_call_leaves_no_process(tmp_path: Path) -> None:
    """SIGTERM ends what is being decoded, too, at once."""
    rows = bytes((1 + 4000 * 6) * 4000)
    path = written(tmp_path / "a", png(4000, 4000, depth=16, color=2, rows=rows))
    before = children()
    call = asyncio.create_task(pictures.smaller_copy(path, 1))
    while not children() - before:  # noqa: ASYNC110 - the kernel's list
        await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert children() <= before


async def test_a_file_that_cannot_be_read_is_no_broken_picture(tmp_path: Path) -> None:
    """The disk's fault may be mended, so it is not for good."""
    with pytest.raises(FileNotFoundError):
        await cut(tmp_path / "missing")
