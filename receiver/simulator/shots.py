"""What a picture shows, as a recipe: plain values, drawn only when somebody asks to see them."""

from dataclasses import dataclass, replace

from receiver.simulator import prompts


@dataclass(frozen=True, slots=True)
class Painted:
    """A scene from words; ``take`` arranges it anew, ``tone`` lights it differently."""

    words: str
    seed: int
    index: int
    ratio: float
    take: int = 0
    tone: int = 0


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A picture somebody sent."""

    content: bytes
    ratio: float


@dataclass(frozen=True, slots=True)
class Extended:
    """A picture inside a wider one. The sides are shares of the inner width and height."""

    inner: "Shot"
    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0
    take: int = 0

    @property
    def ratio(self) -> float:
        """Width by height."""
        return self.inner.ratio * (1 + self.left + self.right) / (1 + self.top + self.bottom)


@dataclass(frozen=True, slots=True)
class Repainted:
    """A picture with another where the mask is white; without a mask both everywhere, one through the other."""

    inner: "Shot"
    new: Painted
    mask: bytes | None = None

    @property
    def ratio(self) -> float:
        """Width by height."""
        return self.inner.ratio


@dataclass(frozen=True, slots=True)
class Blended:
    """Several pictures in one; the ``lead`` one shows most."""

    parts: tuple["Shot", ...]
    lead: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Swapped:
    """A picture with the middle of another, where faces are."""

    face: "Shot"
    target: "Shot"

    @property
    def ratio(self) -> float:
        """Width by height."""
        return self.target.ratio


Shot = Painted | Uploaded | Extended | Repainted | Blended | Swapped


def grid(prompt: str, seed: int) -> tuple[Shot, ...]:
    """The four pictures of a prompt."""
    words, ratio = prompts.scene_words(prompt), prompts.ratio(prompt)
    return tuple(Painted(words, seed, index, ratio) for index in range(4))


def retaken(shot: Shot, prompt: str, seed: int, index: int) -> Shot:
    """The same picture done again, with other details: what a variation is."""
    take = seed % 10**6 + index + 1
    if isinstance(shot, Painted):
        return replace(shot, words=prompts.scene_words(prompt), take=take)
    if isinstance(shot, Extended):
        return replace(shot, take=take)
    if isinstance(shot, Repainted):
        return replace(shot, new=replace(shot.new, words=prompts.scene_words(prompt), take=take))
    return Repainted(shot, Painted(prompts.scene_words(prompt), seed, index, shot.ratio))


def toned(shot: Shot, prompt: str, seed: int, index: int) -> Shot:
    """The same picture in another light: what a subtle variation is."""
    if isinstance(shot, Painted) and index < 3:
        return replace(shot, tone=shot.tone + index + 1)
    return retaken(shot, prompt, seed, index)


def zoomed(shot: Shot, factor: float, take: int) -> Shot:
    """The picture smaller in the middle of a wider one."""
    side = (factor - 1) / 2
    return Extended(shot, side, side, side, side, take)


def panned(shot: Shot, direction: str, take: int) -> Shot:
    """The picture half as large again to one side: left, right, top or bottom."""
    left, top, right, bottom = (0.5 if direction == side else 0.0 for side in ("left", "top", "right", "bottom"))
    return Extended(shot, left, top, right, bottom, take)


def squared(shot: Shot, take: int) -> Shot:
    """The picture with as much added at two sides as makes it a square."""
    missing = (max(shot.ratio, 1 / shot.ratio) - 1) / 2
    if shot.ratio > 1:
        return Extended(shot, top=missing, bottom=missing, take=take)
    return Extended(shot, left=missing, right=missing, take=take)


def base(shot: Shot) -> Painted | None:
    """The painted scene at the bottom of a picture, if there is one."""
    while isinstance(shot, Extended | Repainted):
        shot = shot.inner
    return shot if isinstance(shot, Painted) else None


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the painted scene stands in a picture, in heights of the picture."""

    left: float = 0.0
    top: float = 0.0
    height: float = 1.0


def frame(shot: Shot) -> Frame:
    """The place of the painted scene at the bottom of a picture."""
    if isinstance(shot, Repainted):
        return frame(shot.inner)
    if not isinstance(shot, Extended):
        return Frame()
    inner, whole = frame(shot.inner), 1 + shot.top + shot.bottom
    left = (shot.left * shot.inner.ratio + inner.left) / whole
    return Frame(left, (shot.top + inner.top) / whole, inner.height / whole)
