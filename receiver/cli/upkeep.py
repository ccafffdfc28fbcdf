"""`purge`, `erase` and `journal`: what an operator does to the journal itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from receiver.cli.copying import copy
from receiver.cli.options import AsJSON, Reference, duration
from receiver.cli.output import note, print_json, say
from receiver.cli.running import run, settings_for
from receiver.errors import JournalError, MediaError
from receiver.journal.base import Journal
from receiver.maintenance.retention import Erased, Keep
from receiver.media import Store
from receiver.runtime import journal_of, keep_of, retention_of, store_of

journal = typer.Typer(no_args_is_help=True, help="The journal itself: check, back up, copy, compact.")
journal.command("copy")(copy)

PAGE = 500


def purge(
    older_than: Annotated[
        str | None, typer.Option(help="For instance 30d; the ages of the settings if not given.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Delete what is old.

    Callbacks, archived files, and submissions with their events and deliveries.

    Never what is still owed or under way. The engine does the same by itself once a day, with the ages of the settings.
    """
    settings = settings_for(quiet=True)
    keep = keep_of(settings) if older_than is None else _all(duration("--older-than", older_than))

    async def main() -> dict[str, int]:
        async with journal_of(settings, existing=True) as opened:
            retention = retention_of(settings, opened)
            return await (retention.foresee(keep) if dry_run else retention.purge(keep))

    removed = run(main())
    if as_json:
        print_json({"dry_run": dry_run, **removed})
    elif not any(removed.values()):
        note("Nothing is that old and settled.")
    elif dry_run:
        say(f"Would be deleted: {_counted(removed)}.")
    else:
        say(f"Deleted: {_counted(removed)}.")


def _all(seconds: float) -> Keep:
    return Keep(callbacks=seconds, media=seconds, submissions=seconds)


_NOUNS = {
    "submissions": ("submission", "submissions"),
    "events": ("event", "events"),
    "deliveries": ("delivery", "deliveries"),
    "attempts": ("attempt", "attempts"),
    "callbacks": ("callback", "callbacks"),
    "files": ("file", "files"),
    "media": ("submission's files", "submissions' files"),
}


def _counted(removed: Mapping[str, int]) -> str:
    """`1 submission, 2 events`; kinds of which there are none are left out."""
    found = [(removed.get(kind, 0), nouns) for kind, nouns in _NOUNS.items()]
    return ", ".join(f"{number:,} {nouns[number != 1]}" for number, nouns in found if number)


def erase(
    reference: Reference,
    force: Annotated[
        bool, typer.Option("--force", help="Also when something of it is owed or under way: that is given up.")
    ] = False,
    as_json: AsJSON = False,
) -> None:
    """Delete one submission for good.

    With its callbacks, events, deliveries, attempts and files.
    """
    settings = settings_for(quiet=True)

    async def main() -> Erased:
        async with journal_of(settings, existing=True) as opened:
            row = await opened.find(reference)
            return await retention_of(settings, opened).erase(row, force=force)

    erased = run(main())
    if as_json:
        print_json(
            {
                "submission": erased.submission.id,
                "removed": erased.removed,
                "waiting_files": erased.waiting,
                "files_problem": erased.problem,
                "follow_ups": erased.children,
                "traces": erased.traces,
            }
        )
        return
    say(f"Erased submission {erased.submission.id}: {_counted(erased.removed)}.")
    for line in _remains(erased):
        note(line)


def _remains(erased: Erased) -> list[str]:
    """What is not erased, each with what to do."""
    task = erased.submission.task_id
    lines = [
        "Not erased, because it is not in the journal: what destinations have got, backups and logs"
        + (f", and the provider's copy of task {task}." if task else ".")
    ]
    if erased.children:
        lines.append(
            f"Its follow-ups are submissions of their own and have the same prompt: {', '.join(erased.children)}. "
            "Erase them likewise."
        )
    if erased.waiting:
        lines.append(
            f"Files less than a minute old may be in use and stay for now ({erased.waiting}); the next purge removes "
            "them (receiver purge)."
        )
    if erased.problem:
        lines.append(f"Its files are not removed: {erased.problem} The next purge tries again (receiver purge).")
    return lines if erased.traces is None else [*lines, erased.traces]


@journal.command("check")
def check(as_json: AsJSON = False) -> None:
    """Look for damage: the file itself, rows that contradict each other, files that are missing. Exit status 1 if any.

    It reads everything, and works beside a running server.
    """
    settings = settings_for(quiet=True)

    async def main() -> list[str]:
        async with journal_of(settings, existing=True) as opened:
            problems = await opened.problems()
            return problems + await _missing(opened, store_of(settings))

    problems = run(main())
    if as_json:
        print_json(problems)
    for problem in () if as_json else problems:
        say(problem)
    if problems:
        raise typer.Exit(1)
    note(f"{settings.database_shown} is sound.")


async def _missing(opened: Journal, store: Store) -> list[str]:
    """Files that submissions need and that are not in the media store."""
    missing: list[str] = []
    after = ""
    try:
        while page := await opened.needed_files(after, PAGE):
            missing += await store.missing(page)
            after = page[-1]
    except (JournalError, MediaError) as exc:
        return [str(exc)]
    if not missing:
        return []
    return [
        f"{len(missing):,} archived files are missing in {store.place}: {missing[0]}, for one. Restore them from a "
        "backup of it; deliveries go on without them."
    ]


@journal.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(help="The new file; one that is there is never replaced.")],
    as_json: AsJSON = False,
) -> None:
    """Copy the journal as it is at this moment, beside a running server, and check the copy.

    The copy holds every prompt, so only its owner may read it.
    """
    settings = settings_for(quiet=True)
    started = time.monotonic()

    async def main() -> int:
        async with journal_of(settings, existing=True) as opened:
            return await opened.back_up(file.absolute())

    size = run(main())
    if as_json:
        print_json({"file": str(file), "bytes": size})
    else:
        say(f"{file}: {size:,} bytes in {time.monotonic() - started:.1f} s, checked.")


@journal.command("compact")
def compact() -> None:
    """Write the journal anew, without the space of what was deleted. No engine may run meanwhile."""
    settings = settings_for(quiet=True)

    async def main() -> tuple[int, int] | None:
        async with journal_of(settings, existing=True) as opened:
            return await opened.compact()

    sizes = run(main())
    if sizes is None:
        raise JournalError("An engine runs. Stop it first (receiver serve, or receiver worker), then compact.")
    say(f"{settings.database_shown}: {sizes[0]:,} bytes before, {sizes[1]:,} now.")
