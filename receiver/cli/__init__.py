"""The `receiver` command."""

from __future__ import annotations

import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from receiver.cli import (
    describing,
    destinations,
    doctor,
    listening,
    listings,
    making,
    pressing,
    processes,
    replaying,
    serving,
    slack,
    submitting,
    tasks,
    upkeep,
)
from receiver.cli.output import note
from receiver.errors import ReceiverError
from receiver.telemetry import redact

__all__ = ["app", "main"]

# Without Rich's markup: it would swallow what stands in brackets, such as [env: RECEIVER_PORT].
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(submitting.submit)
app.command()(submitting.wait)
app.command()(pressing.action)
app.command()(pressing.modal)
app.command()(submitting.watch)
app.command()(making.blend)
app.command()(making.describe)
app.command()(making.shorten)
app.command()(making.video)
app.command()(making.edits)
app.command()(making.swap)
app.command()(making.upload)
app.command()(pressing.seed)
app.command()(pressing.cancel)
app.command()(serving.serve)
app.command()(serving.worker)
app.command()(doctor.doctor)
app.command()(processes.engines)
app.command()(processes.migrate)
app.add_typer(tasks.tasks, name="tasks")
app.add_typer(listings.events, name="events")
listings.events.command("replay")(replaying.replay_events)
listings.deliveries.command("replay")(replaying.replay_deliveries)
app.add_typer(listings.deliveries, name="deliveries")
app.add_typer(destinations.destinations, name="destinations")
app.add_typer(upkeep.journal, name="journal")
app.add_typer(slack.slack, name="slack")
app.command()(upkeep.purge)
app.command()(upkeep.erase)
app.command()(describing.handlers)
app.command()(describing.settings)
app.command()(describing.inspect)
app.command()(serving.simulate)
app.command()(listening.listen)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"imagine-receiver {version('imagine-receiver')}")  # noqa: T201 - it is what was asked for
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Submit Midjourney tasks through CometAPI, and bring every result to every place you named."""
    _shown.traceback = verbose


class _Shown:
    """What `-v` asked for; the error it is about ends the command, and with it the command's context."""

    traceback = False


_shown = _Shown()


def main() -> None:
    """Run the command. An error is a sentence on standard error and exit status 1; `-v` adds the traceback."""
    try:
        app()
    except ReceiverError as exc:
        if _shown.traceback:
            note(redact(traceback.format_exc()))
        note(f"Error: {redact(str(exc))}")
        raise SystemExit(1) from None
