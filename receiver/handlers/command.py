"""The command handler: a program of yours gets each event as JSON on its standard input. No shell, no argument of ours.

| the program | then |
|---|---|
| ends with 0 | succeeded; its last line is the receipt |
| ends with 75 (`EX_TEMPFAIL` of sysexits) | tried again after `later`; no attempt is used up |
| ends with 65 (`EX_DATAERR`) | rejected: the delivery is dead now |
| ends with anything else, or by a signal | failed: tried again by schedule |
| cannot be started | failed: tried again by schedule |
| runs too long | TERM, then KILL, to its whole process group; failed |
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import unquote

from pydantic import BeforeValidator, Field, SecretStr

from receiver.deliveries import Receipt
from receiver.errors import SettingsError
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions, Rejected, RetryLater
from receiver.handlers.cloudevents import cloud_event, encode
from receiver.handlers.process import Output, Process
from receiver.telemetry import learn, redact

LATER, NEVER = 75, 65
"""Exit statuses (sysexits.h): EX_TEMPFAIL and EX_DATAERR."""
PENDING_SECONDS = 15.0
"""How long to wait for a picture that is still being downloaded."""
GRACE = 0.5
"""Seconds between TERM and KILL."""
SHOWN = 400
"""Characters of what a program said that are kept."""
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE")
"""All that the program gets of our environment, which holds keys."""


class CommandFailed(Exception):
    """The program did not do it; the text says how it ended, and what it said last."""


def _arguments(value: object) -> object:
    try:
        return shlex.split(value) if isinstance(value, str) else value
    except ValueError as exc:
        raise ValueError(f"its quotes do not match ({exc})") from exc


class CommandHandler:
    """Runs a program for each event. It may be run twice for one event: `IDEMPOTENCY_KEY` is the same then."""

    name = "command"
    summary = "A program of yours with each event as JSON on its standard input."
    schemes = ("command",)
    guarantee: ClassVar[Guarantee] = "at least once"

    class Options(HandlerOptions):
        """Options of a `command` destination."""

        command: Annotated[tuple[str, ...], BeforeValidator(_arguments), Field(min_length=1)] = Field(
            description="The program and its arguments, as a list, or as text with quotes. No shell reads it."
        )
        folder: Path = Field(Path(), description="Where it runs.")
        environment: dict[str, SecretStr] = Field(
            {}, description="Variables it gets beside PATH, HOME, language and time zone."
        )
        later: float = Field(60.0, gt=0, description=f"Seconds to wait when it ends with exit status {LATER}.")

    def __init__(self, options: Options) -> None:
        self._folder = options.folder.expanduser().absolute()
        given = {name: value.get_secret_value() for name, value in options.environment.items()}
        learn(given.values())
        self._environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | given
        self._arguments = [_find(options.command[0], self._folder, self._environment), *options.command[1:]]
        self._later = options.later

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Options from `command:./publish` or `command:/usr/local/bin/publish`: the program, without arguments."""
        program = unquote(url.partition(":")[2])
        if not program or program.startswith("//"):
            raise ValueError("it names no program; write command:./publish, or the option command")
        return {"command": [program]}

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Run the program once.

        Raises:
            RetryLater: the picture is still being downloaded, or the program says later.
            Rejected: the program says never.
            CommandFailed: everything else but 0.
        """
        if not attempt.media and attempt.media_pending:
            raise RetryLater(PENDING_SECONDS, "the picture is still being downloaded")
        paths = [str(item.path.absolute()) for item in attempt.media]
        document = encode(cloud_event(attempt, files=[{"path": path} for path in paths]))
        output = await self._run(document, self._environment | _variables(attempt, paths), _own_deadline(attempt))
        return self._outcome(output)

    async def aclose(self) -> None:
        """Nothing is kept between attempts."""

    async def _run(self, document: bytes, environment: dict[str, str], seconds: float) -> Output:
        try:
            process = await Process.start(self._arguments, self._folder, environment)
        except OSError as exc:
            raise CommandFailed(f"{self._arguments[0]} could not be started: {exc.strerror or exc}") from exc
        try:
            async with asyncio.timeout(seconds):
                await process.feed(document)
        except TimeoutError:
            await process.end(GRACE)
            said = _tail(process.output)
            raise CommandFailed(f"{self._arguments[0]} ran longer than {seconds:g} s and was ended{said}") from None
        finally:
            await process.end(GRACE)
        return process.output

    def _outcome(self, output: Output) -> Receipt:
        if output.status == 0:
            return _receipt(output)
        said = _tail(output)
        if output.status == LATER:
            raise RetryLater(self._later, f"exit status {LATER}: later{said}")
        if output.status == NEVER:
            raise Rejected(f"exit status {NEVER}: never{said}")
        raise CommandFailed(f"{_how(output.status)}{said}")


def _own_deadline(attempt: Attempt) -> float:
    """Before the dispatcher's, so that there is time for TERM and KILL."""
    return max(attempt.deadline - 2 * GRACE, attempt.deadline * 0.8)


def _variables(attempt: Attempt, paths: list[str]) -> dict[str, str]:
    """Ours only, and none that another `receiver` would take for a setting: what a stranger wrote is in the JSON."""
    event = attempt.event
    named = {
        "EVENT_ID": event.id,
        "EVENT_TYPE": event.type,
        "SUBMISSION_ID": event.submission_id,
        "IDEMPOTENCY_KEY": attempt.idempotency_key,
        "ATTEMPT": str(attempt.number),
    }
    return named | ({"MEDIA_PATH": paths[0]} if paths else {})


def _find(program: str, folder: Path, environment: dict[str, str]) -> str:
    """The program's full path. Raises SettingsError when there is none that can be run."""
    if not folder.is_dir():
        raise SettingsError(f"the option folder is wrong: there is no folder {folder}. Make it, or name another.")
    place = str(folder / Path(program).expanduser()) if os.sep in program else program
    found = shutil.which(place, path=environment.get("PATH", os.defpath))
    if found is None:
        raise SettingsError(
            f"the option command is wrong: there is no program {program} that can be run. "
            "Write its whole path, and make it executable: chmod +x"
        )
    return found


def _receipt(output: Output) -> Receipt:
    """What the program said last is what it made: a link, an id, a path."""
    lines = [line for line in _lines(output.out) if line]
    last = lines[-1][:SHOWN] if lines else None
    link = last if last and last.startswith(("https://", "http://")) and " " not in last else None
    return Receipt(ref=last, url=link)


def _tail(output: Output) -> str:
    """The end of what it said about itself: errors first, else whatever there is."""
    said = " ".join(_lines(output.err) or _lines(output.out))
    return f": {'…' if len(said) > SHOWN else ''}{said[-SHOWN:]}" if said else ""


def _lines(data: bytes) -> list[str]:
    text = redact(data.decode("utf-8", "replace"))
    return [
        " ".join("".join(char if char.isprintable() else " " for char in line).split()) for line in text.splitlines()
    ]


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    name = str(-status)
    with suppress(ValueError):
        name = signal.Signals(-status).name
    return f"ended by {name}"
