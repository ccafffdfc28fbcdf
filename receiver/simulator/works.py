"""Work of a task: pictures, texts or videos, from a prompt or from a button below a finished task.

Pictures are recipes, plain values, and are drawn only when requested (`pictures`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

from receiver.simulator import buttons, prompts
from receiver.simulator.buttons import Button
from receiver.simulator.timeline import GRID, SHORT, VIDEO, Pace

# --- recipes of pictures -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """Scene drawn from words."""

    words: str
    seed: int
    index: int
    frame: float  # width of the picture as first drawn, in units of its height
    take: int = 0  # another number arranges the scene anew
    tone: int = 0  # another number lights it differently
    left: float = 0.0  # added by zoom and pan, in the same unit
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0
    around: int = 0  # another number changes what is visible in the added parts

    @property
    def ratio(self) -> float:
        """Width by height."""
        return (self.frame + self.left + self.right) / (1 + self.top + self.bottom)


@dataclass(frozen=True, slots=True)
class Upload:
    """Picture that a client sent."""

    content: bytes
    ratio: float


@dataclass(frozen=True, slots=True)
class Extended:
    """Picture inside a wider one. The sides are shares of the inner width and height."""

    inner: "Picture"
    left: float
    top: float
    right: float
    bottom: float
    take: int

    @property
    def ratio(self) -> float:
        """Width by height."""
        return self.inner.ratio * (1 + self.left + self.right) / (1 + self.top + self.bottom)


@dataclass(frozen=True, slots=True)
class Repainted:
    """Picture with another where the mask is white, or in its middle for ``face``.

    Without a mask the new one is blended in with this share.
    """

    inner: "Picture"
    new: "Picture"
    mask: bytes | Literal["face"] | None = None
    share: float = 0.6

    @property
    def ratio(self) -> float:
        """Width by height."""
        return self.inner.ratio


Picture = Scene | Upload | Extended | Repainted


def scenes(prompt: str, seed: int, ratio: float | None = None) -> tuple[Scene, ...]:
    """Return the four pictures of a prompt, in its own proportions unless others are given."""
    words, frame = prompts.scene_words(prompt), ratio or prompts.ratio(prompt)
    return tuple(Scene(words, seed, index, frame) for index in range(4))


def varied(picture: Picture, prompt: str, seed: int, index: int, *, subtle: bool = False) -> Picture:
    """Return the picture with other details or, when subtle, in another light."""
    words, take = prompts.scene_words(prompt), seed % 10**6 + index + 1
    if isinstance(picture, Scene):
        if subtle and index < 3:
            return replace(picture, tone=picture.tone + index + 1)
        return replace(picture, words=words, take=take)
    if isinstance(picture, Extended):
        return replace(picture, take=take)
    if isinstance(picture, Repainted):
        return replace(picture, new=varied(picture.new, prompt, seed, index))
    return Repainted(picture, Scene(words, seed, index, picture.ratio))


def extended(
    picture: Picture, *, left: float = 0.0, top: float = 0.0, right: float = 0.0, bottom: float = 0.0, take: int
) -> Picture:
    """Return a wider picture. The sides are shares of the present width and height."""
    if not isinstance(picture, Scene):
        return Extended(picture, left, top, right, bottom, take)
    width, height = picture.frame + picture.left + picture.right, 1 + picture.top + picture.bottom
    return replace(
        picture,
        left=picture.left + left * width,
        top=picture.top + top * height,
        right=picture.right + right * width,
        bottom=picture.bottom + bottom * height,
        around=take,
    )


def blended(parts: tuple[Picture, ...], index: int) -> Picture:
    """Return one of four pictures in which the parts have different weights."""
    lead, share = index % len(parts), 0.45 - 0.12 * (index // len(parts))
    return reduce(lambda whole, part: Repainted(whole, part, share=share), [*parts[lead:], *parts[:lead]])


def zoomed(picture: Picture, factor: float, take: int) -> Picture:
    """Return the picture smaller in the middle of a wider one."""
    side = (factor - 1) / 2
    return extended(picture, left=side, top=side, right=side, bottom=side, take=take)


def squared(picture: Picture, take: int) -> Picture:
    """Return the picture with enough added at two sides to make it a square."""
    side = (max(picture.ratio, 1 / picture.ratio) - 1) / 2
    if picture.ratio > 1:
        return extended(picture, top=side, bottom=side, take=take)
    return extended(picture, left=side, right=side, take=take)


def first_scene(picture: Picture) -> Scene | None:
    """Return the scene that zooms, pans and repaints started from, if there is one."""
    while isinstance(picture, Extended | Repainted):
        picture = picture.inner
    return picture if isinstance(picture, Scene) else None


# --- work ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Film:
    """Videos of a task: motion ``low`` or ``high``, type, and count (1, 2 or 4)."""

    motion: str
    kind: str = "vid_1.1_i2v_480"
    count: int = 4


@dataclass(frozen=True, slots=True)
class Work:
    """Work of one task."""

    action: str  # as the proxies name it
    prompt: str  # "" where there is none, as in a describe
    pictures: tuple[Picture, ...] = ()  # one, the four of a grid, or the first frames of videos
    texts: tuple[str, ...] = ()  # results of describe and shorten
    film: Film | None = None
    pace: Pace = GRID
    offers: tuple[Button, ...] = buttons.GRID
    command: str = "/imagine"
    relay_action: str | None = None  # as the relay names it, where that differs (PROTOCOL.md §5)
    parent: str | None = None  # id of the task it builds on
    enlarged: int = 1  # factor by which it is larger than usual

    @property
    def final_prompt(self) -> str:
        """The prompt of the finished task: describe and shorten put their texts there (PROTOCOL.md §2)."""
        return "\n\n".join(self.texts) or self.prompt

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the picture or grid in pixels."""
        if not self.pictures:
            return None
        width, height = prompts.picture_size(self.pictures[0].ratio)
        return width * self.enlarged, height * self.enlarged


def imagined(prompt: str, seed: int, *, parent: str | None = None, action: str = "IMAGINE") -> Work:
    """Return four pictures from a prompt."""
    return Work(action, prompt, scenes(prompt, seed), parent=parent)


def filmed(prompt: str, still: Picture, film: Film, *, parent: str | None = None) -> Work:
    """Return videos that start from a picture."""
    offers = buttons.FILMS if film.count > 1 else buttons.FILM
    return Work("VIDEO", prompt, (still,) * film.count, film=film, pace=VIDEO, offers=offers, parent=parent)


def single(action: str, prompt: str, picture: Picture, *, enlarged: int = 1, parent: str | None = None) -> Work:
    """Return one picture, and for an enlarged one the relay's name of the action."""
    offers = buttons.SINGLE if enlarged == 1 else buttons.ENLARGED
    if not 0.99 < picture.ratio < 1.01:
        offers = (*offers, buttons.SQUARE)
    relay_action = None if enlarged == 1 else "UPSCALE"
    return Work(
        action,
        prompt,
        (picture,),
        pace=SHORT,
        offers=offers,
        enlarged=enlarged,
        parent=parent,
        relay_action=relay_action,
    )


def described(picture: Picture, words: str, seed: int, *, parent: str | None = None) -> Work:
    """Return four texts about a picture."""
    texts = prompts.descriptions(words, picture.ratio, seed)
    return Work(
        "DESCRIBE", "", (picture,), texts, pace=SHORT, offers=buttons.DESCRIBED, command="/describe", parent=parent
    )


def shortened(prompt: str) -> Work:
    """Return three shorter prompts."""
    texts = prompts.shorter(prompt)
    offers = buttons.SHORTENED[: len(texts)]
    return Work("SHORTEN", prompt, (), texts, pace=SHORT, offers=offers, command="/shorten")


# --- buttons pressed -----------------------------------------------------------------------------------------

_SIDES = {"pan_left": "left", "pan_right": "right", "pan_up": "top", "pan_down": "bottom"}


@dataclass(frozen=True, slots=True)
class Press:
    """Button pressed below a finished task, with the prompt and mask typed into its window, if one opened."""

    parent: Work
    parent_id: str
    button: Button
    prompt: str
    seed: int
    mask: bytes | None = None

    def work(self) -> Work:
        """Return the work that the button starts.

        The bookmark and "imagine all" make no single task and are handled before this.
        """
        effect, parent = self.button.effect, self.parent_id
        others: dict[str, Callable[[], Work]] = {
            "imagine_text": lambda: imagined(self.prompt, self.seed, parent=parent),
            "describe_again": lambda: described(self._picture, "", self.seed, parent=parent),
            "upscale": lambda: single("UPSCALE", self.prompt, self._picture, parent=parent),
            "enlarge": lambda: single("UPSCALE_HD", self.prompt, self._picture, enlarged=2, parent=parent),
            "reroll": self._reroll,
            **dict.fromkeys(("one_film", "animate_low", "animate_high"), self._film),
        }
        if effect in others:
            return others[effect]()
        action, relay_action = _ACTIONS[effect]
        pictures = tuple(self._changed(index) for index in range(4))
        return Work(action, self.prompt, pictures, parent=parent, relay_action=relay_action)

    @property
    def _picture(self) -> Picture:
        place = self.button.place - 1
        return self.parent.pictures[place if 0 <= place < len(self.parent.pictures) else 0]

    def _changed(self, index: int) -> Picture:
        """Return one of the four pictures of a variation, zoom, pan or repaint."""
        effect, picture, take = self.button.effect, self._picture, self.seed + index
        if effect in _SIDES:
            return extended(picture, **{_SIDES[effect]: 0.5}, take=take)
        if effect == "square":
            return squared(picture, take)
        if effect in {"zoom", "custom_zoom"}:
            factor = self.button.place / 100 if effect == "zoom" else prompts.zoom(self.prompt)
            return zoomed(picture, factor, take)
        if effect == "repaint":
            return Repainted(picture, scenes(self.prompt, self.seed, picture.ratio)[index], self.mask)
        return varied(picture, self.prompt, self.seed, index, subtle=effect == "vary_subtle")

    def _reroll(self) -> Work:
        if self.parent.film:
            return replace(self._film(), relay_action="REROLL")
        pictures = self.parent.pictures
        if isinstance(pictures[0], Scene) and not pictures[0].around:
            return imagined(self.prompt, self.seed, parent=self.parent_id, action="REROLL")
        fresh = [varied(picture, self.prompt, self.seed, index) for index, picture in enumerate(pictures)]
        four = tuple(fresh[index % len(fresh)] for index in range(4))
        return Work("REROLL", self.prompt, four, parent=self.parent_id)

    def _film(self) -> Work:
        film, effect = self.parent.film or Film("low"), self.button.effect
        if effect.startswith("animate_"):
            film = Film(effect.removeprefix("animate_"), film.kind)
        elif effect == "one_film":
            film = replace(film, count=1)
        work = filmed(self.prompt, self._picture, film, parent=self.parent_id)
        return replace(work, relay_action="UPSCALE") if effect == "one_film" else work


_ACTIONS = {
    "vary": ("VARIATION", None),
    "vary_strong": ("VARIATION", "HIGH_VARIATION"),
    "vary_subtle": ("VARIATION", "LOW_VARIATION"),
    "zoom": ("ZOOM", None),
    "custom_zoom": ("ZOOM", "CUSTOM_ZOOM"),
    "square": ("ZOOM", None),
    "repaint": ("ACTION", "INPAINT"),
    **dict.fromkeys(_SIDES, ("PAN", None)),
}
"""Actions of the proxies and of the relay for the buttons that make four new pictures."""


def press(parent: Work, parent_id: str, button: Button, seed: int) -> Press:
    """Return the button pressed, with the prompt that its window would propose."""
    prompt = parent.prompt
    if button.effect == "imagine_text":
        prompt = text_prompts(parent)[button.place - 1]
    if button.effect == "custom_zoom":
        prompt = f"{prompt} --zoom 2"
    return Press(parent, parent_id, button, prompt, seed)


def text_prompts(work: Work) -> list[str]:
    """Return the texts of a describe or shorten without their numbers."""
    return [text.partition(" ")[2] for text in work.texts]
