"""Which results are grids, by what providers send."""

from __future__ import annotations

import pytest

from receiver.tasks import Button, Task, is_grid


def task(action: str = "", *buttons: tuple[str, str]) -> Task:
    return Task(id="1", action=action, buttons=tuple(Button(custom_id=id, label=label) for id, label in buttons))


FOUR = tuple((f"MJ::JOB::upsample::{n}::0f", f"U{n}") for n in range(1, 5))
SINGLE = (
    ("MJ::JOB::upsample_v6_2x_subtle::1::0f::SOLO", "Upscale (Subtle)"),
    ("MJ::Outpaint::50::1::0f::SOLO", "Zoom Out 2x"),
)


@pytest.mark.parametrize("action", ["IMAGINE", "UPSCALE", "", "ACTION", "MODAL"])
def test_buttons_decide(action: str) -> None:
    """With U1 to U4 it is a grid, with other buttons it is none, whatever the action is called."""
    assert is_grid(task(action, *FOUR), "action", None)
    assert not is_grid(task(action, *SINGLE), "imagine", None)
    assert not is_grid(task(action, *FOUR[:3]), "imagine", None)


def test_labels_are_enough() -> None:
    """A relay whose customIds are its own still says U1 to U4."""
    assert is_grid(task("", *((f"x{n}", f"U{n}") for n in range(1, 5))), "imagine", None)


@pytest.mark.parametrize(
    ("action", "grid"),
    [
        *((name, True) for name in ("IMAGINE", "VARIATION", "REROLL", "BLEND", "PAN", "ZOOM", "EDIT", "RETEXTURE")),
        *((name, True) for name in ("INPAINT", "CUSTOM_ZOOM", "HIGH_VARIATION", "LOW_VARIATION")),
        *((name, False) for name in ("UPSCALE", "UPSCALE_HD", "DESCRIBE", "SHORTEN", "SWAP_FACE", "VIDEO", "UPLOAD")),
    ],
)
def test_without_buttons_the_action_decides(action: str, grid: bool) -> None:
    """Java callbacks have no buttons, relays fill them late (PROTOCOL.md §5)."""
    assert is_grid(task(action), "action", "U2" if grid else "reroll") is grid


@pytest.mark.parametrize(
    ("kind", "button", "grid"),
    [
        ("imagine", None, True),
        ("blend", None, True),
        ("edits", None, True),
        ("video", None, False),
        ("swap", None, False),
        ("describe", None, False),
        *(("action", name, True) for name in ("V1", "v4", "reroll", "🔄", "Vary (Strong)", "vary region", "zoom 2x")),
        *(("action", name, True) for name in ("pan left", "⬅️", "up", "Custom Zoom", "Make Square")),
        *(("action", name, False) for name in ("U1", "u4", "Upscale (Subtle)", "creative", "animate", "❤️", "", None)),
    ],
)
def test_where_nothing_is_said_what_we_asked_for_decides(kind: str, button: str | None, grid: bool) -> None:
    """An action named ACTION, MODAL or nothing at all says nothing."""
    for action in ("ACTION", "MODAL", "", "NEWER_THAN_US"):
        assert is_grid(task(action), kind, button) is grid
