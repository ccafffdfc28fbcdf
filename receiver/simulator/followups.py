"""What pressing a button makes of a finished task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from receiver.simulator import prompts, shots, works
from receiver.simulator.buttons import Button
from receiver.simulator.shots import Shot
from receiver.simulator.works import Film, Work


@dataclass(frozen=True, slots=True)
class Press:
    """A button pressed below a finished task, with what a window asked for, if one opened."""

    parent: Work
    parent_id: str
    button: Button
    prompt: str
    seed: int
    mask: bytes | None = None

    @property
    def shot(self) -> Shot:
        """The picture the button stands for."""
        place = self.button.place - 1
        return self.parent.shots[place if 0 <= place < len(self.parent.shots) else 0]

    @property
    def work(self) -> Work:
        """What comes of it."""
        return _EFFECTS[self.button.effect](self)

    def answered(self, prompt: str | None, mask: bytes | None) -> "Press":
        """The same press with what was typed into the window."""
        return replace(self, prompt=prompt or self.prompt, mask=mask)

    @property
    def relay_action(self) -> str:
        """What the relay calls it."""
        return self.work.relay_action or self.work.action


def pressed(parent: Work, parent_id: str, button: Button, seed: int) -> Press:
    """The button pressed, with the prompt its window would propose."""
    prompt = parent.prompt
    if button.effect == "imagine_text":
        prompt = parent.texts[button.place - 1].partition(" ")[2]
    if button.effect == "custom_zoom":
        prompt = f"{prompt} --zoom 2"
    return Press(parent, parent_id, button, prompt, seed)


def all_texts(parent: Work, parent_id: str, seed: int) -> tuple[Work, ...]:
    """One task for each text of a describe."""
    texts = (text.partition(" ")[2] for text in parent.texts)
    return tuple(works.imagined(text, seed + number, parent=parent_id) for number, text in enumerate(texts))


def _grid(press: Press, action: str, four: Callable[[int], Shot], relay_action: str | None = None) -> Work:
    pictures = tuple(four(index) for index in range(4))
    return Work(action, press.prompt, pictures, parent=press.parent_id, relay_action=relay_action)


def _upscale(press: Press) -> Work:
    return works.single("UPSCALE", press.prompt, press.shot, parent=press.parent_id)


def _enlarge(press: Press) -> Work:
    parent = press.parent_id
    return works.single("UPSCALE_HD", press.prompt, press.shot, enlarged=2, parent=parent, relay_action="UPSCALE")


def _vary(press: Press) -> Work:
    relay_action = "HIGH_VARIATION" if press.button.effect == "vary_strong" else None
    return _grid(
        press, "VARIATION", lambda index: shots.retaken(press.shot, press.prompt, press.seed, index), relay_action
    )


def _vary_subtle(press: Press) -> Work:
    return _grid(
        press, "VARIATION", lambda index: shots.toned(press.shot, press.prompt, press.seed, index), "LOW_VARIATION"
    )


def _reroll(press: Press) -> Work:
    if press.parent.film:
        return replace(_film(press, press.parent.film), relay_action="REROLL")
    first = press.parent.shots[0]
    if isinstance(first, shots.Painted):
        return works.imagined(press.prompt, press.seed, parent=press.parent_id, action="REROLL")
    fresh = [shots.retaken(shot, press.prompt, press.seed, index) for index, shot in enumerate(press.parent.shots)]
    return _grid(press, "REROLL", lambda index: fresh[index % len(fresh)])


def _zoom(press: Press) -> Work:
    factor = press.button.place / 100
    return _grid(press, "ZOOM", lambda index: shots.zoomed(press.shot, factor, press.seed + index))


def _custom_zoom(press: Press) -> Work:
    factor = prompts.zoom(press.prompt)
    return _grid(press, "ZOOM", lambda index: shots.zoomed(press.shot, factor, press.seed + index), "CUSTOM_ZOOM")


def _pan(press: Press) -> Work:
    side = {"pan_left": "left", "pan_right": "right", "pan_up": "top", "pan_down": "bottom"}[press.button.effect]
    return _grid(press, "PAN", lambda index: shots.panned(press.shot, side, press.seed + index))


def _square(press: Press) -> Work:
    return _grid(press, "ZOOM", lambda index: shots.squared(press.shot, press.seed + index))


def _repaint(press: Press) -> Work:
    def repainted(index: int) -> Shot:
        new = shots.Painted(prompts.scene_words(press.prompt), press.seed, index, press.shot.ratio)
        return shots.Repainted(press.shot, new, press.mask)

    return _grid(press, "ACTION", repainted, "INPAINT")


def _animate(press: Press) -> Work:
    kind = press.parent.film.kind if press.parent.film else Film("low").kind
    return _film(press, Film(press.button.effect.removeprefix("animate_"), kind))


def _film(press: Press, film: Film) -> Work:
    return works.filmed(press.prompt, press.shot, film, parent=press.parent_id)


def _one_film(press: Press) -> Work:
    film = replace(press.parent.film or Film("low"), count=1)
    return replace(_film(press, film), relay_action="UPSCALE")


def _imagine(press: Press) -> Work:
    return works.imagined(press.prompt, press.seed, parent=press.parent_id)


def _describe_again(press: Press) -> Work:
    return works.described(press.shot, "", press.seed, parent=press.parent_id)


_EFFECTS: Mapping[str, Callable[[Press], Work]] = {
    "upscale": _upscale,
    "enlarge": _enlarge,
    "vary": _vary,
    "vary_strong": _vary,
    "vary_subtle": _vary_subtle,
    "reroll": _reroll,
    "zoom": _zoom,
    "custom_zoom": _custom_zoom,
    "pan_left": _pan,
    "pan_right": _pan,
    "pan_up": _pan,
    "pan_down": _pan,
    "square": _square,
    "repaint": _repaint,
    "animate_high": _animate,
    "animate_low": _animate,
    "one_film": _one_film,
    "imagine_text": _imagine,
    "describe_again": _describe_again,
}
"""What each button does; the bookmark and "imagine all" make no one task and are not here."""
