"""Colours for the hours of the day, four of each, so that four tiles of one hour still differ."""

from dataclasses import dataclass

from receiver.simulator.canvas import Color, hexed, mix


@dataclass(frozen=True, slots=True)
class Palette:
    """Sky from top to horizon, the light in it, land far and near."""

    mood: str
    sky: tuple[Color, Color, Color]
    light: Color
    far: Color
    near: Color

    @property
    def night(self) -> bool:
        """Whether stars are out and windows lit."""
        return self.mood == "night"

    @property
    def water(self) -> Color:
        """Open water: the upper sky, deeper."""
        return mix(self.sky[0], self.near, 0.45)

    def land(self, nearness: float) -> Color:
        """Land, bluer and paler the farther away."""
        return mix(self.far, self.near, nearness)


# top, middle, horizon, light, far land, near land
_HOURS = {
    "sunrise": (
        "4a6fa5 f2a98c ffe0a6 fff3d0 b98a94 4b3f57",
        "3d4f86 d9829a ffc9a0 ffe9c4 94708f 35304f",
        "5b9bb5 f7c9a5 fff0c2 fffbe6 a9a28f 45505a",
        "6a5a9e f08f7f ffd27a fff0b0 a5708a 40304e",
    ),
    "day": (
        "2f7fc4 7dbbe6 d9eef7 ffffff 8fb0bf 3f6b4f",
        "3a96b8 93d2d6 eef6e4 fffdf0 8db5a5 49753f",
        "4a78c9 9bb8ee f2eaf0 ffffff 9aa3c4 4c5c86",
        "1f6a9e 6fb5c9 cfe9e2 fffff2 6f9fa8 2f5f5a",
    ),
    "sunset": (
        "35295f c2456b ff9a4f ffd68a 7b3a63 2b1b3b",
        "1f2f63 8a4a8c f9845b ffcf7d 5d3b70 211a38",
        "5a2a4e e0563f ffc14f ffe9a0 8a3b45 36182a",
        "2a4a70 c77a86 ffc08a ffe6b8 7a6680 33304c",
    ),
    "night": (
        "0a1030 1c2c5e 44609a f4f1da 33467a 0b1226",
        "0b1a2a 15405a 3f8a8a eafbe6 25566a 07141d",
        "160d33 3a1f63 8a4a90 fff0e0 4b2f75 120a24",
        "0c1722 22384f 6b7c8f ffffff 3c5068 0a121b",
    ),
    "mist": (
        "8fa3ad bccad0 e8ecea ffffff a9b8bd 566870",
        "a39aa8 cbc0c6 efe6e0 fffaf2 b8abb2 665a68",
        "86a39a b5cbc0 e6eee2 fffff4 a2b8aa 4d675c",
        "94a0bb c3cbdd f0eff2 ffffff aeb6ca 5a6380",
    ),
    "autumn": (
        "6f9bb5 d9c9a0 ffe6b0 fff6d8 c98a4a 6b3318",
        "7a86a8 e0a878 ffd6a0 fff0cc b8603a 542014",
        "8fb0b0 e9d79a fff2c4 fffbe6 d6a040 70401a",
        "5a6a94 d98a6a ffc98a ffe8b8 a8483a 431a1e",
    ),
}

MOODS = tuple(_HOURS)


def palette(mood: str, number: int) -> Palette:
    """One of the four palettes of an hour."""
    colors = [hexed(text) for text in _HOURS[mood][number % 4].split()]
    top, middle, low, light, far, near = colors
    return Palette(mood, (top, middle, low), light, far, near)
