"""`tasks`: list submissions, and show one with its events, deliveries and follow-ups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

from receiver.cli import group
from receiver.cli.options import After, AsJSON, Limit, Reference, choice, gathers, older, optional, selection
from receiver.cli.output import at, note, print_json, print_list, print_table, say_values
from receiver.cli.process import on_journal
from receiver.cli.tables import describe, labels_of, made_by, print_deliveries, print_events, print_tasks, status_of
from receiver.clock import Clock
from receiver.deliveries import Delivery
from receiver.events import DISPLAY_STATUSES, Event, Submission
from receiver.journal import Journal, Trouble
from receiver.journal.store import EVERYTHING, Filter
from receiver.journal.troubles import find_troubles
from receiver.requests import KINDS
from receiver.settings.kinds import show_url
from receiver.tasks.reasons import in_english

tasks = group("tasks")


@tasks.command("list")
@gathers(wanted=selection)
def list_tasks(
    *,
    status: Annotated[str | None, optional(f"{', '.join(DISPLAY_STATUSES)}.")] = None,
    kind: Annotated[str | None, optional(f"{', '.join(KINDS)}.")] = None,
    wanted: Filter,
    after: After = None,
    limit: Limit = 20,
    as_json: AsJSON = False,
) -> None:
    """List the newest submissions, and what is wrong now."""
    status, kind = choice("--status", status, DISPLAY_STATUSES), choice("--kind", kind, list(KINDS))
    wanted = replace(wanted, status=status, kind=kind)

    async def work(journal: Journal) -> tuple[list[Submission], list[Trouble]]:
        found = await journal.submissions(wanted, limit=limit, after=after)
        return found, await find_troubles(journal, Clock().now_ms())

    rows, troubles = on_journal(work)
    none = "No submissions." if wanted == EVERYTHING else "No submission matches all of that."
    records = [_summary(row) for row in rows]
    print_list(rows, print_tasks, none=none, as_json=as_json, records=records, older=older("tasks", rows, limit))
    if troubles and not as_json:
        first, others = troubles[0], ", ".join(item.name for item in troubles[1:])
        more = f" Also wrong: {others}. See: receiver doctor" if others else ""
        note(f"Since {at(first.since_ms)}: {first.text}{more}")


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
    print_events(events)
    print_deliveries(deliveries)


def print_family(family: list[Submission], here: str) -> None:
    """Print the tree from the first ancestor down, with a mark at `here`."""
    known = {row.id for row in family}

    def lines(parent: str | None, depth: int) -> Iterator[tuple[str, str, str]]:
        for row in family:
            if (row.parent_id if row.parent_id in known else None) == parent:
                mark = "← this one" if row.id == here else ""
                yield row.id, f"{'  ' * depth}{made_by(row)}", f"{status_of(row)} {mark}".strip()
                yield from lines(row.id, depth + 1)

    print_table(("FAMILY", "MADE BY", "STATUS"), list(lines(None, 0)), ids=True)


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
        "reply_to": row.reply_to and show_url(row.reply_to),
        "parent": row.parent_id,
        "texts": row.task.texts if row.task else (),
    }


def _details(row: Submission) -> list[tuple[str, str]]:
    task = row.task
    return [
        ("submission", row.id),
        ("task", row.task_id or ""),
        ("status", status_of(row) if row.ended or row.status == "refused" else f"{status_of(row)} ({describe(row)})"),
        ("reason", in_english(row.reason or "", row.prompt)),
        ("prompt", row.prompt),
        ("button", row.button or ""),
        ("texts", " | ".join(task.texts) if task else ""),
        ("created", at(row.created_ms)),
        ("labels", labels_of(row)),
        ("reply to", show_url(row.reply_to) if row.reply_to else ""),
        ("callbacks", str(row.callbacks) if row.hooked else "none can come: no callback URL was sent"),
        ("files", ", ".join(f"{item.type}, {item.size:,} bytes" for item in row.media)),
        ("missing files", row.media_problem or ""),
        ("buttons", " ".join(button.text for button in task.buttons) if task else ""),
    ]
