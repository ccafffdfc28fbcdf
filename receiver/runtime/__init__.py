"""The runtime: everything wired together for one process, and the class for Python users on top of it."""

from receiver.runtime.copying import Copied, copy_journal
from receiver.runtime.handle import TaskHandle
from receiver.runtime.journals import journal_of
from receiver.runtime.opening import open_runtime
from receiver.runtime.receiver import Receiver
from receiver.runtime.stateless import open_stateless_receive, open_stateless_submit, stateless_app
from receiver.runtime.trying import find_destination, try_destination
from receiver.runtime.upkeep import keep_of, replay_of, retention_of, store_of
from receiver.runtime.wiring import Runtime

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
