"""What a document says that cannot be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from receiver.journal.bucket.document import Document
from receiver.journal.contradictions import sentences

_LOST = "unmarked"


def contradictions(document: Document, marks: Collection[str]) -> Mapping[str, Sequence[str]]:
    """Ids by what is wrong with them: see `journal.contradictions`.

    Args:
        marks: those below `due` that are there.
    """
    events = {fact.event.id for fact in document.facts}
    deliveries = {item.id: item for item in document.deliveries}
    row = document.submission
    ended = row.ended is not None and f"{row.id}.{row.ended}" not in events
    lost = [key for key in document.marks.values() if key.startswith("due/") and key not in marks]
    return {
        "deliveries_without_event": [item.id for item in document.deliveries if item.event_id not in events],
        "attempts_without_delivery": sorted({item.delivery_id for item in document.attempts} - deliveries.keys()),
        "ends_without_event": [row.id] if ended else [],
        "unfinished_attempts": [
            item.delivery_id
            for item in document.attempts
            if item.outcome is None
            and item.delivery_id in deliveries
            and deliveries[item.delivery_id].status != "running"
        ],
        _LOST: [row.id] if lost else [],
    }


def told(found: Mapping[str, Sequence[str]]) -> list[str]:
    """As sentences."""
    lost = found.get(_LOST, ())
    said = sentences({name: ids for name, ids in found.items() if name != _LOST})
    if lost:
        said.append(
            f"{len(lost):,} submissions have something to be done, but nothing leads to them: {lost[0]}, for one. "
            "Somebody has deleted objects below due/; stop that, and please report this if nobody did."
        )
    return said
