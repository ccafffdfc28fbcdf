"""`events` and `deliveries`: what the journal holds of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from receiver.cli.output import note, one_line, print_json, print_table, say, when
from receiver.cli.running import run, settings_for
from receiver.cli.story import COLUMNS, Story, meanings, next_steps, rows, told
from receiver.clock import Clock
from receiver.deliveries import DELIVERY_STATUSES, Delivery
from receiver.errors import InputError, NotFound
from receiver.events import EVENT_TYPES, Event
from receiver.journal import Journal
from receiver.runtime import journal_of

T = TypeVar("T")

ALL = 1000
"""More deliveries of one submission to one destination there cannot be, short of a thousand replays."""

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Limit = Annotated[int, typer.Option(help="How many at most, the newest first.", min=1)]

events = typer.Typer(no_args_is_help=True, help="Facts, as they were journalled.")
deliveries = typer.Typer(no_args_is_help=True, help="Events owed to destinations, and the attempts made.")


def ask(question: Callable[[Journal], Awaitable[T]]) -> T:
    """Read the journal; the provider is not asked and nothing is written."""
    settings = settings_for(quiet=True)

    async def main() -> T:
        async with journal_of(settings, existing=True) as journal:
            return await question(journal)

    return run(main())


@events.command("list")
def list_events(
    submission: Annotated[
        str | None, typer.Option("--task", help="Of one submission or task.", show_default=False)
    ] = None,
    type: Annotated[str | None, typer.Option(help=f"{', '.join(EVENT_TYPES)}.", show_default=False)] = None,
    limit: Limit = 20,
    as_json: AsJSON = False,
) -> None:
    """The newest events."""
    if type is not None and type not in EVENT_TYPES:
        raise InputError(f"--type is one of {', '.join(EVENT_TYPES)}, not {type!r}.")

    async def question(journal: Journal) -> list[Event]:
        id = (await journal.find(submission)).id if submission else None
        return await journal.events(limit=limit, submission_id=id, type=type)

    found = ask(question)
    if as_json:
        print_json(found)
    elif not found:
        note("No events.")
    else:
        print_events(found)


@events.command("show")
def show_event(id: Annotated[str, typer.Argument(help="The event's id.")]) -> None:
    """One event, as JSON: just what handlers get."""
    event = ask(lambda journal: journal.event(id))
    if event is None:
        raise NotFound(f"There is no event {id!r} in this journal. See: receiver events list")
    print_json(event)


@deliveries.command("list")
def list_deliveries(
    submission: Annotated[
        str | None, typer.Option("--task", help="Of one submission or task.", show_default=False)
    ] = None,
    destination: Annotated[str | None, typer.Option(help="To one destination.", show_default=False)] = None,
    status: Annotated[str | None, typer.Option(help=f"{', '.join(DELIVERY_STATUSES)}.", show_default=False)] = None,
    limit: Limit = 20,
    as_json: AsJSON = False,
) -> None:
    """The newest deliveries."""
    if status is not None and status not in DELIVERY_STATUSES:
        raise InputError(f"--status is one of {', '.join(DELIVERY_STATUSES)}, not {status!r}.")

    async def question(journal: Journal) -> list[Delivery]:
        id = (await journal.find(submission)).id if submission else None
        return await journal.deliveries(limit=limit, submission_id=id, destination=destination, status=status)

    found = ask(question)
    if as_json:
        print_json(found)
    elif not found:
        note("No deliveries.")
    else:
        print_deliveries(found)


@deliveries.command("show")
def show_delivery(
    id: Annotated[str, typer.Argument(help="The delivery's id.")],
    as_json: AsJSON = False,
) -> None:
    """One delivery, attempt by attempt."""

    story = ask(lambda journal: _story(journal, id))
    if as_json:
        print_json({"delivery": story.delivery, "attempts": story.attempts, "event": story.event})
        return
    for name, value in told(story):
        if value:
            say(f"{name:12} {one_line(value)}")
    if story.attempts:
        print_table(COLUMNS, rows(story))
    for outcome, meaning in meanings(story):
        say(f"{outcome:12} {meaning}")
    for step in next_steps(story):
        say(f"{'next':12} {step}")


async def _story(journal: Journal, id: str) -> Story:
    delivery = await journal.delivery(id)
    if delivery is None:
        raise NotFound(f"There is no delivery {id!r} in this journal. See: receiver deliveries list")
    owed = await journal.deliveries(limit=ALL, submission_id=delivery.submission_id, destination=delivery.destination)
    return Story(
        delivery=delivery,
        attempts=await journal.attempts(id),
        event=await journal.event(delivery.event_id),
        submission=await journal.get(delivery.submission_id),
        instead=next((item for item in reversed(owed) if item.id > id and not item.manual), None),
        paused=await journal.pause_of(delivery.destination),
        now_ms=Clock().now_ms(),
    )


def print_events(found: list[Event]) -> None:
    """As a table; nothing for none."""
    if found:
        print_table(
            ("EVENT", "TIME", "SOURCE", "REASON"),
            [(event.id, when(event.created_ms), event.source, event.reason or "") for event in found],
        )


def print_deliveries(found: list[Delivery]) -> None:
    """As a table; nothing for none."""
    if found:
        rows = [
            (item.id, item.destination, item.status, _event_type(item), str(item.attempt), _what(item))
            for item in found
        ]
        print_table(("DELIVERY", "DESTINATION", "STATUS", "EVENT", "ATTEMPTS", "RECEIPT"), rows)


def _event_type(item: Delivery) -> str:
    return item.event_id.partition(".")[2]


def _what(item: Delivery) -> str:
    receipt = item.receipt
    made = (receipt.url or receipt.ref) if receipt else None
    return made or item.detail or ""
