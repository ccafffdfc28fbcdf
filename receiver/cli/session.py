"""One command that submits, replies or waits: run it, follow the result, and report the end or an interruption."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import typer
from msgspec.structs import replace

from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.app.stateless_submit import StatelessSubmit, open_stateless_submit
from receiver.cli import load
from receiver.cli.output import at, note, one_line, out, print_json, say, say_result, say_values
from receiver.cli.process import first_end, run, settings_for
from receiver.clock import Clock
from receiver.deliveries import Delivery
from receiver.errors import Ambiguous, JournalError, MediaError, ProviderError, Refused, SettingsError, Unreachable
from receiver.events import EventType, Submission, event_id
from receiver.intake.followups import once_name
from receiver.intake.pace import Durations, next_poll_ms
from receiver.intake.transitions import refetched
from receiver.journal.store import DueKind
from receiver.requests import Request
from receiver.settings import Settings
from receiver.submissions import Options
from receiver.tasks.reasons import in_english

T = TypeVar("T")

SUCCEEDED, ERROR, FAILED, INPUT_REQUIRED, LOST, INTERRUPTED = 0, 1, 3, 4, 5, 130
"""Exit statuses. 2 is a wrong command line."""

_EXITS: dict[EventType, int] = {
    "task.succeeded": SUCCEEDED,
    "task.failed": FAILED,
    "task.input_required": INPUT_REQUIRED,
    "task.lost": LOST,
}
_ENDS: dict[str, EventType] = {"SUCCESS": "task.succeeded", "FAILURE": "task.failed", "CANCEL": "task.failed"}
_LOOK_SECONDS = 0.1
"""Interval between looks at the last deliveries."""
_LONG_MS = 10_000
"""Length of a destination's pause from which the reason of the wait is printed."""

Prepare = Callable[[Runtime], Awaitable[Submission]]
Follow = Callable[[str], Awaitable[tuple[Submission, int]]]


class Session:
    """Runs one command with the settings of the environment."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._settings = settings_for(quiet=True)
        self._resume: str | None = None
        self._status: int | None = None  # set once the result is printed and only other deliveries still run

    def request(self, request: Request, options: Options, *, wait: bool) -> None:
        """Submit a request, with a journal or without."""
        if self._settings.database_kind == "none":
            main = send_directly(self._settings, request, options, wait=wait, as_json=self._as_json)
            self._run(lambda: run(main))
        else:
            self.run(lambda runtime: runtime.submissions.prepare(request, options), wait=wait)

    def run(self, prepare: Prepare, *, wait: bool, sends: Literal["submission", "reply"] | None = "submission") -> None:
        """Send the submission that `prepare` journals or finds, or its reply, and stay for the result if `wait`."""

        async def work(runtime: Runtime) -> int:
            row = await prepare(runtime)
            self._resume = row.id
            reply = sends == "reply"
            fresh = row.status == "prepared"
            if reply or (sends and fresh):
                row = await send(runtime, row, wait=wait, reply=reply)
            if wait:
                self._status = await follow_all(runtime, row.id, lambda row_id: self._follow(runtime, row_id))
                return self._status
            idle = row.status == "accepted" and not await runtime.journal.engines()
            done = "Submitted" if fresh else "There is already" if row.outcome != "adopted" else "Watching"
            if self._as_json or not (reply and _is_kept(row)):
                self._print(row, "Replied to" if reply else done)
            if idle and not self._as_json:
                note("No engine runs: nothing fetches the result until one does (receiver serve, or receiver wait).")
            return SUCCEEDED

        self._run(lambda: on_runtime(work, self._settings))

    def _run(self, main: Callable[[], int]) -> None:
        try:
            status = main()
        except KeyboardInterrupt:
            status = INTERRUPTED if self._status is None else self._status
            if self._status is None and self._resume:
                note(f"Interrupted; the task goes on. Resume with: receiver wait {self._resume}")
            raise typer.Exit(status) from None
        except JournalError as exc:
            if self._status is not None or self._resume is None:
                raise
            raise JournalError(f"{exc} Resume with: receiver wait {self._resume}", fault=exc.fault) from exc
        if status:
            raise typer.Exit(status)

    async def _follow(self, runtime: Runtime, id: str) -> tuple[Submission, int]:
        """Show progress until the result has reached every destination, then print it.

        Runs the engine if no other process does, and takes over when that one stops.
        """
        self._resume = id
        with load("progress:Progress")(runtime.clock, quiet=self._as_json) as progress:
            settling = until_settled(runtime, id, progress.show)
            try:
                row, deliveries = await beside_engine(runtime, "submit --wait", settling)
            except (MediaError, SettingsError) as exc:  # of the engine, which starts once the task is submitted
                exc.args = (f"{exc} Resume with: receiver wait {id}",)
                raise
        return row, report(row, deliveries, as_json=self._as_json)

    def _print(self, row: Submission, done: str) -> None:
        if self._as_json:
            print_json({"submission": row.id, "task": row.task_id, "status": row.status, "detail": row.detail})
        elif row.status == "accepted":
            say(f"{done} {row.id}, task {row.task_id}. Follow it with: receiver wait {row.id}")
        elif row.display_status != "prepared":  # of a submission that is kept, `send` has printed a note
            reason = f" {in_english(row.reason, row.prompt)}" if row.reason else ""
            say(f"Submission {row.id}: {row.display_status}.{reason} See: receiver tasks show {row.id}")


async def fetch_files(runtime: Runtime, row: Submission, show: Callable[[Submission], None]) -> Submission:
    """Download the missing files of a result now. Return the submission once each was tried, and once the destinations
    have been tried with what came. While its deliveries wait for a file that is still missing, they are not awaited."""
    await runtime.intake.take(row.id, refetched)
    async for now in runtime.watch(row.id):
        show(now)
        if not any(item.due_ms is not None and not item.tries for item in now.files):
            if not now.awaits_files(runtime.clock.now_ms()):
                await _attempted(runtime, now)
            return now
    raise AssertionError("a watch ends only when its caller leaves")


async def send(runtime: Runtime, row: Submission, *, wait: bool, reply: bool = False) -> Submission:
    """Send the submission, or the reply to its task, now. With `wait` a lost answer is no error.

    If the provider is busy, the submission is kept. A reply that never arrived is kept too.
    """
    try:
        return await (runtime.submissions.send_reply if reply else runtime.submissions.send)(row.id)
    except (Refused, Unreachable, MediaError) as exc:
        kept = _is_kept(await runtime.journal.find(row.id)) if reply else isinstance(exc, Refused) and exc.retry
        if not kept:
            raise
        what = f"The reply to {row.id}" if reply else f"Submission {row.id}"
        again = f"`receiver serve`, `receiver worker` or `receiver wait {row.id}`"
        note(f"{exc} {what} is kept and sent again by {again}.")
    except Ambiguous as exc:
        if not wait:
            raise Ambiguous(f"{exc} See: receiver tasks show {row.id}") from exc
    return await runtime.journal.find(row.id)


def _is_kept(row: Submission) -> bool:
    return row.reply is not None and row.reply.status == "waiting"


async def beside_engine(runtime: Runtime, role: str, main: Awaitable[T]) -> T:
    """Run `main` with an engine in this process, unless another process has one. Raise the engine's error."""
    engine = asyncio.create_task(runtime.start_engine_when_free(role))
    task = asyncio.ensure_future(main)
    try:
        await first_end([task], [engine])
    finally:
        task.cancel()
        engine.cancel()
        await asyncio.gather(task, engine, return_exceptions=True)
    return task.result()


async def anything_due(runtime: Runtime) -> bool:
    """Return True if anything is to be sent, polled, downloaded or delivered now, but to no paused destination."""
    now_ms = runtime.clock.now_ms()
    kinds: tuple[DueKind, ...] = ("send", "poll", "media")
    for kind in kinds:
        if await runtime.journal.due(kind, now_ms, 1):
            return True
    counts = await runtime.journal.counts(exact=True)
    paused = {item.name for item in await runtime.journal.destinations(counts) if item.paused(now_ms)}
    return any(
        count.running or (name not in paused and (count.oldest_due_ms or now_ms + 1) <= now_ms)
        for name, count in counts.destinations.items()
        if name in runtime.destinations
    )


def on_runtime(work: Callable[[Runtime], Awaitable[T]], settings: Settings | None = None) -> T:
    """Run `work` on a Runtime with the settings. No engine runs in it until `work` starts one."""
    found = settings or settings_for(quiet=True)

    async def main() -> T:
        async with open_runtime(found, exit_on_stall=True) as runtime:
            return await work(runtime)

    return run(main())


def deliver_now(settings: Settings, role: str) -> bool:
    """Be the engine until nothing is due, or wait until the engine that runs has done it.

    Return False if nothing was due.
    """

    async def work(runtime: Runtime) -> bool:
        found = await anything_due(runtime)

        async def until_idle() -> None:
            while await anything_due(runtime):
                await runtime.clock.sleep(_LOOK_SECONDS)

        await beside_engine(runtime, role, until_idle())
        return found

    return on_runtime(work, settings)


async def follow_all(runtime: Runtime, submission_id: str, follow_one: Follow) -> int:
    """Follow a submission, then the buttons it presses by itself. Return the worst exit status.

    `follow_one` takes an id, and returns the submission at its end and the exit status. A press is followed even if a
    destination has no result yet. A refused press has lost its name (`once`): the first press of its button is taken.
    """
    row, status = await follow_one(submission_id)
    if row.last_word != "task.succeeded" or not row.auto:
        return status
    names = {once_name(row.id, button) for button in row.auto}
    found: dict[str, Submission] = {}
    for child in await runtime.retry_outage(lambda: runtime.journal.family(row.id)):
        name = once_name(row.id, child.button or "")
        if child.parent_id == row.id and name in names and (name not in found or child.once == name):
            found[name] = child
    for child in found.values():
        _, other = await follow_one(child.id)
        status = max(status, other)
    return status


async def until_settled(
    runtime: Runtime, submission_id: str, show: Callable[[Submission], None]
) -> tuple[Submission, list[Delivery]]:
    """Wait for a final event and for a first attempt at each destination. `show` gets each change.

    Return the submission and the deliveries of its final event. A retry may begin at any time.
    """
    async for row in runtime.watch(submission_id):
        show(row)
        if row.status != "refused" and row.last_word is None:
            continue
        deliveries = await _attempted(runtime, row)
        now = await runtime.retry_outage(lambda: runtime.journal.get(submission_id))
        if now is None or now.last_word == row.last_word:  # else a success has replaced a failure meanwhile
            return now or row, deliveries
    raise AssertionError("a watch ends only when its caller leaves")


async def _attempted(runtime: Runtime, row: Submission) -> list[Delivery]:
    """Return the deliveries of the final event, by destination, once each has been attempted."""
    type = row.last_word
    if type is None:
        return []
    newest = event_id(row.id, type, further=row.further if type == "task.succeeded" else 0)
    event = await runtime.retry_outage(lambda: runtime.journal.event(newest))
    if event is None:
        return []
    noted: set[str] = set()

    async def look() -> tuple[list[Delivery], set[str]]:
        deliveries = await runtime.journal.event_deliveries(event)
        waiting = {item.destination for item in deliveries if await _unattempted(runtime, item)}
        for name in waiting - noted:
            until_ms, reason = await runtime.journal.pause_of(name) or (0, "")
            if until_ms - runtime.clock.now_ms() > _LONG_MS:
                note(f"{name} gets nothing until {at(until_ms)}: {one_line(reason)}")
                noted.add(name)
        return deliveries, waiting

    while True:
        deliveries, waiting = await runtime.retry_outage(look)
        if not waiting:
            return sorted(deliveries, key=lambda item: item.destination)
        await runtime.clock.sleep(_LOOK_SECONDS)


async def _unattempted(runtime: Runtime, delivery: Delivery) -> bool:
    """Return True if no attempt says anything about the destination yet. A first attempt that vanished with its engine
    does not count. A second one does: the destination may be the reason."""
    if delivery.status != "pending":
        return delivery.status == "running"
    if delivery.failures != 1:
        return delivery.failures == 0
    counted = [item for item in await runtime.journal.attempts(delivery.id) if item.outcome in ("failed", "vanished")]
    return any(item.outcome == "vanished" for item in counted[-1:])


def report(row: Submission, deliveries: list[Delivery], *, as_json: bool, links: tuple[str, ...] | None = None) -> int:
    """Print the end of a submission: problems on standard error, results on standard output. Return the exit status.

    `links` are those of the result where there is no journal.
    """
    type = row.last_word
    # A destination counts as reached by another delivery too, as `deliveries replay --as-new` makes.
    reached = {item.destination for item in deliveries if item.status == "succeeded"}
    missed = [item for item in deliveries if item.destination not in reached]
    empty = bool(row.expected) and not row.media
    status = ERROR if type is None or (type == "task.succeeded" and (missed or empty)) else _EXITS[type]
    texts = row.task.texts if row.task and row.ended == "task.succeeded" else ()
    if as_json:
        print_json(_record(row, deliveries, texts) | ({} if links is None else {"links": links}))
        return status
    reason = in_english(row.reason or "The provider gave no reason.", row.prompt)
    if type == "task.input_required":
        answer = f"Answer it with: receiver modal {row.id} --prompt …"
        answer = answer if links is None else "Without a journal nothing can answer it here."
        note(f"Task {row.task_id} asks for input. {answer}")
    elif type != "task.succeeded":
        starts = {"task.lost": "The task was lost. ", "task.failed": "The task failed: "}
        note(f"{starts.get(type or '', '')}{reason}")
    elif row.media_problem and not missed:
        none = "Error: No file of the result is here. " if empty else ""
        waits = row.media_due_ms is not None  # else the problem itself ends with the command
        then = f" Receiver goes on trying; or try now: receiver media fetch {row.id}" if waits else ""
        note(f"{none}{one_line(row.media_problem)}{then}")
    elif links is not None:
        note("The log of the endpoint says if it has delivered the result.")
    for item in missed:
        if item.status in ("pending", "dead"):
            why = (item.detail or "the reason is not known").rstrip(".")
            then = "It is not tried again." if item.status == "dead" else "`receiver serve` or `worker` goes on trying."
            see = f"See: receiver deliveries show {item.id}"
            note(f"Error: The result did not reach {item.destination}: {why}. {then} {see}")
    for text in (*texts, *(links or ())):
        say(one_line(text))
    if out.is_terminal and type == "task.succeeded" and links is None:
        _say_next(row, deliveries)
        return status
    # Paths and addresses alone and at the end, because scripts read them. Anything else has its destination's name.
    places = [(item.destination, item.receipt.url, item.receipt.ref) for item in deliveries if item.receipt]
    plain = [ref for _, url, ref in places if ref and not url and "/" in ref]
    for line in [*(f"{name}: {url or ref}" for name, url, ref in places if (url or ref) and ref not in plain), *plain]:
        say(line)
    return status


def _say_next(row: Submission, deliveries: list[Delivery]) -> None:
    """Print what a person needs next: the places of the result, the id, the buttons, and a command."""
    places = {item.destination: item.receipt.url or item.receipt.ref for item in deliveries if item.receipt}
    buttons = [button.text for button in row.task.buttons] if row.task else []
    say_values([(name, place or "delivered") for name, place in places.items()])
    say_values([("id", row.id[-6:]), ("buttons", " ".join(buttons))])
    if buttons:
        say_values([("next", f"receiver action {row.id[-6:]} {shlex.quote(buttons[0])} --wait")])


def _record(row: Submission, deliveries: list[Delivery], texts: tuple[str, ...]) -> dict[str, Any]:
    records: list[dict[str, Any]] = [
        {"id": item.id, "destination": item.destination, "status": item.status, "detail": item.detail}
        | ({"ref": item.receipt.ref, "url": item.receipt.url} if item.receipt else {"ref": None, "url": None})
        for item in deliveries
    ]
    return {
        "submission": row.id,
        "task": row.task_id,
        "status": (row.last_word or f"task.{row.status}").removeprefix("task."),
        "prompt": row.prompt,
        "reason": row.reason,
        "labels": row.labels,
        "state": row.user_state,
        "texts": texts,
        "files": [record["ref"] for record in records if record["ref"]],
        "deliveries": records,
    }


async def send_directly(settings: Settings, request: Request, options: Options, *, wait: bool, as_json: bool) -> int:
    """Send a request without a journal, and with `wait` poll its task until it ends. Return the exit status.

    The endpoint that the provider calls delivers the result, not this process.
    """
    clock = Clock()
    async with open_stateless_submit(settings, clock=clock) as stateless:
        row = await stateless.submit(request, options)
        if not wait:
            kept = "Its result goes to the endpoint; nothing of it is kept here."
            record = {"submission": row.id, "task": row.task_id, "status": row.status, "detail": None}
            say_result(f"Submitted {row.id}, task {row.task_id}. {kept}", record, as_json=as_json)
            return SUCCEEDED
        with load("progress:Progress")(clock, quiet=as_json) as progress:
            row = await _poll_until_end(stateless, row, settings, progress.show)
    links = row.task.result_urls if row.task and row.ended == "task.succeeded" else ()
    return report(row, [], as_json=as_json, links=links)


async def _poll_until_end(
    stateless: StatelessSubmit, row: Submission, settings: Settings, show: Callable[[Submission], None]
) -> Submission:
    clock = Clock()
    until, longest_ms = clock.now() + settings.deadline, int(settings.poll_interval * 1000)
    percent, since_ms, usual_ms = 0, clock.now_ms(), Durations().usual_ms(row)
    show(row)
    while (now_ms := clock.now_ms()) < until * 1000:
        due_ms = next_poll_ms(now_ms, since_ms=since_ms, percent=percent, usual_ms=usual_ms, longest_ms=longest_ms)
        await clock.sleep((due_ms - now_ms) / 1000)
        try:
            task = await stateless.ask(row.task_id or "")
        except ProviderError as exc:
            note(str(exc))
            continue
        if task is not None:
            row = replace(row, task=task)
            if (task.progress or 0) > percent:
                percent, since_ms = task.progress or 0, clock.now_ms()
            show(row)
            row = replace(row, ended=_ENDS.get(task.status))
            if row.last_word is not None:
                return row
    lost = f"The provider has shown no end of task {row.task_id} within the deadline."
    return replace(row, ended="task.lost", detail=lost)
