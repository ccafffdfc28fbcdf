"""The canvas of pixels, painted with Pillow."""

import math
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter

from receiver.simulator.canvas import Blob, Color, Point

_FINE = 2
"""Sheets are painted this many times larger and scaled down, which smooths every edge."""


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

    @property
    def _grain(self) -> float:
        """How large a ripple is: 1 on a tile of the usual grid, so that a tile enlarged keeps its look."""
        return self._size[1] / (512 * _FINE)

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
        mask = small.filter(ImageFilter.GaussianBlur(2.2 * self._grain)).resize(self._size, Image.Resampling.BILINEAR)
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
        if depth <= 0:
            return
        # Wider than the picture, so that rows may shift without baring an edge.
        spare = round(24 * _FINE * self._grain) + 1
        above = self._image.crop((0, max(0, line - depth), width, line)).resize((width + 2 * spare, depth))
        mirrored = above.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        tinted = Image.blend(mirrored, Image.new("RGB", mirrored.size, tint), alpha)
        step = max(1, round(3 * self._grain))
        for row in range(0, depth, step):
            near = row / depth
            wave = math.sin(row / self._grain / (3 + 14 * near)) * (2 + 14 * near)
            left = spare + round(wave * self._grain * _FINE / 2)
            strip = tinted.crop((left, row, left + width, min(depth, row + step)))
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
