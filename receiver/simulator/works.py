"""Work of a task: pictures, texts or videos, from a prompt or from a button below a finished task.

Pictures are recipes, plain values, and are drawn only when requested (`pictures`). A button's customId names an action,
often a place in the grid, and a hash. Only the hash changes, so a button is identified by its customId's shape, the
text with ``{hash}`` in its place.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

from receiver.simulator import prompts
from receiver.simulator.timeline import GRID, SHORT, VIDEO, Pace

Sides = tuple[float, float, float, float]
"""Widths of left, top, right and bottom."""

# --- recipes of pictures -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """Scene drawn from words."""

    words: str
    seed: int
    index: int
    ratio: float  # width by height
    take: int = 0  # another number arranges the scene anew
    tone: int = 0  # another number lights it differently


@dataclass(frozen=True, slots=True)
class Upload:
    """Picture that a client sent."""

    content: bytes
    ratio: float


@dataclass(frozen=True, slots=True)
class Extended:
    """Picture inside a wider one, with sides in shares of the inner width and height."""

    inner: "Picture"
    sides: Sides
    take: int

    @property
    def ratio(self) -> float:
        """Width by height."""
        left, top, right, bottom = self.sides
        return self.inner.ratio * (1 + left + right) / (1 + top + bottom)


@dataclass(frozen=True, slots=True)
class Repainted:
    """Picture with another where the mask is white, in its middle for ``face``, or all over by this share."""

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
    words, ratio = prompts.scene_words(prompt), ratio or prompts.ratio(prompt)
    return tuple(Scene(words, seed, index, ratio) for index in range(4))


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


def blended(parts: tuple[Picture, ...], index: int) -> Picture:
    """Return one of four pictures in which the parts have different weights."""
    lead, share = index % len(parts), 0.45 - 0.12 * (index // len(parts))
    return reduce(lambda whole, part: Repainted(whole, part, share=share), [*parts[lead:], *parts[:lead]])


def squared(picture: Picture, take: int) -> Picture:
    """Return the picture with enough added at two sides to make it a square."""
    side = (max(picture.ratio, 1 / picture.ratio) - 1) / 2
    return Extended(picture, (0.0, side, 0.0, side) if picture.ratio > 1 else (side, 0.0, side, 0.0), take)


def first_scene(picture: Picture) -> Scene | None:
    """Return the scene that zooms, pans and repaints started from."""
    while isinstance(picture, Extended | Repainted):
        picture = picture.inner
    return picture if isinstance(picture, Scene) else None


# --- buttons (PROTOCOL.md §5) --------------------------------------------------------------------------------

_HASH = re.compile(r"^[0-9A-Za-z-]{1,64}$")

NEVER, WITH_REMIX, ALWAYS = "never", "with remix", "always"


@dataclass(frozen=True, slots=True)
class Button:
    """One button."""

    shape: str  # its customId, mostly with {hash} for the part that changes
    label: str
    emoji: str
    effect: str  # name of its effect in `Press`
    place: int = 0  # place in the grid, counted from 1
    asks: str = NEVER  # when a window opens first, which submit/modal answers

    def hash_in(self, custom_id: str) -> str | None:
        """Return the hash of a customId of this shape, or "" where the shape has none. None for another shape."""
        start, has_hash, end = self.shape.partition("{hash}")
        if not has_hash:
            return "" if custom_id == start else None
        if not (custom_id.startswith(start) and custom_id.endswith(end)):
            return None
        found = custom_id[len(start) : len(custom_id) - len(end)]
        return found if _HASH.match(found) else None


def _solo(action: str, label: str, emoji: str, effect: str, asks: str = NEVER) -> Button:
    return Button(f"MJ::JOB::{action}::1::{{hash}}::SOLO", label, emoji, effect, asks=asks)


def _four(action: str, letter: str, effect: str, asks: str = NEVER) -> tuple[Button, ...]:
    places = range(1, 5)
    return tuple(Button(f"MJ::JOB::{action}::{n}::{{hash}}", f"{letter}{n}", "", effect, n, asks) for n in places)


def _texts(kind: str, count: int) -> tuple[Button, ...]:
    digits = ("1️⃣", "2️⃣", "3️⃣", "4️⃣")[:count]
    return tuple(
        Button(f"MJ::Job::{kind}::{n}", "", emoji, "imagine_text", n, ALWAYS) for n, emoji in enumerate(digits, 1)
    )


_REROLL = Button("MJ::JOB::reroll::0::{hash}::SOLO", "", "🔄", "reroll", asks=WITH_REMIX)
_BOOKMARK = Button("MJ::BOOKMARK::{hash}", "", "❤️", "bookmark")

GRID_BUTTONS = (*_four("upsample", "U", "upscale"), _REROLL, *_four("variation", "V", "vary", WITH_REMIX))
"""Below four pictures."""

ENLARGED_BUTTONS = (
    _solo("low_variation", "Vary (Subtle)", "🪄", "vary_subtle", WITH_REMIX),
    _solo("high_variation", "Vary (Strong)", "🪄", "vary_strong", WITH_REMIX),
    Button("MJ::Inpaint::1::{hash}::SOLO", "Vary (Region)", "🖌️", "repaint", asks=ALWAYS),
    Button("MJ::Outpaint::50::1::{hash}::SOLO", "Zoom Out 2x", "🔍", "zoom_2x"),
    Button("MJ::Outpaint::75::1::{hash}::SOLO", "Zoom Out 1.5x", "🔍", "zoom_1.5x"),
    Button("MJ::CustomZoom::{hash}", "Custom Zoom", "🔍", "custom_zoom", asks=ALWAYS),
    _solo("pan_left", "", "⬅️", "pan_left", WITH_REMIX),
    _solo("pan_right", "", "➡️", "pan_right", WITH_REMIX),
    _solo("pan_up", "", "⬆️", "pan_up", WITH_REMIX),
    _solo("pan_down", "", "⬇️", "pan_down", WITH_REMIX),
    _solo("animate_high", "Animate (High motion)", "🎞️", "animate_high"),
    _solo("animate_low", "Animate (Low motion)", "🎞️", "animate_low"),
    _BOOKMARK,
)
"""Below a picture made by an upscale button of `SINGLE_BUTTONS`."""

SINGLE_BUTTONS = (
    _solo("upsample_v6_2x_subtle", "Upscale (Subtle)", "", "enlarge"),
    _solo("upsample_v6_2x_creative", "Upscale (Creative)", "", "enlarge"),
    *ENLARGED_BUTTONS,
)
"""Below one picture taken from a grid."""

SQUARE_BUTTON = Button("MJ::Outpaint::100::1::{hash}::SOLO", "Make Square", "↔️", "square")
"""Only where the picture is not square yet."""

FILMS_BUTTONS = (*_four("video_virtual_upscale", "U", "one_film"), _REROLL)
"""Below four videos."""

FILM_BUTTONS = (
    _solo("animate_high_extend", "Extend (High motion)", "🎞️", "animate_high"),
    _solo("animate_low_extend", "Extend (Low motion)", "🎞️", "animate_low"),
    _BOOKMARK,
)
"""Below one video."""

DESCRIBED_BUTTONS = (
    *_texts("PicReader", 4),
    Button("MJ::Picread::Retry", "", "🔄", "describe_again"),
    Button("MJ::Job::PicReader::all", "Imagine all", "🎉", "imagine_all"),
)
"""Below the texts of a described picture."""

SHORTENED_BUTTONS = _texts("PromptAnalyzer", 3)
"""Below shortened prompts."""

DETAILS_BUTTON = Button("MJ::Job::PromptAnalyzerExtended::{hash}", "Show Details", "", "details")

_BY_NAME = {
    button.shape.partition("{hash}")[0].rstrip("1:").removesuffix("::"): button
    for button in (*GRID_BUTTONS, *SINGLE_BUTTONS, SQUARE_BUTTON, *FILMS_BUTTONS, *FILM_BUTTONS)
}
"""Buttons by the beginning of their customId, up to the place in the grid."""


def by_prefix(custom_id: str) -> Button | None:
    """Return the button that a customId begins like, whatever place and hash follow (PROTOCOL.md §13.9)."""
    name = max((name for name in _BY_NAME if custom_id.startswith(f"{name}::")), key=len, default=None)
    if name is None:
        return None
    button, place = _BY_NAME[name], re.match("::([1-4])(?:::|$)", custom_id[len(name) :])
    return replace(button, place=int(place[1])) if place and button.effect != "reroll" else button


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
    heading: str = ""  # what stands before them in the bot's message
    film: Film | None = None
    pace: Pace = GRID
    offers: tuple[Button, ...] = GRID_BUTTONS
    command: str = "/imagine"
    relay_action: str | None = None  # as the relay names it, where that differs (PROTOCOL.md §5)
    parent: str | None = None  # id of the task it builds on
    enlarged: int = 1  # factor by which it is larger than usual

    @property
    def message(self) -> str:
        """The texts as the bot's message shows them."""
        return self.heading + "\n\n".join(self.texts)


def imagined(prompt: str, seed: int, *, parent: str | None = None) -> Work:
    """Return four pictures from a prompt."""
    return Work("IMAGINE", prompt, scenes(prompt, seed), parent=parent)


def filmed(prompt: str, still: Picture, film: Film, *, parent: str | None = None) -> Work:
    """Return videos that start from a picture."""
    offers = FILMS_BUTTONS if film.count > 1 else FILM_BUTTONS
    return Work("VIDEO", prompt, (still,) * film.count, film=film, pace=VIDEO, offers=offers, parent=parent)


def single(action: str, prompt: str, picture: Picture, *, enlarged: int = 1, parent: str | None = None) -> Work:
    """Return one picture."""
    offers = SINGLE_BUTTONS if enlarged == 1 else ENLARGED_BUTTONS
    if not 0.99 < picture.ratio < 1.01:
        offers = (*offers, SQUARE_BUTTON)
    return Work(action, prompt, (picture,), pace=SHORT, offers=offers, parent=parent, enlarged=enlarged)


def described(picture: Picture, words: str, seed: int, *, parent: str | None = None) -> Work:
    """Return four texts about a picture."""
    texts = prompts.descriptions(words, picture.ratio, seed)
    return Work(
        "DESCRIBE", "", (picture,), texts, pace=SHORT, offers=DESCRIBED_BUTTONS, command="/describe", parent=parent
    )


def shortened(prompt: str, *, details: bool = False, parent: str | None = None) -> Work:
    """Return three shorter prompts. The details are bars, one for each word (PROTOCOL.md §13.2)."""
    texts = prompts.shorter(prompt)
    offers = SHORTENED_BUTTONS[: len(texts)]
    heading = prompts.shorten_heading(prompt, details=details)
    offers = offers if details else (*offers, DETAILS_BUTTON)
    return Work("SHORTEN", prompt, (), texts, heading, pace=SHORT, offers=offers, command="/shorten", parent=parent)


# --- buttons pressed -----------------------------------------------------------------------------------------

_ADDED: dict[str, Sides] = {
    "pan_left": (0.5, 0.0, 0.0, 0.0),
    "pan_up": (0.0, 0.5, 0.0, 0.0),
    "pan_right": (0.0, 0.0, 0.5, 0.0),
    "pan_down": (0.0, 0.0, 0.0, 0.5),
    "zoom_2x": (0.5, 0.5, 0.5, 0.5),
    "zoom_1.5x": (0.25, 0.25, 0.25, 0.25),
}


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
        """Return the work that the button starts. The bookmark and "imagine all" make no single task."""
        effect, parent = self.button.effect, self.parent_id
        others: dict[str, Callable[[], Work]] = {
            "imagine_text": lambda: imagined(self.prompt, self.seed, parent=parent),
            "describe_again": lambda: described(self._picture, "", self.seed, parent=parent),
            "details": lambda: shortened(self.prompt, details=True, parent=parent),
            "upscale": lambda: single("UPSCALE", self.prompt, self._picture, parent=parent),
            "enlarge": lambda: single("UPSCALE_HD", self.prompt, self._picture, enlarged=2, parent=parent),
            "reroll": self._reroll,
            **dict.fromkeys(("one_film", "animate_low", "animate_high"), self._film),
        }
        if effect in others:
            work = others[effect]()
            return replace(work, relay_action="UPSCALE") if effect in {"enlarge", "one_film"} else work
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
        if effect in _ADDED:
            return Extended(picture, _ADDED[effect], take)
        if effect == "square":
            return squared(picture, take)
        if effect == "custom_zoom":
            side = (prompts.zoom(self.prompt) - 1) / 2
            return Extended(picture, (side, side, side, side), take)
        if effect == "repaint":
            return Repainted(picture, scenes(self.prompt, self.seed, picture.ratio)[index], self.mask)
        return varied(picture, self.prompt, self.seed, index, subtle=effect == "vary_subtle")

    def _reroll(self) -> Work:
        if self.parent.film:
            return replace(self._film(), relay_action="REROLL")
        old = self.parent.pictures
        four = tuple(varied(old[index % len(old)], self.prompt, self.seed, index) for index in range(4))
        return Work("REROLL", self.prompt, four, parent=self.parent_id)

    def _film(self) -> Work:
        film, effect = self.parent.film or Film("low"), self.button.effect
        if effect.startswith("animate_"):
            film = Film(effect.removeprefix("animate_"), film.kind)
        elif effect == "one_film":
            film = replace(film, count=1)
        return filmed(self.prompt, self._picture, film, parent=self.parent_id)


_ACTIONS = {
    "vary": ("VARIATION", None),
    "vary_strong": ("VARIATION", "HIGH_VARIATION"),
    "vary_subtle": ("VARIATION", "LOW_VARIATION"),
    "zoom_2x": ("ZOOM", None),
    "zoom_1.5x": ("ZOOM", None),
    "custom_zoom": ("ZOOM", "CUSTOM_ZOOM"),
    "square": ("ZOOM", None),
    "repaint": ("ACTION", "INPAINT"),
    **dict.fromkeys(("pan_left", "pan_up", "pan_right", "pan_down"), ("PAN", None)),
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
