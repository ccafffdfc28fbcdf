"""The `receiver` command."""

from __future__ import annotations

import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from receiver.cli import configuration, deliveries, handbook, journal, serve, submit, tasks
from receiver.cli.output import note
from receiver.errors import ReceiverError
from receiver.telemetry import redact

__all__ = ["app", "main"]

# Without Rich's markup, which would swallow text in brackets, such as [env: RECEIVER_PORT].
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
for command in (
    submit.submit,
    submit.wait,
    submit.action,
    submit.modal,
    submit.watch,
    submit.blend,
    submit.describe,
    submit.shorten,
    submit.video,
    submit.edits,
    submit.swap,
    submit.upload,
    submit.seed,
    submit.cancel,
    serve.serve,
    serve.worker,
    configuration.doctor,
    journal.engines,
    journal.migrate,
    journal.purge,
    journal.erase,
    configuration.handlers,
    configuration.settings,
    configuration.inspect,
    serve.simulate,
    serve.listen,
    handbook.help,
):
    app.command()(command)
for name, group in {
    "tasks": tasks.tasks,
    "events": deliveries.events,
    "deliveries": deliveries.deliveries,
    "destinations": configuration.destinations,
    "journal": journal.journal,
    "slack": configuration.slack,
}.items():
    app.add_typer(group, name=name)


_chosen = {"traceback": False}
"""Values of the options before the command. An error ends the command's context, which would hold them otherwise."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"imagine-receiver {version('imagine-receiver')}")  # noqa: T201 - the output of --version
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Submit Midjourney tasks through CometAPI, and bring every result to every place you named."""
    _chosen["traceback"] = verbose


def main() -> None:
    """Run the command. An error is a sentence on standard error and exit status 1, and `-v` adds the traceback."""
    try:
        app()
    except ReceiverError as exc:
        if _chosen["traceback"]:
            note(redact(traceback.format_exc()))
        note(f"Error: {redact(str(exc))}")
        raise SystemExit(1) from None
