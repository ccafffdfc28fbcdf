"""Scenes drawn from a prompt's words with Pillow: an hour of the day, a land, and a motif (``scenes.toml``)."""

import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageColor, ImageDraw

from receiver.simulator.timeline import dice
from receiver.simulator.works import Scene

Color = tuple[int, int, int]
Point = tuple[float, float]

_FINE = 2
"""Scenes are drawn this many times larger and scaled down, which smooths every edge."""

_WORDS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("scenes.toml").read_text("utf-8"))
_TINTS = ((96, 60, 150), (240, 140, 60), (40, 150, 140), (220, 90, 120))
"""Colours that make four pictures of one hour differ."""


def draw(scene: Scene, size: tuple[int, int]) -> Image.Image:
    """Return the scene as a picture of this size."""
    return _Painting(scene, size).finished()


def _mix(one: Color, other: Color, share: float) -> Color:
    """Return a colour between two: share 0 is the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * min(1.0, max(0.0, share))) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _color(text: str) -> Color:
    red, green, blue = ImageColor.getrgb(f"#{text}")[:3]
    return red, green, blue


def _named(said: Sequence[str], names: Iterable[tuple[Any, str]]) -> Any:
    """Return the first name with one of its words in the prompt, in the order of the prompt."""
    known = {word: name for name, words in reversed(list(names)) for word in words.split()}
    return next((known[word] for word in said if word in known), None)


class _Painting:
    """Scene while it is drawn. One unit is the height of the picture, and y grows downwards."""

    def __init__(self, scene: Scene, size: tuple[int, int]) -> None:
        self.scene = scene
        self.size = (size[0] * _FINE, size[1] * _FINE)
        self.image = Image.new("RGB", self.size)
        # Mode RGBA on an RGB picture blends colours that carry alpha.
        self.canvas = ImageDraw.Draw(self.image, "RGBA")
        words = scene.words.lower().replace("猫", " 猫 ").replace("paper boat", "paperboat")
        said = re.findall(r"\w+", words)
        shared = dice(scene.words, scene.seed)
        hours, lands = list(_WORDS["hours"]), [land for land in _WORDS["lands"] if land != "city"]
        shared.shuffle(hours)
        shared.shuffle(lands)
        self.hour = _named(said, ((hour, row["words"]) for hour, row in _WORDS["hours"].items())) or hours[scene.index]
        land = _named(said, ((land, row["words"]) for land, row in _WORDS["lands"].items()))
        accent = _named(said, _WORDS["colors"].items())
        self.accent = _color(accent) if accent else None
        self.motif = _named(said, ((motif, motif["words"]) for motif in _WORDS["motifs"]))
        home = self.motif["land"] if self.motif else ""
        self.land = (home if home == "water" and land != "mountains" else land or home) or lands[scene.index]
        self.wet = "water" in {land, home} or bool(set(_WORDS["lands"]["water"]["words"].split()) & set(said))
        tint, weight = _TINTS[(shared.randrange(4) + scene.index + scene.tone) % 4], 0.18
        if self.accent and not self.motif:
            tint, weight = _mix(self.accent, tint, 0.25), 0.4
        colors = [_mix(_color(text), tint, weight) for text in _WORDS["hours"][self.hour]["colors"].split()]
        self.sky, self.light, self.far, self.near = colors[:3], _mix(colors[3], (255, 255, 255), 0.4), *colors[4:]

    def finished(self) -> Image.Image:
        """Draw the scene from far to near, and return it in its final size."""
        own = self.chance("composition")
        horizon = own.uniform(*_WORDS["lands"][self.land]["horizon"])
        light = (self.scene.ratio * own.uniform(0.2, 0.8), horizon * own.uniform(0.3, 0.8))
        self.gradient(0.0, horizon + 0.02, self.sky)
        self.gradient(horizon, 1.0, self.sky[2:])
        side = round(1.2 * self.size[1])
        # Pillow's gradient is 180 where its circle touches the sides, where the light must have ended.
        glow = Image.radial_gradient("L").point([(max(0, 178 - n) / 178) ** 2 * 150 for n in range(256)])
        corner = (round(light[0] * self.size[1]) - side // 2, round(light[1] * self.size[1]) - side // 2)
        self.image.paste(_mix(self.light, self.sky[2], 0.3), corner, glow.resize((side, side)))
        self.ellipse(light, own.uniform(0.045, 0.08), color=self.light)
        if self.land in {"mountains", "city"}:
            (self.mountains if self.land == "mountains" else self.city)(horizon)
        if self.land in {"water", "city"} or (self.land == "mountains" and self.wet):
            self.water(horizon, light[0])
        else:
            self.rows(horizon - 0.05)
        self.figures(own)
        return self.image.reduce(_FINE)

    def mountains(self, horizon: float) -> None:
        base = horizon + 0.06
        for nearness, step, height in ((0.15, 0.3, 0.3), (0.5, 0.5, 0.4)):
            rock = _mix(self.far, self.near, nearness)
            for middle, chance in self.slots(f"peaks {nearness}", step):
                tall, x = height * chance.uniform(0.6, 1.0), middle + chance.uniform(-0.2, 0.2) * step
                top, left, right = base - tall, tall * chance.uniform(0.9, 1.2), tall * chance.uniform(0.9, 1.2)
                self.polygon([(x - left, base), (x, top), (x + 0.1 * tall, base)], _mix(rock, self.sky[2], 0.22))
                self.polygon([(x, top), (x + right, base), (x + 0.1 * tall, base)], _mix(rock, self.near, 0.25))
                snow = [(x - 0.25 * left, top + 0.25 * tall), (x, top), (x + 0.25 * right, top + 0.25 * tall)]
                self.polygon(snow, (243, 243, 246))

    def city(self, base: float) -> None:
        lamps = (255, 214, 130) if self.hour in {"night", "sunset"} else self.light
        for row in range(3):
            color = _mix(self.far, self.near, 0.2 + 0.38 * row)
            for middle, chance in self.slots(f"towers {row}", 0.085):
                x, width = middle + chance.uniform(-0.02, 0.02), chance.uniform(0.05, 0.1)
                top = base - chance.uniform(0.08, 0.45 - 0.1 * row)
                self.box(x, top, width, base - top, color)
                for number in range(int((base - top) / 0.024) * 2):
                    if chance.random() < 0.4:
                        self.box(x + 0.01 + number % 2 * 0.02, top + 0.012 + number // 2 * 0.024, 0.009, 0.011, lamps)

    def water(self, horizon: float, light: float) -> None:
        if self.land == "water":
            self.ridge("shore", horizon, 0.03, _mix(self.far, self.near, 0.25))
        deep = _mix(self.sky[0], self.near, 0.45)
        self.gradient(horizon, 1.0, [_mix(self.sky[2], deep, 0.25), _mix(self.sky[1], deep, 0.5), deep])
        for number in range(1, 91):
            chance, near = self.chance("glitter", number), number / 90
            where = (light + chance.gauss(0, 0.03 + 0.07 * near), horizon + (1.02 - horizon) * near)
            across = 0.012 + 0.035 * near * chance.random()
            self.ellipse(where, across, 0.0016 + 0.002 * near, color=self.light, alpha=0.75)

    def rows(self, top: float) -> None:
        """Draw hills, dunes, meadows or firs in four rows."""
        far = _mix(self.light, self.sky[2], 0.7) if self.land == "dunes" else self.far
        for row in range(4):
            base, color = top + 0.06 + (1.02 - top) * row / 4, _mix(far, self.near, 0.12 + 0.27 * row)
            for middle, chance in self.slots(f"firs {row}", 0.05 + 0.025 * row) if self.land == "forest" else ():
                x, foot = middle + chance.uniform(-0.03, 0.03), base + chance.uniform(0, 0.03)
                height = (0.17 + 0.13 * row) * chance.uniform(0.7, 1.15)
                self.polygon([(x - 0.2 * height, foot), (x, foot - height), (x + 0.2 * height, foot)], color)
            self.ridge(f"hill {row}", base - 0.02, 0.01 if self.land == "forest" else 0.06, color)
            for middle, chance in self.slots(f"flowers {row}", 0.05) if self.land == "meadow" else ():
                where = (middle, base + chance.uniform(0.04, 0.2))
                petal = self.accent or chance.choice(((236, 84, 96), (248, 178, 70), (250, 240, 235), (196, 120, 210)))
                self.ellipse(where, 0.006 + 0.006 * row, color=self.lit(petal))

    def figures(self, own: Random) -> None:
        """Draw what the words name: one on land or water, several in the air."""
        motif, width, grown = self.motif, self.scene.ratio, own.uniform(0.85, 1.15)
        if motif and motif["land"]:
            if motif["land"] != "water" and (self.wet or self.land == "city"):
                self.ridge("bank", 0.9, 0.03, self.near)
            low = 0.74 if motif["land"] == "water" else 0.9
            foot = (width * own.choice((0.33, 0.42, 0.58, 0.67)), low + own.uniform(-0.03, 0.03))
            self.figure(motif, foot, motif["size"] * grown)
        elif motif:
            slots = own.sample((0.18, 0.4, 0.62, 0.84), own.randint(2, 4) if motif["size"] < 0.3 else 1)
            for slot, share in zip(slots, (1.0, 0.6, 0.45, 0.3), strict=False):
                self.figure(motif, (width * slot, own.uniform(0.32, 0.56)), motif["size"] * share * grown)

    def figure(self, motif: dict[str, Any], foot: Point, size: float) -> None:
        accent = self.accent or _color(motif["accent"])
        colors = {
            "a": self.lit(accent),
            "w": self.lit((250, 246, 236)),
            "s": self.lit(_mix(accent, self.near, 0.25)),
            "d": _mix(self.near, (30, 22, 20), 0.5),
            "l": (255, 226, 150),
        }
        if motif["land"] == "water":
            self.ellipse((foot[0], foot[1] + 0.012), size * 0.5, 0.014, color=self.near, alpha=0.45)
        for shape in motif["shapes"]:
            kind, *pairs = shape.split()
            points = [(float(x) * size / 100, float(y) * size / 100) for x, y in (pair.split(",") for pair in pairs)]
            if kind[0] == "o":
                (x, y), (across, down) = points
                self.ellipse((foot[0] + x, foot[1] - y), across, down, color=colors[kind[1]])
            else:
                self.polygon([(foot[0] + x, foot[1] - y) for x, y in points], colors[kind])

    def chance(self, *name: object) -> Random:
        return dice(self.scene.words, self.scene.seed, self.scene.index, self.scene.take, *name)

    def slots(self, name: str, step: float) -> Iterator[tuple[float, Random]]:
        """Yield places from left to right, each with its dice."""
        for number in range(-2, math.ceil(self.scene.ratio / step) + 3):
            yield number * step, self.chance(name, number)

    def lit(self, color: Color) -> Color:
        """Return the colour of a thing as this hour's light shows it."""
        return _mix(color, self.near, {"night": 0.4, "sunset": 0.2, "mist": 0.2}.get(self.hour, 0.06))

    def ridge(self, name: str, base: float, height: float, color: Color) -> None:
        chance, width = self.chance(name), self.scene.ratio
        waves = [(2.2 * 1.9**octave, chance.uniform(0, math.tau), height * 0.42**octave) for octave in range(5)]
        xs = [width * index / 160 for index in range(161)]
        line = [(x, base - abs(sum(math.sin(x * f + phase) * size for f, phase, size in waves))) for x in xs]
        self.polygon([*line, (width, 1.0), (0.0, 1.0)], color)

    def gradient(self, top: float, bottom: float, colors: Sequence[Color]) -> None:
        first, last = round(top * self.size[1]), round(bottom * self.size[1])
        strip = Image.new("RGB", (1, len(colors)))
        strip.putdata(list(colors))
        column = strip.resize((1, last - first), Image.Resampling.BILINEAR)
        self.image.paste(column.resize((self.size[0], last - first)), (0, first))

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        self.canvas.polygon([(x * self.size[1], y * self.size[1]) for x, y in points], fill=color)

    def box(self, x: float, y: float, width: float, height: float, color: Color) -> None:
        self.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], color)

    def ellipse(
        self, center: Point, across: float, down: float | None = None, *, color: Color, alpha: float = 1.0
    ) -> None:
        (x, y), down = center, down or across
        corners = [value * self.size[1] for value in (x - across, y - down, x + across, y + down)]
        self.canvas.ellipse(corners, fill=(*color, round(alpha * 255)))
