"""Follow-ups: search of a button by name, and the submission that presses it. Pure.

The buttons come from a fresh fetch, because a button's `customId` is not stable (PROTOCOL.md §5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from receiver.errors import InputError
from receiver.events import Submission, new_id
from receiver.tasks import Button, Task

_NAMES: Mapping[str, str] = {
    # Pattern of a name → pattern in the button's customId.
    r"u([1-4])": r"::upsample::\1::",
    r"v([1-4])": r"::variation::\1::",
    r"reroll": r"::reroll::",
    r"(?:upscale )?subtle": r"::upsample_\w*subtle",
    r"(?:upscale )?creative": r"::upsample_\w*creative",
    r"vary subtle": r"::low_variation::",
    r"vary strong": r"::high_variation::",
    r"(?:vary )?region": r"::inpaint::",
    r"zoom(?: out)?(?: 2x)?": r"::outpaint::50::",
    r"zoom(?: out)? 1\.5x": r"::outpaint::75::",
    r"custom zoom": r"::customzoom::",
    r"pan (left|right|up|down)": r"::pan_\1::",
    r"(left|right|up|down)": r"::pan_\1::",
    r"animate(?: high)?(?: motion)?": r"::animate_high",
    r"animate low(?: motion)?": r"::animate_low",
}
_INHERITED = frozenset({"accountFilter"})
"""Fields of the parent's request that the request of a follow-up takes as well (PROTOCOL.md §13.6)."""
_IGNORED = re.compile("[()\ufe0f]")
_CHANGE = re.compile(r"(u|v)([1-4])\Z|reroll\Z")


def find_button(task: Task, wanted: str) -> Button:
    """Return the button of a name: a label or emoji, a common name, or the start of exactly one label.

    Common names are for instance `U2`, `reroll`, `zoom` and `pan left`.

    Raises:
        InputError: no button, or more than one, has that name. The text lists all buttons.
    """
    name = normal(wanted)
    matches = (
        [button for button in task.buttons if name in (normal(button.label), normal(button.emoji))]
        or list(_by_custom_id(task.buttons, name))
        or [button for button in task.buttons if name and normal(button.text).startswith(name)]
    )
    if len(matches) == 1:
        return matches[0]
    known = ", ".join(button.text for button in task.buttons) or "none"
    problem = "More than one button" if matches else "No button"
    raise InputError(f"{problem} of task {task.id} answers to {wanted[:40]!r}. Its buttons: {known}.")


def _by_custom_id(buttons: Iterable[Button], name: str) -> Iterable[Button]:
    for written, pattern in _NAMES.items():
        if match := re.fullmatch(written, name):
            wanted = re.compile(match.expand(pattern) if match.groups() else pattern, re.IGNORECASE)
            return [button for button in buttons if wanted.search(button.custom_id)]
    return []


def as_change(wanted: str) -> tuple[str, int] | None:
    """Return (`UPSCALE`|`VARIATION`|`REROLL`, index) for relays that know only `submit/change` (PROTOCOL.md §2).

    Return None for any other button. REROLL has index 1, because new-api refuses 0.
    """
    match = _CHANGE.match(normal(wanted))
    if match is None:
        return None
    if match[1] is None:
        return "REROLL", 1
    return ("UPSCALE" if match[1] == "u" else "VARIATION"), int(match[2])


def follow_up(parent: Submission, button: str, *, now_ms: int, deadline_ms: int) -> Submission:
    """Return the submission that presses a button of its parent's task, due now. Its name `once` makes it unique.

    Args:
        parent: its task has succeeded.
        button: its name as it was given.
        now_ms: epoch milliseconds.
        deadline_ms: milliseconds it may take.
    """
    return Submission(
        id=new_id(now_ms),
        kind="action",
        created_ms=now_ms,
        prompt=parent.prompt,
        request={"taskId": parent.task_id, **{key: parent.request[key] for key in _INHERITED & parent.request.keys()}},
        speed=parent.speed,
        labels=parent.labels,
        user_state=parent.user_state,
        parent_id=parent.id,
        button=button.strip(),
        destinations=parent.destinations,
        once=once_name(parent.id, button),
        hooked=parent.hooked,
        send_due_ms=now_ms,
        deadline_ms=now_ms + deadline_ms,
    )


def once_name(parent_id: str, button: str) -> str:
    """Return the name of a follow-up. A second one of the same name gives the first one's result."""
    return f"{parent_id} {normal(button)}"


def normal(text: str) -> str:
    """Return a name in lower case, with single spaces, without brackets and the invisible selector after an emoji."""
    return " ".join(_IGNORED.sub(" ", text).lower().split())
