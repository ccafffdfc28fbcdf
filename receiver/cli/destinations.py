"""`destinations`: how they do, and letting a paused one go on."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from receiver.cli.listings import AsJSON, ask
from receiver.cli.output import ago, note, one_line, print_json, print_table, say, when
from receiver.cli.running import run, settings_for
from receiver.clock import Clock
from receiver.deliveries import DestinationRecord
from receiver.errors import InputError, NotFound
from receiver.events import EVENT_TYPES
from receiver.journal import Journal
from receiver.runtime import find_destination, try_destination

COLUMNS = ("DESTINATION", "HANDLER", "STATUS", "PENDING", "DEAD", "LAST SUCCESS", "LAST ERROR")

destinations = typer.Typer(no_args_is_help=True, help="Places results are delivered to, and how they do.")


@destinations.command("list")
def list_destinations(as_json: AsJSON = False) -> None:
    """Every destination an engine has known: what is owed to it, and whether it works. A paused one says why and
    until when."""
    now_ms = Clock().now_ms()
    found = ask(lambda journal: journal.destinations())
    if as_json:
        print_json([_as_json(item, now_ms) for item in found])
    elif not found:
        note("No destinations: no engine has run on this journal yet.")
    else:
        print_table(COLUMNS, [_row(item, now_ms) for item in found])
        for text in _remarks(found, now_ms):
            say(text)


@destinations.command("resume")
def resume_destination(name: Annotated[str, typer.Argument(help="The destination's name.")]) -> None:
    """End a destination's pause now, and forget its failures: everything that is due is delivered again."""

    async def question(journal: Journal) -> DestinationRecord | None:
        found = next((item for item in await journal.destinations() if item.name == name), None)
        return found if await journal.resume(name) else None

    found = ask(question)
    if found is None:
        raise NotFound(f"There is no destination {name!r} in this journal. See: receiver destinations list")
    paused = found.standing(Clock().now_ms()) == "paused"
    say(f"{name} {'goes on' if paused else 'was not paused'}; {found.pending} deliveries are owed to it.")


@destinations.command("test")
def try_out(
    name: Annotated[str, typer.Argument(help="The destination's name.")],
    type: Annotated[str, typer.Option("--type", help="Which type of event to send.")] = "task.succeeded",
    as_json: AsJSON = False,
) -> None:
    """Send one sample, marked as such and with a small picture, through a destination's real handler, and print its
    receipt or the reason. What it goes by is the settings alone: nothing of it is journalled."""
    settings = settings_for(quiet=True)
    item = find_destination(settings, name)
    if type not in EVENT_TYPES:
        raise InputError(f"There are no events of type {type[:40]!r}. There are: {', '.join(EVENT_TYPES)}.")
    others = [other.name for other in settings.resolved_destinations()]
    receipt = run(try_destination(item, type, others=others))
    if as_json:
        print_json(msgspec.to_builtins(receipt))
        return
    say(f"{name} took the sample.")
    for what, text in (("ref", receipt.ref), ("url", receipt.url)):
        if text:
            say(f"{what}  {one_line(text)}")


def _as_json(item: DestinationRecord, now_ms: int) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(item)
    return {"name": fields.pop("name"), "status": item.standing(now_ms), **fields}


def _row(item: DestinationRecord, now_ms: int) -> tuple[str, ...]:
    return (
        item.name,
        item.handler,
        item.standing(now_ms),
        str(item.pending),
        str(item.dead),
        when(item.last_success_ms),
        f"{ago(item.last_error_ms)} ago: {item.last_error}" if item.last_error_ms is not None else "",
    )


def _remarks(found: list[DestinationRecord], now_ms: int) -> list[str]:
    """What a row has no room for."""
    configured = {item.name for item in settings_for(quiet=True).resolved_destinations()}
    remarks = []
    for item in found:
        if item.paused(now_ms):
            remarks.append(f"{item.name} is paused until {when(item.paused_until_ms)} UTC: {item.paused_reason}")
            remarks.append(f"End the pause now with: receiver destinations resume {item.name}")
        if item.pending and item.name not in configured and item.handler != "function":
            remarks.append(f"{item.name} is not in the settings: what is owed to it waits until it is.")
    return remarks
