"""`init`: ask for the first settings, test them, and write them to a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from receiver.app.doctor import findings
from receiver.cli import chosen
from receiver.cli.output import note, say
from receiver.cli.process import run
from receiver.errors import InputError, SettingsError
from receiver.settings import load
from receiver.settings.load import CONFIG, FILE
from receiver.settings.model import DEFAULT_TO


def init(
    home: Annotated[
        bool, typer.Option("--home", help="Write ~/.config/receiver/receiver.toml, which every folder uses.")
    ] = False,
) -> None:
    """Ask for the first settings, test them, and write a file.

    They are the key, a destination, and a public URL if there is one. The file is receiver.toml in this folder.

    A file that is there is never replaced. The file holds the key, so only its owner may read it.
    """
    path = chosen["config"] or (Path.home() / ".config" / "receiver" / FILE if home else Path(FILE))
    if path.exists():
        raise InputError(f"{path} is there already. Change it with an editor, or name another one with --config.")
    values = {
        "provider_key": typer.prompt(
            "The provider's key (from https://api.cometapi.com/console/token)", hide_input=True
        ),
        "to": typer.prompt("Where results go (a URL, for instance file:./outputs)", default=DEFAULT_TO),
        "public_url": typer.prompt(
            "Public URL of this machine for callbacks (empty: poll)", default="", show_default=False
        ),
    }
    if home:
        values["data"] = str(Path.home() / ".local" / "share" / "receiver")
    text = "".join(f"{name} = {json.dumps(value.strip())}\n" for name, value in values.items() if value.strip())
    try:
        settings = load({**os.environ, CONFIG: text})
    except SettingsError as exc:  # it names the variable that stands for the file
        raise InputError(f"{str(exc).replace(f' in {CONFIG}', '')}\nNothing was written.", page=exc.page) from exc
    # The journal is made by the first submission.
    problems = [item for item in run(findings(settings)) if item.verdict == "problem" and item.name != "journal"]
    for item in problems:
        note(f"{item.name}: {item.text}")
    if problems and not typer.confirm("Write the file all the same?"):
        raise InputError("Nothing was written.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    say(f"Wrote {path}.")
    say('Make the first picture with: receiver submit "a paper boat" --wait')
