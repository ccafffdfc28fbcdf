"""Flags and words of a Midjourney prompt: speed, proportions, version."""

import re
from collections.abc import Sequence
from fractions import Fraction

from receiver.simulator.timeline import dice

_FLAGS = re.compile(r"(?:^|\s)--?[A-Za-z]\S*(?:\s+(?!--)[^\s]+)?|(?:^|\s)—[A-Za-z]+(?:\s+[^\s]+)?")
_URL = re.compile(r"https?://\S+")
_RATIO = re.compile(r"--(?:ar|aspect)\s+(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)")
_VERSION = re.compile(r"--(v|version|niji)\s+(\d+(?:\.\d+)?)")
_SPEED = re.compile(r"--(fast|relax|turbo)\b")
_ZOOM = re.compile(r"--zoom\s+(\d+(?:\.\d+)?)")
_VIDEO = re.compile(r"--(?:video|motion)\b")
_MOTION = re.compile(r"--motion\s+(low|high)\b")
SIDE = 1024


def scene_words(prompt: str) -> str:
    """Return the prompt without flags and picture URLs."""
    return " ".join(_FLAGS.sub(" ", _URL.sub(" ", prompt)).split())


def slug(prompt: str) -> str:
    """Return the start of the prompt as in Discord file names."""
    return "_".join(re.findall(r"[a-z0-9]+", scene_words(prompt).lower()))[:40].strip("_") or "picture"


def ratio(prompt: str) -> float:
    """Return width by height, the proportions of ``--ar``, at most 3:1."""
    found = _RATIO.search(prompt)
    across, down = (float(found[1]), float(found[2])) if found else (1.0, 1.0)
    return min(3.0, max(1 / 3, across / down)) if across and down else 1.0


def picture_size(ratio: float, side: int = SIDE) -> tuple[int, int]:
    """Return width and height of a picture or grid: about ``side``², in the given proportions, both even."""
    return 2 * round(side * ratio**0.5 / 2), 2 * round(side / ratio**0.5 / 2)


def zoom(prompt: str) -> float:
    """Return the factor of ``--zoom``, 1 to 2, and 2 when none is named."""
    found = _ZOOM.search(prompt)
    return min(2.0, max(1.0, float(found[1]))) if found else 2.0


def video(prompt: str) -> tuple[str, str] | None:
    """Return the link and motion of a prompt whose flags and picture URL request a video (PROTOCOL.md §2)."""
    link, motion = _URL.search(prompt), _MOTION.search(prompt)
    return (link[0], motion[1] if motion else "low") if link and _VIDEO.search(prompt) else None


def version(prompt: str) -> str:
    """Return the model as the C# proxy writes it: ``v 6.1``, ``niji 6``."""
    found = _VERSION.search(prompt)
    if found is None:
        return "v 7"
    return f"{'niji' if found[1] == 'niji' else 'v'} {found[2]}"


def speed(prefix: str | None, modes: Sequence[str], prompt: str) -> str:
    """Return the requested speed: by path, then accountFilter.modes, then a flag (PROTOCOL.md §1)."""
    flag = _SPEED.search(prompt)
    wished = [prefix, *(mode.lower() for mode in modes), flag[1] if flag else None]
    return next((mode for mode in wished if mode in {"fast", "turbo", "relax"}), "fast")


_MANNERS = ("soft watercolor", "oil painting", "risograph print", "paper collage", "matte illustration", "gouache")
_SUBJECTS = ("a small boat on calm water", "a house on a hill", "an old tree beside a lake", "mountains at dawn")


def descriptions(words: str, ratio: float, seed: int) -> tuple[str, ...]:
    """Return four prompts that might have made a picture, as describe writes them (payload callback_07)."""
    chance = dice("describe", words, seed)
    shape = Fraction(ratio).limit_denominator(16)
    subjects = [words] * 4 if words else chance.sample(_SUBJECTS, 4)
    return tuple(
        f"{number}\ufe0f\u20e3 {subject}, {manner} --ar {shape.numerator}:{shape.denominator}"
        for number, subject, manner in zip(range(1, 5), subjects, chance.sample(_MANNERS, 4), strict=True)
    )


def shorten_heading(prompt: str, *, details: bool) -> str:
    """Return the text before shortened prompts: the prompt with its telling words marked, or a bar for each word."""
    words = scene_words(prompt).split() or prompt.split()
    telling = _telling(words)
    if details:
        tokens = "\n".join(f"{word}: {'█' * 12} 1.00" if word in telling else f"{word}: ██ 0.10" for word in words)
    else:
        tokens = " ".join(f"**{word}**" if word in telling else f"~~{word}~~" for word in words)
    return f"## Important tokens\n{tokens}\n\n## Shortened prompts\n"


def _telling(words: Sequence[str]) -> list[str]:
    return [word for word in words if len(word.strip(",.")) > 3] or list(words)


def shorter(prompt: str) -> tuple[str, ...]:
    """Return three prompts, each with fewer words."""
    words = scene_words(prompt).split() or prompt.split()
    telling = _telling(words)
    kept = [telling, telling[: max(1, len(telling) * 2 // 3)], telling[: max(1, len(telling) // 3)]]
    return tuple(f"{number}\ufe0f\u20e3 {' '.join(some)}" for number, some in enumerate(kept, 1))
