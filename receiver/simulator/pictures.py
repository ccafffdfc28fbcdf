"""Drawing with Pillow: the canvas, the 2x2 grid, its caption, previews and cuts.

Raises:
    ImportError: Pillow is not installed.
"""

import io
import math
from collections.abc import Sequence
from functools import lru_cache

from receiver.simulator import prompts, scenes
from receiver.simulator.canvas import Blob, Color, Point

try:
    from PIL import Image, ImageDraw, ImageFilter, ImageFont
except ImportError as exc:
    raise ImportError("The simulator draws pictures with Pillow: pip install 'imagine-receiver[simulator]'") from exc

_FINE = 2
"""Tiles are painted this many times larger and scaled down, which smooths every edge."""

_WHITE, _GREY = (255, 255, 255), (210, 214, 222)


class Sheet:
    """A `Canvas` of pixels."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width * _FINE, height * _FINE)
        self._image = Image.new("RGB", self._size)
        # Mode RGBA on an RGB picture blends colours that carry alpha.
        self._draw = ImageDraw.Draw(self._image, "RGBA")

    @property
    def ratio(self) -> float:
        """Width in units of the height."""
        return self._size[0] / self._size[1]

    def finished(self) -> Image.Image:
        """The picture in its final size."""
        return self._image.reduce(_FINE)

    def gradient(self, top: float, bottom: float, colors: Sequence[Color]) -> None:
        """Fill a band with colours that flow into each other from top to bottom."""
        strip = Image.new("RGB", (1, len(colors)))
        strip.putdata(list(colors))
        first, last = self._pixels(top), self._pixels(bottom)
        # Stretched about the middles of the outer pixels, so that both end colours are reached.
        span = (0.0, 0.5, 1.0, len(colors) - 0.5)
        column = strip.resize((1, last - first), Image.Resampling.BILINEAR, box=span)
        self._image.paste(column.resize((self._size[0], last - first)), (0, first))

    def polygon(self, points: Sequence[Point], color: Color, alpha: float = 1.0) -> None:
        """A filled shape."""
        self._draw.polygon(self._scaled(points), fill=_with(color, alpha))

    def ellipse(self, center: Point, rx: float, ry: float, color: Color, alpha: float = 1.0) -> None:
        """A filled ellipse."""
        scale, (x, y) = self._size[1], center
        box = ((x - rx) * scale, (y - ry) * scale, (x + rx) * scale, (y + ry) * scale)
        self._draw.ellipse(box, fill=_with(color, alpha))

    def line(self, points: Sequence[Point], color: Color, width: float, alpha: float = 1.0) -> None:
        """A stroke through the points."""
        pixels = max(1, self._pixels(width))
        self._draw.line(self._scaled(points), fill=_with(color, alpha), width=pixels, joint="curve")

    def glow(self, center: Point, radius: float, color: Color, alpha: float) -> None:
        """Light that fades outwards."""
        side = 2 * self._pixels(radius)
        mask = _spot().resize((side, side), Image.Resampling.BILINEAR).point(lambda value: value * alpha)
        corner = (self._pixels(center[0] - radius), self._pixels(center[1] - radius))
        self._image.paste(color, (*corner, corner[0] + side, corner[1] + side), mask)

    def cloud(self, ellipses: Sequence[Blob], color: Color, alpha: float) -> None:
        """Soft blobs (x, y, rx, ry), blurred into one."""
        # Painted at an eighth of the size: blurring large pictures is slow and nobody sees the difference.
        small = Image.new("L", (self._size[0] // 8, self._size[1] // 8))
        draw, scale = ImageDraw.Draw(small), small.size[1]
        for x, y, rx, ry in ellipses:
            draw.ellipse(((x - rx) * scale, (y - ry) * scale, (x + rx) * scale, (y + ry) * scale), fill=210)
        mask = small.filter(ImageFilter.GaussianBlur(2.2)).resize(self._size, Image.Resampling.BILINEAR)
        self._image.paste(color, None, mask.point(lambda value: value * alpha))

    def haze(self, middle: float, height: float, color: Color, alpha: float) -> None:
        """A band of mist that fades above and below."""
        rows = max(2, 2 * self._pixels(height))
        column = Image.new("L", (1, rows))
        column.putdata([round(255 * alpha * math.sin(math.pi * row / rows) ** 2) for row in range(rows)])
        mask, top = column.resize((self._size[0], rows)), self._pixels(middle - height)
        self._image.paste(color, (0, top, self._size[0], top + rows), mask)

    def mirror(self, waterline: float, tint: Color, alpha: float) -> None:
        """Water below the line: what lies above, upside down, rippled and tinted."""
        width, line, depth = self._size[0], self._pixels(waterline), self._size[1] - self._pixels(waterline)
        # Wider than the picture, so that rows may shift without baring an edge.
        spare = 24 * _FINE
        above = self._image.crop((0, max(0, line - depth), width, line)).resize((width + 2 * spare, depth))
        mirrored = above.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        tinted = Image.blend(mirrored, Image.new("RGB", mirrored.size, tint), alpha)
        for row in range(0, depth, 3):
            near = row / depth
            left = spare + round(math.sin(row / (3 + 14 * near)) * (2 + 14 * near) * _FINE / 2)
            strip = tinted.crop((left, row, left + width, min(depth, row + 3)))
            self._image.paste(strip, (0, line + row))

    def vignette(self, alpha: float) -> None:
        """Darken the corners."""
        mask = Image.radial_gradient("L").point(lambda value: max(0, value - 110) ** 2 / 82 * alpha)
        self._image.paste((0, 0, 0), None, mask.resize(self._size, Image.Resampling.BILINEAR))

    def _pixels(self, length: float) -> int:
        return round(length * self._size[1])

    def _scaled(self, points: Sequence[Point]) -> list[tuple[float, float]]:
        return [(x * self._size[1], y * self._size[1]) for x, y in points]


def _with(color: Color, alpha: float) -> tuple[int, int, int, int]:
    return (*color, round(alpha * 255))


@lru_cache(maxsize=1)
def _spot() -> Image.Image:
    """A round light, bright in the middle, falling off with the square."""
    # Pillow's gradient stands at 180 where its circle touches the sides; there the light must have ended.
    return Image.radial_gradient("L").point(lambda value: (max(0, 178 - value) / 178) ** 2 * 255)


@lru_cache(maxsize=32)
def grid(prompt: str, seed: int) -> bytes:
    """The four pictures of a prompt as one PNG; the same bytes for the same prompt and seed.

    Args:
        prompt: With its flags; ``--ar`` sets the proportions.
        seed: Everything the prompt leaves open.
    """
    width, height = prompts.picture_size(prompt)
    picture = Image.new("RGB", (width, height))
    for index in range(4):
        sheet = Sheet(width // 2, height // 2)
        scenes.paint(sheet, prompts.scene_words(prompt), seed, index)
        picture.paste(sheet.finished(), (index % 2 * (width // 2), index // 2 * (height // 2)))
    _caption(picture, prompt, f"seed {seed}")
    return _bytes(picture, "PNG")


def _caption(picture: Image.Image, prompt: str, seed: str) -> None:
    width, height = picture.size
    font, edge, line = ImageFont.load_default(size=22), 18, 28
    lines = _wrapped(prompt, font, width - 2 * edge)
    beside = width - 2 * edge - font.getlength(seed)
    if len(lines) > 1 or font.getlength(lines[0]) > beside - 2 * edge:
        lines.append(seed)
        beside = 0
    top = height - line * len(lines) - edge // 2
    _shade(picture, top - 36)
    draw = ImageDraw.Draw(picture)
    for number, text in enumerate(lines):
        draw.text((edge, top + number * line), text, font=font, fill=_GREY if text == seed else _WHITE)
    if beside:
        draw.text((edge + beside, top), seed, font=font, fill=_GREY)


def _shade(picture: Image.Image, top: int) -> None:
    """Darken towards the bottom: letters must be legible on snow, and the scene seen through."""
    rows = picture.height - top
    column = Image.new("L", (1, rows))
    column.putdata([min(165, row * 5) for row in range(rows)])
    picture.paste((8, 10, 18), (0, top, picture.width, picture.height), column.resize((picture.width, rows)))


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """At most two lines; what does not fit ends in an ellipsis."""
    lines, rest = [], " ".join(text.split())
    for last in (False, True):
        if not rest:
            break
        fits = _fitting(rest, font, width)
        if last and fits < len(rest):
            lines.append(rest[: max(0, fits - 1)].rstrip() + "…")
            break
        cut = rest.rfind(" ", 0, fits + 1) if fits < len(rest) else fits
        cut = cut if cut > 0 else fits
        lines.append(rest[:cut])
        rest = rest[cut:].lstrip()
    return lines or [""]


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> int:
    length = min(len(text), 400)
    while length > 1 and font.getlength(text[:length]) > width:
        length -= 1
    return length


def preview(png: bytes, percent: int) -> bytes:
    """Half as large, in coarse squares that become finer with the progress, as WebP."""
    picture = _opened(png)
    half = (picture.width // 2, picture.height // 2)
    coarse = max(1, round(28 * (1 - percent / 100)))
    small = picture.resize((max(1, half[0] // coarse), max(1, half[1] // coarse)), Image.Resampling.BOX)
    return _bytes(small.resize(half, Image.Resampling.NEAREST), "WEBP")


def tile(png: bytes, index: int, *, small: bool) -> bytes:
    """One of the four pictures, as one reads; as PNG, or 640 pixels wide at most as WebP."""
    picture = _opened(png)
    width, height = picture.width // 2, picture.height // 2
    left, top = index % 2 * width, index // 2 * height
    cut = picture.crop((left, top, left + width, top + height))
    if not small:
        return _bytes(cut, "PNG")
    cut.thumbnail((640, 640))
    return _bytes(cut, "WEBP")


def resized(png: bytes, width: int) -> bytes:
    """The picture no wider than this."""
    picture = _opened(png)
    picture.thumbnail((width, picture.height))
    return _bytes(picture, "PNG")


def _opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def _bytes(picture: Image.Image, kind: str) -> bytes:
    target = io.BytesIO()
    picture.save(target, kind)
    return target.getvalue()
