"""`doctor`: check everything that Receiver depends on."""

from __future__ import annotations

import typer

from receiver.app.doctor import Finding, examine
from receiver.cli.options import AsJSON
from receiver.cli.output import print_json, say
from receiver.cli.process import run, settings_for


def doctor(as_json: AsJSON = False) -> None:
    """Check everything that Receiver depends on.

    Settings, provider, journal, engines, media store and destinations. Nothing is submitted or delivered. Exit status 1
    if something is wrong.
    """
    settings = settings_for(quiet=True)

    async def main() -> list[Finding]:
        return [item async for item in examine(settings)]

    found = run(main())
    if as_json:
        print_json(found)
    else:
        for item in found:
            say(f"{item.verdict:8} {item.name}: {item.text}")
    if any(item.verdict == "problem" for item in found):
        raise typer.Exit(1)
