"""What a task is to bring about: its pictures, texts or videos, decided when it is submitted."""

from dataclasses import dataclass

from receiver.simulator import buttons, prompts, shots
from receiver.simulator.buttons import Button
from receiver.simulator.course import GRID, SHORT, VIDEO, Pace
from receiver.simulator.shots import Shot


@dataclass(frozen=True, slots=True)
class Film:
    """How the pictures of a task move.

    Attributes:
        motion: ``low`` or ``high``.
        kind: ``vid_1.1_i2v_480`` or ``…_720``.
        count: How many videos, 1, 2 or 4.
    """

    motion: str
    kind: str = "vid_1.1_i2v_480"
    count: int = 4


@dataclass(frozen=True, slots=True)
class Work:
    """One task's work.

    Attributes:
        action: As the proxies name it.
        prompt: What the wire shows; "" where there is none, as in a describe.
        shots: One picture, the four of a grid, or what the videos start from.
        texts: What describe and shorten find.
        film: Set where the result is videos.
        relay_action: As the relay names it, where that differs (PROTOCOL.md §5).
        parent: The id of the task it builds on.
        enlarged: How many times larger than usual the picture is.
    """

    action: str
    prompt: str
    shots: tuple[Shot, ...] = ()
    texts: tuple[str, ...] = ()
    film: Film | None = None
    pace: Pace = GRID
    offers: tuple[Button, ...] = buttons.GRID
    command: str = "/imagine"
    relay_action: str | None = None
    parent: str | None = None
    enlarged: int = 1

    @property
    def told_prompt(self) -> str:
        """The prompt once the work is done: describe and shorten put their texts there (PROTOCOL.md §2)."""
        return "\n\n".join(self.texts) or self.prompt

    @property
    def captioned(self) -> bool:
        """Whether prompt and seed stand in the picture: not in what somebody else drew."""
        return not self.texts and bool(self.prompt)


def imagined(prompt: str, seed: int, *, parent: str | None = None, action: str = "IMAGINE") -> Work:
    """Four pictures from a prompt."""
    return Work(action, prompt, shots.grid(prompt, seed), parent=parent)


def filmed(prompt: str, still: Shot, film: Film, *, parent: str | None = None) -> Work:
    """Videos that start from a picture."""
    offers = buttons.FILMS if film.count > 1 else buttons.FILM
    return Work("VIDEO", prompt, (still,) * film.count, film=film, pace=VIDEO, offers=offers, parent=parent)


def single(action: str, prompt: str, shot: Shot, *, enlarged: int = 1, **more: str | None) -> Work:
    """One picture."""
    offers = buttons.SINGLE if enlarged == 1 else buttons.ENLARGED
    if not 0.99 < shot.ratio < 1.01:
        offers = (*offers, buttons.SQUARE)
    return Work(action, prompt, (shot,), pace=SHORT, offers=offers, enlarged=enlarged, **more)  # type: ignore[arg-type]


def described(picture: Shot, words: str, seed: int, *, parent: str | None = None) -> Work:
    """Four texts about a picture."""
    texts = prompts.descriptions(words, picture.ratio, seed)
    return Work(
        "DESCRIBE", "", (picture,), texts, pace=SHORT, offers=buttons.DESCRIBED, command="/describe", parent=parent
    )


def shortened(prompt: str) -> Work:
    """Three shorter prompts."""
    texts = prompts.shorter(prompt)
    offers = buttons.SHORTENED[: len(texts)]
    return Work("SHORTEN", prompt, (), texts, pace=SHORT, offers=offers, command="/shorten")
