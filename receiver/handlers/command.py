"""Command handler: a program of yours gets each event as JSON on its standard input. No shell and no arguments of ours.

| the program | outcome |
|---|---|
| ends with 0 | succeeded, and its last line is the receipt |
| ends with 75 (`EX_TEMPFAIL` of sysexits) | retried after `later`, without using up an attempt |
| ends with 65 (`EX_DATAERR`) | rejected: the delivery is dead now |
| ends with any other status, or by a signal | failed: retried by schedule |
| cannot be started | failed: retried by schedule |
| runs too long | failed, after TERM, then KILL, to its whole process group |
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from receiver.deliveries import Receipt
from receiver.errors import SettingsError
from receiver.handlers.base import Attempt, Guarantee, HandlerBase, HandlerOptions, Kind, Rejected, RetryLater, Secret
from receiver.handlers.cloudevents import cloud_event
from receiver.settings.kinds import Seconds
from receiver.telemetry import redact

LATER, NEVER = 75, 65
"""Exit statuses (sysexits.h): EX_TEMPFAIL and EX_DATAERR."""
GRACE = 0.5
"""Seconds between TERM and KILL."""
SHOWN = 400
"""Characters of a program's output that are kept in a receipt or reason."""
KEPT = 16 * 1024
"""Bytes of each output stream that are kept: the last ones."""
REST = 0.2
"""Seconds to wait for the rest of the output of a program that has ended: a child of it may hold the stream."""
INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE")
"""The only variables of our environment for the program, because others hold keys."""


class CommandFailed(Exception):
    """The program failed. The text says how it ended, with its last output."""


def _arguments(value: object) -> object:
    try:
        return shlex.split(value) if isinstance(value, str) else value
    except ValueError as exc:
        raise ValueError(f"its quotes do not match ({exc})") from exc


class CommandHandler(HandlerBase):
    """Runs a program for each event. It may run twice for one event, with the same `IDEMPOTENCY_KEY`."""

    name = "command"
    summary = "A program of yours with each event as JSON on its standard input."
    schemes = ("command",)
    guarantee: ClassVar[Guarantee] = "at least once"

    class Options(HandlerOptions):
        """Options of a `command` destination."""

        command: Annotated[
            tuple[str, ...],
            Kind(_arguments),
            Meta(min_length=1),
            "The program and its arguments, as a list, or as text with quotes. No shell reads it.",
        ]
        folder: Annotated[Path, "Working directory of the program."] = Path()
        environment: Annotated[
            dict[str, Secret], "Further variables for the program, beside PATH, HOME, language and time zone."
        ] = {}
        later: Annotated[Seconds, f"Time to wait when it ends with exit status {LATER}."] = 60.0

    def __init__(self, options: Options) -> None:
        self._folder = options.folder.absolute()
        given = {name: value.text for name, value in options.environment.items()}
        self._environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | given
        self._later = options.later
        if not self._folder.is_dir():
            problem = f"there is no folder {self._folder}. Make it, or name another."
            raise SettingsError(f"the option folder is wrong: {problem}")
        program, *arguments = options.command
        place = str(self._folder / Path(program).expanduser()) if os.sep in program else program
        found = shutil.which(place, path=self._environment.get("PATH", os.defpath))
        if found is None:
            raise SettingsError(
                f"the option command is wrong: there is no program {program} that can be run. "
                "Write its whole path, and make it executable: chmod +x"
            )
        self._arguments = [found, *arguments]

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Return options from `command:./publish` or `command:/usr/bin/publish`: the program, without arguments."""
        program = unquote(url.partition(":")[2])
        if not program or program.startswith("//"):
            raise ValueError("it names no program; write command:./publish, or the option command")
        return {"command": [program]}

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Run the program once. Raise RetryLater if it says later, Rejected if it says never, else CommandFailed."""
        paths = [str(item.path.absolute()) for item in attempt.media]
        document = msgspec.json.encode(cloud_event(attempt, files=[{"path": path} for path in paths]))
        # Words of ours only, none of them a setting of `receiver`. Other words are in the JSON.
        variables = {
            "EVENT_ID": attempt.event.id,
            "EVENT_TYPE": attempt.event.type,
            "SUBMISSION_ID": attempt.event.submission_id,
            "IDEMPOTENCY_KEY": attempt.idempotency_key,
            "ATTEMPT": str(attempt.number),
            **({"MEDIA_PATH": paths[0]} if paths else {}),
        }
        # Before the dispatcher's, so that there is time for TERM and KILL.
        seconds = max(attempt.deadline - 2 * GRACE, attempt.deadline * 0.8)
        try:
            process = await Process.start(self._arguments, self._folder, self._environment | variables)
        except OSError as exc:
            raise CommandFailed(f"{self._arguments[0]} could not be started: {exc.strerror or exc}") from exc
        try:
            async with asyncio.timeout(seconds):
                await process.feed(document)
        except TimeoutError:
            await process.end(GRACE)
            said = f"{self._arguments[0]} ran longer than {seconds:g} s and was ended{_tail(process)}"
            raise CommandFailed(said) from None
        finally:
            await process.end(GRACE)
        return self._outcome(process)

    def _outcome(self, process: Process) -> Receipt:
        if process.status == 0:  # the last line is what the program made: a link, an id, a path
            last = next((line[:SHOWN] for line in reversed(_lines(process.output[1])) if line), None)
            link = last if last and last.startswith(("https://", "http://")) and " " not in last else None
            return Receipt(ref=last, url=link)
        said = _tail(process)
        if process.status == LATER:
            raise RetryLater(self._later, f"exit status {LATER}: later{said}")
        if process.status == NEVER:
            raise Rejected(f"exit status {NEVER}: never{said}")
        end = f"exit status {process.status}"
        if process.status < 0:
            names = {number.value: number.name for number in signal.Signals}
            end = f"ended by {names.get(-process.status, -process.status)}"
        raise CommandFailed(f"{end}{said}")


def _tail(process: Process) -> str:
    """Return the end of its standard error, or of its standard output if that is empty."""
    said = " ".join(_lines(process.output[2]) or _lines(process.output[1]))
    return f": {'…' if len(said) > SHOWN else ''}{said[-SHOWN:]}" if said else ""


def _lines(data: bytes) -> list[str]:
    text = redact(data.decode("utf-8", "replace"))
    return [
        " ".join("".join(char if char.isprintable() else " " for char in line).split()) for line in text.splitlines()
    ]


class Process(asyncio.SubprocessProtocol):
    """Running program in a process group of its own, which never blocks the event loop. Always `end` it.

    Attributes:
        output: the last bytes of its standard output (1) and error (2), complete once `feed` has returned.
    """

    _transport: asyncio.SubprocessTransport
    _pid: int

    def __init__(self) -> None:
        self.output = {1: b"", 2: b""}
        self._open = set(self.output)
        self._exited = asyncio.Event()
        self._silent = asyncio.Event()
        self._ended = False

    @classmethod
    async def start(cls, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Process:
        """Start a program. Its first argument is its path. Raise OSError if the system cannot start it."""
        loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(
            loop.subprocess_exec(cls, *arguments, cwd=folder, env=dict(environment), start_new_session=True)
        )
        try:
            _, process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # asyncio itself would wait for ever for pipes that it has not connected. End it as soon as it is there.
            starting.add_done_callback(_end_at_once)
            raise
        return process

    @property
    def status(self) -> int:
        """Its exit status. A negative one is the signal that ended it."""
        return self._transport.get_returncode() or 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.output[fd] = (self.output[fd] + data)[-KEPT:]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open.discard(fd)
        if not self._open:
            self._silent.set()

    def process_exited(self) -> None:
        self._exited.set()

    async def feed(self, data: bytes) -> None:
        """Write `data` to its standard input and wait for its end. It need not read."""
        stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        if not stdin.is_closing():  # it may have ended, or closed it, already
            stdin.write(data)
            stdin.close()  # when all is written
        await self._exited.wait()

    async def end(self, grace: float) -> None:
        """End the rest of its process group by TERM, and by KILL `grace` seconds later, at once if cancelled."""
        if self._ended:
            return
        self._ended = True
        try:
            if not self._exited.is_set():
                _signal(self._pid, signal.SIGTERM)
                await _within(grace, self._exited)
            _signal(self._pid, signal.SIGKILL)
            await _within(REST, self._exited)
            await _within(REST, self._silent)
        except asyncio.CancelledError:
            _signal(self._pid, signal.SIGKILL)
            raise
        finally:
            self._transport.close()


def _end_at_once(started: asyncio.Future[tuple[asyncio.SubprocessTransport, Process]]) -> None:
    if not started.cancelled() and started.exception() is None:
        transport, _ = started.result()
        _signal(transport.get_pid(), signal.SIGKILL)
        transport.close()


def _signal(group: int, number: signal.Signals) -> None:
    """Signal a whole group, which has the number of its first process."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
