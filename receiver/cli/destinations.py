"""`destinations`: list, test and resume them. `slack`: what Slack needs for one."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from receiver.app import find_destination, try_destination
from receiver.cli.options import AsJSON
from receiver.cli.output import ago, note, one_line, print_json, print_table, say, when
from receiver.cli.process import on_journal, run, settings_for
from receiver.clock import Clock
from receiver.deliveries import DestinationRecord
from receiver.errors import InputError, NotFound
from receiver.events import EVENT_TYPES
from receiver.handlers.slack.api import SCOPES, manifest
from receiver.journal import Journal

COLUMNS = ("DESTINATION", "HANDLER", "STATUS", "PENDING", "DEAD", "LAST SUCCESS", "LAST ERROR")

destinations = typer.Typer(no_args_is_help=True, help="List, test and resume destinations.")
slack = typer.Typer(no_args_is_help=True, help="Prepare Slack to be a destination.")


@destinations.command("list")
def list_destinations(as_json: AsJSON = False) -> None:
    """List destinations with their status and deliveries.

    Every destination an engine has known. A paused one says why and until when.
    """
    now_ms = Clock().now_ms()
    found = on_journal(lambda journal: journal.destinations())
    if as_json:
        print_json(
            [{"name": item.name, "status": item.display_status(now_ms), **msgspec.to_builtins(item)} for item in found]
        )
        return
    if not found:
        note("No destinations: no engine has run on this journal yet.")
        return
    rows = [
        (
            item.name,
            item.handler,
            item.display_status(now_ms),
            str(item.pending),
            str(item.dead),
            when(item.last_success_ms),
            f"{ago(item.last_error_ms)} ago: {item.last_error}" if item.last_error_ms is not None else "",
        )
        for item in found
    ]
    print_table(COLUMNS, rows)
    configured = {item.name for item in settings_for(quiet=True).resolved_destinations()}
    for item in found:
        if item.paused(now_ms):
            say(f"{item.name} is paused until {when(item.paused_until_ms)} UTC: {item.paused_reason}")
            say(f"End the pause now with: receiver destinations resume {item.name}")
        if item.pending and item.name not in configured and item.handler != "function":
            say(f"{item.name} is not in the settings: its deliveries wait until it is.")


@destinations.command("resume")
def resume_destination(name: Annotated[str, typer.Argument(help="The destination's name.")]) -> None:
    """End a destination's pause now, and forget its failures.

    All due deliveries are attempted again.
    """

    async def resume(journal: Journal) -> DestinationRecord | None:
        found = next((item for item in await journal.destinations() if item.name == name), None)
        return found if await journal.resume(name) else None

    found = on_journal(resume)
    if found is None:
        raise NotFound(f"There is no destination {name!r} in this journal. See: receiver destinations list")
    paused = found.display_status(Clock().now_ms()) == "paused"
    say(f"{name} {'goes on' if paused else 'was not paused'}; {found.pending} deliveries are owed to it.")


@destinations.command("test")
def send_sample(
    name: Annotated[str, typer.Argument(help="The destination's name.")],
    type: Annotated[str, typer.Option("--type", help="Which type of event to send.")] = "task.succeeded",
    as_json: AsJSON = False,
) -> None:
    """Send one sample through a destination's real handler.

    The sample is marked as one and has a small picture. Print the receipt, or the reason of a failure. Only the
    settings are read, and nothing is journalled.
    """
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


@slack.callback()
def _group() -> None:
    """Keep `slack` a group although it has one command: its name says what the manifest is for."""


@slack.command("manifest")
def print_manifest(
    name: Annotated[str, typer.Option(help="What the app and its bot are called.")] = "Receiver",
) -> None:
    """Print the manifest of the Slack app whose bot posts.

    Paste it, install the app, take its bot token.
    """
    print_json(manifest(name))
    note("Paste this at https://api.slack.com/apps?new_app=1 (From a manifest), then install the app to the workspace.")
    note("Set SLACK_BOT_TOKEN to the Bot User OAuth Token from its page OAuth & Permissions. The bot may:")
    for scope, purpose in SCOPES.items():
        note(f"  {scope}: {purpose}")
