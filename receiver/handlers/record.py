"""What is written down beside a result's files: the event for people and programs, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ulid import ULID

from receiver.events import Event, EventType
from receiver.handlers.base import Attempt
from receiver.handlers.pieces import Piece
from receiver.handlers.provenance import parameters
from receiver.tasks import Task

RECORDED: frozenset[EventType] = frozenset({"task.input_required", "task.succeeded", "task.failed", "task.lost"})
"""Events a destination that keeps files writes something of: those after which nothing comes by itself."""


def texts(event: Event) -> tuple[str, ...]:
    """The prompts a describe or shorten found."""
    return event.task.texts if event.task is not None and event.type == "task.succeeded" else ()


def record(attempt: Attempt, named: Iterable[tuple[str, Piece]], problem: str | None = None) -> dict[str, Any]:
    """What the `.json` says. Only from the event and its files, so that a retry writes the same bytes.

    Args:
        attempt: what is delivered.
        named: each file with its name at the destination, in order.
        problem: why there are no tiles although they were asked for.
    """
    event = attempt.event
    task = event.task
    said = {
        "prompt": event.prompt,
        "parameters": parameters(event.prompt),
        "kind": event.kind,
        "task": _task(event, task),
        "labels": dict(sorted(event.labels.items())),
        "state": event.state,
        "lineage": {"submission": event.submission_id, "parent": event.parent_id, "button": event.button},
        "times": _times(event, task),
        "texts": list(texts(event)),
        "links": list(task.result_urls) if task else [],
        "media": [_file(name, piece) for name, piece in named],
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
    unsaid = [name for name in ("media_problem", "tiles_problem") if said[name] is None]
    return {name: value for name, value in said.items() if name not in unsaid}


def _file(name: str, piece: Piece) -> dict[str, Any]:
    """One file. `original`: the SHA-256 of what it was made of, where that is not the file itself."""
    media = piece.stored.media
    said: dict[str, Any] = {"file": name, "sha256": piece.digest, "type": media.type, "size": piece.size}
    if piece.stored.tile:
        said["tile"] = f"U{piece.stored.tile}"
    if piece.insert:
        said["original"] = media.digest
    return {**said, "link": media.url}


def _task(event: Event, task: Task | None) -> dict[str, Any]:
    """The task for people. Without its `state` and the echoed callback URL: those hold our tokens."""
    return {
        "id": event.task_id,
        "action": task.action if task else "",
        "status": event.status,
        "progress": event.progress,
        "seed": task.seed if task else "",
        "final_prompt": task.final_prompt if task else "",
        "description": task.description if task else "",
        "fail_reason": task.fail_reason if task else "",
        "buttons": [
            {"custom_id": button.custom_id, "label": button.label, "emoji": button.emoji}
            for button in (task.buttons if task else ())
        ],
    }


def _times(event: Event, task: Task | None) -> dict[str, str | None]:
    """ISO 8601 in UTC. `submitted` is ours when the provider gives none."""
    submitted = task.submit_ms if task else None
    return {
        "submitted": _iso(submitted or ULID.from_str(event.submission_id).milliseconds),
        "started": _iso(task.start_ms if task else None),
        "finished": _iso(task.finish_ms if task else None),
        "event": _iso(event.created_ms),
    }


def _iso(ms: int | None) -> str | None:
    if ms is None:
        return None
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):  # the provider's number, beyond the year 9999
        return None


def as_json(record: dict[str, Any]) -> bytes:
    """A record as it is written: UTF-8, indented, for people too."""
    # A lone surrogate, which UTF-8 cannot say, becomes its JSON escape.
    return (json.dumps(record, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace")
