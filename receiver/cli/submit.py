"""`submit`, of one prompt or a file of them, `wait` and `watch`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from receiver.app import Runtime, open_runtime
from receiver.cli.options import (
    AsJSON,
    Auto,
    Bot,
    Filter,
    Label,
    Reference,
    Speed,
    State,
    To,
    Wait,
    bot_type,
    options,
    text_or_stdin,
)
from receiver.cli.options import account_filter as read_filter
from receiver.cli.output import note
from receiver.cli.process import run, settings_for
from receiver.cli.session import (
    ERROR,
    INTERRUPTED,
    SUCCEEDED,
    Session,
    beside_engine,
    follow_all,
    report,
    send,
    until_settled,
)
from receiver.errors import InputError, JournalError, ReceiverError
from receiver.events import Submission
from receiver.requests import Request, build
from receiver.submissions import Options


def submit(
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to draw, with the provider's own parameters; - reads it.", show_default=False),
    ] = None,
    wait: Wait = False,
    file: Annotated[
        str | None, typer.Option(help="Prompts, one a line, in place of one; waits for all.", show_default=False)
    ] = None,
    jobs: Annotated[int, typer.Option(help="With --file: how many at most are under way.", min=1)] = 3,
    speed: Speed = None,
    bot: Bot = None,
    picture: Annotated[
        list[str] | None, typer.Option(help="A reference picture: a file or data URI. Repeatable.", show_default=False)
    ] = None,
    account_filter: Filter = None,
    label: Label = None,
    state: State = None,
    to: To = None,
    auto: Auto = None,
    as_json: AsJSON = False,
) -> None:
    """Submit a prompt. Without --wait it returns when the provider has accepted it.

    COMETAPI_KEY holds the provider's key; `receiver settings` shows all settings.

    Exit status: 0 succeeded, 1 error, 3 failed, 4 input required, 5 lost, 130 interrupted.
    """
    if (prompt is None) == (file is None):
        raise typer.BadParameter("Give a prompt, or --file with prompts, one a line.")
    chosen = options(speed=speed, label=label, state=state, to=to, auto=auto)
    filter = read_filter(account_filter)
    prompts = [text_or_stdin(prompt)] if prompt is not None else _read_prompts(file or "")
    asked = [
        build("imagine", prompt=text, bot_type=bot_type(bot), pictures=tuple(picture or ()), account_filter=filter)
        for text in prompts
    ]
    if file is not None:
        _submit_all(asked, chosen, jobs=jobs, as_json=as_json)
    else:
        Session(as_json=as_json).request(asked[0], chosen, wait=wait)


def wait(reference: Reference, as_json: AsJSON = False) -> None:
    """Stay until a result has reached every destination.

    Exit status: 0 succeeded, 1 error, 3 failed, 4 input required, 5 lost, 130 interrupted.
    """
    Session(as_json=as_json).wait(lambda runtime: runtime.journal.find(reference))


def watch(
    task_id: Annotated[str, typer.Argument(help="A task submitted by another program, with the same key.")],
    wait: Wait = False,
    label: Label = None,
    state: State = None,
    to: To = None,
    auto: Auto = None,
    as_json: AsJSON = False,
) -> None:
    """Follow and deliver a task that another program submitted."""
    chosen = options(label=label, state=state, to=to, auto=auto)
    Session(as_json=as_json).submit(lambda runtime: runtime.submissions.adopt(task_id, chosen), wait=wait)


def _read_prompts(file: str) -> list[str]:
    """Read one prompt a line, without empty lines and lines that begin with #."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise InputError(f"The prompts in {file} cannot be read: {reason}.") from exc
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise InputError(f"{file} holds no prompt; write one a line.")
    return prompts


def _submit_all(requests: list[Request], options: Options, *, jobs: int, as_json: bool) -> None:
    """Submit each and stay for its result, at most `jobs` under way. The exit status is the worst of all."""
    statuses: list[int] = []  # filled once all results are printed and only other deliveries still run
    gate = asyncio.Semaphore(jobs)

    async def main() -> None:
        async with open_runtime(settings_for(quiet=True), exit_on_stall=True) as runtime:

            async def one(request: Request) -> int:
                async with gate:
                    return await submit_one(runtime, request, options, as_json=as_json)

            async def each() -> list[int]:
                return await asyncio.gather(*map(one, requests))

            statuses.extend(await beside_engine(runtime, "submit --file", each()))

    try:
        run(main())
    except KeyboardInterrupt:
        if not statuses:
            note("Interrupted; what was submitted goes on. See: receiver tasks list")
            raise typer.Exit(INTERRUPTED) from None
    failed = sum(status != SUCCEEDED for status in statuses)
    note(f"{len(statuses) - failed} of {len(statuses)} succeeded.")
    if failed:
        raise typer.Exit(max(statuses))


async def submit_one(runtime: Runtime, request: Request, options: Options, *, as_json: bool) -> int:
    """Submit one of many, stay for its result, and print it or the error. Return the exit status.

    An error says if the prompt is paid for, or will be: a person may submit the rest of the file again.
    """

    async def follow_one(id: str) -> tuple[Submission, int]:
        row, deliveries = await until_settled(runtime, id, lambda row: None)
        return row, report(row, deliveries, as_json=as_json)

    row: Submission | None = None
    try:
        row = await runtime.submissions.prepare(request, options)
        row = await send(runtime, row, wait=True)
        return await follow_all(runtime, row.id, follow_one)
    except ReceiverError as exc:
        then = ""
        if row is not None and isinstance(exc, JournalError):
            then = f" Resume with: receiver wait {row.id}"
        elif row is None and not (isinstance(exc, JournalError) and exc.fault == "uncertain"):
            then = " It was not submitted."
        note(f"Error: {request.prompt}: {exc}{then}")
        return ERROR
