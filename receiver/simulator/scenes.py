"""From a prompt's words to a scene: hour, land, and what stands in it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from receiver.simulator import growths, landscapes, motifs, palettes
from receiver.simulator.canvas import Canvas, Point
from receiver.simulator.chance import dice
from receiver.simulator.landscapes import Around
from receiver.simulator.palettes import Palette

Motif = Callable[[Canvas, Palette, Point, float, Random], None]
K = TypeVar("K")

_HOURS: Mapping[str, str] = {
    "sunrise": "sunrise dawn morning daybreak",
    "day": "day noon midday sunny summer spring blue",
    "sunset": "sunset dusk evening golden twilight desert",
    "night": "night midnight moon moonlight moonlit star stars starry space galaxy planet neon cosmic dark",
    "mist": "mist misty fog foggy rain rainy winter snowy storm",
    "autumn": "autumn fall october leaves maple",
}

_LANDS: Mapping[str, str] = {
    "water": "water sea ocean lake river harbour harbor beach coast fish whale island",
    "mountains": "mountain mountains peak peaks alps summit glacier volcano",
    "forest": "forest woods wood pine pines firs jungle",
    "city": "city skyline street town tokyo york london paris cyberpunk building buildings skyscraper",
    "meadow": "flower flowers meadow garden rose roses tulip tulips poppy poppies daisy field",
    "dunes": "desert dune dunes sand sahara mars",
    "hills": "hill hills valley countryside",
}

_MOTIFS: Mapping[Motif, str] = {
    motifs.paper_boat: "paper",
    motifs.sailing_boat: "boat boats ship sail sailing sailboat yacht",
    motifs.cat: "cat cats kitten kitty 猫",
    motifs.balloon: "balloon balloons",
    motifs.lighthouse: "lighthouse",
    motifs.house: "house cabin cottage hut home farm village",
    growths.tree: "tree oak maple",
    motifs.planet: "planet planets space galaxy saturn cosmic",
    motifs.birds: "bird birds seagull gulls crane cranes swallow",
}


_HOMES: Mapping[Motif, str] = {
    motifs.paper_boat: "water",
    motifs.sailing_boat: "water",
    motifs.lighthouse: "water",
    motifs.cat: "hills",
    motifs.house: "hills",
    growths.tree: "hills",
}
"""Where a motif stands when the words name no land."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What the words ask for; None leaves it to chance, tile by tile."""

    mood: str | None
    land: str | None
    motif: Motif | None
    wet: bool
    around: Around | None = None


def read(words: str) -> Scene:
    """The first hour, land and motif the words name."""
    said = re.findall(r"\w+", words.lower().replace("猫", " 猫 "))
    motif = _named(said, _MOTIFS)
    if motif is motifs.paper_boat and not {"boat", "boats", "ship"} & set(said):
        motif = None
    land = _HOMES.get(motif) if motif in _AFLOAT else _named(said, _LANDS)
    wet = bool(set(_LANDS["water"].split()) & set(said))
    return Scene(_named(said, _HOURS), land or (_HOMES.get(motif) if motif else None), motif, wet)


def _named(said: list[str], names: Mapping[K, str]) -> K | None:
    return next((key for word in said for key, text in names.items() if word in text.split()), None)


def paint(
    canvas: Canvas,
    words: str,
    seed: int,
    index: int,
    *,
    take: int = 0,
    tone: int = 0,
    around: Around | None = None,
) -> None:
    """One of the four pictures, 0–3; the same for the same arguments.

    Args:
        canvas: What to paint on.
        words: What shall be seen.
        seed: What the words leave open, the same for all four.
        index: Which of the four.
        take: Another number arranges the same scene anew.
        tone: Another number lights the same scene differently.
        around: Set when a picture of this scene will be laid upon this one: the light stands where it stands
            there, and nothing stands in the way.
    """
    scene = read(words)
    if around:
        scene = replace(scene, motif=None, around=around)
    shared, own = dice(words, seed), dice(words, seed, index, *([take] if take else []))
    moods, lands = list(palettes.MOODS), ["water", "mountains", "forest", "hills", "dunes", "meadow"]
    shared.shuffle(moods)
    shared.shuffle(lands)
    palette = palettes.palette(scene.mood or moods[index], shared.randrange(4) + index + tone)
    _LAND_PAINTERS[scene.land or lands[index]](canvas, palette, scene, own)


def _place(canvas: Canvas, own: Random, low: float, high: float) -> Point:
    # Away from the middle more often than not: the rule of thirds.
    third = own.choice((0.33, 0.42, 0.58, 0.67))
    return canvas.ratio * third, own.uniform(low, high)


def _water(canvas: Canvas, palette: Palette, scene: Scene, own: Random) -> None:
    horizon = own.uniform(0.46, 0.58)
    light = landscapes.sky(canvas, palette, horizon, own, scene.around)
    if own.random() < 0.75:
        skyline = landscapes.ridge(canvas, horizon + 0.005, own.uniform(0.02, 0.05), 0.45, own)
        canvas.polygon([*skyline, (canvas.ratio * 1.1, horizon), (-0.1, horizon)], palette.land(0.25), 0.9)
        canvas.haze(horizon, 0.05, palette.sky[2], 0.6)
    if scene.motif in _IN_THE_AIR:
        _in_the_air(canvas, palette, scene, own)
    landscapes.water(canvas, palette, horizon, light, own)
    if scene.motif is motifs.lighthouse:
        motifs.lighthouse(canvas, palette, _place(canvas, own, 0.72, 0.8), own.uniform(0.42, 0.55), own)
    elif scene.motif is not None and scene.motif in _AFLOAT:
        _boats(canvas, palette, scene.motif, horizon, own)
    elif scene.motif is None:
        motifs.birds(canvas, palette, _place(canvas, own, 0.2, 0.3), 0.16, own)
    elif scene.motif not in _IN_THE_AIR:
        landscapes.meadow(canvas, palette, 0.86, own)
        _stand(canvas, palette, scene, own)


def _boats(canvas: Canvas, palette: Palette, boat: Motif, horizon: float, own: Random) -> None:
    near = _place(canvas, own, 0.71, 0.78)
    if own.random() < 0.4:
        boat(
            canvas,
            palette,
            (canvas.ratio * (0.15 if near[0] > canvas.ratio / 2 else 0.85), horizon + 0.07),
            0.085,
            own,
        )
    boat(canvas, palette, near, own.uniform(0.3, 0.46), own)


def _mountains(canvas: Canvas, palette: Palette, scene: Scene, own: Random) -> None:
    horizon = own.uniform(0.6, 0.7)
    light = landscapes.sky(canvas, palette, horizon, own, scene.around)
    landscapes.mountains(canvas, palette, horizon, own)
    if scene.wet or own.random() < 0.4:
        landscapes.water(canvas, palette, horizon, light, own)
    else:
        landscapes.hills(canvas, palette, horizon - 0.06, own, layers=3)
    _stand(canvas, palette, scene, own)


def _forest(canvas: Canvas, palette: Palette, scene: Scene, own: Random) -> None:
    horizon = own.uniform(0.5, 0.58)
    landscapes.sky(canvas, palette, horizon + 0.1, own, scene.around)
    growths.forest(canvas, palette, horizon - 0.02, own)
    _stand(canvas, palette, scene, own)


def _city(canvas: Canvas, palette: Palette, scene: Scene, own: Random) -> None:
    horizon = own.uniform(0.68, 0.78)
    light = landscapes.sky(canvas, palette, horizon, own, scene.around)
    growths.city(canvas, palette, horizon, own)
    landscapes.water(canvas, palette, horizon, light, own)
    _stand(canvas, palette, scene, own)


def _meadow(canvas: Canvas, palette: Palette, scene: Scene, own: Random) -> None:
    horizon = own.uniform(0.5, 0.62)
    landscapes.sky(canvas, palette, horizon, own, scene.around)
    landscapes.hills(canvas, palette, horizon - 0.06, own, layers=2)
    landscapes.meadow(canvas, palette, horizon, own)
    _stand(canvas, palette, scene, own)
    growths.flowers(canvas, palette, horizon, own)


def _dunes(canvas: Canvas, palette: Palette, scene: Scene, own: Random) -> None:
    horizon = own.uniform(0.55, 0.65)
    landscapes.sky(canvas, palette, horizon, own, scene.around)
    landscapes.dunes(canvas, palette, horizon - 0.04, own)
    _stand(canvas, palette, scene, own)


def _hills(canvas: Canvas, palette: Palette, scene: Scene, own: Random) -> None:
    horizon = own.uniform(0.5, 0.6)
    landscapes.sky(canvas, palette, horizon, own, scene.around)
    landscapes.hills(canvas, palette, horizon - 0.04, own)
    landscapes.meadow(canvas, palette, 0.86, own)
    _stand(canvas, palette, scene, own)


def _stand(canvas: Canvas, palette: Palette, scene: Scene, own: Random) -> None:
    if scene.motif in _IN_THE_AIR:
        _in_the_air(canvas, palette, scene, own)
    elif scene.motif is not None:
        size = own.uniform(0.4, 0.55) if scene.motif is motifs.cat else own.uniform(0.3, 0.42)
        scene.motif(canvas, palette, _place(canvas, own, 0.86, 0.92), size, own)
    elif own.random() < 0.5:
        motifs.birds(canvas, palette, _place(canvas, own, 0.2, 0.3), 0.14, own)


def _in_the_air(canvas: Canvas, palette: Palette, scene: Scene, own: Random) -> None:
    if scene.motif is motifs.balloon:
        slots = own.sample((0.15, 0.38, 0.62, 0.84), own.randint(2, 4))
        for slot, size in zip(slots, sorted(own.uniform(0.07, 0.3) for _ in slots), strict=True):
            where = (canvas.ratio * (slot + own.uniform(-0.04, 0.04)), own.uniform(0.34, 0.52))
            motifs.balloon(canvas, palette, where, size, own)
    elif scene.motif is motifs.planet:
        motifs.planet(canvas, palette, _place(canvas, own, 0.26, 0.36), own.uniform(0.11, 0.17), own)
    else:
        motifs.birds(canvas, palette, _place(canvas, own, 0.22, 0.36), 0.22, own)


_AFLOAT = frozenset({motifs.paper_boat, motifs.sailing_boat})
_IN_THE_AIR = frozenset({motifs.balloon, motifs.planet, motifs.birds})

_LAND_PAINTERS: Mapping[str, Callable[[Canvas, Palette, Scene, Random], None]] = {
    "water": _water,
    "mountains": _mountains,
    "forest": _forest,
    "city": _city,
    "meadow": _meadow,
    "dunes": _dunes,
    "hills": _hills,
}
