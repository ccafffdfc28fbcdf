"""Faults of what callbacks, fetch, list and picture links say (PROTOCOL.md §5, §7, §9)."""

from receiver.simulator import answers
from receiver.simulator.answers import Answer
from receiver.simulator.faults.fault import Body, Fault

ASKED_IN_VAIN = 3
"""Fetches and lists that are answered with an error before one works."""

GONE_AT_FIRST = 2
"""Downloads that fail before one works."""

_TEXTS = ("Waiting to start", "paused", "fast", "")


def _without_state(body: Body) -> Body:
    return {key: value for key, value in body.items() if key != "state"}


def _with_half_a_state(body: Body) -> Body:
    state = body.get("state")
    return {**body, "state": state[: len(state) // 2]} if isinstance(state, str) else body


def _with_odd_progress(body: Body) -> Body:
    progress = str(body.get("progress") or "")
    if body.get("status") not in {"SUBMITTED", "IN_PROGRESS"} or not progress.endswith("%"):
        return body
    return {**body, "progress": _TEXTS[int(progress[:-1]) // 15 % len(_TEXTS)]}


def _without_buttons(body: Body) -> Body:
    return {key: value for key, value in body.items() if key != "buttons"}


def _error_at_first(before: int) -> Answer | None:
    return answers.server_error() if before < ASKED_IN_VAIN else None


def _page_at_first(before: int) -> Answer | None:
    return answers.html_page(502, "Bad gateway") if before < ASKED_IN_VAIN else None


def _gone_at_first(before: int) -> bool:
    return before < GONE_AT_FIRST


def _gone(before: int) -> bool:
    return True


FAULTS = (
    Fault("state_missing", "Callbacks have no key `state`.", told=_without_state),
    Fault("state_mangled", "Callbacks carry only the first half of the state.", told=_with_half_a_state),
    Fault(
        "foreign_token",
        "With every task somebody else's task runs too, and its callbacks carry this task's state to its hook.",
        doubles=True,
    ),
    Fault(
        "odd_progress",
        "Progress is a text that holds no number, until the end.",
        told=_with_odd_progress,
        shown=_with_odd_progress,
    ),
    Fault(
        "no_buttons",
        "Tasks have no key `buttons`, in callbacks as in fetch and list.",
        told=_without_buttons,
        shown=_without_buttons,
    ),
    Fault("forgotten", "The list leaves out every task; fetch still knows it.", hides=frozenset({"list"})),
    Fault(
        "unknown_to_fetch",
        "Neither fetch nor list knows any task, while callbacks still come.",
        hides=frozenset({"list", "fetch"}),
    ),
    Fault("provider_500", "The first three fetches or lists are answered 500.", asked=_error_at_first),
    Fault(
        "provider_html", "The first three fetches or lists are answered 502 with an HTML page.", asked=_page_at_first
    ),
    Fault("expired_link", "The first two downloads are answered 404, no longer available.", gone=_gone_at_first),
    Fault("expired_for_good", "Every download is answered 404, no longer available.", gone=_gone),
)
