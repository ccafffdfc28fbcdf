"""The journal: one class with all rules (`journal`, `transitions`) over a small store (`store`).

document      the working set of one submission, and the values that callers exchange with the journal
transitions   every rule, as pure functions on a document
journal       the class `Journal`
store         the contract of a store; `sqlite`, `postgres` and `bucket` fulfil it
membership    which engines run, and which one leads
transfer      copy a whole journal to another store
"""

from receiver.journal.document import Change, Changed, Decide, Trouble, Work
from receiver.journal.journal import Journal
from receiver.journal.membership import LASTING_ROLES, EngineRecord

__all__ = ["LASTING_ROLES", "Change", "Changed", "Decide", "EngineRecord", "Journal", "Trouble", "Work"]
