"""`keys`: replace the signing keys of callback URLs and `state`."""

from __future__ import annotations

import secrets
import sys
from typing import Annotated

import typer

from receiver.cli import group
from receiver.cli.output import at, note, say
from receiver.cli.process import settings_for
from receiver.clock import Clock
from receiver.settings import ensure_keys, prune_keys, rotate_keys

keys = group("keys")


@keys.command("rotate")
def rotate(
    show: Annotated[
        bool,
        typer.Option(
            "--print",
            help="Print the value for RECEIVER_KEYS, all keys and a new one. The file of keys stays.",
        ),
    ] = False,
) -> None:
    """Add a new signing key, which signs from the next start on.

    The older ones go on verifying. Without --print no key is shown.
    """
    settings = settings_for(quiet=True)
    if show:
        # Not by `say`, which hides secrets.
        sys.stdout.write(" ".join([*ensure_keys(settings), secrets.token_hex(32)]) + "\n")
        note("Set RECEIVER_KEYS to this for every process on the journal, and restart them.")
        return
    path = rotate_keys(settings)
    say(f"{path} has a new key at its end.")
    after = at(Clock().now_ms() + int(settings.token_max_age * 1000))
    note("Restart every process on this journal now: the new key signs from then on. Logins of the page end.")
    note(f"The older keys verify what is under way. Remove them after {after} with: receiver keys prune")


@keys.command("prune")
def prune() -> None:
    """Remove all signing keys but the newest, once no callback can need them.

    That is RECEIVER_TOKEN_MAX_AGE after the rotation.
    """
    path, removed = prune_keys(settings_for(quiet=True), Clock().now())
    say(f"{path} has one key. Older keys removed: {removed}.")
    if removed:
        note("Restart every process on this journal, so that none accepts them any more.")
