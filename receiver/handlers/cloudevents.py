"""Event as other programs get it: one document in the JSON format of CloudEvents 1.0 (https://cloudevents.io).

It leaves out the tokens in the task's own `state` and in the callback URL that the provider echoes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from receiver.handlers.base import Attempt
from receiver.tasks import Task
from receiver.telemetry import redact

SOURCE = "imagine-receiver"
MAX_REASON = 1000
"""Characters of the provider's reason in a document."""


def cloud_event(attempt: Attempt, *, source: str = SOURCE, files: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the attempt's event as a CloudEvent (1.0.2, §3.1). `source` and `id` together identify the fact.

    `files` are further members for the description of each file of the result, such as its path.
    """
    event = attempt.event
    task = event.task or Task(id="")
    result = task if event.type == "task.succeeded" else Task(id="")
    data = {
        "submission": event.submission_id,
        "kind": event.kind,
        "task": event.task_id,
        "action": task.action,
        "status": event.status,
        "progress": event.progress,
        "prompt": event.prompt,
        "final_prompt": task.final_prompt,
        "seed": task.seed,
        "labels": event.labels,
        "state": event.state,
        "parent": event.parent_id,
        "button": event.button,
        "confirmed": event.confirmed,
        "supersedes": event.supersedes,
        "reason": redact(event.reason)[:MAX_REASON] if event.reason else None,
        "schema": event.schema,
        "texts": list(result.texts),
        "buttons": [button.text for button in result.buttons],
        "links": list(result.result_urls),
        "media": [
            {"index": media.index, "type": media.type, "size": media.size, "digest": media.digest, "link": media.url}
            | dict(files[at] if at < len(files) else {})
            for at, media in enumerate(item.media for item in attempt.media)
        ],
        "media_problem": attempt.media_problem,
        "further": event.further,
        "receipts": {
            name: {"ref": receipt.ref, "url": receipt.url} for name, receipt in sorted(attempt.receipts.items())
        },
    }
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": event.type,
        "subject": event.submission_id,
        "time": iso_time(event.created_ms),
        "datacontenttype": "application/json",
        "data": data,
    }


def iso_time(ms: int | None) -> str | None:
    """Return epoch milliseconds as ISO 8601 in UTC. None for None and for a number outside the years 1 to 9999."""
    if ms is None:
        return None
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return None
