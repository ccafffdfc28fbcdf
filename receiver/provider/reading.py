"""How Receiver reads any payload of the protocol, as plain values to print: what `inspect` shows."""

from __future__ import annotations

from typing import Any

from receiver.errors import NotATask, NotJSON, PayloadError
from receiver.provider.answers import Answer, by_status_alone, read_answer
from receiver.provider.envelope import Envelope
from receiver.provider.outcomes import OUTCOMES
from receiver.tasks import Task, event_type, read_task

_REQUEST_KEYS = frozenset(
    {"prompt", "notifyHook", "base64Array", "base64", "accountFilter", "taskId", "customId", "content", "image"}
    | {"link", "maskBase64", "sourceBase64", "targetBase64", "motion", "dimensions"}
)
_OUTCOME_EVENTS = {"accepted": "task.accepted", "queued": "task.accepted", "modal": "task.input_required"}


def inspect(body: bytes, http_status: int = 200) -> dict[str, Any]:
    """Read a callback, fetch, list, submit answer or error.

    Args:
        body: the payload's bytes.
        http_status: what it came with; it decides where the body does not.

    Returns:
        Always the keys `kind` (task, list, submit, error), `id`, `status`, `terminal`, `progress`, `event_type`,
        `image_url`, `video_url`, `fail_reason`, `buttons`, `code`, `outcome`, `retry`, `problems`; what does not
        apply is None, False or []. A list has `tasks` besides, recorded answers of the picture route `answers`,
        each read the same way. An error's `fail_reason` is the provider's words. `code` is the protocol's number,
        or the routing layer's identifier. `outcome` reads the payload as the answer to a submit.

    Raises:
        NotJSON: nothing that can be read came with HTTP 2xx.
        NotATask: JSON that is nothing of the protocol.
        PayloadError: null, or a request.
    """
    answer = read_answer(http_status, {}, body)
    envelope = answer.envelope
    if envelope.form in ("empty", "html", "unreadable"):
        return _bodiless(answer)
    if envelope.form == "null":
        raise PayloadError("The payload is null: that is how a provider says it does not know the task.")
    if isinstance(envelope.value, list):
        return _array(envelope.value)
    return _object(answer)


_BODILESS = {
    "empty": "The payload is empty: that is how a provider says it does not know the task.",
    "html": "The payload is HTML, not JSON; check the address it came from.",
    "unreadable": "The payload is not JSON: it is cut short, nested too deep, or something else.",
}


def _bodiless(answer: Answer) -> dict[str, Any]:
    """With an HTTP error the status alone says something."""
    sentence = _BODILESS[answer.envelope.form]
    if 200 <= answer.http_status < 300:
        raise NotJSON(sentence)
    return _judged("error", answer, problems=[sentence])


def _array(items: list[Any]) -> dict[str, Any]:
    if items and all(_is_recorded(item) for item in items):
        return _reading("error", answers=[_string_error(item["body"]["error"], item["http"]) for item in items])
    return _reading("list", tasks=[_entry(item) for item in items])


def _is_recorded(item: Any) -> bool:
    """`{"http": 404, "body": {"error": "…"}}`: an answer of the picture route, written down."""
    if not isinstance(item, dict) or not isinstance(item.get("http"), int):
        return False
    body = item.get("body")
    return isinstance(body, dict) and isinstance(body.get("error"), str)


def _entry(item: Any) -> dict[str, Any]:
    try:
        return _task(read_task(item))
    except NotATask as exc:
        return _reading("task", problems=[str(exc)])


def _object(answer: Answer) -> dict[str, Any]:
    envelope = answer.envelope
    error = envelope.fields.get("error")
    if _looks_like_task(envelope):
        return _checked_task(answer)
    if isinstance(error, str) and error and envelope.code is None:
        return _string_error(envelope.said, answer.http_status)
    if error or envelope.fields.get("success") is False or _is_relay_error(envelope):
        return _judged("error", answer)
    if envelope.code is not None:
        return _judged("submit", answer)
    if _REQUEST_KEYS & envelope.fields.keys():
        raise PayloadError("This is a submit request, which Receiver sends; what it reads are the provider's answers.")
    read_task(envelope.value)
    raise NotATask("The JSON is no payload of the protocol.")


def _looks_like_task(envelope: Envelope) -> bool:
    fields = envelope.fields
    return "id" in fields and not fields.get("error") and not (envelope.code is not None and "result" in fields)


def _is_relay_error(envelope: Envelope) -> bool:
    """The relay's own errors carry a type, and never a result (PROTOCOL.md §4)."""
    fields = envelope.fields
    return envelope.code is not None and isinstance(fields.get("type"), str) and "result" not in fields


def _checked_task(answer: Answer) -> dict[str, Any]:
    reading = _task(read_task(answer.envelope.value))
    if not 200 <= answer.http_status < 300:
        reading["problems"].append(f"it came with HTTP {answer.http_status}, so it would not be taken as a task")
    return reading


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
    """The picture route's `{"error": "…"}` answers no submit, so only a status that says it all gives an outcome."""
    outcome = by_status_alone(http_status)
    retry = OUTCOMES[outcome].retry if outcome else False
    return _reading("error", fail_reason=said or None, outcome=outcome, retry=retry)


def _reading(kind: str, **known: Any) -> dict[str, Any]:
    return {
        "kind": kind,
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
    } | known
