"""Sky, water and land, painted from far to near."""

import math
from dataclasses import dataclass
from random import Random

from receiver.simulator.canvas import GROUND, Canvas, Point, mix
from receiver.simulator.palettes import Palette


@dataclass(frozen=True, slots=True)
class Around:
    """A picture of the same scene that will be laid upon this one: its left edge and its width.

    What comes after the light differs with ``take``.
    """

    left: float
    width: float
    take: int


def sky(canvas: Canvas, palette: Palette, horizon: float, dice: Random, around: Around | None = None) -> Point:
    """Sky, stars, sun or moon, clouds; returns where the light stands: where an inner picture has it, too."""
    left, width = (around.left, around.width) if around else (0.0, canvas.ratio)
    canvas.gradient(0.0, horizon + 0.02, palette.sky)
    if palette.night:
        stars(canvas, horizon, dice)
    light = (left + width * dice.uniform(0.22, 0.78), horizon * _height_of_light(palette, dice))
    canvas.glow(light, 0.75, mix(palette.light, palette.sky[2], 0.4), 0.55)
    canvas.glow(light, 0.28, palette.light, 0.65)
    radius = dice.uniform(0.045, 0.08)
    if palette.night and dice.random() < 0.5:
        _crescent(canvas, light, radius, palette)
    else:
        canvas.ellipse(light, radius, radius, palette.light)
    if around:
        dice.seed(f"around/{around.take}")
    clouds(canvas, palette, horizon, dice)
    return light


def _height_of_light(palette: Palette, dice: Random) -> float:
    return dice.uniform(0.62, 0.86) if palette.mood in {"sunrise", "sunset"} else dice.uniform(0.25, 0.5)


def _crescent(canvas: Canvas, at: Point, radius: float, palette: Palette) -> None:
    # From horn to horn along the outside, and back along a flatter curve.
    arc = [math.pi * (step / 40 - 0.5) for step in range(41)]
    outer = [(at[0] - radius * math.cos(turn), at[1] + radius * math.sin(turn)) for turn in arc]
    inner = [(at[0] - 0.5 * radius * math.cos(turn), at[1] + radius * math.sin(turn)) for turn in arc]
    canvas.polygon([*outer, *reversed(inner)], palette.light)


def stars(canvas: Canvas, horizon: float, dice: Random) -> None:
    """Many small ones, a few large."""
    for _ in range(140):
        where = (dice.uniform(0, canvas.ratio), dice.uniform(0, horizon * 0.92))
        size = 0.0035 if dice.random() > 0.9 else 0.0016
        canvas.ellipse(where, size, size, (255, 250, 235), dice.uniform(0.3, 0.95))


def clouds(canvas: Canvas, palette: Palette, horizon: float, dice: Random) -> None:
    """Long flat clouds, lit from the horizon."""
    for _ in range(dice.randint(1, 4)):
        x, y = dice.uniform(0, canvas.ratio), dice.uniform(0.08, horizon * 0.75)
        length = dice.uniform(0.12, 0.3)
        puffs = [
            (x + dice.uniform(-length, length), y + dice.gauss(0, 0.008), dice.uniform(0.05, 0.14), 0.014)
            for _ in range(9)
        ]
        canvas.cloud(puffs, mix(palette.sky[2], palette.light, 0.5), 0.25 if palette.night else 0.6)


def ridge(canvas: Canvas, base: float, height: float, roughness: float, dice: Random) -> list[Point]:
    """A skyline of summed waves; returns its points from left to right."""
    waves = [(2.2 * 1.9**octave, dice.uniform(0, math.tau), height * roughness**octave) for octave in range(6)]
    steps = 160
    xs = [canvas.ratio * (index / steps * 1.04 - 0.02) for index in range(steps + 1)]
    return [(x, base - abs(sum(math.sin(x * f + phase) * size for f, phase, size in waves))) for x in xs]


def hills(canvas: Canvas, palette: Palette, top: float, dice: Random, layers: int = 4) -> None:
    """Ranges of soft hills, each darker than the one behind, mist between."""
    for layer in range(layers):
        nearness = (layer + 0.3) / layers
        base = top + (1.05 - top) * layer / layers + 0.04
        skyline = ridge(canvas, base, 0.075, 0.42, dice)
        canvas.polygon([*skyline, (canvas.ratio * 1.1, GROUND), (-0.1, GROUND)], palette.land(nearness))
        if layer < layers - 1:
            canvas.haze(base + 0.09, 0.13, palette.sky[2], 0.38)


def mountains(canvas: Canvas, palette: Palette, base: float, dice: Random) -> None:
    """Two ranges of peaks with a lit and a shaded side."""
    for nearness, height, count in ((0.15, 0.26, 5), (0.5, 0.36, 3)):
        for index in range(count):
            x = canvas.ratio * (index + dice.uniform(0.15, 0.85)) / count
            top = (x, base - height * dice.uniform(0.6, 1.0))
            _peak(canvas, palette, top, base, nearness=nearness, dice=dice)
        canvas.haze(base - 0.01, 0.12, palette.sky[2], 0.5)


def _peak(canvas: Canvas, palette: Palette, top: Point, base: float, *, nearness: float, dice: Random) -> None:
    height = base - top[1]
    left, right = height * dice.uniform(0.9, 1.3), height * dice.uniform(0.9, 1.3)
    rock = palette.land(nearness)
    ridge_line = _jagged(top, (top[0] + height * 0.08, base), dice, 0.06 * height)
    lit = [(top[0] - left, base), *_jagged((top[0] - left, base), top, dice, 0.03 * height), *ridge_line]
    shade = [*ridge_line, (top[0] + right, base), *_jagged((top[0] + right, base), top, dice, 0.03 * height)]
    canvas.polygon(lit, mix(rock, palette.sky[2], 0.22))
    canvas.polygon(shade, mix(rock, palette.near, 0.25))
    _snow(canvas, top, base, left, right, dice=dice)


def _snow(canvas: Canvas, top: Point, base: float, left: float, right: float, *, dice: Random) -> None:
    height = base - top[1]
    share = dice.uniform(0.28, 0.42)
    edge = []
    for index in range(9):
        across = (right + left) * (0.94 * index / 8 - 0.47) + (right - left) * 0.45
        tongue = 0.5 * (index % 2) * dice.uniform(0.4, 1.0)
        edge.append((top[0] + across * share, top[1] + height * share * (0.78 + tongue)))
    middle = edge[4]
    canvas.polygon([top, *edge], (250, 250, 252), 0.9)
    canvas.polygon([top, middle, *edge[5:]], (120, 135, 170), 0.35)


def _jagged(start: Point, end: Point, dice: Random, size: float) -> list[Point]:
    inner = [index / 8 for index in range(1, 8)]
    bent = [
        (start[0] + (end[0] - start[0]) * t + dice.uniform(-size, size), start[1] + (end[1] - start[1]) * t)
        for t in inner
    ]
    return [start, *bent, end]


def water(canvas: Canvas, palette: Palette, horizon: float, light: Point, dice: Random) -> None:
    """Calm water that mirrors all above it, with the light glittering on it."""
    canvas.mirror(horizon, palette.water, 0.34)
    for _ in range(70):
        depth = dice.random() ** 1.6
        y = horizon + 0.01 + (1 - horizon) * depth
        spread = 0.03 + 0.16 * depth
        x, length = light[0] + dice.gauss(0, spread), 0.012 + 0.07 * depth * dice.random()
        canvas.line([(x - length, y), (x + length, y)], palette.light, 0.002 + 0.004 * depth, 0.5)
    for _ in range(26):
        depth = dice.random()
        y, x = horizon + (1 - horizon) * depth, dice.uniform(0, canvas.ratio)
        length = 0.03 + 0.12 * depth
        canvas.line([(x - length, y), (x + length, y)], palette.water, 0.002 + 0.003 * depth, 0.3)


def meadow(canvas: Canvas, palette: Palette, top: float, dice: Random) -> None:
    """One slope of grass in front."""
    skyline = ridge(canvas, top, 0.02, 0.4, dice)
    ground = mix(palette.near, palette.far, 0.12)
    canvas.polygon([*skyline, (canvas.ratio * 1.1, GROUND), (-0.1, GROUND)], ground)
    for _ in range(240):
        x, y = dice.uniform(0, canvas.ratio), top + 0.01 + (1.02 - top) * dice.random()
        length = 0.015 + 0.05 * (y - top)
        tint = mix(ground, palette.sky[2], dice.uniform(0.02, 0.2))
        canvas.line([(x, y), (x + dice.uniform(-0.4, 0.4) * length, y - length)], tint, 0.0025, 0.7)


def dunes(canvas: Canvas, palette: Palette, top: float, dice: Random) -> None:
    """Sand in long curves, lit on one side."""
    sand = mix(palette.light, palette.sky[2], 0.7)
    for layer in range(4):
        base = top + (1 - top) * layer / 4 + 0.05
        skyline = ridge(canvas, base, 0.06, 0.12, dice)
        color = mix(sand, palette.near, 0.2 + 0.17 * layer)
        canvas.polygon([*skyline, (canvas.ratio * 1.1, GROUND), (-0.1, GROUND)], color)
        canvas.line(skyline, mix(color, palette.light, 0.5), 0.004, 0.6)
