"""`media`: download the files of a result again."""

from __future__ import annotations

import typer

from receiver.app.container import Runtime
from receiver.cli import group
from receiver.cli.options import AsJSON, Reference
from receiver.cli.output import note, one_line, print_json, say
from receiver.cli.progress import Progress
from receiver.cli.session import ERROR, beside_engine, fetch_files, on_runtime
from receiver.cli.tables import status_of
from receiver.errors import InputError
from receiver.events import Submission

media = group("media")


@media.command("fetch")
def fetch_media(reference: Reference, as_json: AsJSON = False) -> None:
    """Download the missing files of a result now, with today's settings, and deliver what comes.

    Exit status: 0 if all files are here, else 1.
    """

    async def fetch(runtime: Runtime) -> Submission:
        row = await runtime.journal.find(reference)
        if not row.expected:
            raise InputError(f"Submission {row.id} has no result with files ({status_of(row)}).")
        with Progress(runtime.clock, quiet=as_json) as progress:
            return await beside_engine(runtime, "media fetch", fetch_files(runtime, row, progress.show))

    row = on_runtime(fetch)
    if as_json:
        print_json({"submission": row.id, "media": row.media, "media_problem": row.media_problem})
    else:
        say(f"{len(row.media)} of {len(row.expected)} files are here.")
        if row.media_problem:
            note(f"Error: {one_line(row.media_problem)}")
    if len(row.media) < len(row.expected):
        raise typer.Exit(ERROR)
