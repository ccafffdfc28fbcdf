"""The application: the container of one process, and the class for Python users."""

from receiver.app.container import Runtime, keep_of, replay_of, retention_of, store_of
from receiver.app.copying import Copied, copy_journal
from receiver.app.factory import journal_of, open_runtime
from receiver.app.handle import TaskHandle
from receiver.app.receiver import Receiver
from receiver.app.stateless import open_stateless_receive, open_stateless_submit, stateless_app
from receiver.app.test_delivery import find_destination, try_destination

__all__ = [
    "Copied",
    "Receiver",
    "Runtime",
    "TaskHandle",
    "copy_journal",
    "find_destination",
    "journal_of",
    "keep_of",
    "open_runtime",
    "open_stateless_receive",
    "open_stateless_submit",
    "replay_of",
    "retention_of",
    "stateless_app",
    "store_of",
    "try_destination",
]
