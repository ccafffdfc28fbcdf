"""The application: the container of one process, and the class for Python users.

Names are imported when they are used, so that a command loads only what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.app.backup import back_up, restore
    from receiver.app.container import Runtime, keep_of, replay_of, retention_of, store_of
    from receiver.app.copying import Copied, copy_journal
    from receiver.app.factory import open_runtime
    from receiver.app.handle import TaskHandle
    from receiver.app.journals import journal_of
    from receiver.app.receiver import Receiver
    from receiver.app.stateless import open_stateless_receive, stateless_app
    from receiver.app.stateless_submit import open_stateless_submit
    from receiver.app.test_delivery import find_destination, try_destination
    from receiver.app.usage import Usage, usage_of
    from receiver.app.web import page_key, scrape_of, web_app

__all__ = [
    "Copied",
    "Receiver",
    "Runtime",
    "TaskHandle",
    "Usage",
    "back_up",
    "copy_journal",
    "find_destination",
    "journal_of",
    "keep_of",
    "open_runtime",
    "open_stateless_receive",
    "open_stateless_submit",
    "page_key",
    "replay_of",
    "restore",
    "retention_of",
    "scrape_of",
    "stateless_app",
    "store_of",
    "try_destination",
    "usage_of",
    "web_app",
]
_PLACES = {
    "backup": ("back_up", "restore"),
    "container": ("Runtime", "keep_of", "replay_of", "retention_of", "store_of"),
    "copying": ("Copied", "copy_journal"),
    "factory": ("open_runtime",),
    "handle": ("TaskHandle",),
    "journals": ("journal_of",),
    "receiver": ("Receiver",),
    "stateless": ("open_stateless_receive", "stateless_app"),
    "stateless_submit": ("open_stateless_submit",),
    "test_delivery": ("find_destination", "try_destination"),
    "usage": ("Usage", "usage_of"),
    "web": ("page_key", "scrape_of", "web_app"),
}


def __getattr__(name: str) -> object:
    """Import a name at its first use (PEP 562)."""
    for module, names in _PLACES.items():
        if name in names:
            value: object = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
