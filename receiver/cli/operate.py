"""Keep an installation: `backup`, `restore`, `usage`, `keys` and `metrics`."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from receiver.app import backup as backups
from receiver.app.usage import Usage, usage_of
from receiver.cli import chosen, group
from receiver.cli.options import AsJSON
from receiver.cli.output import at, note, print_list, print_table, say, say_result
from receiver.cli.process import run, settings_for
from receiver.clock import Clock
from receiver.disk import size
from receiver.metrics import dashboard as files
from receiver.settings import ensure_keys, prune_keys, rotate_keys
from receiver.settings.load import FILE

keys = group("keys")
metrics = group("metrics")


def backup(
    folder: Annotated[Path, typer.Argument(help="The new folder; nothing is ever replaced.")],
    without_media: Annotated[
        bool, typer.Option("--without-media", help="Leave the archived files out, which may be many.")
    ] = False,
    as_json: AsJSON = False,
) -> None:
    """Copy journal, keys, archived files and settings into a folder.

    Works beside a running server, and checks what it has copied. Only its owner may read the folder, which holds keys
    and prompts.
    """
    made = run(backups.back_up(settings_for(quiet=True), folder, media=not without_media))
    parts = [
        *sorted(made.digests),
        *([] if without_media else [f"{made.files:,} archived files ({made.bytes:,} bytes)"]),
    ]
    say_result(f"{folder}: {', '.join(parts)}, checked.", made, as_json=as_json)
    if made.missing:
        note(f"{len(made.missing):,} archived files are missing in the media store: {made.missing[0]}, for one.")
    if made.journal_elsewhere:
        note(f"The journal is not in it. {made.journal_elsewhere}")


def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `receiver backup` has made.")], as_json: AsJSON = False
) -> None:
    """Put a backup back in its place.

    The journal there must not exist yet. Settings of this folder count, or those of the backup if there are none. Run
    it as the user that runs Receiver.
    """
    settings = settings_for(quiet=True)
    new = None
    if not settings.files and (folder / FILE).exists():
        chosen["config"], new = folder / FILE, Path(FILE)
        settings = settings_for(quiet=True)
    done = run(backups.restore(settings, folder, settings_to=new))
    made = done.manifest
    found = [f"{done.submissions:,} submissions", f"{made.files:,} archived files", *([FILE] if new else [])]
    say_result(f"Restored {folder} of {at(made.made_ms)}: {', '.join(found)}, keys.", done, as_json=as_json)
    if made.missing:
        note(f"{len(made.missing):,} archived files were missing when the backup was made: {made.missing[0]}, for one.")
    if made.journal_elsewhere:
        note("The journal is not in the backup. Restore it with the tools of its database, before the first start.")
    if not done.keys:
        note(f"RECEIVER_KEYS lacks keys of the backup, which callbacks under way need. Add those of {folder / 'keys'}.")
    if settings.files and not new:
        note(f"Settings are those of {settings.files[0]}. A file of the backup is in {folder}.")
    address = f"the same address as before, RECEIVER_PUBLIC_URL={made.public_url}, and " if made.public_url else ""
    note(f"Next: set {address}the variables of the environment, which no backup has. Then run: receiver doctor")
    note("Never start the old journal again: what was open there would be delivered twice.")


def usage(as_json: AsJSON = False) -> None:
    """Show what journal, archived files and file destinations take, by age.

    A bucket is listed to count it. Every page of the list is a request.
    """
    settings = settings_for(quiet=True)

    def print_usage(found: Sequence[Usage]) -> None:
        rows = []
        for item in found:
            form = (lambda number: f"{number:,}") if item.name == "submissions" else size
            numbers = (item.today, item.week, item.month, item.older, item.all)
            rows.append((item.name, *("" if number is None else form(number) for number in numbers), item.place))
        print_table(("WHAT", "TODAY", "7 DAYS", "30 DAYS", "OLDER", "ALL", "PLACE"), rows, below=True)

    print_list(run(usage_of(settings)), print_usage, none="", as_json=as_json)
    if settings.database_kind != "sqlite" and not as_json:
        note("The database's own tools show the size of the journal (receiver help backup).")


@keys.command("rotate")
def rotate(
    show: Annotated[
        bool,
        typer.Option(
            "--print", help="Print the value for RECEIVER_KEYS, all keys and a new one. The file of keys stays."
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


@metrics.command("dashboard")
def dashboard() -> None:
    """Print a Grafana dashboard, as JSON for its import."""
    say(files.dashboard())


@metrics.command("alerts")
def alerts() -> None:
    """Print alert rules for Prometheus, as YAML."""
    say(files.alerts().rstrip())
