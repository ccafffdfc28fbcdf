"""What grows or was built in numbers: forests, flowers, cities."""

import math
from random import Random

from receiver.simulator.canvas import GROUND, Canvas, Color, Point, mix
from receiver.simulator.palettes import Palette

_PETALS = ((236, 84, 96), (248, 178, 70), (250, 240, 235), (196, 120, 210), (250, 130, 160), (110, 140, 230))


def forest(canvas: Canvas, palette: Palette, top: float, dice: Random) -> None:
    """Four rows of firs, darker and larger towards us, mist between."""
    for row in range(4):
        nearness = row / 3
        base, height = top + 0.1 + 0.24 * row, 0.17 + 0.13 * row
        color = palette.land(0.15 + 0.85 * nearness)
        for index in range(22 - 4 * row):
            x = canvas.ratio * (index + dice.uniform(-0.4, 1.4)) / (22 - 4 * row)
            _fir(canvas, (x, base + dice.uniform(0, 0.03)), height * dice.uniform(0.7, 1.15), color, dice)
        edge = canvas.ratio + 0.1
        canvas.polygon([(-0.1, base), (edge, base), (edge, GROUND), (-0.1, GROUND)], color)
        if row < 3:
            canvas.haze(base + 0.03, 0.13, palette.sky[2], 0.5)


def _fir(canvas: Canvas, foot: Point, height: float, color: Color, dice: Random) -> None:
    tiers, width = 7, height * dice.uniform(0.2, 0.27)
    for tier in range(tiers):
        share = tier / tiers
        low = foot[1] - height * (0.06 + 0.85 * share)
        half = width * (1 - share) + 0.004
        top = (foot[0], low - height * 0.3 * (1 - share * 0.5))
        droop = half * 0.18
        left, right = (foot[0] - half, low + droop), (foot[0] + half, low + droop)
        canvas.polygon([left, (foot[0], low - droop), right, top], color)
    trunk = height * 0.018
    ground = foot[1] + 0.01
    canvas.polygon([(foot[0] - trunk, ground), (foot[0] + trunk, ground), (foot[0], foot[1] - height)], color)


def tree(canvas: Canvas, palette: Palette, at: Point, size: float, dice: Random) -> None:
    """One broad tree with a crown of many leaves."""
    bark = mix(palette.near, (30, 20, 15), 0.5)
    _branch(canvas, at, size * 0.42, dice.uniform(-0.08, 0.08) - math.pi / 2, depth=0, color=bark, dice=dice)
    leaf = (214, 120, 50) if palette.mood == "autumn" else (96, 150, 84)
    base = mix(leaf, palette.near, 0.45 if not palette.night else 0.75)
    for _ in range(260):
        angle, reach = dice.uniform(0, math.tau), math.sqrt(dice.random())
        x = at[0] + size * 0.52 * reach * math.cos(angle)
        y = at[1] - size * (0.78 - 0.36 * reach * math.sin(angle))
        lit = 0.5 * (1 - (y - (at[1] - size * 1.15)) / (size * 0.8))
        radius = size * dice.uniform(0.025, 0.06)
        tint = mix(base, palette.light, max(0.0, lit) * dice.random())
        canvas.ellipse((x, y), radius, radius * 0.8, tint, 0.85)


def _branch(
    canvas: Canvas, foot: Point, length: float, angle: float, *, depth: int, color: Color, dice: Random
) -> None:
    end = (foot[0] + length * math.cos(angle), foot[1] + length * math.sin(angle))
    canvas.line([foot, end], color, 0.1 * length)
    if depth < 3:
        for turn in (-0.5, 0.1, 0.6):
            bent = angle + turn + dice.uniform(-0.15, 0.15)
            _branch(canvas, end, length * 0.62, bent, depth=depth + 1, color=color, dice=dice)


def flowers(canvas: Canvas, palette: Palette, top: float, dice: Random) -> None:
    """A meadow in bloom: small far away, large in front."""
    tints = dice.sample(_PETALS, 2)
    for index in range(90):
        nearness = (index / 90) ** 1.6
        foot = (dice.uniform(-0.02, canvas.ratio + 0.02), top + 0.03 + (1.04 - top) * nearness)
        size = 0.008 + 0.05 * nearness * dice.uniform(0.7, 1.2)
        _flower(canvas, palette, foot, size, tint=dice.choice(tints), dice=dice)


def _flower(canvas: Canvas, palette: Palette, foot: Point, size: float, *, tint: Color, dice: Random) -> None:
    head = (foot[0] + dice.uniform(-0.8, 0.8) * size, foot[1] - size * dice.uniform(2.6, 4.2))
    stem = mix((80, 130, 70), palette.near, 0.5)
    bend = ((foot[0] + head[0]) / 2 + size * 0.3, (foot[1] + head[1]) / 2)
    canvas.line([foot, bend, head], stem, max(0.0025, size * 0.12))
    petal = mix(tint, palette.near, 0.45 if palette.night else 0.08)
    turn = dice.uniform(0, 1)
    for index in range(7):
        angle = turn + math.tau * index / 7
        where = (head[0] + 0.62 * size * math.cos(angle), head[1] + 0.5 * size * math.sin(angle))
        canvas.ellipse(where, size * 0.46, size * 0.4, mix(petal, palette.light, 0.06 * index))
    canvas.ellipse(head, size * 0.38, size * 0.34, mix((250, 205, 80), palette.near, 0.1))


def city(canvas: Canvas, palette: Palette, base: float, dice: Random) -> None:
    """Three rows of houses; windows are lit when it is dark."""
    for row in range(3):
        color, x = palette.land(0.2 + 0.38 * row), -0.05
        while x < canvas.ratio:
            width = dice.uniform(0.05, 0.11)
            height = dice.uniform(0.08, 0.42 - 0.08 * row) * (1 if dice.random() < 0.8 else 1.25)
            _tower(canvas, palette, (x, base), width=width, height=height, color=color, dice=dice)
            x += width * dice.uniform(0.85, 1.25)
        if row < 2:
            canvas.haze(base, 0.12, palette.sky[2], 0.4)


def _tower(
    canvas: Canvas, palette: Palette, foot: Point, *, width: float, height: float, color: Color, dice: Random
) -> None:
    (x, y), top = foot, foot[1] - height
    canvas.polygon([(x, y + 0.02), (x, top), (x + width, top), (x + width, y + 0.02)], color)
    _box(canvas, (x + width * 0.7, top), width * 0.3, height, color=palette.near, alpha=0.18)
    roof = dice.random()
    if roof < 0.3:
        canvas.line([(x + width / 2, top), (x + width / 2, top - 0.06)], color, 0.004)
    elif roof < 0.5:
        canvas.polygon([(x, top), (x + width / 2, top - width * 0.5), (x + width, top)], color)
    lit = (255, 214, 130) if palette.night or palette.mood == "sunset" else None
    glass = mix(color, palette.sky[2], 0.25)
    for row in range(int((height - 0.012) / 0.024)):
        for column in range(int((width - 0.007) / 0.019)):
            if dice.random() < 0.55:
                pane = (x + 0.007 + column * 0.019, top + 0.012 + row * 0.024)
                shown = lit if lit and dice.random() < 0.6 else glass
                _box(canvas, pane, 0.009, 0.011, color=shown, alpha=0.85)


def _box(canvas: Canvas, corner: Point, width: float, height: float, *, color: Color, alpha: float) -> None:
    (x, y), right, bottom = corner, corner[0] + width, corner[1] + height
    canvas.polygon([(x, y), (right, y), (right, bottom), (x, bottom)], color, alpha)
