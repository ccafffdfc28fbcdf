"""Follow-ups of a task: `action`, `modal`, `seed` and `cancel`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from receiver.app import Runtime, open_runtime
from receiver.cli.options import AsJSON, Auto, Label, Reference, Speed, State, To, Wait, options
from receiver.cli.output import note, print_json, say
from receiver.cli.process import run, settings_for
from receiver.cli.session import Session
from receiver.errors import InputError
from receiver.events import Submission

T = TypeVar("T")

Prompt = Annotated[str | None, typer.Option(help="The prompt, for a button that asks for one.", show_default=False)]
Mask = Annotated[
    str | None,
    typer.Option(help="Where to repaint, for a button that asks for it: a file, white on black.", show_default=False),
]


def action(
    reference: Reference,
    button: Annotated[str, typer.Argument(help="U2, V1, reroll, zoom, pan left, or any label `tasks show` lists.")],
    prompt: Prompt = None,
    mask: Mask = None,
    again: Annotated[bool, typer.Option("--again", help="Press it once more although it was pressed before.")] = False,
    wait: Wait = False,
    speed: Speed = None,
    label: Label = None,
    state: State = None,
    to: To = None,
    auto: Auto = None,
    as_json: AsJSON = False,
) -> None:
    """Press a button of a finished task. The same one a second time gives the first one's result.

    Exit status: 0 succeeded, 1 error, 3 failed, 4 input required, 5 lost, 130 interrupted.
    """
    chosen = options(speed=speed, label=label, state=state, to=to, auto=auto)

    async def prepare(runtime: Runtime) -> Submission:
        parent = await runtime.journal.find(reference)
        return await runtime.submissions.follow_up(parent, button, chosen, again=again, prompt=prompt, mask=mask)

    Session(as_json=as_json).submit(prepare, wait=wait)


def modal(
    reference: Reference, prompt: Prompt = None, mask: Mask = None, wait: Wait = False, as_json: AsJSON = False
) -> None:
    """Answer a task that asks for input; the same task goes on."""

    async def prepare(runtime: Runtime) -> Submission:
        row = await runtime.journal.find(reference)
        return await runtime.submissions.reply(row, prompt=prompt, mask=mask)

    Session(as_json=as_json).reply(prepare, wait=wait)


def seed(reference: Reference, as_json: AsJSON = False) -> None:
    """Print the seed of a finished picture.

    The provider may take a minute for it.
    """

    async def ask(runtime: Runtime, task_id: str) -> str:
        return await runtime.provider.image_seed(task_id)

    task_id, found = _ask(reference, ask)
    if as_json:
        print_json({"task": task_id, "seed": found})
    else:
        say(found)


def cancel(reference: Reference) -> None:
    """Ask the provider to cancel a task.

    Not every provider lets its users do so.
    """

    async def ask(runtime: Runtime, task_id: str) -> None:
        await runtime.provider.cancel(task_id)

    task_id, _ = _ask(reference, ask)
    note(f"The provider was asked to cancel task {task_id}. See its result: receiver wait {reference}")


def _ask(reference: str, question: Callable[[Runtime, str], Awaitable[T]]) -> tuple[str, T]:
    async def main() -> tuple[str, T]:
        async with open_runtime(settings_for(quiet=True)) as runtime:
            row = await runtime.journal.find(reference)
            if row.task_id is None:
                raise InputError(f"Submission {row.id} has no task yet. See: receiver tasks show {row.id}")
            return row.task_id, await question(runtime, row.task_id)

    return run(main())
