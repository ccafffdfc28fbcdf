"""`tasks` and `media`: list submissions, show one with its events, deliveries and follow-ups, fetch missing files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from receiver.app import open_runtime
from receiver.cli import group
from receiver.cli.deliveries import DELIVERIES, EVENTS
from receiver.cli.options import AsJSON, Limit, Reference, choice, optional
from receiver.cli.output import Table, ago, note, one_line, print_json, print_list, print_table, say, say_values, when
from receiver.cli.process import on_journal, run, settings_for
from receiver.cli.progress import Progress, describe
from receiver.cli.session import ERROR, beside_engine, fetch_files
from receiver.deliveries import Delivery
from receiver.errors import InputError
from receiver.events import DISPLAY_STATUSES, Event, Submission
from receiver.journal import Journal, Trouble
from receiver.journal.selection import Selection

TASKS = Table[Submission](
    ("SUBMISSION", "AGE", "MADE BY", "STATUS", "PROMPT"),
    lambda row: (row.id, ago(row.created_ms), made_by(row), status_of(row), row.prompt),
    flexible=4,
)

tasks = group("tasks")


@tasks.command("list")
def list_tasks(
    status: Annotated[str | None, optional(f"{', '.join(DISPLAY_STATUSES)}.")] = None,
    limit: Limit = 20,
    as_json: AsJSON = False,
) -> None:
    """List the newest submissions, and the engine's present problems."""

    chosen = choice("--status", status, DISPLAY_STATUSES)

    async def work(journal: Journal) -> tuple[list[Submission], list[Trouble]]:
        return await journal.submissions(Selection(status=chosen), limit=limit), await journal.troubles()

    rows, troubles = on_journal(work)
    for trouble in () if as_json else troubles:
        note(f"Since {when(trouble.since_ms)}: {trouble.text}")
    none = "No submissions." if status is None else f"No submissions with status {status}."
    print_list(rows, TASKS, none=none, as_json=as_json, records=[_summary(row) for row in rows])


@tasks.command("show")
def show_task(reference: Reference, as_json: AsJSON = False) -> None:
    """Show one submission with its events, deliveries and buttons."""

    async def work(journal: Journal) -> tuple[Submission, list[Event], list[Delivery], list[Submission]]:
        row = await journal.find(reference)
        events = await journal.events(limit=200, submission_id=row.id)
        deliveries = await journal.deliveries(limit=200, submission_id=row.id)
        return row, events[::-1], deliveries[::-1], await journal.family(row.id)

    row, events, deliveries, family = on_journal(work)
    if as_json:
        relatives = [
            {"id": item.id, "task": item.task_id, "parent": item.parent_id, "made_by": made_by(item)}
            | {"status": status_of(item)}
            for item in family
        ]
        found = {"task_object": row.task, "events": events, "deliveries": deliveries, "family": relatives}
        print_json({**_summary(row), **found})
        return
    say_values(_details(row))
    if len(family) > 1:
        print_family(family, row.id)
    EVENTS.print(events)
    DELIVERIES.print(deliveries)


def status_of(row: Submission) -> str:
    """Return the status, with the percentage while the task is in progress."""
    percent = row.task.progress if row.task and row.display_status == "in_progress" else None
    return row.display_status if percent is None else f"{row.display_status} {percent} %"


def made_by(row: Submission) -> str:
    """Return the origin: the button that was pressed, or the kind of request."""
    return row.button or row.kind


def print_family(family: list[Submission], here: str) -> None:
    """Print the tree from the first ancestor down, with a mark at `here`."""
    known = {row.id for row in family}

    def lines(parent: str | None, depth: int) -> Iterator[tuple[str, str, str]]:
        for row in family:
            if (row.parent_id if row.parent_id in known else None) == parent:
                mark = "← this one" if row.id == here else ""
                yield row.id, f"{'  ' * depth}{made_by(row)}", f"{status_of(row)} {mark}".strip()
                yield from lines(row.id, depth + 1)

    print_table(("FAMILY", "MADE BY", "STATUS"), list(lines(None, 0)))


_SAME = (
    *("id", "kind", "task_status", "prompt", "speed", "labels", "button", "created_ms", "deadline_ms", "detail"),
    *("callbacks", "media", "media_problem"),
)
"""Fields of a submission that have the same name in JSON."""


def _summary(row: Submission) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _SAME} | {
        "task": row.task_id,
        "status": row.display_status,
        "submission_status": row.status,
        "progress": row.task.progress if row.task else None,
        "state": row.user_state,
        "parent": row.parent_id,
        "texts": row.task.texts if row.task else (),
    }


def _details(row: Submission) -> list[tuple[str, str]]:
    task = row.task
    return [
        ("submission", row.id),
        ("task", row.task_id or ""),
        ("status", status_of(row) if row.ended else f"{status_of(row)} ({describe(row)})"),
        ("reason", row.reason or ""),
        ("prompt", row.prompt),
        ("button", row.button or ""),
        ("texts", " | ".join(task.texts) if task else ""),
        ("created", when(row.created_ms)),
        ("labels", " ".join(f"{name}={value}" for name, value in row.labels.items())),
        ("callbacks", str(row.callbacks) if row.hooked else "none can come: no callback URL was sent"),
        ("files", ", ".join(f"{item.type}, {item.size:,} bytes" for item in row.media)),
        ("missing files", row.media_problem or ""),
        ("buttons", " ".join(button.text for button in task.buttons) if task else ""),
    ]


media = group("media")


@media.command("fetch")
def fetch_media(reference: Reference, as_json: AsJSON = False) -> None:
    """Download the missing files of a result now, with today's settings, and deliver what comes.

    Exit status: 0 if all files are here, else 1.
    """

    async def main() -> Submission:
        async with open_runtime(settings_for(quiet=True), exit_on_stall=True) as runtime:
            row = await runtime.journal.find(reference)
            if not row.expected:
                raise InputError(f"Submission {row.id} has no result with files ({status_of(row)}).")
            with Progress(runtime.clock, quiet=as_json) as progress:
                return await beside_engine(runtime, "media fetch", fetch_files(runtime, row, progress.show))

    row = run(main())
    if as_json:
        print_json({"submission": row.id, "media": row.media, "media_problem": row.media_problem})
    else:
        say(f"{len(row.media)} of {len(row.expected)} files are here.")
        if row.media_problem:
            note(f"Error: {one_line(row.media_problem)}")
    if len(row.media) < len(row.expected):
        raise typer.Exit(ERROR)
