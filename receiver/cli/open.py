"""`open`: show a result in the program that the system uses for pictures."""

from __future__ import annotations

from pathlib import Path

import typer

from receiver.cli.options import Reference
from receiver.cli.output import say
from receiver.cli.process import on_journal
from receiver.cli.tables import status_of
from receiver.deliveries import Delivery
from receiver.errors import NotFound
from receiver.events import Submission
from receiver.journal import Journal
from receiver.journal.lookup import LAST
from receiver.journal.selection import Selection


def open(reference: Reference = LAST) -> None:
    """Open the picture of a result.

    It is opened where a destination put it, or else at its link, and its place is printed. Without an id it is the
    newest result's.
    """

    async def read(journal: Journal) -> tuple[Submission, list[Delivery]]:
        done = await journal.submissions(Selection(status="succeeded"), limit=1) if reference == LAST else []
        row = done[0] if done else await journal.find(reference)
        return row, await journal.deliveries(limit=100, submission_id=row.id)

    row, deliveries = on_journal(read)
    receipts = [item.receipt for item in deliveries if item.receipt]
    files = [item.ref for item in receipts if item.ref and Path(item.ref).is_file()]
    links = [item.url for item in receipts if item.url and item.url.startswith("https://")]
    place = next(iter([*files, *links, *(row.task.result_urls if row.task else ())]), None)
    if place is None:
        raise NotFound(f"Submission {row.id} has no picture to open ({status_of(row)}).")
    say(place)
    typer.launch(place)
