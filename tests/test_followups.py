"""Which button a person means, and the submission that presses it."""

from __future__ import annotations

import pytest

from receiver.errors import InputError
from receiver.events import Submission
from receiver.intake.followups import as_change, find_button, follow_up, once_name
from receiver.tasks import Button, Task

HASH = "eb86b767-9306-434d-908a-aca7b0f8b589"
GRID = Task(
    id="1",
    status="SUCCESS",
    buttons=(
        *(Button(custom_id=f"MJ::JOB::upsample::{n}::{HASH}", label=f"U{n}") for n in range(1, 5)),
        Button(custom_id=f"MJ::JOB::reroll::0::{HASH}::SOLO", emoji="🔄"),
        *(Button(custom_id=f"MJ::JOB::variation::{n}::{HASH}", label=f"V{n}") for n in range(1, 5)),
    ),
)
UPSCALED = Task(
    id="2",
    status="SUCCESS",
    buttons=(
        Button(custom_id=f"MJ::JOB::upsample_v6_2x_subtle::1::{HASH}::SOLO", label="Upscale (Subtle)"),
        Button(custom_id=f"MJ::JOB::upsample_v6_2x_creative::1::{HASH}::SOLO", label="Upscale (Creative)"),
        Button(custom_id=f"MJ::JOB::low_variation::1::{HASH}::SOLO", label="Vary (Subtle)"),
        Button(custom_id=f"MJ::JOB::high_variation::1::{HASH}::SOLO", label="Vary (Strong)"),
        Button(custom_id=f"MJ::Inpaint::1::{HASH}::SOLO", label="Vary (Region)"),
        Button(custom_id=f"MJ::Outpaint::50::1::{HASH}::SOLO", label="Zoom Out 2x"),
        Button(custom_id=f"MJ::Outpaint::75::1::{HASH}::SOLO", label="Zoom Out 1.5x"),
        Button(custom_id=f"MJ::CustomZoom::{HASH}", label="Custom Zoom"),
        Button(custom_id=f"MJ::JOB::pan_left::1::{HASH}::SOLO", emoji="⬅️"),
        Button(custom_id=f"MJ::JOB::pan_right::1::{HASH}::SOLO", emoji="➡️"),
        Button(custom_id=f"MJ::JOB::animate_high::1::{HASH}::SOLO", label="Animate (High motion)"),
        Button(custom_id=f"MJ::JOB::animate_low::1::{HASH}::SOLO", label="Animate (Low motion)"),
    ),
)


@pytest.mark.parametrize(
    ("task", "wanted", "custom_id"),
    [
        (GRID, "U2", "upsample::2"),
        (GRID, " u2 ", "upsample::2"),
        (GRID, "V4", "variation::4"),
        (GRID, "reroll", "reroll"),
        (GRID, "🔄", "reroll"),
        (UPSCALED, "subtle", "_subtle"),
        (UPSCALED, "Upscale (Creative)", "_creative"),
        (UPSCALED, "vary strong", "high_variation"),
        (UPSCALED, "region", "Inpaint"),
        (UPSCALED, "zoom", "Outpaint::50"),
        (UPSCALED, "zoom 1.5x", "Outpaint::75"),
        (UPSCALED, "custom", "CustomZoom"),
        (UPSCALED, "pan left", "pan_left"),
        (UPSCALED, "⬅", "pan_left"),
        (UPSCALED, "right", "pan_right"),
        (UPSCALED, "animate low", "animate_low"),
        (UPSCALED, "Animate (High motion)", "animate_high"),
    ],
)
def test_a_button_answers_to_its_label_and_to_common_names(task: Task, wanted: str, custom_id: str) -> None:
    """Labels, emoji, names and the only label that begins so all find it."""
    assert custom_id in find_button(task, wanted).custom_id


@pytest.mark.parametrize(
    ("task", "wanted"), [(GRID, "U5"), (GRID, "zoom"), (GRID, ""), (GRID, "U"), (UPSCALED, "vary"), (UPSCALED, "U1")]
)
def test_what_is_no_button_or_more_than_one_is_told_with_those_there_are(task: Task, wanted: str) -> None:
    """The sentence lists the labels, so that the next try succeeds."""
    with pytest.raises(InputError, match=task.buttons[0].text.replace("(", r"\(").replace(")", r"\)")):
        find_button(task, wanted)


@pytest.mark.parametrize(
    ("wanted", "change"),
    [("U2", ("UPSCALE", 2)), ("v1", ("VARIATION", 1)), ("reroll", ("REROLL", 1)), ("zoom", None), ("U9", None)],
)
def test_a_relay_without_buttons_knows_the_common_ones(wanted: str, change: tuple[str, int] | None) -> None:
    """`submit/change` can say upscale, variation and reroll, and nothing else."""
    assert as_change(wanted) == change


def test_a_follow_up_inherits_and_has_a_name() -> None:
    """Labels, state, speed and destinations go on; the name is the same however the button is spelt."""
    parent = Submission(
        id="01JD7K0000000000000000000A",
        kind="imagine",
        created_ms=1,
        prompt="a boat",
        request={},
        speed="turbo",
        labels={"team": "red"},
        user_state="mine",
        destinations=("disk",),
        hooked=True,
        task_id="17",
        deadline_ms=2,
    )
    child = follow_up(parent, "U2", now_ms=1000, deadline_ms=50)
    assert (child.kind, child.button, child.request, child.parent_id) == ("action", "U2", {"taskId": "17"}, parent.id)
    assert (child.speed, child.labels, child.user_state) == ("turbo", {"team": "red"}, "mine")
    assert (child.destinations, child.hooked, child.deadline_ms) == (("disk",), True, 1050)
    assert child.once == once_name(parent.id, " u2") == once_name(parent.id, "U2")
