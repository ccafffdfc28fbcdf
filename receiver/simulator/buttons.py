"""Buttons below finished tasks, and the customIds they carry (PROTOCOL.md §5).

A customId names an action, often a place in the grid, and a hash. Only the hash changes, so a button is identified
by its customId's shape: the text with ``{hash}`` in its place.
"""

import re
from dataclasses import dataclass

_HASH = re.compile(r"^[0-9A-Za-z-]{1,64}$")

NEVER, WITH_REMIX, ALWAYS = "never", "with remix", "always"


@dataclass(frozen=True, slots=True)
class Button:
    """One button."""

    shape: str  # its customId, mostly with {hash} for the part that changes
    label: str
    emoji: str
    effect: str  # name of its effect in `works.Press`
    place: int = 0  # place in the grid, counted from 1, or a number the effect needs
    asks: str = NEVER  # when a window opens first, which submit/modal answers

    def custom_id(self, hash_: str) -> str:
        """Return the customId with this hash."""
        return self.shape.replace("{hash}", hash_)

    def hash_in(self, custom_id: str) -> str | None:
        """Return the hash of a customId of this shape, "" where the shape has none; None for another shape."""
        start, has_hash, end = self.shape.partition("{hash}")
        if not has_hash:
            return "" if custom_id == start else None
        if not (custom_id.startswith(start) and custom_id.endswith(end)):
            return None
        found = custom_id[len(start) : len(custom_id) - len(end)]
        return found if _HASH.match(found) else None

    def opens_window(self, *, remix: bool) -> bool:
        """Return True if pressing it asks for more before anything is made."""
        return self.asks == ALWAYS or (remix and self.asks == WITH_REMIX)


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

GRID = (*_four("upsample", "U", "upscale"), _REROLL, *_four("variation", "V", "vary", WITH_REMIX))
"""Below four pictures."""

ENLARGED = (
    _solo("low_variation", "Vary (Subtle)", "🪄", "vary_subtle", WITH_REMIX),
    _solo("high_variation", "Vary (Strong)", "🪄", "vary_strong", WITH_REMIX),
    Button("MJ::Inpaint::1::{hash}::SOLO", "Vary (Region)", "🖌️", "repaint", asks=ALWAYS),
    Button("MJ::Outpaint::50::1::{hash}::SOLO", "Zoom Out 2x", "🔍", "zoom", 200),
    Button("MJ::Outpaint::75::1::{hash}::SOLO", "Zoom Out 1.5x", "🔍", "zoom", 150),
    Button("MJ::CustomZoom::{hash}", "Custom Zoom", "🔍", "custom_zoom", asks=ALWAYS),
    _solo("pan_left", "", "⬅️", "pan_left", WITH_REMIX),
    _solo("pan_right", "", "➡️", "pan_right", WITH_REMIX),
    _solo("pan_up", "", "⬆️", "pan_up", WITH_REMIX),
    _solo("pan_down", "", "⬇️", "pan_down", WITH_REMIX),
    _solo("animate_high", "Animate (High motion)", "🎞️", "animate_high"),
    _solo("animate_low", "Animate (Low motion)", "🎞️", "animate_low"),
    _BOOKMARK,
)
"""Below a picture made by an upscale button of `SINGLE`."""

SINGLE = (
    _solo("upsample_v6_2x_subtle", "Upscale (Subtle)", "", "enlarge"),
    _solo("upsample_v6_2x_creative", "Upscale (Creative)", "", "enlarge"),
    *ENLARGED,
)
"""Below one picture taken from a grid."""

SQUARE = Button("MJ::Outpaint::100::1::{hash}::SOLO", "Make Square", "↔️", "square")
"""Only where the picture is not square yet."""

FILMS = (*_four("video_virtual_upscale", "U", "one_film"), _REROLL)
"""Below four videos."""

FILM = (
    _solo("animate_high_extend", "Extend (High motion)", "🎞️", "animate_high"),
    _solo("animate_low_extend", "Extend (Low motion)", "🎞️", "animate_low"),
    _BOOKMARK,
)
"""Below one video."""

DESCRIBED = (
    *_texts("PicReader", 4),
    Button("MJ::Picread::Retry", "", "🔄", "describe_again"),
    Button("MJ::Job::PicReader::all", "Imagine all", "🎉", "imagine_all"),
)
"""Below the texts of a described picture."""

SHORTENED = _texts("PromptAnalyzer", 3)
"""Below shortened prompts."""
