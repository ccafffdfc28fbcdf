"""What the answers to questions about tasks come to: fetch, list, image seed, cancel (PROTOCOL.md §2). No network.

Relays lack some of these routes, and show it as they show every path they do not know: by 404, a redirect, or a web
page with 200 (§1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from receiver.errors import NotATask, Unreadable
from receiver.provider.answers import Answer
from receiver.provider.envelope import Envelope, integral, one_line
from receiver.tasks import Task, read_task

_TAKEN = frozenset({1, 21, 22})
_SEED = re.compile(r"[0-9]{1,20}\Z")


def is_unknown(answer: Answer) -> bool:
    """How providers say "no such task" besides code 4 (PROTOCOL.md §2): 2xx with nothing or null, 404 with JSON."""
    if answer.http_status == 404:
        return answer.envelope.form in ("null", "object", "other")
    return _ok(answer) and answer.envelope.form in ("empty", "null")


def lacks_list(answer: Answer) -> bool:
    """Whether a relay has no list-by-condition."""
    if _ok(answer) and answer.outcome.name == "ambiguous" and answer.envelope.code is None:
        return answer.envelope.form != "unreadable"
    return answer.outcome.name in ("wrong_address", "validation", "not_found")


def lacks_route(answer: Answer) -> bool:
    """Whether a provider has no image seed or no cancel, or not for this key.

    An upstream keeps cancel to its administrators by 400 or 403 and a bare sentence (§2).
    """
    if answer.outcome.name == "wrong_address":
        return True
    bare = answer.envelope.code is None and answer.envelope.form in ("html", "unreadable", "other")
    return bare and (answer.http_status in (400, 403) or (_ok(answer) and answer.envelope.form == "html"))


def is_done(answer: Answer) -> bool:
    """Whether a cancel was taken: 2xx with nothing, a success code, or the task itself."""
    envelope = answer.envelope
    said = envelope.form in ("empty", "null") or envelope.code in _TAKEN
    return _ok(answer) and (said or (envelope.code is None and "id" in envelope.fields))


def image_seed(answer: Answer) -> str | None:
    """The seed in `{"code": 1, "result": "<seed>"}`; None if there is none."""
    value = answer.envelope.fields.get("result")
    number = value if isinstance(value, int) and not isinstance(value, bool) else integral(value)
    text = value.strip() if isinstance(value, str) else str(number) if _fits(number) else ""
    return text if _ok(answer) and answer.envelope.code in _TAKEN and _SEED.match(text) else None


def the_task(envelope: Envelope, task_id: str) -> Task:
    """The task asked for.

    Raises:
        Unreadable: no task, or another one.
    """
    try:
        task = read_task(envelope.value)
    except NotATask as exc:
        raise Unreadable(f"The provider's answer is no task: {exc}") from exc
    if task.id != task_id:
        raise Unreadable(f"Asked for task {one_line(task_id)}, the provider answered with another one.")
    return task


def readable(items: Iterable[Any]) -> Iterable[Task]:
    """The tasks of a list, without what is none."""
    for item in items:
        try:
            yield read_task(item)
        except NotATask:
            continue


def senseless(answer: Answer, wanted: str) -> Unreadable:
    """The error for an answer that is neither `wanted` nor a refusal."""
    said = f': "{answer.envelope.said[:200]}"' if answer.envelope.said else ""
    evidence = f"HTTP {answer.http_status}, {answer.envelope.form}"
    return Unreadable(f"The provider's answer makes no sense as {wanted} ({evidence}){said}; ask again later.")


def _ok(answer: Answer) -> bool:
    return 200 <= answer.http_status < 300


def _fits(number: int | None) -> bool:
    return number is not None and 0 <= number < 10**20
