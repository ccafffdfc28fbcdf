"""`events replay` and `deliveries replay`: bring what happened to a destination again."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from receiver.cli.options import AsJSON, moment, spreading
from receiver.cli.output import note, print_json, print_table
from receiver.cli.running import run, settings_for
from receiver.deliveries import DELIVERY_STATUSES
from receiver.errors import InputError
from receiver.events import EVENT_TYPES
from receiver.journal.base import Journal
from receiver.journal.selection import REPLAYED, Order, Replayed, ReplayOutcome, Selection
from receiver.maintenance.replay import Replay
from receiver.runtime import journal_of, replay_of

LARGE = 50
"""More than this must be meant."""
SHOWN = 200
"""Rows printed for people; `--json` has them all."""

Plan = Callable[[Replay, Selection], Awaitable[list[Order]]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What both commands take beside their own."""

    submission: Annotated[
        str | None, typer.Option("--task", "--submission", help="Of one submission or task.", show_default=False)
    ] = None
    destination: Annotated[
        str | None, typer.Option("--destination", help="What was owed to this destination.", show_default=False)
    ] = None
    since: Annotated[
        str | None, typer.Option(help="Made since then: 2h, 3d, or 2026-11-25T10:00 (UTC).", show_default=False)
    ] = None
    until: Annotated[str | None, typer.Option(help="Made before that, given like --since.", show_default=False)] = None
    to: Annotated[str | None, typer.Option(help="Bring it to this destination instead.", show_default=False)] = None
    as_new: Annotated[
        bool, typer.Option("--as-new", help="With a new idempotency key, so that no destination takes it for a repeat.")
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would happen.")] = False
    yes: Annotated[bool, typer.Option("--yes", help=f"It is meant, although it is more than {LARGE}.")] = False
    as_json: AsJSON = False

    def selection(self, ids: list[str] | None) -> Selection:
        """But for the submission, which only a journal can find, and what one command knows alone."""
        now = time.time()
        return Selection(
            ids=tuple(ids or ()),
            destination=self.destination,
            since_ms=moment("--since", self.since, now),
            until_ms=moment("--until", self.until, now),
        )


@spreading(Asked)
def replay_deliveries(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of deliveries.", show_default=False)] = None,
    status: Annotated[str | None, typer.Option(help=f"{', '.join(DELIVERY_STATUSES)}.", show_default=False)] = None,
    *,
    asked: Asked,
) -> None:
    """Make deliveries owed again: by id, or all that fit what is given."""
    if status is not None and status not in DELIVERY_STATUSES:
        raise InputError(f"--status is one of {', '.join(DELIVERY_STATUSES)}, not {status!r}.")
    selection = dataclasses.replace(asked.selection(ids), status=status)
    _replay(lambda replay, chosen: replay.of_deliveries(chosen, to=asked.to, as_new=asked.as_new), selection, asked)


@spreading(Asked)
def replay_events(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of events.", show_default=False)] = None,
    type: Annotated[str | None, typer.Option(help=f"{', '.join(EVENT_TYPES)}.", show_default=False)] = None,
    *,
    asked: Asked,
) -> None:
    """Bring events to the destinations they went to, or to another one, also a newly configured one."""
    if type is not None and type not in EVENT_TYPES:
        raise InputError(f"--type is one of {', '.join(EVENT_TYPES)}, not {type!r}.")
    selection = dataclasses.replace(asked.selection(ids), type=type)
    _replay(lambda replay, chosen: replay.of_events(chosen, to=asked.to, as_new=asked.as_new), selection, asked)


def _replay(plan: Plan, selection: Selection, asked: Asked) -> None:
    settings = settings_for(quiet=True)

    async def main() -> tuple[list[Replayed], set[str]]:
        async with journal_of(settings, existing=True) as journal:
            replay = await replay_of(settings, journal)
            orders = await plan(replay, await _of(journal, selection, asked.submission))
            if asked.dry_run:
                return await replay.foresee(orders), set()
            if len(orders) > LARGE and not asked.yes:
                raise InputError(
                    f"That would replay {len(orders):,} deliveries. Look at them with --dry-run, then add --yes."
                )
            new = {order.destination for order in orders} - (await journal.registered()).keys()
            return await replay.carry_out(orders), new

    done, new = run(main())
    if asked.as_json:
        print_json([_record(item, asked.dry_run) for item in done])
    elif not done:
        note("Nothing fits, so nothing is replayed.")
    else:
        _tell(done, dry_run=asked.dry_run)
    for name in sorted(new):
        note(f"No engine has known the destination {name} yet: if one runs now, start it anew with these settings.")


async def _of(journal: Journal, selection: Selection, submission: str | None) -> Selection:
    """With the submission that a reference means."""
    if submission is None:
        return selection
    return dataclasses.replace(selection, submission_id=(await journal.find(submission)).id)


_WHAT: dict[ReplayOutcome, tuple[str, str]] = {
    "again": ("is delivered again", "would be delivered again"),
    "new": ("new delivery", "would be a new delivery"),
    "sooner": ("is tried now instead of later", "would be tried now instead of later"),
    "owed": ("is owed already; nothing changes", "is owed already; nothing would change"),
    "running": ("is running now; nothing changes", "is running now; nothing would change"),
    "gone": ("its event was deleted", "its event was deleted"),
}


def _tell(done: Sequence[Replayed], *, dry_run: bool) -> None:
    print_table(
        ("DELIVERY", "EVENT", "DESTINATION", "WAS", "WHAT"),
        [
            (
                item.delivery_id or "(new)",
                item.order.event_id,
                item.order.destination,
                item.was or "",
                _WHAT[item.outcome][dry_run],
            )
            for item in done[:SHOWN]
        ],
    )
    if len(done) > SHOWN:
        note(f"… and {len(done) - SHOWN:,} more; --json prints them all.")
    counts = Counter(item.outcome in REPLAYED for item in done)
    rest = f", {counts[False]:,} stay as they are" if counts[False] else ""
    if dry_run:
        note(f"{counts[True]:,} would be replayed{rest}. Nothing was written.")
    else:
        note(f"{counts[True]:,} replayed{rest}. An engine delivers them: receiver serve, or receiver worker.")


def _record(item: Replayed, dry_run: bool) -> dict[str, object]:
    return {
        "delivery": item.delivery_id,
        "event": item.order.event_id,
        "destination": item.order.destination,
        "outcome": item.outcome,
        "was": item.was,
        "dry_run": dry_run,
    }
