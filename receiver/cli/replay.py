"""`events replay` and `deliveries replay`: deliver events again."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import typer

from receiver.app import replay_of
from receiver.cli.options import AsJSON, OfSubmission, choice, moment
from receiver.cli.output import note, print_json, print_table
from receiver.cli.process import on_journal, settings_for
from receiver.deliveries import DELIVERY_STATUSES
from receiver.errors import InputError
from receiver.events import EVENT_TYPES
from receiver.journal import Journal
from receiver.journal.selection import REPLAYED, Order, Replayed, ReplayOutcome, Selection
from receiver.maintenance.replay import Replay

LARGE = 50
"""Number of deliveries above which --yes is needed."""
SHOWN = 200
"""Rows printed for people. `--json` has them all."""

Plan = Callable[[Replay, str | None], Awaitable[list[Order]]]
"""Returns the orders of a replay, given the id of the submission to select, if any."""

_WHAT: dict[ReplayOutcome, tuple[str, str]] = {
    "again": ("is delivered again", "would be delivered again"),
    "new": ("new delivery", "would be a new delivery"),
    "sooner": ("is tried now instead of later", "would be tried now instead of later"),
    "owed": ("is owed already; nothing changes", "is owed already; nothing would change"),
    "running": ("is running now; nothing changes", "is running now; nothing would change"),
    "gone": ("its event was deleted", "its event was deleted"),
}


OfDestination = Annotated[
    str | None, typer.Option("--destination", help="Of deliveries to this destination.", show_default=False)
]
Since = Annotated[
    str | None, typer.Option(help="Made since then: 2h, 3d, or 2026-11-25T10:00 (UTC).", show_default=False)
]
Until = Annotated[str | None, typer.Option(help="Made before that, given like --since.", show_default=False)]
Instead = Annotated[str | None, typer.Option(help="Deliver to this destination instead.", show_default=False)]
AsNew = Annotated[
    bool, typer.Option("--as-new", help="With a new idempotency key, so that no destination drops it as a repeat.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would happen.")]
Yes = Annotated[bool, typer.Option("--yes", help=f"Replay even more than {LARGE}.")]


def replay_deliveries(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of deliveries.", show_default=False)] = None,
    status: Annotated[str | None, typer.Option(help=f"{', '.join(DELIVERY_STATUSES)}.", show_default=False)] = None,
    submission: OfSubmission = None,
    destination: OfDestination = None,
    since: Since = None,
    until: Until = None,
    to: Instead = None,
    as_new: AsNew = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJSON = False,
) -> None:
    """Replay deliveries: by id, or all that match the options."""
    chosen = choice("--status", status, DELIVERY_STATUSES)
    selection = dataclasses.replace(_selection(ids, destination, since, until), status=chosen)

    async def plan(replay: Replay, submission_id: str | None) -> list[Order]:
        found = dataclasses.replace(selection, submission_id=submission_id)
        return await replay.of_deliveries(found, to=to, as_new=as_new)

    _replay(plan, submission, dry_run=dry_run, yes=yes, as_json=as_json)


def replay_events(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of events.", show_default=False)] = None,
    type: Annotated[str | None, typer.Option(help=f"{', '.join(EVENT_TYPES)}.", show_default=False)] = None,
    submission: OfSubmission = None,
    destination: OfDestination = None,
    since: Since = None,
    until: Until = None,
    to: Instead = None,
    as_new: AsNew = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJSON = False,
) -> None:
    """Replay events to the same destinations, or to another one.

    The other one may be newly configured.
    """
    chosen = choice("--type", type, EVENT_TYPES)
    selection = dataclasses.replace(_selection(ids, destination, since, until), type=chosen)

    async def plan(replay: Replay, submission_id: str | None) -> list[Order]:
        found = dataclasses.replace(selection, submission_id=submission_id)
        return await replay.of_events(found, to=to, as_new=as_new)

    _replay(plan, submission, dry_run=dry_run, yes=yes, as_json=as_json)


def _selection(ids: list[str] | None, destination: str | None, since: str | None, until: str | None) -> Selection:
    now = time.time()
    return Selection(
        ids=tuple(ids or ()),
        destination=destination,
        since_ms=moment("--since", since, now),
        until_ms=moment("--until", until, now),
    )


def _replay(plan: Plan, submission: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    settings = settings_for(quiet=True)

    async def work(journal: Journal) -> tuple[list[Replayed], set[str]]:
        id = None if submission is None else (await journal.find(submission)).id
        replay = await replay_of(settings, journal)
        orders = await plan(replay, id)
        if dry_run:
            return await replay.foresee(orders), set()
        if len(orders) > LARGE and not yes:
            raise InputError(
                f"That would replay {len(orders):,} deliveries. Look at them with --dry-run, then add --yes."
            )
        new = {order.destination for order in orders} - (await journal.registered()).keys()
        return await replay.carry_out(orders), new

    done, new = on_journal(work, settings)
    if as_json:
        print_json(
            [
                {
                    "delivery": item.delivery_id,
                    "event": item.order.event_id,
                    "destination": item.order.destination,
                    "outcome": item.outcome,
                    "was": item.was,
                    "dry_run": dry_run,
                }
                for item in done
            ]
        )
    elif not done:
        note("Nothing fits, so nothing is replayed.")
    else:
        _print(done, dry_run=dry_run)
    for name in sorted(new):
        note(f"No engine has known the destination {name} yet: if one runs now, start it anew with these settings.")


def _print(done: Sequence[Replayed], *, dry_run: bool) -> None:
    rows = []
    for item in done[:SHOWN]:
        what = _WHAT[item.outcome][dry_run]
        rows.append((item.delivery_id or "(new)", item.order.event_id, item.order.destination, item.was or "", what))
    print_table(("DELIVERY", "EVENT", "DESTINATION", "WAS", "WHAT"), rows)
    if len(done) > SHOWN:
        note(f"… and {len(done) - SHOWN:,} more; --json prints them all.")
    counts = Counter(item.outcome in REPLAYED for item in done)
    rest = f", {counts[False]:,} stay as they are" if counts[False] else ""
    if dry_run:
        note(f"{counts[True]:,} would be replayed{rest}. Nothing was written.")
    else:
        note(f"{counts[True]:,} replayed{rest}. An engine delivers them: receiver serve, or receiver worker.")
