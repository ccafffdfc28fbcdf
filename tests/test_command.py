"""The command handler, with real programs: what one gets, and what becomes of a delivery by how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from waiting import PATIENCE

from receiver.deliveries import Receipt
from receiver.errors import SettingsError
from receiver.handlers.base import Attempt, Rejected, RetryLater
from receiver.handlers.command import CommandFailed, CommandHandler, Process
from receiver.handlers.registry import build
from receiver.settings import Destination
from receiver.settings.options import read_options
from receiver.testing import check_handler, make_attempt


def handler(*command: str, **options: Any) -> CommandHandler:
    return CommandHandler(read_options(CommandHandler.Options, {"command": command, **options}))


async def run(script: str, attempt: Attempt, **options: Any) -> Receipt:
    """A script in the language at hand."""
    return await handler(sys.executable, "-c", script, **options).deliver(attempt)


async def shell(script: str, attempt: Attempt, **options: Any) -> Receipt:
    return await handler("/bin/sh", "-c", script, **options).deliver(attempt)


# What a program gets


async def test_the_event_and_the_pictures_path(tmp_path: Path) -> None:
    """The event as JSON on standard input, the first file's path and our own ids in the environment."""
    attempt = make_attempt(tmp_path, pictures=2)
    script = "import json, os, sys; json.dump([json.load(sys.stdin), dict(os.environ)], open('got.json', 'w'))"
    await run(script, attempt, folder=tmp_path)
    event, environment = json.loads((tmp_path / "got.json").read_text())
    assert (event["type"], event["id"], event["specversion"]) == ("task.succeeded", attempt.event.id, "1.0")
    assert [item["path"] for item in event["data"]["media"]] == [str(item.path) for item in attempt.media]
    assert environment["MEDIA_PATH"] == str(attempt.media[0].path)
    assert environment["IDEMPOTENCY_KEY"] == attempt.idempotency_key
    assert (environment["EVENT_TYPE"], environment["ATTEMPT"]) == ("task.succeeded", "1")
    assert environment["SUBMISSION_ID"] == attempt.event.submission_id


async def test_nothing_of_our_environment_but_what_every_program_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our keys stay here; what the options name goes along."""
    monkeypatch.setenv("COMETAPI_KEY", "sk-0123456789abcdef")
    monkeypatch.setenv("MEDIA_PATH", "/somewhere")
    await shell("env > got", make_attempt(tmp_path, "task.failed"), folder=tmp_path, environment={"ALBUM": "boats"})
    names = {line.partition("=")[0] for line in (tmp_path / "got").read_text().splitlines()}
    assert "COMETAPI_KEY" not in names
    assert "MEDIA_PATH" not in names
    assert {"PATH", "ALBUM", "EVENT_ID"} <= names


async def test_no_word_of_a_stranger_is_read_by_anything(tmp_path: Path) -> None:
    """What a prompt says stands in the JSON and nowhere else, and no shell sees the arguments."""
    attempt = make_attempt(tmp_path)
    event = msgspec.structs.replace(attempt.event, prompt="$(touch made); `touch made` \0\n--flag")
    evil = dataclasses.replace(attempt, event=event)
    script = "import json, os, sys; print([sys.argv, json.load(sys.stdin)['data']['prompt'] in str(os.environ)])"
    receipt = await handler(sys.executable, "-c", script, "$HOME; *", folder=tmp_path).deliver(evil)
    assert receipt.ref == "[['-c', '$HOME; *'], False]"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("size", [0, 5_000_000])
async def test_a_program_need_not_read(tmp_path: Path, size: int) -> None:
    """However much there is to read."""
    attempt = make_attempt(tmp_path)
    event = msgspec.structs.replace(attempt.event, prompt="x" * size)
    assert await shell("exec true", dataclasses.replace(attempt, event=event)) == Receipt()


async def test_all_of_a_large_event_arrives(tmp_path: Path) -> None:
    """More than a pipe holds, while the program talks as much."""
    attempt = make_attempt(tmp_path)
    event = msgspec.structs.replace(attempt.event, prompt="x" * 3_000_000)
    script = "import sys; sys.stderr.write('e' * 1000000); print('o' * 1000000); print(len(sys.stdin.read()) > 3000000)"
    assert (await run(script, dataclasses.replace(attempt, event=event))).ref == "True"


# What its end makes of it


@pytest.mark.parametrize(
    ("script", "receipt"),
    [
        ("true", Receipt()),
        ("echo made 17; echo; echo talk >&2", Receipt(ref="made 17")),
        ("echo https://x.example/17", Receipt(ref="https://x.example/17", url="https://x.example/17")),
        ("printf 'a\\033[2Jb\\n'", Receipt(ref="a [2Jb")),
        ("echo Authorization: Bearer abcdef", Receipt(ref="Authorization: Bearer [redacted]")),
    ],
)
async def test_its_last_line_is_the_receipt(tmp_path: Path, script: str, receipt: Receipt) -> None:
    """A link is one; secrets and what steers a terminal are taken out."""
    assert await shell(script, make_attempt(tmp_path)) == receipt


ENDS: dict[str, tuple[str, type[Exception], str]] = {
    "later": ("echo busy >&2; exit 75", RetryLater, "exit status 75: later: busy"),
    "never": ("echo no such album; exit 65", Rejected, "exit status 65: never: no such album"),
    "1": ("echo out; echo broken >&2; exit 1", CommandFailed, "exit status 1: broken"),
    "silent": ("exit 3", CommandFailed, "exit status 3"),
    "127": ("nosuchprogram 2>/dev/null", CommandFailed, "exit status 127"),
    "signal": ("kill -SEGV $$", CommandFailed, "ended by SIGSEGV"),
    "secret": (
        "echo https://user:pw@x.example >&2; exit 1",
        CommandFailed,
        "exit status 1: https://[redacted]@x.example",
    ),
}


@pytest.mark.parametrize("name", ENDS)
async def test_how_it_ends_decides(tmp_path: Path, name: str) -> None:
    """Its exit status and what it said last, errors first."""
    script, kind, text = ENDS[name]
    with pytest.raises(kind) as caught:
        await shell(script, make_attempt(tmp_path), later=17)
    assert str(caught.value) == text
    if isinstance(caught.value, RetryLater):
        assert (caught.value.after, caught.value.pause) == (17.0, False)


async def test_what_it_says_is_capped(tmp_path: Path) -> None:
    """The end of it counts, and memory does not grow with it."""
    script = "import sys\nfor _ in range(20000): sys.stderr.write('x' * 1000)\nsys.stderr.write('the end'); sys.exit(1)"
    with pytest.raises(CommandFailed) as caught:
        await run(script, make_attempt(tmp_path))
    assert str(caught.value).endswith("xxthe end")
    assert len(str(caught.value)) < 450


async def test_one_that_cannot_be_started_any_more(tmp_path: Path) -> None:
    """It was there at the start, and is gone: a failure like others."""
    program = tmp_path / "publish"
    program.write_text("#!/bin/sh\ntrue\n")
    program.chmod(0o755)
    item = handler(str(program))
    program.unlink()
    with pytest.raises(CommandFailed, match=r"publish could not be started: No such file or directory"):
        await item.deliver(make_attempt(tmp_path))


# Its time


def alive(pid: int) -> bool:
    """A zombie has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def ended(path: Path) -> None:
    """Until the process whose id stands in a file is gone."""
    async with asyncio.timeout(PATIENCE):
        while alive(int(path.read_text())):  # noqa: ASYNC110 - another process's end has no event here
            await asyncio.sleep(0.01)


FAMILY = "sleep 600 & echo $! > child; echo $$ > pid; {trap}; echo started; wait; wait; sleep 600"


@pytest.mark.parametrize("trap", ["true", "trap '' TERM"])
async def test_its_whole_process_group_ends_at_the_deadline(tmp_path: Path, trap: str) -> None:
    """By TERM, and by KILL if it does not listen; with what it said until then."""
    with pytest.raises(CommandFailed, match=r"/sh ran longer than 0\.8 s and was ended: started$"):
        await shell(FAMILY.format(trap=trap), make_attempt(tmp_path, deadline=1.0), folder=tmp_path)
    await ended(tmp_path / "pid")
    await ended(tmp_path / "child")


async def test_term_lets_it_clean_up(tmp_path: Path) -> None:
    """Half a second is for that."""
    script = "trap 'echo bye > bye; exit 0' TERM; while true; do sleep 0.05; done"
    with pytest.raises(CommandFailed, match="ran longer than"):
        await shell(script, make_attempt(tmp_path, deadline=0.6), folder=tmp_path)
    assert (tmp_path / "bye").read_text() == "bye\n"


@pytest.mark.parametrize("trap", ["true", "trap '' TERM"])
async def test_a_cancelled_attempt_leaves_nothing_running(tmp_path: Path, trap: str) -> None:
    """A drain waits a second for that, no longer. What will not listen is killed."""
    task = asyncio.create_task(shell(FAMILY.format(trap=trap), make_attempt(tmp_path), folder=tmp_path))
    async with asyncio.timeout(PATIENCE):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    task.cancel()
    async with asyncio.timeout(PATIENCE):  # by itself it takes ten minutes
        with pytest.raises(asyncio.CancelledError):
            await task
    await ended(tmp_path / "pid")
    await ended(tmp_path / "child")


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_start_that_is_cancelled_leaves_nothing_running(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """At whichever turn of the loop. asyncio would wait for its end for ever, and a drain with it."""
    pids: list[int] = []

    class Noted(Process):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            pids.append(self._pid)

    async def cancel_all() -> None:
        for turns in range(1, 7):
            task = asyncio.create_task(Noted.start(["/bin/sh", "-c", "sleep 600"], tmp_path, {}))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, Process):
                await outcome.end(0.0)
        while len(pids) < 6 or any(map(alive, pids)):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(cancel_all(), PATIENCE))


async def test_what_it_leaves_behind_ends_with_it_and_holds_up_nobody(tmp_path: Path) -> None:
    """A child that keeps the streams open is no reason to wait for it."""
    script = "sleep 600 & echo $! > child; echo made"
    async with asyncio.timeout(PATIENCE):
        assert (await shell(script, make_attempt(tmp_path), folder=tmp_path)).ref == "made"
    await ended(tmp_path / "child")


async def test_the_event_loop_goes_on_meanwhile(tmp_path: Path) -> None:
    """Eight programs run at once, and end when the loop opens their gate, after all of them have begun."""

    async def watch() -> None:
        while len(list(tmp_path.glob("begun-*"))) < 8:  # noqa: ASYNC110 - programs
            await asyncio.sleep(0.01)
        (tmp_path / "gate").touch()

    script = "touch begun-$$; until [ -e gate ]; do sleep 0.05; done"
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(watch(), *(shell(script, make_attempt(tmp_path), folder=tmp_path) for _ in range(8)))


@pytest.fixture
def no_zombies() -> Iterator[None]:
    """Whoever starts a process also waits for it."""
    yield
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    assert [pid for pid in children if not alive(int(pid))] == []


def test_the_same_on_the_loop_of_the_command(tmp_path: Path, no_zombies: None) -> None:
    """`receiver serve` runs on uvloop, whose processes are others."""

    async def all_of_it() -> None:
        attempt = make_attempt(tmp_path, deadline=1.0)
        event = msgspec.structs.replace(attempt.event, prompt="x" * 1_000_000)
        large = dataclasses.replace(attempt, event=event)
        assert (await run("import sys; print(len(sys.stdin.read()) > 1000000)", large)).ref == "True"
        assert await shell("exec true", large) == Receipt()
        with pytest.raises(CommandFailed, match="exit status 3: no"):
            await shell("echo no >&2; exit 3", attempt)
        with pytest.raises(CommandFailed, match="ended by SIGKILL"):
            await shell("kill -KILL $$", attempt)
        with pytest.raises(CommandFailed, match="ran longer than"):
            await shell(FAMILY.format(trap="trap '' TERM"), attempt, folder=tmp_path)
        await ended(tmp_path / "child")
        (tmp_path / "soon gone").mkdir()
        item = handler("/bin/sh", folder=tmp_path / "soon gone")
        (tmp_path / "soon gone").rmdir()
        with pytest.raises(CommandFailed, match="could not be started"):
            await item.deliver(attempt)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_of_it())


async def test_the_contract(tmp_path: Path) -> None:
    """At least once: each attempt runs the program once at most."""
    script = 'echo "$EVENT_TYPE" > "$IDEMPOTENCY_KEY.$ATTEMPT.$$.part"; mv *.$$.part "$IDEMPOTENCY_KEY.$ATTEMPT.$$.txt"'

    async def effects() -> list[tuple[str, str]]:
        return [(path.name, path.read_text()) for path in tmp_path.glob("*.txt")]

    options = {"command": ["/bin/sh", "-c", script], "folder": tmp_path}
    await check_handler(CommandHandler, options, effects=effects)


# Options


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (
            {"handler": "command"},
            "the option command is missing. Write a list of text of at least 1 item.",
        ),
        (
            {"handler": "command", "options": {"command": []}},
            "the option command is wrong. Write a list of text of at least 1 item.",
        ),
        (
            {"handler": "command", "options": {"command": "echo 'x"}},
            "is wrong: its quotes do not match (No closing quo",
        ),
        (
            {"handler": "command", "options": {"command": "nosuchprogram"}},
            "there is no program nosuchprogram that can b",
        ),
        (
            {"handler": "command", "options": {"command": "/etc/passwd"}},
            "no program /etc/passwd that can be run. Write",
        ),
        ({"handler": "command", "options": {"command": "true", "folder": "/nowhere"}}, "there is no folder /nowhere."),
        ({"url": "command:"}, "its url cannot be used: it names no program; write command:./publish"),
        ({"url": "command://host/x"}, "its url cannot be used: it names no program; write command:./publish"),
    ],
)
def test_wrong_options_stop_the_start(table: dict[str, Any], problem: str) -> None:
    """Naming destination, option and remedy."""
    with pytest.raises(SettingsError) as caught:
        build(Destination(name="publish", **table))
    assert str(caught.value).startswith("Destination publish: ")
    assert problem in str(caught.value)


async def test_text_is_split_as_a_shell_would_and_run_by_none(tmp_path: Path) -> None:
    """For variables, which hold no lists; and the short form for a program without arguments."""
    item = build(Destination(name="p", handler="command", options={"command": "echo 'two words' $HOME"}))
    assert (await item.deliver(make_attempt(tmp_path))).ref == "two words $HOME"
    program = tmp_path / "my publish"
    program.write_text("#!/bin/sh\necho done\n")
    program.chmod(0o755)
    short = build(Destination(name="p", url=f"command:{str(program).replace(' ', '%20')}"))
    assert (await short.deliver(make_attempt(tmp_path))).ref == "done"
