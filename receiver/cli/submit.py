"""Commands that send something to the provider: requests of each kind, follow-ups of a task, and `wait`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any, TypeVar

import typer

from receiver.app.container import Runtime
from receiver.cli import session, text_of
from receiver.cli.options import (
    AsJSON,
    Mask,
    Prompt,
    Reference,
    Speed,
    Wait,
    carried,
    fields_of,
    gathers,
    optional,
    read_text,
)
from receiver.cli.output import note, one_line, say_result
from receiver.errors import InputError, JournalError, ReceiverError
from receiver.events import Submission
from receiver.requests import KINDS, Request, build
from receiver.submissions import Options

T = TypeVar("T")


@gathers(fields=fields_of("imagine", "bot_type", "pictures", "account_filter"), chosen=carried)
def submit(
    *,
    prompt: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT", help="What to draw, with the provider's own parameters; - reads it.", show_default=False
        ),
    ] = None,
    wait: Wait = False,
    file: Annotated[
        str | None,
        optional(
            "Prompts, one a line, in place of one; waits for all. Empty lines and lines that begin with # are skipped."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="With --file: how many at most are under way.", min=1)] = 3,
    speed: Speed = None,
    fields: dict[str, Any],
    chosen: Options,
    as_json: AsJSON = False,
) -> None:
    """Submit a prompt. Without --wait it returns when the provider has accepted it.

    COMETAPI_KEY holds the provider's key; `receiver settings` shows all settings.

    Exit status: 0 succeeded, 1 error, 3 failed, 4 input required, 5 lost, 130 interrupted.
    """
    if prompt and any(word.startswith("-") for word in prompt[1:]):
        raise typer.BadParameter("Write options before --, and behind it the prompt alone, in quotes.")
    if prompt and len(prompt) > 1:
        raise typer.BadParameter(f'Put the prompt in quotes: receiver submit "{" ".join(prompt)[:200]}"')
    if prompt and file is not None:
        raise typer.BadParameter("Give either a prompt, or --file with prompts, not both.")
    if not prompt and file is None:
        raise typer.BadParameter("Give a prompt, or --file with prompts, one a line.")
    chosen = replace(chosen, speed=speed)
    prompts = read_prompts(file or "") if not prompt else [read_text("-") if prompt == ["-"] else prompt[0]]
    asked = [build("imagine", prompt=text, **fields) for text in prompts]
    if file is not None:
        _submit_all(asked, chosen, jobs=jobs, as_json=as_json)
    else:
        session.Session(as_json=as_json).request(asked[0], chosen, wait=wait)


def wait(reference: Reference, as_json: AsJSON = False) -> None:
    """Stay until a result has reached every destination.

    Exit status: 0 succeeded, 1 error, 3 failed, 4 input required, 5 lost, 130 interrupted.
    """
    session.Session(as_json=as_json).run(lambda runtime: runtime.journal.find(reference), wait=True, sends=None)


@gathers(chosen=carried)
def watch(
    *,
    task_id: Annotated[str, typer.Argument(help="A task submitted by another program, with the same key.")],
    wait: Wait = False,
    chosen: Options,
    as_json: AsJSON = False,
) -> None:
    """Follow and deliver a task that another program submitted."""
    session.Session(as_json=as_json).run(lambda runtime: runtime.submissions.adopt(task_id, chosen), wait=wait)


def read_prompts(file: str) -> list[str]:
    """Read one prompt a line, without empty lines and lines that begin with #.

    Only CR and LF end a line. A prompt copied from a web page may hold U+2028, and stays one prompt.
    """
    lines = (line.strip() for line in re.split(r"\r\n|\r|\n", read_text(file)))
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise InputError(f"{file} holds no prompt; write one a line.")
    return prompts


def _submit_all(requests: list[Request], options: Options, *, jobs: int, as_json: bool) -> None:
    """Submit each and stay for its result, at most `jobs` under way. The exit status is the worst of all."""
    statuses: list[int] = []  # filled once all results are printed and only other deliveries still run
    ended: list[int] = []
    reached: list[tuple[str, bool]] = []
    gate = asyncio.Semaphore(jobs)
    if not as_json:
        note(f"{len(requests)} prompts, at most {jobs} at a time.")

    async def one(runtime: Runtime, request: Request) -> int:
        async with gate:
            status = await submit_one(runtime, request, options, as_json=as_json, reached=reached)
            ended.append(status)
            if not as_json:
                word = "done" if status == session.SUCCEEDED else "NOT DONE"
                note(f"[{len(ended)}/{len(requests)}] {word}: {one_line(request.prompt[:60])}")
            return status

    async def work(runtime: Runtime) -> None:
        each = asyncio.gather(*(one(runtime, request) for request in requests))
        statuses.extend(await session.beside_engine(runtime, "submit --file", each))

    try:
        session.on_runtime(work)
    except KeyboardInterrupt:
        if not statuses:
            note("Interrupted; what was submitted goes on. See: receiver tasks list")
            raise typer.Exit(session.INTERRUPTED) from None
    failed = sum(status != session.SUCCEEDED for status in statuses)
    note(f"{len(statuses) - failed} of {len(statuses)} succeeded{_by_destination(reached)}.")
    if failed:
        raise typer.Exit(max(statuses))


def _by_destination(reached: list[tuple[str, bool]]) -> str:
    """Return a text like `, 6 in file, 0 of 6 in command`."""
    counts = {name: [one for other, one in reached if other == name] for name, _ in sorted(reached)}
    parts = (
        f", {len(given)} in {name}" if all(given) else f", {sum(given)} of {len(given)} in {name}"
        for name, given in counts.items()
    )
    return "".join(parts)


async def submit_one(
    runtime: Runtime,
    request: Request,
    options: Options,
    *,
    as_json: bool,
    reached: list[tuple[str, bool]] | None = None,
) -> int:
    """Submit one of many, stay for its result, and print it or the error. Return the exit status.

    An error says if the prompt is paid for, or will be: a person may submit the rest of the file again.
    """

    async def follow_one(id: str) -> tuple[Submission, int]:
        row, deliveries = await session.until_settled(runtime, id, lambda row: None)
        if reached is not None and row.last_word == "task.succeeded":
            reached.extend((item.destination, item.status == "succeeded") for item in deliveries)
        return row, session.report(row, deliveries, as_json=as_json)

    row: Submission | None = None
    try:
        row = await runtime.submissions.prepare(request, options)
        row = await session.send(runtime, row, wait=True)
        return await session.follow_all(runtime, row.id, follow_one)
    except ReceiverError as exc:
        then = ""
        if row is not None and isinstance(exc, JournalError):
            then = f" Resume with: receiver wait {row.id}"
        elif row is None and not (isinstance(exc, JournalError) and exc.fault == "uncertain"):
            then = " It was not submitted."
        note(f"Error: {request.prompt[:80]}: {exc}{then}")
        return session.ERROR


@gathers(filter=fields_of("imagine", "account_filter"), chosen=carried)
def action(
    *,
    reference: Reference,
    button: Annotated[str, typer.Argument(help="U2, V1, reroll, zoom, pan left, or any label `tasks show` lists.")],
    prompt: Prompt = None,
    mask: Mask = None,
    again: Annotated[bool, typer.Option("--again", help="Press it once more although it was pressed before.")] = False,
    wait: Wait = False,
    speed: Speed = None,
    filter: dict[str, Any],
    chosen: Options,
    as_json: AsJSON = False,
) -> None:
    """Press a button of a finished task. The same one a second time gives the first one's result.

    Exit status: 0 succeeded, 1 error, 3 failed, 4 input required, 5 lost, 130 interrupted.
    """
    chosen = replace(chosen, speed=speed)

    async def prepare(runtime: Runtime) -> Submission:
        parent = await runtime.journal.find(reference)
        return await runtime.submissions.follow_up(
            parent, button, chosen, again=again, prompt=prompt, mask=mask, **filter
        )

    session.Session(as_json=as_json).run(prepare, wait=wait)


def modal(
    reference: Reference, prompt: Prompt = None, mask: Mask = None, wait: Wait = False, as_json: AsJSON = False
) -> None:
    """Answer a task that asks for input. The same task goes on."""

    async def prepare(runtime: Runtime) -> Submission:
        row = await runtime.journal.find(reference)
        return await runtime.submissions.reply(row, prompt=prompt, mask=mask)

    session.Session(as_json=as_json).run(prepare, wait=wait, sends="reply")


def seed(reference: Reference, as_json: AsJSON = False) -> None:
    """Print the seed of a finished picture.

    The provider may take a minute for it.
    """

    task_id, found = _ask(reference, lambda runtime, task_id: runtime.provider.image_seed(task_id))
    say_result(found, {"task": task_id, "seed": found}, as_json=as_json)


def cancel(reference: Reference) -> None:
    """Ask the provider to cancel a task.

    Not every provider lets its users do so.
    """

    task_id, _ = _ask(reference, lambda runtime, task_id: runtime.provider.cancel(task_id), running=True)
    note(f"The provider was asked to cancel task {task_id}. See its result: receiver wait {reference}")


def _ask(reference: str, question: Callable[[Runtime, str], Awaitable[T]], *, running: bool = False) -> tuple[str, T]:
    """Return a submission's task id, and the provider's answer to a question about it, perhaps only while it runs."""

    async def ask(runtime: Runtime) -> tuple[str, T]:
        row = await runtime.journal.find(reference)
        if row.task_id is None:
            raise InputError(f"Submission {row.id} has no task yet. See: receiver tasks show {row.id}")
        if running and row.ended is not None:
            raise InputError(f"Submission {row.id} has {row.display_status}: nothing is left to cancel.")
        return row.task_id, await question(runtime, row.task_id)

    return session.on_runtime(ask)


def command_of(kind: str) -> Callable[..., None]:
    """Return the command of a kind of request."""

    def send(
        *, fields: dict[str, Any], wait: Wait = False, speed: Speed = None, chosen: Options, as_json: AsJSON = False
    ) -> None:
        session.Session(as_json=as_json).request(build(kind, **fields), replace(chosen, speed=speed), wait=wait)

    def upload(*, fields: dict[str, Any], as_json: AsJSON = False) -> None:
        request = build(kind, **fields)
        urls = session.on_runtime(lambda runtime: runtime.submissions.upload(request))
        say_result("\n".join(urls), {"urls": urls}, as_json=as_json)

    send.__doc__ = upload.__doc__ = f"{text_of(kind)} {_MORE.get(kind, '')}".strip()
    if KINDS[kind].answered_by_links:
        return gathers(fields=fields_of(kind))(upload)
    return gathers(fields=fields_of(kind), chosen=carried)(send)


_MORE = {"describe": "`receiver action ID 1️⃣` then draws the first.", "upload": "\n\nPrints their links."}
"""Kind of request → the rest of its command's help."""

blend, describe, shorten, video, edits, swap, upload = (
    command_of(kind) for kind in ("blend", "describe", "shorten", "video", "edits", "swap", "upload")
)
