"""`submit`, `wait` and `watch`."""

from __future__ import annotations

from typing import Annotated

import typer

from receiver.cli.batch import read_prompts, submit_all
from receiver.cli.options import (
    IMAGINE,
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
from receiver.cli.session import Session
from receiver.requests import build


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
        list[str] | None, typer.Option(help=f"{IMAGINE['pictures'].command_help} Repeatable.", show_default=False)
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
    prompts = [text_or_stdin(prompt)] if prompt is not None else read_prompts(file or "")
    asked = [
        build("imagine", prompt=text, bot_type=bot_type(bot), pictures=tuple(picture or ()), account_filter=filter)
        for text in prompts
    ]
    if file is not None:
        submit_all(asked, chosen, jobs=jobs, as_json=as_json)
    else:
        Session(as_json=as_json).request(asked[0], chosen, wait=wait)


def wait(reference: Reference, as_json: AsJSON = False) -> None:
    """Stay until a result has reached every destination.

    Exit status: 0 succeeded, 1 error, 3 failed, 4 input required, 5 lost, 130 interrupted.
    """
    Session(as_json=as_json).wait(lambda runtime: runtime.journal.find(reference))


def watch(
    task_id: Annotated[str, typer.Argument(help="A task submitted by something else, with the same key.")],
    wait: Wait = False,
    label: Label = None,
    state: State = None,
    to: To = None,
    auto: Auto = None,
    as_json: AsJSON = False,
) -> None:
    """Take over a task somebody else submitted.

    It is followed and delivered like your own.
    """
    chosen = options(label=label, state=state, to=to, auto=auto)
    Session(as_json=as_json).submit(lambda runtime: runtime.submissions.adopt(task_id, chosen), wait=wait)
