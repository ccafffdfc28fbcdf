"""What may stand in a landscape. Each motif is painted at a place, its foot, and in a size."""

import math
from random import Random

from receiver.simulator.canvas import Canvas, Color, Point, mix
from receiver.simulator.palettes import Palette

Shape = list[Point]


def _placed(shape: Shape, at: Point, size: float, flip: bool = False, squash: float = 1.0) -> Shape:
    """A shape drawn around 0,0 with y upwards, moved to its place; a negative squash turns it over."""
    side = -1 if flip else 1
    return [(at[0] + side * x * size, at[1] - y * size * squash) for x, y in shape]


def paper_boat(canvas: Canvas, palette: Palette, at: Point, size: float, dice: Random) -> None:
    """A folded paper boat on the water, with its reflection."""
    flip, dark = dice.random() < 0.5, palette.near
    paper = mix((255, 255, 255), palette.light, 0.35)
    if palette.night:
        paper = mix(paper, palette.sky[2], 0.25)
    facets: list[tuple[Shape, Color]] = [
        ([(-0.55, 0.30), (-0.12, 0.13), (-0.20, 0.04)], mix(paper, dark, 0.45)),
        ([(0.55, 0.30), (0.12, 0.13), (0.20, 0.04)], mix(paper, dark, 0.55)),
        ([(-0.24, 0.10), (0.0, 0.60), (0.0, 0.06)], mix(paper, dark, 0.06)),
        ([(0.24, 0.10), (0.0, 0.60), (0.0, 0.06)], mix(paper, dark, 0.30)),
        ([(-0.55, 0.30), (0.0, 0.09), (0.0, -0.05), (-0.30, -0.05)], mix(paper, dark, 0.0)),
        ([(0.55, 0.30), (0.0, 0.09), (0.0, -0.05), (0.30, -0.05)], mix(paper, dark, 0.20)),
    ]
    foot = (at[0], at[1] + 0.1 * size)
    for shape, color in facets:
        canvas.polygon(_placed(shape, foot, size, flip, -0.85), mix(color, palette.water, 0.4), 0.55)
    for shape, color in facets:
        canvas.polygon(_placed(shape, at, size, flip), color)
    canvas.line(_placed([(0.0, 0.6), (0.0, 0.06)], at, size), mix(paper, dark, 0.4), 0.003, 0.5)
    _ripples(canvas, palette, at, size, dice)


def _ripples(canvas: Canvas, palette: Palette, at: Point, size: float, dice: Random) -> None:
    for index in range(9):
        y = at[1] + size * (0.05 + 0.055 * index)
        x, length = at[0] + dice.uniform(-0.2, 0.2) * size, size * dice.uniform(0.25, 0.65) * (1 - index / 14)
        tint = palette.light if index % 2 else palette.water
        canvas.line([(x - length, y), (x + length, y)], tint, max(0.0015, 0.009 * size), 0.5)


def sailing_boat(canvas: Canvas, palette: Palette, at: Point, size: float, dice: Random) -> None:
    """A small yacht with two sails, and its reflection."""
    flip, dark = dice.random() < 0.5, palette.near
    sail = mix((255, 255, 255), palette.light, 0.5)
    parts: list[tuple[Shape, Color]] = [
        ([(0.03, 0.14), (0.03, 1.0), (0.42, 0.16)], sail),
        ([(-0.03, 0.16), (-0.03, 0.9), (-0.34, 0.18)], mix(sail, dark, 0.25)),
        ([(-0.48, 0.12), (0.52, 0.12), (0.36, -0.06), (-0.34, -0.06)], mix(dark, palette.light, 0.08)),
    ]
    for shape, color in parts:
        reflected = _placed(shape, (at[0], at[1] + 0.11 * size), size, flip, -0.8)
        canvas.polygon(reflected, mix(color, palette.water, 0.4), 0.5)
    for shape, color in parts:
        canvas.polygon(_placed(shape, at, size, flip), color)
    canvas.line(_placed([(0.0, 0.1), (0.0, 1.02)], at, size), dark, 0.005)
    _ripples(canvas, palette, at, size, dice)


def cat(canvas: Canvas, palette: Palette, at: Point, size: float, dice: Random) -> None:
    """A cat from behind, sitting, with a rim of light."""
    flip = dice.random() < 0.5
    fur = mix(palette.near, (15, 12, 20), 0.55)
    rim = mix(palette.light, palette.sky[2], 0.3)
    right = [(0.0, 0.95), (0.10, 0.94), (0.19, 0.84), (0.18, 0.72), (0.12, 0.63), (0.15, 0.54), (0.22, 0.40)]
    right += [(0.29, 0.22), (0.31, 0.10), (0.26, 0.01), (0.0, -0.02)]
    body = _smooth([*right, *((-x, y) for x, y in reversed(right[1:-1])), right[0]])
    ears = [[(s * 0.185, 0.80), (s * 0.17, 1.08), (s * 0.04, 0.92)] for s in (-1, 1)]
    tail = _smooth([(0.15, 0.05), (0.36, 0.03), (0.52, 0.08), (0.60, 0.20), (0.55, 0.32), (0.47, 0.33)])
    for color, grow in ((rim, 0.012), (fur, 0.0)):
        for x, y in _placed(tail, at, size, flip):
            canvas.ellipse((x, y), (0.045 + grow) * size, (0.045 + grow) * size, color)
        for shape in (body, *ears):
            outline = _placed(shape, at, size, flip)
            canvas.polygon(outline, color)
            if grow:
                canvas.line([*outline, outline[0]], color, 2 * grow * size)


def _smooth(points: Shape, steps: int = 10) -> Shape:
    """A curve through the points (Catmull-Rom)."""
    padded = [points[0], *points, points[-1]]
    curve: Shape = []
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for t in (step / steps for step in range(steps)):
            x, y = (
                b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * b - a - 3 * c + d)))
                for a, b, c, d in zip(p0, p1, p2, p3, strict=True)
            )
            curve.append((x, y))
    return [*curve, points[-1]]


def balloon(canvas: Canvas, palette: Palette, at: Point, size: float, dice: Random) -> None:
    """A hot-air balloon in stripes."""
    warm = [(226, 88, 74), (244, 178, 72), (72, 150, 178), (240, 232, 214), (140, 90, 160)]
    one, two = dice.sample(warm, 2)
    for index in range(8):
        left = -0.42 + 0.84 * index / 8
        outer = [(_bulge(left, y), y) for y in (0.0, 0.2, 0.4, 0.6, 0.8, 0.92, 1.0)]
        inner = [(_bulge(left + 0.105, y), y) for y in (1.0, 0.92, 0.8, 0.6, 0.4, 0.2, 0.0)]
        stripe = mix(one if index % 2 else two, palette.near, 0.08 + 0.05 * index)
        canvas.polygon(_placed([*outer, *inner], at, size), stripe)
    for x in (-0.09, 0.09):
        canvas.line(_placed([(x, 0.0), (x * 0.7, -0.16)], at, size), palette.near, 0.003)
    basket = [(-0.08, -0.15), (0.08, -0.15), (0.065, -0.27), (-0.065, -0.27)]
    canvas.polygon(_placed(basket, at, size), mix((120, 80, 50), palette.near, 0.3))


def _bulge(x: float, y: float) -> float:
    # The envelope: a narrow mouth, widest at two thirds, closed at the top.
    width = 0.26 + 0.74 * math.sin(min(1.0, y / 0.62) * math.pi / 2)
    return x * (width if y < 0.62 else math.sqrt(max(0.0, 1 - ((y - 0.62) / 0.385) ** 2)))


def birds(canvas: Canvas, palette: Palette, at: Point, size: float, dice: Random) -> None:
    """A loose flock, each two curved strokes."""
    color = mix(palette.near, palette.sky[1], 0.1)
    for _ in range(dice.randint(4, 8)):
        x, y = at[0] + dice.gauss(0, size), at[1] + dice.gauss(0, size * 0.35)
        span, lift = size * dice.uniform(0.09, 0.17), dice.uniform(0.3, 0.6)
        for side in (-1, 1):
            wing = [(0.0, 0.0), (0.35, lift * 0.9), (0.65, lift), (1.0, lift * 0.55)]
            canvas.line(_placed([(side * a, b) for a, b in wing], (x, y), span), color, 0.005)


def lighthouse(canvas: Canvas, palette: Palette, at: Point, size: float, dice: Random) -> None:
    """A striped tower on a rock, its lamp lit."""
    rock = [(-1.3, -0.9), (-0.85, -0.32), (-0.62, -0.26), (-0.45, -0.02), (-0.28, 0.05), (-0.1, 0.12)]
    rock += [(0.2, 0.1), (0.34, 0.0), (0.52, -0.1), (0.74, -0.34), (1.2, -0.9)]
    canvas.polygon(_placed(rock, at, size), mix(palette.near, palette.far, 0.1))
    white, red = mix((250, 246, 240), palette.sky[1], 0.15), mix((196, 62, 52), palette.near, 0.15)
    for band in range(6):
        low, high = 0.1 + 0.13 * band, 0.1 + 0.13 * (band + 1)
        a, b = 0.13 - 0.06 * low, 0.13 - 0.06 * high
        canvas.polygon(_placed([(-a, low), (a, low), (b, high), (-b, high)], at, size), white if band % 2 else red)
        shade = [(a * 0.3, low), (a, low), (b, high), (b * 0.3, high)]
        canvas.polygon(_placed(shade, at, size), palette.near, 0.28)
    lamp = (at[0], at[1] - 0.95 * size)
    side = 1 if dice.random() < 0.5 else -1
    beam = [lamp, (lamp[0] + side * 1.4, lamp[1] - 0.22), (lamp[0] + side * 1.4, lamp[1] + 0.06)]
    canvas.polygon(beam, (255, 240, 190), 0.2 if palette.night else 0.1)
    canvas.polygon(_placed([(-0.11, 0.88), (0.11, 0.88), (0.11, 0.9), (-0.11, 0.9)], at, size), palette.near)
    canvas.ellipse(lamp, 0.055 * size, 0.055 * size, (255, 236, 170))
    canvas.glow(lamp, 0.3 * size, (255, 236, 170), 0.9)
    canvas.polygon(_placed([(-0.1, 1.0), (0.0, 1.13), (0.1, 1.0)], at, size), red)


def house(canvas: Canvas, palette: Palette, at: Point, size: float, dice: Random) -> None:
    """A cabin with lit windows and a thread of smoke."""
    wall, roof = mix((150, 100, 70), palette.near, 0.5), mix(palette.near, (30, 20, 20), 0.4)
    canvas.polygon(_placed([(-0.4, 0), (0.4, 0), (0.4, 0.38), (-0.4, 0.38)], at, size), wall)
    canvas.polygon(_placed([(0.2, 0.5), (0.3, 0.5), (0.3, 0.82), (0.2, 0.82)], at, size), roof)
    canvas.polygon(_placed([(-0.52, 0.34), (0.0, 0.78), (0.52, 0.34)], at, size), roof)
    for x in (-0.26, 0.1):
        pane = [(x, 0.12), (x + 0.16, 0.12), (x + 0.16, 0.28), (x, 0.28)]
        canvas.polygon(_placed(pane, at, size), (255, 214, 130))
    canvas.glow((at[0], at[1] - 0.2 * size), 0.5 * size, (255, 200, 110), 0.45)
    smoke = [
        (
            at[0] + size * (0.25 + 0.05 * step + dice.uniform(-0.03, 0.03)),
            at[1] - size * (0.9 + 0.13 * step),
            size * (0.04 + 0.014 * step),
            size * 0.06,
        )
        for step in range(7)
    ]
    canvas.cloud(smoke, mix(palette.sky[2], (255, 255, 255), 0.4), 0.5)


def planet(canvas: Canvas, palette: Palette, at: Point, size: float, dice: Random) -> None:
    """A striped, ringed planet, lit from one side."""
    tints = [mix(palette.sky[2], palette.light, share) for share in (0.1, 0.55, 0.3, 0.75, 0.2)]
    ring = mix(palette.light, palette.sky[2], 0.4)
    canvas.glow(at, size * 1.7, palette.sky[2], 0.5)
    _ring(canvas, at, size, ring, back=True)
    for band in range(40):
        y = -1 + 2 * (band + 0.5) / 40
        half = math.sqrt(1 - y * y) * size
        color = tints[int((y + 1) * 4.7 + 0.6 * math.sin(y * 9)) % 5]
        points = [(at[0] - half, at[1] + y * size), (at[0] + half, at[1] + y * size)]
        canvas.line(points, color, size / 17)
        for share in (0.1, 0.3, 0.5, 0.68, 0.84):
            canvas.line([(at[0] + half * share, points[1][1]), points[1]], palette.near, size / 17, 0.13)
    _ring(canvas, at, size, ring, back=False)


def _ring(canvas: Canvas, at: Point, size: float, color: Color, *, back: bool) -> None:
    start = math.pi if back else 0.0
    for radius in (1.5, 1.62, 1.74, 1.9):
        arc = [start + math.pi * step / 60 for step in range(61)]
        ellipse = [(math.cos(turn), 0.16 * math.cos(turn) - 0.28 * math.sin(turn)) for turn in arc]
        canvas.line(_placed(ellipse, at, size * radius), color, size * 0.06, 0.7)
