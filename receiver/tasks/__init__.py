"""The provider's task object: what it is, how it is read, and how two views of one merge."""

from receiver.tasks.grids import is_grid
from receiver.tasks.merging import merge
from receiver.tasks.reading import MAX_DEPTH, MAX_TASK_ID, clean_text, decode_json, decode_task, read_task
from receiver.tasks.task import RANKS, TERMINAL, Button, EventType, Task, event_type

__all__ = [
    "MAX_DEPTH",
    "MAX_TASK_ID",
    "RANKS",
    "TERMINAL",
    "Button",
    "EventType",
    "Task",
    "clean_text",
    "decode_json",
    "decode_task",
    "event_type",
    "is_grid",
    "merge",
    "read_task",
]
