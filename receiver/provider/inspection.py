"""Reading of any payload of the protocol as plain values to print: the output of `inspect`."""

from __future__ import annotations

from typing import Any

from receiver.errors import NotATask, NotJSON, PayloadError
from receiver.provider.answers import OUTCOMES, Answer, by_status_alone, read_answer
from receiver.requests import KINDS
from receiver.tasks import Task, event_type, read_task

_REQUEST_KEYS = frozenset(
    {key for kind in KINDS.values() for field in kind.fields for key in (field.key, field.link_key)}
    - {"", "action"}  # a task has an action, too
) | {"notifyHook", "customId", "content"}
_OUTCOME_EVENTS = {"accepted": "task.accepted", "queued": "task.accepted", "modal": "task.input_required"}
_BODILESS = {
    "empty": "The payload is empty: that is how a provider says it does not know the task.",
    "html": "The payload is HTML, not JSON; check the address it came from.",
    "unreadable": "The payload is not JSON: it is cut short, nested too deep, or something else.",
}
_UNSET: dict[str, Any] = {
    "kind": "",
    "id": None,
    "status": None,
    "terminal": False,
    "progress": None,
    "event_type": None,
    "image_url": None,
    "video_url": None,
    "fail_reason": None,
    "buttons": [],
    "code": None,
    "outcome": None,
    "retry": False,
    "problems": [],
}


def inspect(body: bytes, http_status: int = 200) -> dict[str, Any]:
    """Read a callback, fetch, list, submit answer or error.

    Args:
        body: the payload's bytes.
        http_status: its HTTP status. It decides where the body does not.

    Returns:
        Always the keys `kind` (task, list, submit, error), `id`, `status`, `terminal`, `progress`, `event_type`,
        `image_url`, `video_url`, `fail_reason`, `buttons`, `code`, `outcome`, `retry`, `problems`. Values
        that do not apply are None, False or []. A list also has `tasks`, and recorded answers of the picture route
        have `answers`, each read the same way. An error's `fail_reason` is the provider's words. `code` is the
        protocol's number, or the routing layer's identifier. `outcome` reads the payload as the answer to a submit.

    Raises:
        NotJSON: an unreadable body came with HTTP 2xx.
        NotATask: JSON that is no payload of the protocol.
        PayloadError: null, or a request.
    """
    answer = read_answer(http_status, {}, body)
    envelope = answer.envelope
    if sentence := _BODILESS.get(envelope.form):
        if answer.ok:
            raise NotJSON(sentence)
        return _judged("error", answer, problems=[sentence])  # with an HTTP error the status alone says something
    if envelope.form == "null":
        raise PayloadError("The payload is null: that is how a provider says it does not know the task.")
    items = envelope.value
    if not isinstance(items, list):
        return _object(answer)
    if items and all(_is_recorded(item) for item in items):
        return _reading("error", answers=[_string_error(item["body"]["error"], item["http"]) for item in items])
    tasks = []
    for item in items:
        try:
            tasks.append(_task(read_task(item)))
        except NotATask as exc:
            tasks.append(_reading("task", problems=[str(exc)]))
    return _reading("list", tasks=tasks)


def _is_recorded(item: Any) -> bool:
    """Return True for `{"http": 404, "body": {"error": "…"}}`: a recorded answer of the picture route."""
    if not isinstance(item, dict) or not isinstance(item.get("http"), int):
        return False
    body = item.get("body")
    return isinstance(body, dict) and isinstance(body.get("error"), str)


def _object(answer: Answer) -> dict[str, Any]:
    envelope, fields, code = answer.envelope, answer.envelope.fields, answer.envelope.code
    error = fields.get("error")
    if "id" in fields and not error and not (code is not None and "result" in fields):
        reading = _task(read_task(envelope.value))
        if not answer.ok:
            reading["problems"].append(f"it came with HTTP {answer.http_status}, so it would not be taken as a task")
        return reading
    if isinstance(error, str) and error and code is None:
        return _string_error(envelope.said, answer.http_status)
    # The relay's own errors carry a type, and never a result (PROTOCOL.md §4).
    relay_error = code is not None and isinstance(fields.get("type"), str) and "result" not in fields
    if error or fields.get("success") is False or relay_error:
        return _judged("error", answer)
    if code is not None:
        return _judged("submit", answer)
    if _REQUEST_KEYS & fields.keys():
        raise PayloadError("This is a submit request, which Receiver sends; what it reads are the provider's answers.")
    read_task(envelope.value)
    raise NotATask("The JSON is no payload of the protocol.")


def _task(task: Task) -> dict[str, Any]:
    return _reading(
        "task",
        id=task.id,
        status=task.status or None,
        terminal=task.terminal,
        progress=task.progress,
        event_type=event_type(task),
        image_url=task.image_url or next(iter(task.image_urls), None),
        video_url=task.video_url or next(iter(task.video_urls), None),
        fail_reason=task.fail_reason or None,
        buttons=[{"label": button.text or None, "custom_id": button.custom_id} for button in task.buttons],
        problems=list(task.problems),
    )


def _judged(kind: str, answer: Answer, problems: list[str] | None = None) -> dict[str, Any]:
    envelope, outcome = answer.envelope, answer.outcome
    taken = outcome.task == "made"
    return _reading(
        kind,
        id=next(iter(envelope.task_ids), None) if taken else None,
        event_type=_OUTCOME_EVENTS.get(outcome.name) if envelope.task_ids else None,
        image_url=next(iter(envelope.links), None) if taken else None,
        fail_reason=None if taken else envelope.said or None,
        code=envelope.code if envelope.code is not None else envelope.name or None,
        outcome=outcome.name,
        retry=outcome.retry,
        problems=problems or [],
    )


def _string_error(said: str, http_status: int) -> dict[str, Any]:
    """Read the picture route's `{"error": "…"}`. It answers no submit, so only the HTTP status can give an outcome."""
    outcome = by_status_alone(http_status)
    retry = OUTCOMES[outcome].retry if outcome else False
    return _reading("error", fail_reason=said or None, outcome=outcome, retry=retry)


def _reading(kind: str, **known: Any) -> dict[str, Any]:
    return _UNSET | {"kind": kind, "buttons": [], "problems": []} | known
