"""Present troubles, for every place that shows them: doctor, `/readyz`, lists, the page and alerts.

The engine journals troubles outside (`Journal.note`). The others are read from the journal's own rows here.
"""

from __future__ import annotations

from receiver.deliveries import DestinationRecord
from receiver.errors import JournalError
from receiver.journal.document import Trouble
from receiver.journal.journal import Journal
from receiver.journal.transitions import is_down
from receiver.tasks import clean_text


async def find_troubles(journal: Journal, now_ms: int, *, space: bool = True) -> list[Trouble]:
    """Return all that needs an operator, in sentences with the next command.

    Names: `provider`, `callbacks missing`, `callbacks unfinished`, `disk`, `paused NAME` and `dead NAME` (a
    destination). `space` looks at the disk, too.
    """
    found = await journal.troubles()
    if space:
        try:
            await journal.store.check(space=True)
        except JournalError as exc:
            if exc.fault != "full":
                raise
            found.append(Trouble(name="disk", since_ms=now_ms, text=str(exc)))
    for record in await journal.destinations():
        if is_down(record) or record.paused(now_ms):
            found.append(_paused(record, now_ms))
        if record.dead:
            found.append(await _dead(journal, record, now_ms))
    return found


def _paused(record: DestinationRecord, now_ms: int) -> Trouble:
    reason = (record.paused_reason or record.last_error or "The reason is not known").rstrip(".")
    text = (
        f"Destination {record.name} is {record.display_status(now_ms)}, {_deliveries(record.pending)} "
        f"{'waits' if record.pending == 1 else 'wait'}: {reason}. It is tried again by itself; if the place works "
        f"again: receiver destinations resume {record.name}"
    )
    return Trouble(name=f"paused {record.name}", since_ms=record.last_error_ms or now_ms, text=clean_text(text))


async def _dead(journal: Journal, record: DestinationRecord, now_ms: int) -> Trouble:
    last = next(iter(await journal.deliveries(limit=1, destination=record.name, status="dead")), None)
    reason = ((last.detail if last else None) or "The reason is not known").rstrip(".")
    text = (
        f"{_deliveries(record.dead)} to {record.name} {'is' if record.dead == 1 else 'are'} dead, and not tried again "
        f"by {'itself' if record.dead == 1 else 'themselves'}. The last reason: {reason}. Correct it, then: "
        f"receiver deliveries replay --destination {record.name} --status dead"
    )
    since_ms = (last.finished_ms if last else None) or now_ms
    return Trouble(name=f"dead {record.name}", since_ms=since_ms, text=clean_text(text), count=record.dead)


def _deliveries(number: int) -> str:
    return f"{number:,} {'delivery' if number == 1 else 'deliveries'}"
