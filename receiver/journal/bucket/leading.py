"""What leads to a document, and so is written before it: marks that say when, indexes, and what lies apart."""

from __future__ import annotations

from receiver.journal import needed
from receiver.journal.bucket import keys
from receiver.journal.bucket.document import Document, replace, wanted_marks

SOON_MS = 15_000
"""A new submission is looked at that soon: so the first poll, which is due then, needs no mark of its own."""
MOVE_MS = 600_000
"""A mark that comes so much too early is made anew with the next change."""


def marked(old: Document | None, draft: Document) -> tuple[Document, list[str], list[str]]:
    """The draft with its marks, those that are new, and those that are not needed any more.

    A mark may come too early, never too late. One that comes a little too early is left where it is.
    """
    marks: dict[str, str] = {}
    made: list[str] = []
    for place, due_ms in wanted_marks(draft).items():
        key = draft.marks.get(place)
        if key is None or not due_ms - MOVE_MS <= keys.read_mark(key)[0] <= due_ms:
            key = keys.mark(place, _early(draft, place, due_ms), draft.id, draft.version, draft.nonce[:6])
            made.append(key)
        marks[place] = key
    before = set(old.marks.values()) if old is not None else set()
    return replace(draft, marks=marks), made, sorted(before - set(marks.values()))


def _early(draft: Document, place: str, due_ms: int) -> int:
    """When a new mark comes. Early enough to do for what follows soon, so that this needs no other: the first poll
    after the send, and deliveries as soon as their picture is there."""
    if place == keys.ROWS:
        return min(due_ms, draft.submission.created_ms + SOON_MS) if draft.version == 1 else due_ms
    untried = [
        item.created_ms
        for item in draft.deliveries
        if item.attempt == 0 and keys.destination(item.destination) == place
    ]
    return max([created for created in untried if due_ms - MOVE_MS <= created <= due_ms], default=due_ms)


def indexes(old: Document | None, new: Document) -> list[str]:
    """What else leads to the document."""
    row, before = new.submission, old.submission if old is not None else None
    found = []
    if row.task_id is not None and (before is None or before.task_id != row.task_id):
        found.append(keys.task(row.task_id, row.id))
    if before is None and row.parent_id is not None:
        found.append(keys.child(row.parent_id, row.id))
    return found


def needed_files(document: Document) -> frozenset[str]:
    """Digests of the files it needs now."""
    return frozenset() if document.erased else needed.digests(document.submission)


def without_bodies(document: Document) -> tuple[Document, dict[str, bytes]]:
    """The document without its callbacks' bodies, and these by the keys where they are to lie."""
    bodies = {
        keys.callback(document.id, item.number): item.body.encode(errors="replace")
        for item in document.callbacks
        if item.body is not None
    }
    return replace(document, callbacks=tuple(replace(item, body=None) for item in document.callbacks)), bodies
