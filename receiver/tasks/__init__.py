"""The provider's task object: reading, and merging of two views."""

from receiver.tasks.task import (
    MAX_DEPTH,
    MAX_TASK_ID,
    RANKS,
    TERMINAL,
    Button,
    EventType,
    Task,
    clean_text,
    decode_any_task,
    decode_json,
    decode_task,
    event_type,
    is_grid,
    merge,
    read_task,
    unwrapped,
)

__all__ = [
    "MAX_DEPTH",
    "MAX_TASK_ID",
    "RANKS",
    "TERMINAL",
    "Button",
    "EventType",
    "Task",
    "clean_text",
    "decode_any_task",
    "decode_json",
    "decode_task",
    "event_type",
    "is_grid",
    "merge",
    "read_task",
    "unwrapped",
]
