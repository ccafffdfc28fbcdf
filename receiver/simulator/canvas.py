"""What a scene is painted on; the one implementation lives beside Pillow."""

from collections.abc import Sequence
from typing import Protocol

Blob = tuple[float, float, float, float]
Color = tuple[int, int, int]
Point = tuple[float, float]

GROUND = 1.1
"""Where shapes end that run on below the picture. A wider view carries them on from exactly here."""


class Canvas(Protocol):
    """A surface one unit high and ``ratio`` wide; y grows downwards, alpha runs from 0 to 1."""

    @property
    def ratio(self) -> float:
        """Width in units of the height."""

    def gradient(self, top: float, bottom: float, colors: Sequence[Color]) -> None:
        """Fill a band with colours that flow into each other from top to bottom."""

    def polygon(self, points: Sequence[Point], color: Color, alpha: float = 1.0) -> None:
        """A filled shape."""

    def ellipse(self, center: Point, rx: float, ry: float, color: Color, alpha: float = 1.0) -> None:
        """A filled ellipse."""

    def line(self, points: Sequence[Point], color: Color, width: float, alpha: float = 1.0) -> None:
        """A stroke through the points."""

    def glow(self, center: Point, radius: float, color: Color, alpha: float) -> None:
        """Light that fades outwards."""

    def cloud(self, ellipses: Sequence[Blob], color: Color, alpha: float) -> None:
        """Soft blobs (x, y, rx, ry), blurred into one."""

    def haze(self, middle: float, height: float, color: Color, alpha: float) -> None:
        """A band of mist that fades above and below."""

    def mirror(self, waterline: float, tint: Color, alpha: float) -> None:
        """Water below the line: what lies above, upside down, rippled and tinted."""

    def vignette(self, alpha: float) -> None:
        """Darken the corners."""


def mix(one: Color, other: Color, share: float) -> Color:
    """A colour between two; share 0 is the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def hexed(text: str) -> Color:
    """``ff8800`` as a colour."""
    return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)
