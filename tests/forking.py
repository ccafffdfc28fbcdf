"""Commands without the time of their imports: a process that has imported Receiver forks once for each command.

Run as a program, it is that process. Its standard input is a socket. Each byte on it comes with the standard streams of
a command and a channel, on which the arguments, the folder and the environment arrive and the exit status leaves.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO


class Forked:
    """A command that runs. It has what tests use of `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], folder: Path, env: Mapping[str, str], *, stdin: bool) -> None:
        (its_in, to), (out, its_out), (err, its_err) = os.pipe(), os.pipe(), os.pipe()
        self.stdout, self.stderr = os.fdopen(out, "rb"), os.fdopen(err, "rb")
        self.stdin: IO[bytes] | None = os.fdopen(to, "wb")
        if not stdin:
            self.stdin.close()
            self.stdin = None
        channel, its_channel = socket.socketpair()
        with its_channel:
            theirs = [its_in, its_out, its_err, its_channel.fileno()]
            socket.send_fds(_forking_process()[0], [b"."], theirs)
        for number in (its_in, its_out, its_err):
            os.close(number)
        with channel:
            channel.sendall(json.dumps([arguments, str(folder), dict(env)]).encode() + b"\n")
            # Without a buffer, in which a line would wait that `select` does not see.
            self._answers = channel.makefile("rb", buffering=0)
        self.pid = int(self._answers.readline())
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        if self._code is None and select.select([self._answers], [], [], 0)[0]:
            self.wait()
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status, which is negative after a signal."""
        if self._code is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("receiver", timeout or 0)
            self._code = int(self._answers.readline())
            self._answers.close()
        return self._code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _forking_process() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start it, and return our end of the socket. It ends when that closes, at the latest with our process."""
    ours, theirs = socket.socketpair()
    env = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    with theirs:
        return ours, subprocess.Popen([sys.executable, __file__], stdin=theirs, env=env, cwd="/")


def fork_commands() -> None:
    """Serve until the socket closes. Return in each command's own process, with all that is a command's."""
    requests = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, numbers, _, _ = socket.recv_fds(requests, 1, 4)
        if not data:
            raise SystemExit
        if os.fork() == 0:
            break
        for number in numbers:
            os.close(number)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    channel = socket.socket(fileno=numbers.pop()).makefile("rw")
    arguments, folder, env = json.loads(channel.readline())
    if pid := os.fork():
        for number in numbers:
            os.close(number)
        print(pid, file=channel, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=channel, flush=True)
        os._exit(0)
    channel.close()
    for number, ours in enumerate(numbers):
        os.dup2(ours, number)
        os.close(ours)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv = ["receiver", *arguments]


def run(main: Callable[[], object]) -> None:
    """Run the command and end as Python does, but without freeing what there is: that would copy all of our memory."""
    try:
        main()
    except SystemExit as exc:
        if not isinstance(exc.code, int | None):
            raise
        code = exc.code or 0
    else:
        code = 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    from receiver.bodies import certificates
    from receiver.cli import COMMANDS, main
    from receiver.handlers.registry import installed_handlers

    for commands in COMMANDS.values():
        for place, _ in commands.values():
            import_module(f"receiver.cli.{place.partition(':')[0]}")
    for name in ("anyio._backends._asyncio", "anyio.streams.tls", "receiver.simulator.pictures"):
        import_module(name)
    certificates()
    dict(installed_handlers())
    gc.freeze()
    fork_commands()
    run(main)
