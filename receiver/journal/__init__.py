"""The journal: one class with all rules (`journal`, `transitions`) over a small store (`store`).

document      the working set of one submission, and the values that callers exchange with the journal
transitions   every rule, as pure functions on a document; `files` has those for the files of a result
journal       the class `Journal`, with `selection` (rows as people select and name them, replay), `shared` (small
              values) and `troubles`
store         the contract of a store; `sqlite`, `postgres` and `bucket` fulfil it
pages, rows   queries of listings, rows as records and named statements, for the two databases
membership    which engines run, and which one leads
transfer      copy a whole journal to another store

A callback goes from `Journal.change` to `Store.update`, which loads the document, runs `transitions.change` on it and
writes the difference, with all updates that wait. Only then is it answered.

A delivery is started by `Journal.claim`: `Store.claim` finds documents with a due one and runs `transitions.claim`. Its
end goes through `Journal.complete` to `Store.update` and `transitions.complete`.
"""

from receiver.journal.document import Change, Changed, Decide, Trouble, Work
from receiver.journal.journal import Journal
from receiver.journal.membership import LASTING_ROLES, EngineRecord

__all__ = ["LASTING_ROLES", "Change", "Changed", "Decide", "EngineRecord", "Journal", "Trouble", "Work"]
