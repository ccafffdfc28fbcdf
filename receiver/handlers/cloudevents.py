"""An event as others get it: CloudEvents 1.0 in its JSON format (https://cloudevents.io), one document for all.

What only we need stays here: the tokens in the task's own `state`, the callback URL the provider echoes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from receiver.deliveries import Receipt
from receiver.events import Event
from receiver.handlers.base import Attempt, StoredMedia
from receiver.telemetry import redact

SOURCE = "imagine-receiver"
MAX_REASON = 1000
"""Characters of the provider's words that go along."""


def encode(document: Mapping[str, Any]) -> bytes:
    """The document as it is sent."""
    return msgspec.json.encode(document)


def cloud_event(attempt: Attempt, *, source: str = SOURCE, files: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The attempt's event as a CloudEvent (1.0.2, §3.1). `source` and `id` together name the fact, whoever sends it.

    Args:
        attempt: as the handler got it.
        source: who says so, a URI reference.
        files: for each file of the result what goes along beside its description, such as its path.
    """
    event = attempt.event
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": event.type,
        "subject": event.submission_id,
        "time": _iso(event.created_ms),
        "datacontenttype": "application/json",
        "data": {**_facts(event), **_results(attempt, files)},
    }


def _facts(event: Event) -> dict[str, Any]:
    task = event.task
    return {
        "submission": event.submission_id,
        "kind": event.kind,
        "task": event.task_id,
        "action": task.action if task else "",
        "status": event.status,
        "progress": event.progress,
        "prompt": event.prompt,
        "final_prompt": task.final_prompt if task else "",
        "seed": task.seed if task else "",
        "labels": event.labels,
        "state": event.state,
        "parent": event.parent_id,
        "button": event.button,
        "confirmed": event.confirmed,
        "supersedes": event.supersedes,
        "reason": redact(event.reason)[:MAX_REASON] if event.reason else None,
        "schema": event.schema,
    }


def _results(attempt: Attempt, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the task made, and where it lies already."""
    event, task = attempt.event, attempt.event.task
    result = task if event.type == "task.succeeded" else None
    more = [*files, *({} for _ in attempt.media[len(files) :])]
    return {
        "texts": list(result.texts) if result else [],
        "buttons": [button.text for button in result.buttons] if result else [],
        "links": list(result.result_urls) if result else [],
        "media": [{**_file(item), **extra} for item, extra in zip(attempt.media, more, strict=True)],
        "media_problem": attempt.media_problem,
        "receipts": {name: _receipt(receipt) for name, receipt in sorted(attempt.receipts.items())},
    }


def _file(item: StoredMedia) -> dict[str, Any]:
    media = item.media
    return {"index": media.index, "type": media.type, "size": media.size, "digest": media.digest, "link": media.url}


def _receipt(receipt: Receipt) -> dict[str, str | None]:
    return {"ref": receipt.ref, "url": receipt.url}


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
