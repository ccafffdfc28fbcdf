"""`submit` and its kin where no journal is kept: they send, and the endpoint gets the result."""

from __future__ import annotations

from receiver.cli.following import FAILED, INPUT_REQUIRED, LOST, SUCCEEDED
from receiver.cli.output import note, one_line, print_json, say
from receiver.cli.progress import Progress
from receiver.clock import Clock
from receiver.courier import Courier
from receiver.errors import ProviderError
from receiver.events import Submission
from receiver.intake.facts import replace
from receiver.requests import Request
from receiver.runtime import open_courier
from receiver.settings import Settings
from receiver.submissions import Options
from receiver.tasks import Task

_ENDS = {"SUCCESS": SUCCEEDED, "FAILURE": FAILED, "CANCEL": FAILED, "MODAL": INPUT_REQUIRED}


async def send_directly(settings: Settings, request: Request, options: Options, *, wait: bool, as_json: bool) -> int:
    """Send a request, and with `wait` ask after its task until it ends; returns the exit status.

    Nothing is delivered here: that is the endpoint's, if the provider calls it.
    """
    clock = Clock()
    async with open_courier(settings, receives=False, clock=clock) as courier:
        row = await courier.submit(request, options)
        if not wait:
            _tell(row, as_json=as_json)
            return SUCCEEDED
        with Progress(clock, quiet=as_json) as progress:
            task = await _until_end(courier, row, settings, clock, progress)
    _report(row, task, as_json=as_json)
    return LOST if task is None else _ENDS[task.status]


async def _until_end(
    courier: Courier, row: Submission, settings: Settings, clock: Clock, progress: Progress
) -> Task | None:
    """The task as it ended, or None at the deadline."""
    progress.show(row)
    until = clock.now() + settings.deadline
    while clock.now() < until:
        await clock.sleep(settings.poll_interval)
        try:
            task = await courier.ask(row.task_id or "")
        except ProviderError as exc:
            note(str(exc))
            continue
        if task is not None:
            progress.show(replace(row, task=task))
            if task.status in _ENDS:
                return task
    return None


def _tell(row: Submission, *, as_json: bool) -> None:
    if as_json:
        print_json({"submission": row.id, "task": row.task_id, "status": row.status, "detail": None})
    else:
        say(f"Submitted {row.id}, task {row.task_id}. Its result goes to the endpoint; nothing of it is kept here.")


def _report(row: Submission, task: Task | None, *, as_json: bool) -> None:
    status = (
        "lost" if task is None else {SUCCEEDED: "succeeded", FAILED: "failed"}.get(_ENDS[task.status], "input_required")
    )
    reason = task.fail_reason if task is not None and status == "failed" else None
    links = task.result_urls if task is not None and status == "succeeded" else ()
    texts = task.texts if task is not None and status == "succeeded" else ()
    if as_json:
        found = {"submission": row.id, "task": row.task_id, "status": status, "prompt": row.prompt, "reason": reason}
        print_json({**found, "labels": row.labels, "texts": texts, "links": links})
        return
    for line in (*texts, *links):
        say(one_line(line))
    if status == "failed":
        note(f"The task failed: {reason or 'The provider gave no reason.'}")
    elif status == "input_required":
        note(f"Task {row.task_id} asks for input. Without a journal nothing can answer it here.")
    elif status == "lost":
        note(f"The provider has shown no end of task {row.task_id} within the deadline.")
    else:
        note("Whether the endpoint has delivered it, its log says.")
