"""Sidecar of a result: the `.json` beside its files, which holds the event for people and programs."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ulid import ULID

from receiver.events import Event, EventType
from receiver.handlers.base import Attempt
from receiver.handlers.cloudevents import iso_time
from receiver.handlers.result_files import ResultFile, parameters
from receiver.tasks import Task

SIDECAR_EVENTS: frozenset[EventType] = frozenset({"task.input_required", "task.succeeded", "task.failed", "task.lost"})
"""Events after which nothing comes by itself. A destination that keeps files writes a sidecar for each."""


def texts(event: Event) -> tuple[str, ...]:
    """Return the prompts that a describe or shorten found."""
    return event.task.texts if event.task is not None and event.type == "task.succeeded" else ()


def sidecar(attempt: Attempt, named: Iterable[tuple[str, ResultFile]], problem: str | None = None) -> bytes:
    """Return the `.json` of an event and its named files in UTF-8, indented. A retry writes the same bytes.

    `problem` says why there are no tiles although they were asked for.
    """
    event = attempt.event
    task = event.task or Task(id="")
    said = {
        "prompt": event.prompt,
        "parameters": parameters(event.prompt),
        "kind": event.kind,
        "task": {  # without `state` and the echoed callback URL, which hold our tokens
            "id": event.task_id,
            "action": task.action,
            "status": event.status,
            "progress": event.progress,
            "seed": task.seed,
            "final_prompt": task.final_prompt,
            "description": task.description,
            "fail_reason": task.fail_reason,
            "buttons": [
                {"custom_id": button.custom_id, "label": button.label, "emoji": button.emoji} for button in task.buttons
            ],
        },
        "labels": dict(sorted(event.labels.items())),
        "state": event.state,
        "lineage": {"submission": event.submission_id, "parent": event.parent_id, "button": event.button},
        "times": {
            # Our own time if the provider gives none.
            "submitted": iso_time(task.submit_ms or ULID.from_str(event.submission_id).milliseconds),
            "started": iso_time(task.start_ms),
            "finished": iso_time(task.finish_ms),
            "event": iso_time(event.created_ms),
        },
        "texts": list(texts(event)),
        "links": list(task.result_urls),
        "media": [
            {
                "file": name,
                "sha256": file.digest,
                "type": file.stored.media.type,
                "size": file.size,
                **({"tile": f"U{file.stored.tile}"} if file.stored.tile else {}),
                **({"original": file.stored.media.digest} if file.insert else {}),  # of the file it was made from
                "link": file.stored.media.url,
            }
            for name, file in named
        ],
        "media_problem": attempt.media_problem,
        "tiles_problem": problem,
        "event": {
            "id": event.id,
            "type": event.type,
            "confirmed": event.confirmed,
            "reason": event.reason,
            "supersedes": event.supersedes,
            "schema": event.schema,
        },
    }
    document = {name: value for name, value in said.items() if value is not None or not name.endswith("_problem")}
    # A lone surrogate, which UTF-8 cannot encode, becomes its JSON escape.
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace")
