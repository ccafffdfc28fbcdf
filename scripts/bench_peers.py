#!/usr/bin/env python3
"""Receiver beside its peers, on this machine: the same callback, the same written file. Run by `scripts/bench --peers`.

usage: scripts/bench --peers [--rounds N] [--seconds N] [--cores 1|2] [--only NAME,NAME] [--json FILE] [--folder FOLDER]

Each stack (web, worker and, where it has one, its Redis or PostgreSQL) runs on one core, the load on another. With
`--cores 2` all of them share both. Stacks take turns in rounds. Each is loaded, then let finish, then started anew,
loaded again, killed with SIGKILL in the middle (its broker too), and started again: a callback that was answered with
200 and has no file 30 s after the last new file is missing. Redis and adnanh/webhook come from Debian's packages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from ports import free_port
from postgres_server import Server

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
BIN = ROOT / ".venv" / "bin"
PAYLOAD = ROOT / "tests" / "payloads" / "callback_13_csharp_success.json"
CONNECTIONS = 64
FASTEST = 6_000
"""Callbacks a second that submissions are made for."""
PATIENCE = 60.0
"""Seconds until a stack that does not start is given up."""
QUIET = 3.0
"""Seconds without a new file after which a stack has finished."""
QUIET_AFTER_KILL = 30.0
MOST = 180.0
"""Seconds after which a stack that goes on is no longer waited for."""
PYTHON = str(BIN / "python")


@dataclass(frozen=True)
class Peer:
    """A stack: what it is, what survives a crash by its own settings, and its processes."""

    name: str
    durability: str
    commands: tuple[tuple[str, ...], ...]
    broker: str | None = None
    path: str = "/callbacks/{token}"
    needs: str | None = None


def _module(name: str, function: str = "web") -> tuple[str, ...]:
    return (PYTHON, "-m", "peers", name, function)


PEERS = (
    Peer("Receiver, SQLite", "fsync before 200", (_module("with_receiver"),)),
    Peer("Receiver, PostgreSQL", "fsync before 200", (_module("with_receiver"),), "postgres"),
    Peer(
        "dramatiq",
        "Redis, fsync each second",
        (
            _module("with_dramatiq"),
            (str(BIN / "dramatiq"), "peers.with_dramatiq", "--processes", "1", "--threads", "8"),
        ),
        "redis",
    ),
    Peer(
        "huey",
        "SQLite, no fsync",
        (_module("with_huey"), (str(BIN / "huey_consumer"), "peers.with_huey.huey", "--workers", "4", "--quiet")),
    ),
    Peer(
        "Celery",
        "Redis, fsync each second",
        (_module("with_celery"), (str(BIN / "celery"), "--app", "peers.with_celery", "--quiet", "worker")),
        "redis",
    ),
    Peer(
        "arq",
        "Redis, fsync each second",
        (_module("with_arq"), (str(BIN / "arq"), "peers.with_arq.WorkerSettings")),
        "redis",
    ),
    Peer(
        "pgqueuer",
        "fsync before 200",
        (_module("with_pgqueuer"), _module("with_pgqueuer", "work")),
        "postgres",
    ),
    Peer(
        "procrastinate",
        "fsync before 200",
        (_module("with_procrastinate"), _module("with_procrastinate", "work")),
        "postgres",
    ),
    Peer("SQLAlchemy by hand", "SQLite, fsync before 200", (_module("by_hand"), _module("by_hand", "work"))),
    Peer(
        "adnanh/webhook + sh",
        "none",
        (
            (
                "webhook",
                "-hooks",
                "{folder}/hooks.json",
                "-port",
                "{port}",
                "-ip",
                "127.0.0.1",
                "-urlprefix",
                "callbacks",
            ),
        ),
        path="/callbacks/made",
        needs="webhook",
    ),
)
HOOKS = [
    {
        "id": "made",
        "execute-command": "/bin/sh",
        "command-working-directory": "{folder}",
        "pass-arguments-to-command": [
            {"source": "string", "name": "-c"},
            {"source": "string", "name": 'printf %s "$0" > "effects/$0"'},
            {"source": "payload", "name": "id"},
        ],
        "include-command-output-in-response": False,
    }
]


@dataclass(frozen=True)
class Options:
    rounds: int
    seconds: float
    cores: int
    peers: tuple[Peer, ...]
    folder: Path
    json: Path | None
    stack_cores: frozenset[int]
    load_cores: frozenset[int]


def main() -> int:
    options = read_options()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that every stack is stopped
    runs: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in options.peers}
    with tempfile.TemporaryDirectory(
        prefix="receiver-peers-", dir=options.folder
    ) as name:  # no file goes before its end
        for number in range(options.rounds):
            for peer in options.peers:
                folder = Path(name) / f"{number}-{options.peers.index(peer)}"
                figures = speed(peer, folder / "speed", options) | losses(peer, folder / "kill", options)
                runs[peer.name].append(figures)
                tell(f"round {number + 1}/{options.rounds}  {peer.name:22}  {figures}")
    print_table(options, runs)
    if options.json is not None:
        options.json.write_text(json.dumps(runs, indent=2) + "\n")
    return 0


def read_options() -> Options:
    parser = argparse.ArgumentParser(prog="scripts/bench --peers")
    parser.add_argument("--rounds", type=int, default=3, help="how often each stack runs (default 3)")
    parser.add_argument("--seconds", type=float, default=5, help="of load in each run (default 5)")
    parser.add_argument("--cores", type=int, choices=(1, 2), default=1, help="cores of the whole stack (default 1)")
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="stacks whose names begin so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there, too")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")  # noqa: S108
    given = parser.parse_args()
    wanted = [word.strip().lower() for word in given.only.split(",") if word.strip()]
    peers = tuple(peer for peer in PEERS if not wanted or any(peer.name.lower().startswith(word) for word in wanted))
    if not peers:
        raise SystemExit(f"--only: no stack begins with {given.only!r}. There are: {', '.join(p.name for p in PEERS)}.")
    programs = {"redis-server": any(peer.broker == "redis" for peer in peers)}
    programs |= {peer.needs: True for peer in peers if peer.needs}
    missing = [name for name, used in programs.items() if used and shutil.which(name) is None]
    if missing:
        raise SystemExit(
            f"Not installed: {', '.join(missing)}. Get them with: sudo apt-get install {' '.join(missing)}"
        )
    cores = sorted(os.sched_getaffinity(0))
    both = frozenset(cores[:1] + cores[-1:])
    return Options(
        rounds=max(given.rounds, 1),
        seconds=given.seconds,
        cores=given.cores,
        peers=peers,
        folder=given.folder,
        json=given.json,
        stack_cores=frozenset(cores[:1]) if given.cores == 1 else both,
        load_cores=frozenset(cores[-1:]) if given.cores == 1 else both,
    )


def tell(text: str) -> None:
    """For people; standard output is the table's."""
    print(text, file=sys.stderr, flush=True)


# A stack


@dataclass
class Stack:
    """A peer's processes, and where they work."""

    peer: Peer
    folder: Path
    options: Options
    count: int
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    database: Server | None = None
    redis_port: int = field(default_factory=free_port)

    def start(self) -> None:
        """Start broker, web and worker, and wait until the port is open."""
        (self.folder / "effects").mkdir(parents=True, exist_ok=True)
        (self.folder / "hooks.json").write_text(json.dumps(HOOKS).replace("{folder}", str(self.folder)))
        with self._on_its_cores():
            self._start_broker()
            environ = {
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "LANG": "C.UTF-8",
                "PYTHONPATH": str(SCRIPTS),
                "PEERS_FOLDER": str(self.folder),
                "PEERS_PORT": str(self.port),
                "PEERS_SUBMISSIONS": str(self.count),
                "PEERS_REDIS": str(self.redis_port),
                "PEERS_POSTGRES": self.database.url() if self.database is not None else "",
            }
            values = {"port": str(self.port), "folder": str(self.folder)}
            for number, command in enumerate(self.peer.commands):
                self._run([word.format(**values) for word in command], environ)
                if number == 0:
                    self._wait_for(self.port)  # the web process makes what the worker reads

    def kill(self) -> None:
        """End everything as a lost machine would, short of the kernel's own memory."""
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)
        if self.database is not None:
            self.database.stop("immediate")
        for process in self.processes:
            process.wait()
        self.processes.clear()

    def close(self) -> None:
        self.kill()
        if self.database is not None:
            self.database.close()

    def pids(self) -> list[int]:
        """Return the processes of the stack and all that they have started."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and (values := _stat(int(entry.name))):
                parents.setdefault(values[0], []).append(int(entry.name))
        found, roots = list[int](), [process.pid for process in self.processes]
        if self.database is not None:
            roots.append(int((self.database.folder / "data" / "postmaster.pid").read_text().split()[0]))
        while roots:
            found.append(roots.pop())
            roots += parents.get(found[-1], [])
        return found

    def cpu_seconds(self) -> float:
        """Return the processor time of the stack, with that of children that have ended."""
        ticks = sum(sum(values[1:]) for pid in self.pids() if (values := _stat(pid)))
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return the memory of the stack, shared pages divided by those who share them."""
        total = 0
        for pid in self.pids():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024

    def effects(self) -> int:
        with os.scandir(self.folder / "effects") as found:
            return sum(1 for _ in found)

    def until_finished(self, quiet: float, enough: int | None = None) -> None:
        """Wait until no file has come for `quiet` seconds, or as many as are enough are there."""
        before, since, until = -1, time.monotonic(), time.monotonic() + MOST
        while time.monotonic() < min(since + quiet, until):
            now = self.effects()
            if enough is not None and now >= enough:
                return
            if now != before:
                before, since = now, time.monotonic()
            time.sleep(0.2)

    @contextmanager
    def _on_its_cores(self) -> Iterator[None]:
        """Let what is started in the block inherit the cores of the stack."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.options.stack_cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def _start_broker(self) -> None:
        if self.peer.broker == "postgres":
            if self.database is None:
                self.database = Server()
            else:
                self.database.start()
        if self.peer.broker == "redis":
            command = ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
            self._run([*command, "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""], dict(os.environ))
            self._wait_for(self.redis_port)

    def _run(self, command: list[str], environ: dict[str, str]) -> None:
        with (self.folder / "output").open("ab") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environ, stdout=output, stderr=output, start_new_session=True
            )
        self.processes.append(process)

    def _wait_for(self, port: int) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.processes[-1].poll() is None:
            if _answers(port):
                return
            time.sleep(0.02)
        raise SystemExit(f"{self.peer.name} did not start. It said: {(self.folder / 'output').read_text()[-2000:]}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _stat(pid: int) -> list[int]:
    """Return the parent and the four processor times of a process, or nothing if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(fields[1]), *map(int, fields[11:15])]


# Load


@dataclass
class Answers:
    """Tasks whose callbacks were answered with 200, the seconds that each answer took, and what went wrong."""

    tasks: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    refused: int = 0


def targets(stack: Stack) -> Iterator[tuple[str, str, str]]:
    """Yield (path, state, task), each once."""
    file = stack.folder / "targets"
    if file.exists():
        for line in file.read_text().splitlines():
            token, state, task = line.split()
            yield stack.peer.path.format(token=token), state, task
    else:
        for number in range(stack.count):
            yield stack.peer.path.format(token=f"t{number}"), "s" * 80, f"17733149421{number:06}"


def load(stack: Stack, seconds: float, until: Callable[[Answers], bool] = lambda answers: False) -> Answers:
    """Post callbacks by 64 connections, each after the answer to its last."""
    task = json.loads(PAYLOAD.read_text())
    task |= {"status": "FAILURE", "failReason": "the queue is full", "state": "@STATE@", "id": "@TASK@"}
    template = json.dumps(task, separators=(",", ":"), ensure_ascii=False).encode()
    answers, waiting = Answers(), targets(stack)

    async def caller(end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        for path, state, task_id in waiting:
            body = template.replace(b"@STATE@", state.encode()).replace(b"@TASK@", task_id.encode())
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            begun = time.monotonic()
            try:
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_length(answer))
            except (OSError, asyncio.IncompleteReadError):
                return  # killed
            if answer.startswith(b"HTTP/1.1 200"):
                answers.tasks.append(task_id)
                answers.seconds.append(time.monotonic() - begun)
            else:
                answers.refused += 1
            if time.monotonic() > end or until(answers):
                break
        writer.close()

    async def callers() -> None:
        end = time.monotonic() + seconds
        await asyncio.gather(*(caller(end) for _ in range(CONNECTIONS)))

    os.sched_setaffinity(0, stack.options.load_cores)
    uvloop.run(callers())
    return answers


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0]) if rest else 0


# Measurements


@contextmanager
def running(peer: Peer, folder: Path, options: Options) -> Iterator[Stack]:
    folder.mkdir(parents=True)
    count = int(FASTEST * options.seconds)
    with ExitStack() as ending:
        stack = Stack(peer, folder, options, count)
        ending.callback(stack.close)
        stack.start()
        yield stack


def speed(peer: Peer, folder: Path, options: Options) -> dict[str, float]:
    """Load a stack, and let it finish."""
    with running(peer, folder, options) as stack:
        time.sleep(3)
        memory, cpu = stack.memory_mb(), stack.cpu_seconds()
        begun, begun_at = time.monotonic(), time.time()
        answers = load(stack, options.seconds)
        loaded = time.monotonic() - begun
        stack.until_finished(QUIET, enough=len(answers.tasks))
        effects = stack.effects()
        cpu = stack.cpu_seconds() - cpu
        with os.scandir(folder / "effects") as found:
            last = max((entry.stat().st_mtime for entry in found), default=begun_at)
    ordered = sorted(answers.seconds)
    return {
        "accepted_per_second": round(len(answers.tasks) / loaded, 1),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 1) if ordered else float("nan"),
        "effects_per_second": round(effects / max(last - begun_at, 0.001), 1),
        "cpu_ms": round(cpu * 1000 / max(effects, 1), 3),
        "idle_mb": round(memory, 1),
        "refused": answers.refused,
    }


def losses(peer: Peer, folder: Path, options: Options) -> dict[str, float]:
    """Kill a stack under load, start it again, and count the accepted callbacks that never have their file."""
    with running(peer, folder, options) as stack:
        half = options.seconds / 2
        begun = time.monotonic()

        def killed(answers: Answers) -> bool:
            if stack.processes and time.monotonic() > begun + half:
                stack.kill()
            return False

        answers = load(stack, options.seconds, killed)
        if stack.processes:
            stack.kill()
        before = stack.effects()
        stack.start()
        stack.until_finished(QUIET_AFTER_KILL, enough=None if before < len(answers.tasks) else 0)
        there = {entry.name for entry in os.scandir(folder / "effects")}
    return {"accepted_before_kill": len(answers.tasks), "missing": len(set(answers.tasks) - there)}


# What was found


def print_table(options: Options, runs: dict[str, list[dict[str, float]]]) -> None:
    core = "one core" if options.cores == 1 else "two cores, shared with the load"
    print(f"\nThe whole stack on {core}; 64 connections; {options.seconds:g} s of load; medians of {options.rounds}.\n")
    print(
        "| stack | durability | accepted/s | p99 ms | effects/s | CPU ms an effect | idle MB | missing after kill -9 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for peer in options.peers:
        found = runs[peer.name]

        def of(name: str, found: list[dict[str, float]] = found) -> float:
            return statistics.median(run[name] for run in found)

        lost, sent = (sum(int(run[name]) for run in found) for name in ("missing", "accepted_before_kill"))
        print(
            f"| {peer.name} | {peer.durability} | {of('accepted_per_second'):,.0f} | {of('p99_ms'):,.0f} "
            f"| {of('effects_per_second'):,.0f} | {of('cpu_ms'):.2f} | {of('idle_mb'):.0f} | {lost:,} of {sent:,} |"
        )


if __name__ == "__main__":
    sys.exit(main())
