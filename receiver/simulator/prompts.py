"""What a Midjourney prompt says beside its words: flags for speed, proportions and version."""

import re
from collections.abc import Sequence

_FLAGS = re.compile(r"(?:^|\s)--?[A-Za-z]\S*(?:\s+(?!--)[^\s]+)?|(?:^|\s)—[A-Za-z]+(?:\s+[^\s]+)?")
_URL = re.compile(r"https?://\S+")
_RATIO = re.compile(r"--(?:ar|aspect)\s+(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)")
_VERSION = re.compile(r"--(v|version|niji)\s+(\d+(?:\.\d+)?)")
_SPEED = re.compile(r"--(fast|relax|turbo)\b")
_SIDE = 1024


def scene_words(prompt: str) -> str:
    """The prompt without flags and picture URLs: what is to be seen."""
    return " ".join(_FLAGS.sub(" ", _URL.sub(" ", prompt)).split())


def slug(prompt: str) -> str:
    """The start of the prompt as Discord file names carry it."""
    return "_".join(re.findall(r"[a-z0-9]+", scene_words(prompt).lower()))[:40].strip("_") or "picture"


def picture_size(prompt: str) -> tuple[int, int]:
    """Width and height of the grid: about 1024², in the proportions of ``--ar``, at most 3:1."""
    found = _RATIO.search(prompt)
    across, down = (float(found[1]), float(found[2])) if found else (1.0, 1.0)
    ratio = min(3.0, max(1 / 3, across / down)) if across and down else 1.0
    return _even(_SIDE * ratio**0.5), _even(_SIDE / ratio**0.5)


def _even(length: float) -> int:
    # Four tiles of whole pixels: whoever cuts the grid in four must get equal pictures.
    return 2 * round(length / 2)


def version(prompt: str) -> str:
    """The model as the C# proxy words it: ``v 6.1``, ``niji 6``."""
    found = _VERSION.search(prompt)
    if found is None:
        return "v 7"
    return f"{'niji' if found[1] == 'niji' else 'v'} {found[2]}"


def speed(prefix: str | None, modes: Sequence[str], prompt: str) -> str:
    """The speed asked for: by path, then accountFilter.modes, then a flag (PROTOCOL.md §1)."""
    flag = _SPEED.search(prompt)
    wished = [prefix, *(mode.lower() for mode in modes), flag[1] if flag else None]
    return next((mode for mode in wished if mode in {"fast", "turbo", "relax"}), "fast")
