"""`journal copy`: move to another database."""

from __future__ import annotations

from typing import Annotated

import typer

from receiver.cli.options import AsJSON
from receiver.cli.output import note, print_json, say
from receiver.cli.running import run, settings_for
from receiver.journal.copying import RowKind
from receiver.runtime import Copied, copy_journal
from receiver.settings import Settings

STEP = 50_000
"""Rows of a kind between two lines about them."""


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="For instance sqlite:.receiver/journal.db")],
    target: Annotated[str, typer.Argument(metavar="TO", help="For instance postgresql://user:password@host/name")],
    as_json: AsJSON = False,
) -> None:
    """Copy the whole journal into an empty one on another database, and compare the two.

    Stop every process that uses either of them first; it is refused while an engine runs. What is owed stays owed under
    the same idempotency keys. The old journal stays as it is. A copy that was interrupted has left nothing: start it
    again. If that says that the new journal holds something, the copy was whole.
    """
    settings = settings_for(quiet=True)
    copied = run(copy_journal(settings, source, target, _tell))
    if as_json:
        print_json({"from": copied.source, "to": copied.target, "rows": copied.rows})
        return
    counted = ", ".join(f"{tally.count:,} {kind}" for kind, tally in copied.rows.items() if tally.count) or "no rows"
    say(f"Copied {copied.source} to {copied.target}: {counted}.")
    say("Both were read again and compared by SHA-256: they are the same.")
    for line in _next(copied, settings):
        note(line)


def _tell(kind: RowKind, count: int) -> None:
    if count % STEP == 0:
        note(f"{count:,} {kind} …")


def _next(copied: Copied, settings: Settings) -> list[str]:
    """What to do now."""
    lines = [
        "Next: name the new one in RECEIVER_DATABASE wherever Receiver runs, with the same keys (RECEIVER_KEYS, or the "
        f"file {settings.data / 'keys'}), and start it.",
        f"Do not start it on {copied.source} again: what was owed there is owed in both now, and would be delivered "
        "twice.",
    ]
    files = copied.rows["files"].count
    if files and "://" not in settings.media_place:
        lines.append(
            f"Pictures are in no journal: {files:,} that submissions need stay in {settings.media_place}. Where other "
            "machines serve the new journal, bring them to a place all share, and name that in RECEIVER_MEDIA."
        )
    return lines
