"""Operate the journal: `purge`, `erase`, `journal` (check, compact, copy), `engines` and `migrate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from receiver.app.container import keep_of, retention_of, store_of
from receiver.app.copying import copy_journal
from receiver.app.journals import journal_of
from receiver.cli import group
from receiver.cli.options import AsJSON, Reference, Yes, duration, optional
from receiver.cli.output import confirm, note, print_json, print_list, print_table, say, say_result
from receiver.cli.process import on_journal, run, settings_for
from receiver.errors import JournalError, MediaError
from receiver.journal import Journal
from receiver.journal.membership import EngineRecord
from receiver.journal.store import RowKind
from receiver.maintenance.retention import Erased, Keep

PAGE = 500
STEP = 50_000
"""Rows of a kind between two progress lines of a copy."""

journal = group("journal")


def purge(
    older_than: Annotated[str | None, optional("For instance 30d; the ages of the settings if not given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    yes: Yes = False,
    as_json: AsJSON = False,
) -> None:
    """Delete what is old.

    Callbacks, archived files, and submissions with their events and deliveries.

    Outstanding deliveries and running tasks are never deleted. The engine does the same once a day, with the ages of
    the settings.
    """
    settings = settings_for(quiet=True)
    keep = keep_of(settings)
    if older_than is not None:
        seconds = duration("--older-than", older_than)
        keep = Keep(callbacks=seconds, media=seconds, submissions=seconds)

    if not dry_run:
        confirm(f"Delete what is older than {older_than or 'the settings allow'} for good?", yes=yes)

    async def work(opened: Journal) -> dict[str, int]:
        retention = retention_of(settings, opened)
        return await (retention.foresee(keep) if dry_run else retention.purge(keep))

    removed = on_journal(work, settings)
    if not (as_json or any(removed.values())):
        note("Nothing is that old and settled.")
        return
    text = f"{'Would be deleted' if dry_run else 'Deleted'}: {_counted(removed)}."
    say_result(text, {"dry_run": dry_run, **removed}, as_json=as_json)


def _counted(removed: Mapping[str, int]) -> str:
    """Return a text like `1 submission, 2 events`, without kinds of which there are none."""
    one, many = {"deliveries": "delivery", "media": "submission's files"}, {"media": "submissions' files"}
    kinds = ("submissions", "events", "deliveries", "attempts", "callbacks", "files", "media")
    found = [(removed[kind], kind) for kind in kinds if removed.get(kind)]
    return ", ".join(f"{n:,} {one.get(kind, kind[:-1]) if n == 1 else many.get(kind, kind)}" for n, kind in found)


def erase(
    reference: Reference,
    force: Annotated[
        bool, typer.Option("--force", help="Also if deliveries are outstanding or the task runs: they are given up.")
    ] = False,
    yes: Yes = False,
    as_json: AsJSON = False,
) -> None:
    """Delete one submission for good.

    With its callbacks, events, deliveries, attempts and files.
    """
    settings = settings_for(quiet=True)

    found = on_journal(lambda opened: opened.find(reference), settings)
    confirm(f"Delete submission {found.id} ({found.prompt[:60]!r}) and its files for good?", yes=yes)

    async def work(opened: Journal) -> Erased:
        return await retention_of(settings, opened).erase(await opened.find(found.id), force=force)

    erased = on_journal(work, settings)
    if as_json:
        files = {"waiting_files": erased.waiting, "files_problem": erased.problem}
        left = {"follow_ups": erased.children, "traces": erased.traces}
        print_json({"submission": erased.submission.id, "removed": erased.removed, **files, **left})
        return
    say(f"Erased submission {erased.submission.id}: {_counted(erased.removed)}.")
    copy = f", and the provider's copy of task {erased.submission.task_id}" if erased.submission.task_id else ""
    note(f"Not erased, because it is not in the journal: what destinations have got, backups and logs{copy}.")
    if erased.children:
        children = ", ".join(erased.children)
        note(f"Its follow-ups are submissions of their own and have the same prompt: {children}. Erase them likewise.")
    if erased.waiting:
        stay = f"Files less than a minute old may be in use and stay for now ({erased.waiting})"
        note(f"{stay}; the next purge removes them (receiver purge).")
    if erased.problem:
        note(f"Its files are not removed: {erased.problem} The next purge tries again (receiver purge).")
    if erased.traces is not None:
        note(erased.traces)


@journal.command("check")
def check(as_json: AsJSON = False) -> None:
    """Look for damage. Exit status 1 if there is any.

    In the file itself, rows that contradict each other, and missing files. Works beside a running server.
    """
    settings = settings_for(quiet=True)

    async def work(opened: Journal) -> list[str]:
        problems = await opened.problems()
        store, missing = store_of(settings), list[str]()
        try:
            digests = await opened.needed_files()
            for start in range(0, len(digests), PAGE):
                missing += await store.missing(digests[start : start + PAGE])
        except (JournalError, MediaError) as exc:
            return [*problems, str(exc)]
        if missing:
            problems.append(
                f"{len(missing):,} archived files are missing in {store.place}: {missing[0]}, for one. Restore them "
                "from a backup of it; deliveries go on without them."
            )
        return problems

    problems = on_journal(work, settings)
    if as_json:
        print_json(problems)
    for problem in () if as_json else problems:
        say(problem)
    if problems:
        raise typer.Exit(1)
    note(f"{settings.database_shown} is sound.")


@journal.command("compact")
def compact() -> None:
    """Rewrite the journal without the space of deleted rows.

    No engine may run meanwhile.
    """
    settings = settings_for(quiet=True)
    sizes = on_journal(lambda opened: opened.store.compact(), settings)
    if sizes is None:
        raise JournalError("An engine runs. Stop it first (receiver serve, or receiver worker), then compact.")
    say(f"{settings.database_shown}: {sizes[0]:,} bytes before, {sizes[1]:,} now.")


@journal.command("copy")
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="For instance sqlite:.receiver/journal.db")],
    target: Annotated[str, typer.Argument(metavar="TO", help="For instance postgresql://user:password@host/name")],
    as_json: AsJSON = False,
) -> None:
    """Copy the journal into an empty one on another database.

    Then compare the two. Stop every process that uses either of them first: it is refused while an engine runs.
    Outstanding deliveries keep their idempotency keys. The old journal stays as it is.

    An interrupted copy has left nothing: start it again. If that says that the new journal holds something, the copy
    was complete.
    """
    settings = settings_for(quiet=True)

    def progress(kind: RowKind, count: int) -> None:
        if count % STEP == 0:
            note(f"{count:,} {kind} …")

    copied = run(copy_journal(settings, source, target, progress))
    if as_json:
        print_json({"from": copied.source, "to": copied.target, "rows": copied.rows})
        return
    counted = ", ".join(f"{tally.count:,} {kind}" for kind, tally in copied.rows.items() if tally.count) or "no rows"
    say(f"Copied {copied.source} to {copied.target}: {counted}.")
    say("Both were read again and compared by SHA-256: they are the same.")
    note(
        "Next: name the new one in RECEIVER_DATABASE wherever Receiver runs, with the same keys (RECEIVER_KEYS, or the "
        f"file {settings.data / 'keys'}), and start it."
    )
    twice = "what was owed there is owed in both now, and would be delivered twice."
    note(f"Do not start it on {copied.source} again: {twice}")
    files = copied.rows["files"].count
    if files and "://" not in settings.media_place:
        note(
            f"Pictures are in no journal: {files:,} that submissions need stay in {settings.media_place}. Where other "
            "machines serve the new journal, bring them to a place all share, and name that in RECEIVER_MEDIA."
        )


def engines(as_json: AsJSON = False) -> None:
    """List the engines, which poll and deliver, and the leader."""

    def print_engines(found: Sequence[EngineRecord]) -> None:
        rows = []
        for item in found:
            leads, sign = "yes" if item.leads else "", f"{item.seconds:.0f} s ago"
            rows.append((item.role, item.host, item.owner, item.version, leads, sign, item.store))
        print_table(("ROLE", "HOST", "ENGINE", "VERSION", "LEADS", "LAST SIGN", "MEDIA STORE"), rows, below=True)

    none = "No engine runs: nothing is polled or delivered until one starts (receiver serve, or receiver worker)."
    print_list(on_journal(lambda opened: opened.engines()), print_engines, none=none, as_json=as_json)


def migrate() -> None:
    """Bring the journal's tables up to date.

    A start does that by itself, unless RECEIVER_DATABASE_MIGRATE is false.
    """
    settings = settings_for(quiet=True)

    async def main() -> None:
        async with journal_of(settings, migrate=True):
            pass

    run(main())
    say(f"{settings.database_shown} is up to date.")
