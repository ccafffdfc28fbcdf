"""Which results are grids: four pictures in one, two by two (PROTOCOL.md §5 `buttons` and `action`, §9)."""

from __future__ import annotations

import re

from receiver.tasks.task import Button, Task

_PLACES = frozenset("1234")
_UPSAMPLE = re.compile(r"::upsample::([1-4])::", re.IGNORECASE)
_U_LABEL = re.compile(r"U([1-4])\Z", re.IGNORECASE)
_GRID_ACTIONS = frozenset(
    {"IMAGINE", "VARIATION", "REROLL", "BLEND", "ZOOM", "PAN", "EDIT", "RETEXTURE"}
    | {"INPAINT", "CUSTOM_ZOOM", "HIGH_VARIATION", "LOW_VARIATION"}
)
_OTHER_ACTIONS = frozenset(
    {"UPSCALE", "UPSCALE_HD", "DESCRIBE", "SHORTEN", "SHOW", "SWAP_FACE", "SWAP_VIDEO_FACE", "UPLOAD", "VIDEO"}
)
_GRID_KINDS = frozenset({"imagine", "blend", "edits"})
_GRID_BUTTONS = re.compile(
    r"\s*(?:v[1-4]|reroll|vary|region|(?:custom )?zoom|pan|left|right|up|down|make square|[🔄⬅➡⬆⬇])\b|\s*[🔄⬅➡⬆⬇]",
    re.IGNORECASE,
)


def is_grid(task: Task, kind: str, button: str | None) -> bool:
    """Whether a finished task's one picture shows four, to be cut.

    What the task offers decides: only below a grid are there U1 to U4. Without buttons (Java callbacks have none,
    relays fill them late) its action does, and where that says nothing (ACTION, MODAL, unknown), what we asked for.
    In doubt it is none: a picture cut in four by mistake is worth less than a grid left whole.

    Args:
        task: a finished one; a video's U1 to U4 look the same, so ask only about pictures.
        kind: what was submitted, for instance `imagine`.
        button: for a follow-up, the button as the person called it.
    """
    if task.buttons:
        return _places(task.buttons) == _PLACES
    if task.action in _GRID_ACTIONS:
        return True
    if task.action in _OTHER_ACTIONS:
        return False
    return kind in _GRID_KINDS or _GRID_BUTTONS.match(button or "") is not None


def _places(buttons: tuple[Button, ...]) -> set[str]:
    found = (_UPSAMPLE.search(button.custom_id) or _U_LABEL.match(button.label) for button in buttons)
    return {match[1] for match in found if match}
