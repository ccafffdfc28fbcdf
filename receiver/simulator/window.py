"""A canvas that shows its scene in a band of a higher one, and carries on above and below."""

from collections.abc import Sequence

from receiver.simulator.canvas import GROUND, Blob, Canvas, Color, Point


class Window:
    """A `Canvas` within another: its unit height is ``height`` of the outer one's, starting at ``top``.

    Painters know nothing of it: to them the scene is only wider. Sky is carried on upwards, ground downwards.
    """

    def __init__(self, outer: Canvas, top: float, height: float) -> None:
        self._outer, self._top, self._height = outer, top, height

    @property
    def ratio(self) -> float:
        """Width in units of the height."""
        return self._outer.ratio / self._height

    def gradient(self, top: float, bottom: float, colors: Sequence[Color]) -> None:
        """The band, and its first colour above a band that starts at the top."""
        if top <= 0:
            self._outer.gradient(0.0, self._y(top) + 0.01, (colors[0], colors[0]))
        self._outer.gradient(self._y(top), self._y(bottom), colors)

    def polygon(self, points: Sequence[Point], color: Color, alpha: float = 1.0) -> None:
        """A filled shape; ground goes down to the outer edge."""
        shape = [(x * self._height, GROUND if y == GROUND else self._y(y)) for x, y in points]
        self._outer.polygon(shape, color, alpha)

    def ellipse(self, center: Point, rx: float, ry: float, color: Color, alpha: float = 1.0) -> None:
        """A filled ellipse."""
        self._outer.ellipse(self._point(*center), rx * self._height, ry * self._height, color, alpha)

    def line(self, points: Sequence[Point], color: Color, width: float, alpha: float = 1.0) -> None:
        """A stroke through the points."""
        self._outer.line([self._point(*point) for point in points], color, width * self._height, alpha)

    def glow(self, center: Point, radius: float, color: Color, alpha: float) -> None:
        """Light that fades outwards."""
        self._outer.glow(self._point(*center), radius * self._height, color, alpha)

    def cloud(self, ellipses: Sequence[Blob], color: Color, alpha: float) -> None:
        """Soft blobs, blurred into one."""
        scale = self._height
        self._outer.cloud([(x * scale, self._y(y), rx * scale, ry * scale) for x, y, rx, ry in ellipses], color, alpha)

    def haze(self, middle: float, height: float, color: Color, alpha: float) -> None:
        """A band of mist."""
        self._outer.haze(self._y(middle), height * self._height, color, alpha)

    def mirror(self, waterline: float, tint: Color, alpha: float) -> None:
        """Water from the line down to the outer edge."""
        self._outer.mirror(self._y(waterline), tint, alpha)

    def vignette(self, alpha: float) -> None:
        """Darken the corners."""
        self._outer.vignette(alpha)

    def _y(self, y: float) -> float:
        return self._top + y * self._height

    def _point(self, x: float, y: float) -> Point:
        return x * self._height, self._y(y)
