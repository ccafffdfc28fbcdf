"""`submit --file`: many prompts, a few at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import typer

from receiver.cli.following import ERROR, SUCCEEDED, follow_all, report, until_settled
from receiver.cli.output import note
from receiver.cli.running import first_end, run, settings_for
from receiver.cli.session import INTERRUPTED, send
from receiver.errors import InputError, JournalError, ReceiverError
from receiver.events import Submission
from receiver.requests import Request
from receiver.runtime import Runtime, open_runtime
from receiver.submissions import Options
from receiver.watchdog import end_process


def read_prompts(file: str) -> list[str]:
    """One prompt a line; empty lines and those that begin with # are passed over."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise InputError(f"The prompts in {file} cannot be read: {reason}.") from exc
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise InputError(f"{file} holds no prompt; write one a line.")
    return prompts


def submit_all(requests: list[Request], options: Options, *, jobs: int, as_json: bool) -> None:
    """Submit each and stay for its result, at most `jobs` under way. The exit status is the worst of all."""
    statuses: list[int] = []
    try:
        run(_submit_all(requests, options, statuses, jobs=jobs, as_json=as_json))
    except KeyboardInterrupt:
        if not statuses:
            note("Interrupted; what was submitted goes on. See: receiver tasks list")
            raise typer.Exit(INTERRUPTED) from None
    failed = sum(status != SUCCEEDED for status in statuses)
    note(f"{len(statuses) - failed} of {len(statuses)} succeeded.")
    if failed:
        raise typer.Exit(max(statuses))


async def _submit_all(
    requests: list[Request], options: Options, statuses: list[int], *, jobs: int, as_json: bool
) -> None:
    """Fills `statuses` once all is told: what is left then is to let deliveries of others finish."""
    gate = asyncio.Semaphore(jobs)
    async with open_runtime(settings_for(quiet=True), stalled=end_process) as runtime:
        engine = asyncio.create_task(runtime.start_engine_when_free("submit --file"))

        async def one(request: Request) -> int:
            async with gate:
                return await submit_one(runtime, request, options, as_json=as_json)

        async def all_of_them() -> list[int]:
            return await asyncio.gather(*(one(request) for request in requests))

        everything = asyncio.create_task(all_of_them())
        try:
            await first_end([everything], [engine])
        finally:
            engine.cancel()
            everything.cancel()
            await asyncio.gather(engine, everything, return_exceptions=True)
        statuses += everything.result()


async def submit_one(runtime: Runtime, request: Request, options: Options, *, as_json: bool) -> int:
    """Submit one of many, stay for its result, and tell it or the error; returns the exit status."""

    async def follow_one(id: str) -> tuple[Submission, int]:
        row, deliveries = await until_settled(runtime, id, lambda row: None)
        return row, report(row, deliveries, as_json=as_json)

    row: Submission | None = None
    try:
        row = await runtime.submissions.prepare(request, options)
        row = await send(runtime, row, wait=True)
        return await follow_all(runtime, row.id, follow_one)
    except ReceiverError as exc:
        note(f"Error: {request.prompt}: {exc}{_then(row, exc)}")
        return ERROR


def _then(row: Submission | None, problem: ReceiverError) -> str:
    """Whoever submits the rest of a file again must know which of its prompts are paid for, or will be."""
    if row is None:
        uncertain = isinstance(problem, JournalError) and problem.fault == "uncertain"
        return "" if uncertain else " It was not submitted."
    return f" Resume with: receiver wait {row.id}" if isinstance(problem, JournalError) else ""
