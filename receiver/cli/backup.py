"""`backup` and `restore`: the whole installation in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from receiver import app
from receiver.cli import chosen
from receiver.cli.options import AsJSON
from receiver.cli.output import at, note, say_result
from receiver.cli.process import run, settings_for
from receiver.settings.load import FILE


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
    made = run(app.back_up(settings_for(quiet=True), folder, media=not without_media))
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
    folder: Annotated[Path, typer.Argument(help="A folder that `receiver backup` has made.")],
    as_json: AsJSON = False,
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
    done = run(app.restore(settings, folder, settings_to=new))
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
