"""`events replay` and `deliveries replay`: deliver events again."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from receiver.cli.options import AsJSON, choice, moment, spreading
from receiver.cli.output import note, print_json, print_table
from receiver.cli.process import on_journal, settings_for
from receiver.deliveries import DELIVERY_STATUSES
from receiver.errors import InputError
from receiver.events import EVENT_TYPES
from receiver.journal import Journal
from receiver.journal.selection import REPLAYED, Order, Replayed, ReplayOutcome, Selection
from receiver.maintenance.replay import Replay
from receiver.runtime import replay_of

LARGE = 50
"""Number of deliveries above which --yes is needed."""
SHOWN = 200
"""Rows printed for people. `--json` has them all."""

_WHAT: dict[ReplayOutcome, tuple[str, str]] = {
    "again": ("is delivered again", "would be delivered again"),
    "new": ("new delivery", "would be a new delivery"),
    "sooner": ("is tried now instead of later", "would be tried now instead of later"),
    "owed": ("is owed already; nothing changes", "is owed already; nothing would change"),
    "running": ("is running now; nothing changes", "is running now; nothing would change"),
    "gone": ("its event was deleted", "its event was deleted"),
}


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Options of both commands."""

    submission: Annotated[
        str | None, typer.Option("--task", "--submission", help="Of one submission or task.", show_default=False)
    ] = None
    destination: Annotated[
        str | None, typer.Option("--destination", help="Of deliveries to this destination.", show_default=False)
    ] = None
    since: Annotated[
        str | None, typer.Option(help="Made since then: 2h, 3d, or 2026-11-25T10:00 (UTC).", show_default=False)
    ] = None
    until: Annotated[str | None, typer.Option(help="Made before that, given like --since.", show_default=False)] = None
    to: Annotated[str | None, typer.Option(help="Deliver to this destination instead.", show_default=False)] = None
    as_new: Annotated[
        bool, typer.Option("--as-new", help="With a new idempotency key, so that no destination drops it as a repeat.")
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would happen.")] = False
    yes: Annotated[bool, typer.Option("--yes", help=f"Replay even more than {LARGE}.")] = False
    as_json: AsJSON = False


@spreading(ReplayOptions)
def replay_deliveries(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of deliveries.", show_default=False)] = None,
    status: Annotated[str | None, typer.Option(help=f"{', '.join(DELIVERY_STATUSES)}.", show_default=False)] = None,
    *,
    asked: ReplayOptions,
) -> None:
    """Replay deliveries: by id, or all that match the options."""
    _replay(
        lambda replay, selection: replay.of_deliveries(selection, to=asked.to, as_new=asked.as_new),
        Selection(ids=tuple(ids or ()), status=choice("--status", status, DELIVERY_STATUSES)),
        asked,
    )


@spreading(ReplayOptions)
def replay_events(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of events.", show_default=False)] = None,
    type: Annotated[str | None, typer.Option(help=f"{', '.join(EVENT_TYPES)}.", show_default=False)] = None,
    *,
    asked: ReplayOptions,
) -> None:
    """Replay events to the destinations they went to, or to another one, also a newly configured one."""
    _replay(
        lambda replay, selection: replay.of_events(selection, to=asked.to, as_new=asked.as_new),
        Selection(ids=tuple(ids or ()), type=choice("--type", type, EVENT_TYPES)),
        asked,
    )


def _replay(
    plan: Callable[[Replay, Selection], Awaitable[list[Order]]], selection: Selection, asked: ReplayOptions
) -> None:
    settings = settings_for(quiet=True)
    now = time.time()
    selection = dataclasses.replace(
        selection,
        destination=asked.destination,
        since_ms=moment("--since", asked.since, now),
        until_ms=moment("--until", asked.until, now),
    )

    async def work(journal: Journal) -> tuple[list[Replayed], set[str]]:
        id = None if asked.submission is None else (await journal.find(asked.submission)).id
        replay = await replay_of(settings, journal)
        orders = await plan(replay, dataclasses.replace(selection, submission_id=id))
        if asked.dry_run:
            return await replay.foresee(orders), set()
        if len(orders) > LARGE and not asked.yes:
            raise InputError(
                f"That would replay {len(orders):,} deliveries. Look at them with --dry-run, then add --yes."
            )
        new = {order.destination for order in orders} - (await journal.registered()).keys()
        return await replay.carry_out(orders), new

    done, new = on_journal(work, settings)
    if asked.as_json:
        print_json(
            [
                {
                    "delivery": item.delivery_id,
                    "event": item.order.event_id,
                    "destination": item.order.destination,
                    "outcome": item.outcome,
                    "was": item.was,
                    "dry_run": asked.dry_run,
                }
                for item in done
            ]
        )
    elif not done:
        note("Nothing fits, so nothing is replayed.")
    else:
        _print(done, dry_run=asked.dry_run)
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
