"""Pictures and videos of tasks, made when first requested.

Raises:
    ImportError: Pillow is not installed.
"""

import asyncio
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from receiver.simulator import prompts, submits
from receiver.simulator.tasks import Task
from receiver.simulator.works import Extended, Picture, Repainted, Scene

try:
    from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

    from receiver.simulator import scenes
except ImportError as exc:
    raise ImportError("The simulator draws pictures with Pillow. Install Receiver's extra `simulator`.") from exc

_NO_PICTURE = (OSError, ValueError, Image.DecompressionBombError)
_GREY = (210, 214, 222)
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class File:
    """Picture or video as it is served."""

    content: bytes
    content_type: str


class Gallery:
    """Files of tasks, and the count of served ones. Drawing happens in a thread, one picture at a time."""

    def __init__(self, side: int) -> None:
        self.served = 0
        self._side = side
        self._drawing = asyncio.Lock()

    async def whole(self, task: Task, width: int | None = None) -> File:
        """Return the finished picture or grid as PNG, no wider than ``width``."""
        grid = await self._grid(task)
        return self._file(await asyncio.to_thread(cut, grid, width=width) if width else grid, "image/png")

    async def tile(self, task: Task, index: int, *, small: bool) -> File:
        """Return one of the four pictures, 0–3 in reading order, as PNG or as a small WebP."""
        kind, grid = "WEBP" if small else "PNG", await self._grid(task)
        place = index if len(task.work.pictures) > 1 else None
        content = await asyncio.to_thread(cut, grid, place, width=640 if small else None, kind=kind)
        return self._file(content, f"image/{kind.lower()}")

    async def preview(self, task: Task, percent: int) -> File:
        """Return the unfinished grid as WebP."""
        return self._file(await asyncio.to_thread(preview, await self._grid(task), percent), "image/webp")

    def film(self, task: Task, index: int) -> File:
        """Return one of a task's videos as MP4."""
        return self._file(film(f"{task.id}/{index}"), "video/mp4")

    def upload(self, content: bytes) -> File:
        """Return a picture that a client sent."""
        return self._file(content, submits.media_type(content) or "image/png")

    async def _grid(self, task: Task) -> bytes:
        work = task.work
        # Four videos start from one picture.
        shown = work.pictures[:1] if work.film else work.pictures
        caption, note = (work.prompt, f"seed {task.seed}") if work.prompt and not work.texts else ("", "")
        async with self._drawing:
            return await asyncio.to_thread(compose, shown, caption, note, work.enlarged, self._side)

    def _file(self, content: bytes, content_type: str) -> File:
        self.served += 1
        return File(content, content_type)


@lru_cache(maxsize=64)
def compose(
    pictures: tuple[Picture, ...], caption: str = "", note: str = "", enlarged: int = 1, side: int = prompts.SIDE
) -> bytes:
    """Return one picture, or four as a grid, as PNG, with a caption and a note at the foot. Deterministic."""
    width, height = prompts.picture_size(pictures[0].ratio, side)
    if len(pictures) == 1:
        whole = draw(pictures[0], (width, height))
    else:
        whole = Image.new("RGB", (width, height))
        for index, picture in enumerate(pictures):
            corner = (index % 2 * (width // 2), index // 2 * (height // 2))
            whole.paste(draw(picture, (width // 2, height // 2)), corner)
    if caption:
        _caption(whole, caption, note)
    if enlarged > 1:
        whole = whole.resize((width * enlarged, height * enlarged), Image.Resampling.LANCZOS)
    return _bytes(whole, "PNG")


def draw(picture: Picture, size: Size) -> Image.Image:
    """Return a picture of this size from its recipe."""
    if isinstance(picture, Scene):
        return scenes.draw(picture, size)
    if isinstance(picture, Repainted):
        return _repainted(picture, size)
    if isinstance(picture, Extended):  # laid on itself, out of focus and mirrored differently for each take
        left, top, right, bottom = picture.sides
        width, height = round(size[0] / (1 + left + right)), round(size[1] / (1 + top + bottom))
        whole = draw(picture.inner, size).filter(ImageFilter.GaussianBlur(size[0] / 50))
        whole = ImageOps.mirror(whole) if picture.take % 2 else whole
        whole = ImageOps.flip(whole) if picture.take // 2 % 2 else whole
        whole.paste(draw(picture.inner, (width, height)), (round(left * width), round(top * height)))
        return whole
    try:
        return ImageOps.fit(_opened(picture.content), size, Image.Resampling.LANCZOS)
    except _NO_PICTURE:
        # Only its first bytes look like a picture, and the provider would accept it, too.
        return Image.new("RGB", size, _GREY)


def _repainted(picture: Repainted, size: Size) -> Image.Image:
    old, new = draw(picture.inner, size), draw(picture.new, size)
    if picture.mask is None:
        return Image.blend(old, new, picture.share)
    if picture.mask == "face":
        mask = Image.new("L", size)
        box = (size[0] // 3, size[1] // 5, size[0] * 2 // 3, size[1] * 3 // 5)
        ImageDraw.Draw(mask).ellipse(box, fill=255)
    else:
        try:
            mask = Image.open(io.BytesIO(picture.mask)).convert("L").resize(size)
        except _NO_PICTURE:
            return new
    return Image.composite(new, old, mask.filter(ImageFilter.GaussianBlur(size[1] / 100)))


def _caption(whole: Image.Image, prompt: str, seed: str) -> None:
    """Write one line at the foot on a dark shade. A long prompt ends in an ellipsis."""
    font, edge, rows = ImageFont.load_default(size=22), 18, 64
    room = whole.width - 3 * edge - font.getlength(seed)
    text = " ".join(prompt.split())[:400]
    while font.getlength(text) > room and len(text) > 1:
        text = text.removesuffix("…")[:-1].rstrip() + "…"
    column = Image.new("L", (1, rows))
    column.putdata([min(165, row * 4) for row in range(rows)])
    top = whole.height - rows
    whole.paste((8, 10, 18), (0, top, whole.width, whole.height), column.resize((whole.width, rows)))
    draw = ImageDraw.Draw(whole)
    draw.text((edge, top + 28), text, font=font, fill=(255, 255, 255))
    draw.text((whole.width - edge - font.getlength(seed), top + 28), seed, font=font, fill=_GREY)


def film(name: str) -> bytes:
    """Return the bundled five-second clip as MP4, made unlike every other by a free box with this name."""
    note = name.encode()
    # ISO/IEC 14496-12, 8.1.2: players skip a free box.
    clip = Path(__file__).with_name("film.mp4").read_bytes()
    return clip + (8 + len(note)).to_bytes(4, "big") + b"free" + note


def preview(png: bytes, percent: int) -> bytes:
    """Return the picture half as large, in coarse squares that become finer with the progress, as WebP."""
    picture = _opened(png)
    half = (picture.width // 2, picture.height // 2)
    coarse = max(1, round(28 * (1 - percent / 100)))
    small = picture.resize((max(1, half[0] // coarse), max(1, half[1] // coarse)), Image.Resampling.BOX)
    return _bytes(small.resize(half, Image.Resampling.NEAREST), "WEBP")


def cut(png: bytes, place: int | None = None, *, width: int | None = None, kind: str = "PNG") -> bytes:
    """Return the picture, or one of a grid's four in reading order, no wider than ``width``."""
    picture = _opened(png)
    if place is not None:
        across, down = picture.width // 2, picture.height // 2
        left, top = place % 2 * across, place // 2 * down
        picture = picture.crop((left, top, left + across, top + down))
    if width:
        picture.thumbnail((width, picture.height))
    return _bytes(picture, kind)


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def _bytes(picture: Image.Image, kind: str) -> bytes:
    target = io.BytesIO()
    # A PNG is a third larger so, and made in a third of the time.
    picture.save(target, kind, compress_level=1)
    return target.getvalue()
