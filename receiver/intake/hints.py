"""What a callback that is not believed can still tell: which task to ask about, where no answer has bound one.

The answer to the submit was lost, and a callback came with only one of our two tokens. It names a task, and that is
all it is taken for. The provider is asked about that task with our key, and only what it answers decides: the task
that holds our state token was made by our request. Anything else binds nothing, whatever the callback said.
"""

from __future__ import annotations

from receiver.events import Submission
from receiver.intake.facts import observe, replace
from receiver.intake.rules import Rules
from receiver.journal import Change
from receiver.tasks import Task

SEEK: tuple[float, ...] = (5, 15, 15, 30, 60, 120, 300)
"""Seconds between the questions: a relay shows `state` only after its own first poll, 15 s at most (PROTOCOL.md §5)."""


def seeks_task(row: Submission) -> bool:
    """Whether a callback that is not believed makes us ask which task is this submission's."""
    return row.status == "unknown" and row.task_id is None


def identified(row: Submission, view: Task, rules: Rules) -> Change | None:
    """The provider's own answer about a task holds our state token."""
    if not seeks_task(row):
        return None  # an answer or a doubly signed callback was faster
    return observe(replace(row, misses=0), view, rules, source="poll")


def unidentified(row: Submission, rules: Rules) -> Change | None:
    """None of the tasks that callbacks named is known to be ours: asked again for a while, and at the next callback."""
    if row.task_id is not None:
        return None
    again = seeks_task(row) and row.misses < len(SEEK)
    due_ms = rules.now_ms + int(SEEK[row.misses] * 1000) if again else None
    return Change(submission=replace(row, misses=row.misses + 1, poll_due_ms=due_ms))
