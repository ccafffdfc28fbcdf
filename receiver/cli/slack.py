"""`slack`: what it takes to let Receiver post there."""

from __future__ import annotations

from typing import Annotated

import typer

from receiver.cli.output import note, print_json
from receiver.handlers.slack.api import SCOPES, manifest

slack = typer.Typer(no_args_is_help=True, help="What it takes to post into Slack.")


@slack.callback()
def _room() -> None:
    """A group, although there is but one command: its name says what the manifest is for."""


@slack.command("manifest")
def print_manifest(
    name: Annotated[str, typer.Option(help="What the app and its bot are called.")] = "Receiver",
) -> None:
    """Print the manifest of the Slack app whose bot posts: paste it, install the app, take its bot token."""
    print_json(manifest(name))
    note("Paste this at https://api.slack.com/apps?new_app=1 (From a manifest), then install the app to the workspace.")
    note("Set SLACK_BOT_TOKEN to the Bot User OAuth Token from its page OAuth & Permissions. The bot may:")
    for scope, purpose in SCOPES.items():
        note(f"  {scope}: {purpose}")
