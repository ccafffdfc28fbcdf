"""The `receiver` command.

A command's module is imported when the command runs. `COMMANDS` has what `receiver --help` shows of it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command, get_group

from receiver.errors import ReceiverError
from receiver.version import __version__

__all__ = ["COMMANDS", "app", "chosen", "group", "load", "main", "text_of"]

COMMANDS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Make pictures": {
        "submit": ("submit:submit", "Submit a prompt."),
        "wait": ("submit:wait", "Stay until a result has reached every destination."),
        "action": ("submit:action", "Press a button of a finished task."),
        "modal": ("submit:modal", "Answer a task that asks for input."),
        "blend": ("submit:blend", "Make one picture of 2 to 5."),
        "describe": ("submit:describe", "Find four prompts for a picture."),
        "shorten": ("submit:shorten", "Find shorter prompts that say the same."),
        "video": ("submit:video", "Make videos from a picture, or go on from earlier ones."),
        "edits": ("submit:edits", "Repaint a picture of your own."),
        "swap": ("submit:swap", "Put a face into another picture."),
        "upload": ("submit:upload", "Put pictures where prompts can point to them."),
        "watch": ("submit:watch", "Follow and deliver a task that another program submitted."),
        "seed": ("submit:seed", "Print the seed of a finished picture."),
        "cancel": ("submit:cancel", "Ask the provider to cancel a task."),
    },
    "Find and deliver": {
        "tasks": ("tasks:tasks", "List and show submissions."),
        "open": ("open:open", "Open the page, or the picture of a result."),
        "events": ("deliveries:events", "List, show and replay events."),
        "deliveries": ("deliveries:deliveries", "List, show and replay deliveries and their attempts."),
        "destinations": ("configuration:destinations", "List, test, pause and resume destinations."),
        "media": ("media:media", "Fetch missing files of results."),
    },
    "Run": {
        "serve": ("serve:serve", "Receive callbacks, and be the engine: poll and deliver."),
        "worker": ("serve:worker", "Be the engine alone, without listening for callbacks."),
        "engines": ("journal:engines", "List the engines, which poll and deliver, and the leader."),
        "metrics": ("operate:metrics", "Print a dashboard and alert rules for `/metrics`."),
    },
    "Set up and check": {
        "help": ("handbook:help", "Show the handbook: the list of its pages, or one page."),
        "init": ("init:init", "Ask for the first settings, test them, and write a file."),
        "doctor": ("configuration:doctor", "Check everything that Receiver depends on."),
        "settings": ("configuration:settings", "List every setting, its value and its source."),
        "keys": ("operate:keys", "Rotate the signing keys."),
        "handlers": ("configuration:handlers", "List the handlers with their options."),
        "slack": ("configuration:slack", "Prepare Slack to be a destination."),
    },
    "Keep the journal": {
        "backup": ("operate:backup", "Copy journal, keys, archived files and settings into a folder."),
        "restore": ("operate:restore", "Put a backup back in its place."),
        "usage": ("operate:usage", "Show what journal, archived files and file destinations take, by age."),
        "journal": ("journal:journal", "Check, copy and compact the journal."),
        "purge": ("journal:purge", "Delete what is old."),
        "erase": ("journal:erase", "Delete one submission for good."),
        "migrate": ("journal:migrate", "Bring the journal's tables up to date."),
    },
    "Try and develop": {
        "simulate": ("serve:simulate", "Play the provider on this machine, with its faults."),
        "listen": ("serve:listen", "Print and verify what a webhook destination sends."),
        "inspect": ("configuration:inspect", "Show Receiver's reading of a payload of the provider, as JSON."),
    },
}
"""By section of the help: name → (place of the command, first sentence of its help)."""
_PLACES = {name: place for section in COMMANDS.values() for name, (place, _) in section.items()}
# Without Rich's markup, which would swallow text in brackets, such as [env: RECEIVER_PORT].
_PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}


def load(place: str) -> Any:
    """Import `module:attribute` of this package."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def text_of(name: str) -> str:
    """Return the first sentence of a command's help."""
    return next(commands[name][1] for commands in COMMANDS.values() if name in commands)


def group(name: str) -> typer.Typer:
    """Return the Typer of a command that has commands of its own."""
    return typer.Typer(no_args_is_help=True, help=text_of(name), **_PLAIN)


class Commands(Mapping[str, Any]):
    """Commands by name. Each is imported when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        found = load(_PLACES[name])
        if isinstance(found, typer.Typer):
            command: Any = get_group(found)
        else:
            single = typer.Typer(**_PLAIN)
            single.command(name)(found)
            command = get_command(single)
        command.name = name
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


class LazyGroup(TyperGroup):
    """The group of all commands. Its help imports none of them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": Commands()})

    def invoke(self, ctx: Any) -> Any:
        """Run the command. An unknown option may be a prompt that begins with a dash, so the error says how to write
        one."""
        try:
            return super().invoke(ctx)
        except TyperException as exc:
            command: Any = getattr(getattr(exc, "ctx", None), "command", None)
            takes = [item.name for item in getattr(command, "params", ()) if item.param_type_name == "argument"]
            if hasattr(exc, "option_name") and "prompt" in takes:
                exc.message += f'. A prompt that begins with a dash comes last: receiver {command.name} -- "-a boat"'
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by section."""
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:12}", text) for name, (_, text) in commands.items()])


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    **_PLAIN | {"add_completion": True},
)
chosen: dict[str, Any] = {"traceback": False, "config": None}
"""Values of the options before the command. An error ends the command's context, which would hold them otherwise."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"imagine-receiver {__version__}")  # noqa: T201 - the output of --version
        raise typer.Exit


@app.callback()
def _options(
    config: Annotated[
        Path | None,
        typer.Option(help="The file with settings, in place of receiver.toml here or in ~/.config/receiver."),
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Submit Midjourney tasks through CometAPI, and bring every result to every place you named."""
    chosen.update(traceback=verbose, config=config)


def main() -> None:
    """Run the command. An error is a sentence on standard error and exit status 1, and `-v` adds the traceback."""
    gc.set_threshold(10_000)  # imports make many objects and no garbage: a tenth of the start-up
    try:
        app()
    except ReceiverError as exc:
        load("output:print_error")(exc, traceback=chosen["traceback"])
        raise SystemExit(1) from None
