"""`events` and `deliveries`: list, show and replay them. `Story` explains one delivery to a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from receiver.app.container import replay_of
from receiver.backoff import DELIVERY
from receiver.cli import group
from receiver.cli.options import After, AsJSON, Limit, OfSubmission, choice, gathers, older, optional, selection
from receiver.cli.output import at, note, print_json, print_list, print_table, say, say_values, span, when
from receiver.cli.process import on_journal, settings_for
from receiver.cli.session import deliver_now
from receiver.cli.tables import print_deliveries, print_events
from receiver.clock import Clock
from receiver.deliveries import DELIVERY_STATUSES, AttemptOutcome, AttemptRecord, Delivery
from receiver.errors import InputError
from receiver.events import ALERT_TYPES, EVENT_TYPES, Event, EventType, Submission
from receiver.journal import Journal
from receiver.journal.selection import REPLAYED, Replayed, ReplayOutcome
from receiver.journal.store import Filter

ALL = 1000
"""Limit for the deliveries of one submission to one destination. Only a thousand replays would make more."""
TRIES = len(DELIVERY) + 1
"""Failures until a delivery is dead."""
ATTEMPTS = ("ATTEMPT", "STARTED BY", "STARTED", "SECONDS", "OUTCOME", "DETAIL")

LARGE = 50
"""Number of deliveries above which --yes is needed."""
SHOWN = 200
"""Rows printed for people. `--json` has them all."""

_WHAT: dict[ReplayOutcome, tuple[str, str]] = {
    "again": ("is delivered again", "would be delivered again"),
    "new": ("new delivery", "would be a new delivery"),
    "sooner": ("is tried now instead of later", "would be tried now instead of later"),
    "owed": ("is owed already; nothing changes", "is owed already; nothing would change"),
    "running": ("is running now; nothing changes", "is running now; nothing would change"),
    "gone": ("its event was deleted", "its event was deleted"),
}

_HAPPENED: dict[EventType, str] = {
    "task.accepted": "the provider took the task",
    "task.progressed": "the task went on",
    "task.input_required": "the task asks a person for input",
    "task.succeeded": "the task succeeded",
    "task.failed": "the task failed",
    "task.lost": "the task had no end within the deadline",
    **dict.fromkeys(ALERT_TYPES, "an alert about this installation"),
}
_MEANING: dict[AttemptOutcome, str] = {
    "failed": "it did not work; counts towards giving up",
    "rejected": "the destination refused it for good; it is not tried again by itself",
    "postponed": "the destination asked to be tried later; does not count towards giving up",
    "interrupted": "Receiver was stopped meanwhile; does not count towards giving up",
    "vanished": "Receiver's process ended without a word; counts towards giving up, for this may be the reason",
}

OfDestination = Annotated[str | None, optional("Of deliveries to this destination.", "--destination")]
Instead = Annotated[str | None, optional("Deliver to this destination instead.")]
AsNew = Annotated[
    bool, typer.Option("--as-new", help="With a new idempotency key, so that no destination drops it as a repeat.")
]
Now = Annotated[bool, typer.Option("--now", help="Deliver what is due in this command, and show how it went.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would happen.")]
Yes = Annotated[bool, typer.Option("--yes", help=f"Replay even more than {LARGE}.")]
OfType = Annotated[str | None, optional(f"{', '.join(EVENT_TYPES)}.", "--type")]
OfStatus = Annotated[str | None, optional(f"{', '.join(DELIVERY_STATUSES)}.", "--status")]

events = group("events")
deliveries = group("deliveries")


@events.command("list")
@gathers(wanted=selection)
def list_events(
    *,
    submission: OfSubmission = None,
    type: OfType = None,
    wanted: Filter,
    after: After = None,
    limit: Limit = 20,
    as_json: AsJSON = False,
) -> None:
    """List the newest events."""
    wanted = replace(wanted, type=choice("--type", type, EVENT_TYPES))

    async def find(journal: Journal) -> list[Event]:
        return await journal.events(await _of(journal, submission, wanted), limit=limit, after=after)

    found = on_journal(find)
    print_list(found, print_events, none="No events.", as_json=as_json, older=older("events", found, limit))


@events.command("show")
def show_event(id: Annotated[str, typer.Argument(help="The event's id, as the list shows it, or last.")]) -> None:
    """Print one event as the JSON that handlers get."""
    print_json(on_journal(lambda journal: journal.find_event(id)))


@deliveries.command("list")
@gathers(wanted=selection)
def list_deliveries(
    *,
    submission: OfSubmission = None,
    destination: Annotated[str | None, optional("To one destination.")] = None,
    status: OfStatus = None,
    wanted: Filter,
    after: After = None,
    limit: Limit = 20,
    as_json: AsJSON = False,
) -> None:
    """List the newest deliveries."""
    wanted = replace(wanted, status=choice("--status", status, DELIVERY_STATUSES), destination=destination)

    async def find(journal: Journal) -> list[Delivery]:
        return await journal.deliveries(await _of(journal, submission, wanted), limit=limit, after=after)

    found = on_journal(find)
    print_list(found, print_deliveries, none="No deliveries.", as_json=as_json, older=older("deliveries", found, limit))


async def _of(journal: Journal, submission: str | None, wanted: Filter) -> Filter:
    """Return the selection of rows of one submission, if one is named."""
    return replace(wanted, submission_id=(await journal.find(submission)).id) if submission else wanted


@deliveries.command("show")
def show_delivery(
    id: Annotated[str, typer.Argument(help="The delivery's id, 6 characters of its end, or last.")],
    as_json: AsJSON = False,
) -> None:
    """Show one delivery, attempt by attempt."""
    story = on_journal(lambda journal: Story.read(journal, id))
    if as_json:
        print_json({"delivery": story.delivery, "attempts": story.attempts, "event": story.event})
        return
    say_values(story.lines())
    print_table(ATTEMPTS, story.rows(), flexible=5, fold=True)
    for attempt in story.attempts[-1:]:
        if attempt.traceback:
            for line in (f"Attempt {attempt.number} ended with:", *attempt.traceback.splitlines()):
                say(line)
    for outcome, meaning in story.meanings():
        say(f"{outcome:12} {meaning}")
    for step in story.next_steps():
        say(f"{'next':12} {step}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One delivery with its event, its attempts, and what comes next."""

    delivery: Delivery
    attempts: list[AttemptRecord]
    event: Event | None
    submission: Submission | None
    instead: Delivery | None
    """The newer delivery that replaced a cancelled one."""
    paused: tuple[int, str] | None
    """End of the destination's pause (epoch milliseconds) and its reason."""
    now_ms: int

    @classmethod
    async def read(cls, journal: Journal, id: str) -> Story:
        """Read the story of a delivery. Raise NotFound for an unknown id."""
        item = await journal.find_delivery(id)
        others = await journal.deliveries(limit=ALL, submission_id=item.submission_id, destination=item.destination)
        return cls(
            delivery=item,
            attempts=await journal.attempts(item.id),
            event=await journal.event(item.event_id),
            submission=await journal.get(item.submission_id),
            instead=next((other for other in reversed(others) if other.id > item.id and not other.manual), None),
            paused=await journal.pause_of(item.destination),
            now_ms=Clock().now_ms(),
        )

    @property
    def on_hold(self) -> bool:
        """True while the destination is paused."""
        return self.paused is not None and self.paused[0] > self.now_ms

    def lines(self) -> list[tuple[str, str]]:
        """Return name and text of each line above the attempts."""
        item, row, event = self.delivery, self.submission, self.event
        happened = f"{_HAPPENED[event.type]}, {at(event.created_ms)}" if event else "it has been deleted"
        files = ""
        if row is not None and event is not None and event.type == "task.succeeded":
            files = f"{len(row.media)} archived" if row.media else row.media_problem or ""
        by_replay = item.manual and (not self.attempts or self.attempts[0].manual)
        made = [part for part in (item.receipt.ref, item.receipt.url) if part] if item.receipt else []
        return [
            ("delivery", item.id),
            ("destination", item.destination),
            ("event", f"{item.event_id}: {happened}"),
            ("prompt", row.prompt if row else ""),
            ("status", self._status()),
            ("reason", item.detail or "" if item.status not in ("succeeded", "cancelled") else ""),
            ("owed since", f"{at(item.created_ms)}{', by a replay' if by_replay else ''}"),
            ("receipt", " ".join(dict.fromkeys(made))),
            ("files", files),
        ]

    def _status(self) -> str:
        item = self.delivery
        ended = f" at {at(item.finished_ms)}" if item.finished_ms else ""
        if item.status == "pending":
            return f"pending: {self._waiting()}"
        if item.status == "running":
            return f"running: attempt {item.attempt} is under way, in engine {item.owner}"
        if item.status == "succeeded":
            return f"succeeded{ended}, at attempt {item.attempt}"
        if item.status == "dead":
            rejected = self.attempts and self.attempts[-1].outcome == "rejected"
            why = "the destination refused it for good" if rejected else f"{item.failures} attempts have failed"
            return f"dead{ended}: {why}; it is not tried again by itself"
        return f"cancelled{ended}: a newer event of the same task took its place"

    def _waiting(self) -> str:
        item, row = self.delivery, self.submission
        seconds = (item.due_ms - self.now_ms) // 1000
        due = f"due {at(item.due_ms)} ({f'in {span(seconds)}' if seconds > 0 else 'now'})"
        if self.on_hold and self.paused is not None:
            until, reason = self.paused
            return f"{due}, but {item.destination} gets nothing until {at(until)}: {reason}"
        if item.attempt == 0:
            waits = row is not None and row.awaits_files(self.now_ms) and item.due_ms > self.now_ms
            return f"not tried yet, {due}{', or as soon as the picture is there' if waits else ''}"
        if item.manual and item.failures == 0:
            return f"a person asked for it again, {due}"
        return f"tried again by itself, {due}; {item.failures} of {TRIES} failures, then it is dead"

    def rows(self) -> list[tuple[str, ...]]:
        """Return the attempts as rows for `ATTEMPTS`."""
        rows: list[tuple[str, ...]] = []
        for item in self.attempts:
            seconds = "" if item.finished_ms is None else f"{(item.finished_ms - item.started_ms) / 1000:.3f}"
            head = str(item.number), "a person" if item.manual else "Receiver", when(item.started_ms), seconds
            rows.append((*head, item.outcome or "running", item.detail or ""))
        return rows

    def meanings(self) -> list[tuple[str, str]]:
        """Return outcome and meaning of each outcome in the table that needs one."""
        seen = dict.fromkeys(item.outcome for item in self.attempts)
        return [(outcome, _MEANING[outcome]) for outcome in seen if outcome in _MEANING]

    def next_steps(self) -> list[str]:
        """Return what a person can do, as sentences with commands."""
        item = self.delivery
        again = f"receiver deliveries replay {item.id}"
        steps = [f"To deliver it once more: {again} (with --as-new if the destination drops repeats)"]
        if self.event is None:
            return []
        if item.status == "pending" and self.on_hold:
            steps = [f"If the place works again, end the pause: receiver destinations resume {item.destination}"]
        elif item.status == "pending":
            steps = ["An engine delivers it: receiver serve, or receiver worker."]
            if item.attempt and item.due_ms > self.now_ms:
                steps.append(f"To try now: {again}")
        elif item.status == "running":
            steps = ["Wait for its end. If the engine has stopped, the next one starts it again."]
        elif item.status == "dead":
            steps = [f"Correct what the reason names, then: {again}", f"Or bring it elsewhere: {again} --to NAME"]
        elif item.status == "cancelled" and self.instead is not None:
            type = self.instead.event_id.partition(".")[2]
            steps = [f"Its successor: receiver deliveries show {self.instead.id} ({type})"]
        return steps


def _replay_command(noun: str, doc: str) -> Callable[..., None]:
    """Return the command that replays `events` or `deliveries`: by id, or all that match the options."""
    of_events = noun == "events"
    field, choices, chosen = ("type", EVENT_TYPES, OfType) if of_events else ("status", DELIVERY_STATUSES, OfStatus)

    def command(
        *,
        ids: list[str] | None = None,
        chosen: str | None = None,
        submission: OfSubmission = None,
        destination: OfDestination = None,
        wanted: Filter,
        to: Instead = None,
        as_new: AsNew = False,
        dry_run: DryRun = False,
        yes: Yes = False,
        now: Now = False,
        as_json: AsJSON = False,
    ) -> None:
        narrower: dict[str, Any] = {field: choice(f"--{field}", chosen, choices)}
        wanted = replace(wanted, ids=tuple(ids) if ids else None, destination=destination, **narrower)
        settings = settings_for(quiet=True)

        async def work(journal: Journal) -> tuple[list[Replayed], set[str]]:
            replay = await replay_of(settings, journal)
            found = await _of(journal, submission, wanted)
            orders = await (replay.of_events if of_events else replay.of_deliveries)(found, to=to, as_new=as_new)
            if dry_run:
                return await replay.foresee(orders), set()
            if len(orders) > LARGE and not yes:
                raise InputError(
                    f"That would replay {len(orders):,} deliveries. Look at them with --dry-run, then add --yes.",
                    page="operate",
                )
            new = {order.destination for order in orders} - (await journal.registered()).keys()
            return await replay.carry_out(orders), new

        done, new = on_journal(work, settings)
        if now and not dry_run:
            deliver_now(settings, "replay --now")
        _print_replayed(done, dry_run=dry_run, as_json=as_json, now=now)
        for name in sorted(new):
            note(f"No engine has known the destination {name} yet: if one runs now, start it anew with these settings.")
        if now and not (dry_run or as_json):
            _print_outcomes(done)

    given = Annotated[list[str] | None, typer.Argument(help=f"Ids of {noun}.", show_default=False)]
    command.__annotations__ |= {"ids": given, "chosen": chosen}
    command.__doc__ = doc
    return gathers(wanted=selection)(command)


def _print_outcomes(done: Sequence[Replayed]) -> None:
    """Print the status of each delivery after `--now`. Exit status 1 unless all have succeeded."""
    ids = [item.delivery_id for item in done if item.delivery_id is not None]

    async def read(journal: Journal) -> list[Delivery]:
        return [found for id in ids if (found := await journal.delivery(id)) is not None]

    found = on_journal(read)
    print_deliveries(found)
    if any(item.status != "succeeded" for item in found):
        raise typer.Exit(1)


def _print_replayed(done: Sequence[Replayed], *, dry_run: bool, as_json: bool, now: bool) -> None:
    if as_json:
        records: list[dict[str, Any]] = [
            {"delivery": item.delivery_id, "event": item.order.event_id, "destination": item.order.destination}
            | {"outcome": item.outcome, "was": item.was, "dry_run": dry_run}
            for item in done
        ]
        print_json(records)
        return
    if not done:
        note("Nothing fits, so nothing is replayed.")
        return
    rows = []
    for item in done[:SHOWN]:
        what = _WHAT[item.outcome][dry_run]
        rows.append((item.delivery_id or "(new)", item.order.event_id, item.order.destination, item.was or "", what))
    print_table(("DELIVERY", "EVENT", "DESTINATION", "WAS", "WHAT"), rows, below=True, ids=True)
    if len(done) > SHOWN:
        note(f"… and {len(done) - SHOWN:,} more; --json prints them all.")
    counts = Counter(item.outcome in REPLAYED for item in done)
    rest = f", {counts[False]:,} stay as they are" if counts[False] else ""
    then = "" if now else "An engine delivers them: receiver serve, or receiver worker."
    then = "Nothing was written." if dry_run else then
    note(f"{counts[True]:,} {'would be ' if dry_run else ''}replayed{rest}. {then}".rstrip())


deliveries.command("replay")(_replay_command("deliveries", "Replay deliveries: by id, or all that match the options."))
events.command("replay")(
    _replay_command("events", "Replay events to the same destinations, or to another one, which may be new.")
)
