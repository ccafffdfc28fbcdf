"""`submit` and `wait`."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from receiver.cli.following import follow
from receiver.cli.output import note, print_json, say
from receiver.cli.running import run, settings_for
from receiver.errors import Ambiguous, InputError, Refused
from receiver.events import Submission
from receiver.provider import SPEEDS
from receiver.runtime import Receiver, open_receiver
from receiver.settings import Settings
from receiver.submissions import Imagine

BOTS = {"midjourney": "MID_JOURNEY", "niji": "NIJI_JOURNEY"}
INTERRUPTED = 130

AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def submit(
    prompt: Annotated[str, typer.Argument(help="What to draw, with the provider's own parameters; - reads it.")],
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the result has reached every destination.")] = False,
    speed: Annotated[str | None, typer.Option(help=f"{', '.join(SPEEDS)}.", show_default=False)] = None,
    bot: Annotated[str | None, typer.Option(help=f"{' or '.join(BOTS)}.", show_default=False)] = None,
    picture: Annotated[
        list[str] | None, typer.Option(help="A reference picture: a file or data URI. Repeatable.", show_default=False)
    ] = None,
    account_filter: Annotated[
        str | None, typer.Option(help='The provider\'s accountFilter, as JSON: {"modes": ["FAST"]}.')
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="name=value, carried by every event. Repeatable.", show_default=False)
    ] = None,
    state: Annotated[str | None, typer.Option(help="Your own state, carried by every event.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Submit a prompt. Without --wait it returns when the provider has accepted it.

    COMETAPI_KEY holds the provider's key; `receiver settings` shows all settings.

    Exit status: 0 succeeded, 1 error, 3 failed, 4 input required, 5 lost, 130 interrupted.
    """
    request = Imagine(
        prompt=_stdin() if prompt == "-" else prompt,
        bot_type=None if bot is None else _bot(bot),
        pictures=tuple(picture or ()),
        account_filter=_json(account_filter),
        speed=speed,
        labels=dict(_label(text) for text in label or ()),
        state=state,
    )
    _Run(settings_for(quiet=True), as_json=as_json).submit(request, wait=wait)


def wait(
    reference: Annotated[str, typer.Argument(help="The submission's id, its start or end, or the task id.")],
    as_json: AsJSON = False,
) -> None:
    """Stay until a result has reached every destination.

    Exit status: 0 succeeded, 1 error, 3 failed, 4 input required, 5 lost, 130 interrupted.
    """
    _Run(settings_for(quiet=True), as_json=as_json).wait(reference)


class _Run:
    """One command's work, and what it says when a person interrupts it."""

    def __init__(self, settings: Settings, *, as_json: bool) -> None:
        self._settings = settings
        self._as_json = as_json
        self._resume: str | None = None

    def submit(self, request: Imagine, *, wait: bool) -> None:
        self._interruptibly(self._submit(request, wait=wait))

    def wait(self, reference: str) -> None:
        self._interruptibly(self._wait(reference))

    def _interruptibly(self, main: Any) -> None:
        try:
            status = run(main)
        except KeyboardInterrupt:
            if self._resume:
                note(f"Interrupted; the task goes on. Resume with: receiver wait {self._resume}")
            raise typer.Exit(INTERRUPTED) from None
        if status:
            raise typer.Exit(status)

    async def _submit(self, request: Imagine, *, wait: bool) -> int:
        async with open_receiver(self._settings) as receiver:
            row = await receiver.submissions.prepare(request)
            self._resume = row.id
            row = await self._send(receiver, row, wait=wait)
            if wait:
                return await follow(receiver, row.id, as_json=self._as_json)
        if self._as_json:
            print_json({"submission": row.id, "task": row.task_id, "status": row.status, "detail": row.detail})
        elif row.status == "accepted":
            say(f"Submitted {row.id} as task {row.task_id}. Follow it with: receiver wait {row.id}")
        return 0

    async def _send(self, receiver: Receiver, row: Submission, *, wait: bool) -> Submission:
        """Send it now. A provider that is only busy is no error: the submission is kept and sent again. Nor is a lost
        answer, for those who wait: they are told what becomes of it."""
        try:
            return await receiver.submissions.send(row.id)
        except Refused as exc:
            if not exc.retry:
                raise
            note(
                f"{exc} Submission {row.id} is kept and sent again by `receiver serve`, `receiver worker` "
                f"or `receiver wait {row.id}`."
            )
        except Ambiguous as exc:
            if not wait:
                raise Ambiguous(f"{exc} See: receiver tasks show {row.id}") from exc
        return await receiver.journal.find(row.id)

    async def _wait(self, reference: str) -> int:
        async with open_receiver(self._settings) as receiver:
            row = await receiver.journal.find(reference)
            self._resume = row.id
            return await follow(receiver, row.id, as_json=self._as_json)


def _stdin() -> str:
    """Like an argument: what is no UTF-8 becomes half characters, which the check of the prompt explains."""
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")


def _bot(name: str) -> str:
    if name not in BOTS:
        raise InputError(f"--bot is {' or '.join(BOTS)}, not {name!r}.")
    return BOTS[name]


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--label takes name=value, not {text!r}.")
    return name, value


def _json(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InputError(f"--account-filter is not JSON: {exc}.") from exc
    if not isinstance(value, dict):
        raise InputError("--account-filter is a JSON object.")
    return value
