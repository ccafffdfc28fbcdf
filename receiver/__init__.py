"""Receiver: submit a Midjourney task through CometAPI, and deliver its result to every destination you named."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.app.handle import TaskHandle
    from receiver.app.receiver import Receiver
    from receiver.deliveries import Receipt
    from receiver.errors import (
        Ambiguous,
        Conflict,
        InputError,
        InputRequired,
        JournalError,
        MediaError,
        NoResult,
        NotATask,
        NotFound,
        NotJSON,
        NotStarted,
        PayloadError,
        ProviderError,
        ReceiverError,
        Refused,
        SettingsError,
        TaskFailed,
        TaskLost,
        TokenError,
        Unreachable,
    )
    from receiver.events import Event, Submission
    from receiver.handlers.base import Rejected, RetryLater
    from receiver.journal import Trouble
    from receiver.settings import Settings
    from receiver.tasks import Task
    from receiver.verification import Unwrapped

__all__ = [
    "Ambiguous",
    "Conflict",
    "Event",
    "InputError",
    "InputRequired",
    "JournalError",
    "MediaError",
    "NoResult",
    "NotATask",
    "NotFound",
    "NotJSON",
    "NotStarted",
    "PayloadError",
    "ProviderError",
    "Receipt",
    "Receiver",
    "ReceiverError",
    "Refused",
    "Rejected",
    "RetryLater",
    "Settings",
    "SettingsError",
    "Submission",
    "Task",
    "TaskFailed",
    "TaskHandle",
    "TaskLost",
    "TokenError",
    "Trouble",
    "Unreachable",
    "Unwrapped",
]

_ELSEWHERE = {
    "Event": "receiver.events",
    "Receipt": "receiver.deliveries",
    "Receiver": "receiver.app.receiver",
    "Rejected": "receiver.handlers.base",
    "RetryLater": "receiver.handlers.base",
    "Settings": "receiver.settings",
    "Submission": "receiver.events",
    "Task": "receiver.tasks",
    "TaskHandle": "receiver.app.handle",
    "Trouble": "receiver.journal",
    "Unwrapped": "receiver.verification",
}
"""Modules of the names that are not in `receiver.errors`."""


def __getattr__(name: str) -> object:
    """Import a name at its first use (PEP 562), so that a command loads only the modules it uses."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_ELSEWHERE.get(name, "receiver.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
