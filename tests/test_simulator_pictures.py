"""The pictures: four to a prompt, repeatable, and what follow-ups make of them."""

import io
import time
from itertools import combinations

import pytest
from PIL import Image
from simulators import PROMPT

from receiver.simulator import works
from receiver.simulator.pictures import compose, film, preview
from receiver.simulator.prompts import picture_size, ratio

SIDE = 256
"""Pixels of a side, a quarter of what the provider draws."""


def grid(prompt: str, seed: int, side: int = SIDE) -> bytes:
    return compose(works.scenes(prompt, seed), prompt, f"seed {seed}", side=side)


PROMPTS = [
    PROMPT,
    "city skyline at night --ar 16:9",
    "a cabin in a misty forest --ar 2:3",
    "hot air balloons over a meadow of wild flowers",
    "a ringed planet above desert dunes",
    "an old oak tree by a mountain lake, birds",
    "猫",
    "--v 6.1",
    "a sailing boat " * 200,
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_grid(prompt: str) -> None:
    """Every prompt gives a PNG of four different pictures, in the proportions of --ar."""
    png = grid(prompt, 42)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert picture.size == picture_size(ratio(prompt), SIDE)
    width, height = picture.width // 2, picture.height // 2
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    tiles = [picture.crop((x, y, x + width, y + height)).resize((16, 16)).tobytes() for x, y in corners]
    for one, other in combinations(tiles, 2):
        assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one) > 4


def test_grid_is_deterministic() -> None:
    """The same prompt and seed give the same bytes; another seed or prompt does not."""
    assert grid(PROMPT, 7) == grid(PROMPT, 7)
    assert grid(PROMPT, 7) != grid(PROMPT, 8)
    assert grid(PROMPT, 7) != grid(f"{PROMPT} x", 7)


def test_a_grid_of_full_size_is_small_and_drawn_quickly() -> None:
    """It has below 1.5 MB and takes well below a second of the processor."""
    started = time.process_time()
    assert len(grid(PROMPT, 9, 1024)) < 1_500_000
    assert time.process_time() - started < 1.0


def test_preview_becomes_finer() -> None:
    """A preview is half as large, and with more progress closer to the picture."""
    png = grid(PROMPT, 7)
    small = Image.open(io.BytesIO(png)).convert("RGB").resize((128, 128)).tobytes()

    def distance(percent: int) -> int:
        shown = Image.open(io.BytesIO(preview(png, percent)))
        assert shown.size == (128, 128)
        return sum(abs(a - b) for a, b in zip(shown.convert("RGB").tobytes(), small, strict=True))

    assert distance(15) > distance(46) > distance(93)


@pytest.mark.parametrize(
    ("prompt", "size"),
    [
        ("x", (1024, 1024)),
        ("x --ar 16:9", (1366, 768)),
        ("x --ar 0:0", (1024, 1024)),
        ("x --ar 99:1", (1774, 592)),
    ],
)
def test_picture_size(prompt: str, size: tuple[int, int]) -> None:
    """The proportions follow --ar, at most 3:1, at about the same area."""
    assert picture_size(ratio(prompt)) == size


# --- what follow-ups make of them ----------------------------------------------------------------------------


def opened(*pictures: works.Picture, **options: int) -> Image.Image:
    return Image.open(io.BytesIO(compose(pictures, side=SIDE, **options))).convert("RGB")


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures looked at from afar, 0 to 255."""
    small = (one.resize((64, 64)).tobytes(), other.resize((64, 64)).tobytes())
    return sum(abs(a - b) for a, b in zip(*small, strict=True)) / len(small[0])


SUNSET = "a paper boat on calm water at sunset"
TILE: works.Picture = works.scenes(SUNSET, 7)[1]
WIDE: works.Picture = works.scenes("a cat watching the stars --ar 16:9", 7)[0]
UPLOAD: works.Picture = works.Upload(compose((TILE,), side=SIDE), 1.0)


def test_an_upscale_is_its_tile_enlarged() -> None:
    """U2 shows what stood at the upper right of the grid, larger."""
    pictures = works.scenes(SUNSET, 7)
    whole, single = opened(*pictures), opened(pictures[1])
    assert single.size == whole.size
    tiles = [whole.crop((x, y, x + 128, y + 128)) for y in (0, 128) for x in (0, 128)]
    assert difference(single, tiles[1]) < 3
    assert all(difference(single, tile) > 10 for tile in (tiles[0], tiles[2], tiles[3]))
    assert opened(TILE, enlarged=2).size == (512, 512)


def zoomed(picture: works.Picture, factor: float) -> works.Picture:
    side = (factor - 1) / 2
    return works.Extended(picture, (side, side, side, side), 1)


@pytest.mark.parametrize(
    ("tile", "factor"), [(TILE, 2.0), (WIDE, 1.5), (UPLOAD, 2.0)], ids=["square", "wide", "upload"]
)
def test_zoom(tile: works.Picture, factor: float) -> None:
    """The picture stands smaller in the middle, and the scene goes on around it."""
    inner, outer = opened(tile), opened(zoomed(tile, factor))
    assert outer.size == inner.size
    width, height = round(outer.width / factor), round(outer.height / factor)
    left, top = (outer.width - width) // 2, (outer.height - height) // 2
    middle = outer.crop((left, top, left + width, top + height))
    cut = (width // 5, height // 5, width * 4 // 5, height * 4 // 5)
    assert difference(middle.crop(cut), inner.resize((width, height)).crop(cut)) < 12
    assert difference(outer, inner) > 8


@pytest.mark.parametrize("direction", ["left", "bottom"])
def test_pan(direction: str) -> None:
    """The picture keeps its place at one side and half as much is added at the other."""
    left, top, right, bottom = (0.5 if direction == side else 0.0 for side in ("left", "top", "right", "bottom"))
    sides = (left, top, right, bottom)
    inner, outer = opened(TILE), opened(works.Extended(TILE, sides, 1))
    across = direction in {"left", "right"}
    assert outer.width / outer.height == pytest.approx(1.5 if across else 1 / 1.5, abs=0.01)
    side = min(outer.size)
    corner = (outer.width - side if direction == "left" else 0, outer.height - side if direction == "top" else 0)
    kept = outer.crop((*corner, corner[0] + side, corner[1] + side))
    assert difference(kept, inner) < 12


def test_square() -> None:
    """What is missing is added above and below, or left and right."""
    assert opened(works.squared(WIDE, 1)).size == (SIDE, SIDE)
    assert opened(works.squared(works.scenes("x --ar 2:3", 1)[0], 1)).size == (SIDE, SIDE)


def test_region() -> None:
    """Where the mask is black nothing changes; where it is white there is another picture."""
    target = io.BytesIO()
    mask = Image.new("L", (100, 100))
    mask.paste(255, (50, 0, 100, 100))
    mask.save(target, "PNG")
    new = works.Scene("a forest in the mist", 3, 0, 1.0)
    before, after = opened(TILE), opened(works.Repainted(TILE, new, target.getvalue()))
    left, right = (0, 0, 112, 256), (144, 0, 256, 256)
    assert difference(before.crop(left), after.crop(left)) == 0
    assert difference(before.crop(right), after.crop(right)) > 20
    assert opened(works.Repainted(TILE, new, b"no picture")).tobytes() == opened(new).tobytes()


def test_variations() -> None:
    """Variations differ from their picture and from one another; subtle ones keep its composition."""
    strong = [opened(works.varied(TILE, SUNSET, 9, index)) for index in range(3)]
    subtle = [opened(works.varied(TILE, SUNSET, 9, index, subtle=True)) for index in range(3)]
    for four in (strong, subtle):
        assert all(difference(one, other) > 2 for one, other in combinations([opened(TILE), *four], 2))


@pytest.mark.parametrize("picture", [works.Repainted(TILE, TILE), works.blended((UPLOAD, TILE), 1)])
def test_everything_can_be_done_again(picture: works.Picture) -> None:
    """A variation, a zoom and a pan can be made of any picture, over and over."""
    again = works.Extended(zoomed(works.varied(picture, "a cat", 5, 2), 1.5), (0.0, 0.5, 0.0, 0.0), 3)
    assert opened(again).size == picture_size(again.ratio, SIDE)


def test_broken_uploads_are_drawn() -> None:
    """Bytes that only begin like a picture are a grey one."""
    assert opened(works.Upload(b"\x89PNG\r\n\x1a\n", 1.0)).getpixel((5, 5)) == (210, 214, 222)


# --- videos --------------------------------------------------------------------------------------------------


def boxes(content: bytes) -> dict[bytes, bytes]:
    """The boxes of an MP4 at one level, by name (ISO/IEC 14496-12, 4.2)."""
    found, at = {}, 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        found[content[at + 4 : at + 8]] = content[at + 8 : at + length]
        at += length
    assert at == len(content)
    return found


def test_film() -> None:
    """A whole MP4 that starts with its index: H.264, 125 pictures in five seconds."""
    content = film("1773314942177684/0")
    top = boxes(content)
    assert set(top) == {b"ftyp", b"moov", b"free", b"mdat"}
    assert list(top)[:2] == [b"ftyp", b"moov"]
    assert top[b"ftyp"][:4] == b"isom"
    assert len(content) < 20_000
    track = boxes(boxes(top[b"moov"])[b"trak"])
    media = boxes(track[b"mdia"])
    table = boxes(boxes(media[b"minf"])[b"stbl"])
    assert table[b"stsd"][12:16] == b"avc1"
    assert int.from_bytes(table[b"stsz"][8:12], "big") == 125
    scale, length = (int.from_bytes(media[b"mdhd"][at : at + 4], "big") for at in (12, 16))
    assert length / scale == 5


def test_films_differ_by_name() -> None:
    """Each video of a task has bytes of its own, always the same."""
    assert len({film("1/0"), film("1/1"), film("2/0"), film("1/0")}) == 3


def test_words_show() -> None:
    """Colours, hours and lands of the prompt are visible: the mean colour follows them."""

    def mean(prompt: str) -> tuple[float, ...]:
        pixels = opened(*works.scenes(prompt, 5)).resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        assert isinstance(pixels, tuple)
        return pixels

    assert mean("a red city")[0] > mean("a blue city")[0] + 10
    assert mean("a blue city")[2] > mean("a red city")[2] + 10
    assert sum(mean("the sea at noon")) > sum(mean("the sea at midnight")) + 150
    assert (
        len({opened(works.scenes(f"a {word} at noon", 5)[0]).tobytes() for word in ("cat", "dog", "boat", "tree")}) == 4
    )
