"""`receiver submit` and `receiver wait` as their users meet them: real processes, and a provider over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import postgres
import pytest
from flows import SIDE
from ports import free_port
from servers import Command, Result, receiver, serving, serving_receiver, simulating
from starlette.types import Receive, Scope, Send

from receiver.cli.submit import read_prompts
from receiver.errors import InputError
from receiver.simulator import Simulator

KEY = "sk-simulator-0001"
PNG = b"\x89PNG\r\n\x1a\n"


@asynccontextmanager
async def provider(**options: Any) -> AsyncIterator[tuple[Simulator, dict[str, str]]]:
    """A simulated provider, and the environment of a command that uses it."""
    simulator = Simulator(**{"speed": 100, "side": SIDE, **options})
    async with serving(simulator.app) as url:
        yield simulator, environment(url)


def environment(url: str) -> dict[str, str]:
    return {"RECEIVER_PROVIDER_URL": url, "COMETAPI_KEY": KEY, "RECEIVER_POLL_INTERVAL": "0.2"}


async def run(*arguments: str, folder: Path, env: dict[str, str], stdin: bytes | None = None) -> Result:
    """A command to its end, while this event loop goes on being its provider."""
    return await asyncio.to_thread(receiver, *arguments, folder=folder, env=env, stdin=stdin)


def rows(folder: Path, query: str = "SELECT id, status, ended FROM submissions") -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / ".receiver/journal.db", isolation_level=None)) as db:
        return db.execute(query).fetchall()


def files(folder: Path) -> list[str]:
    """What lies in the folder but for what hides."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("[!.]*") if ".receiver" not in file.parts)


def saved(path: str) -> dict[str, Any]:
    """What lies beside a saved picture."""
    assert Path(path).read_bytes().startswith(PNG)
    record: dict[str, Any] = json.loads(Path(path).with_suffix(".json").read_text())
    return record


def assert_error(result: Result, *parts: str) -> None:
    """One sentence for people, with its cause, and exit status 1."""
    assert result.code == 1, result
    assert result.out == ""
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err
    assert ".." not in result.err.replace("../", "")
    assert KEY not in result.err


async def test_wait(tmp_path: Path) -> None:
    """The picture is saved, its path is the last line, and nothing else is on standard output."""
    async with provider() as (_, env):
        result = await run("submit", "a paper boat --v 6.1", "--wait", folder=tmp_path, env=env)
    assert result.code == 0, result
    assert result.out == result.last_line + "\n"
    assert Path(result.last_line).parent == tmp_path / "outputs"
    assert saved(result.last_line)["prompt"] == "a paper boat --v 6.1"
    assert {"Downloading files", "Saving the result"} & set(result.err.splitlines())
    assert "{" not in result.err  # a log line would be JSON


async def test_wait_knows_a_result_soon_without_callbacks(tmp_path: Path) -> None:
    """One process, no server, default settings, and a provider at its real pace: the result is known within 3 s of the
    provider's own end, after few questions. Then the simulator draws the picture, which takes as long as it takes."""
    simulator, asked = Simulator(speed=1), []

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        asked.extend([scope["path"]] if scope["type"] == "http" and "list-by-condition" in scope["path"] else [])
        await simulator.app(scope, receive, send)

    async with serving(counted) as url:
        env = {"RECEIVER_PROVIDER_URL": url, "COMETAPI_KEY": KEY}
        result = await run("submit", "a boat", "--wait", "--speed", "turbo", folder=tmp_path, env=env)
    assert result.code == 0, result
    assert saved(result.last_line)["prompt"] == "a boat"
    ends = "SELECT created_ms - json_extract(body, '$.task.finish_ms') FROM events WHERE type = 'task.succeeded'"
    [(late_ms,)] = rows(tmp_path, ends)
    assert 0 <= late_ms <= 3000
    assert 2 <= len(asked) <= 10


async def test_wait_json(tmp_path: Path) -> None:
    """`--json` prints one object and no progress; `-` reads the prompt; labels and state come back."""
    async with provider() as (simulator, env):
        arguments = ("submit", "-", "--wait", "--json", "--label", "team=red", "--state", "mine", "--speed", "turbo")
        result = await run(*arguments, folder=tmp_path, env=env, stdin="a 猫 in a boat\n".encode())
    assert result.code == 0, result
    assert result.err == ""
    record = json.loads(result.out)
    assert record["status"] == "succeeded"
    assert record["prompt"] == "a 猫 in a boat"
    assert record["labels"] == {"team": "red"}
    assert record["state"] == "mine"
    assert record["reason"] is None
    (delivery,) = record["deliveries"]
    assert set(delivery) == {"id", "destination", "status", "ref", "url", "detail"}
    assert record["files"] == [delivery["ref"]]
    assert saved(record["files"][0])["labels"] == {"team": "red"}
    assert [(record["submission"], "accepted", "task.succeeded")] == rows(tmp_path)
    assert simulator.submits[0]["prompt"] == "a 猫 in a boat"
    assert simulator.submits[0]["state"] != "mine"


async def test_no_wait(tmp_path: Path) -> None:
    """Without --wait the command ends when the provider has accepted, and says how to go on."""
    async with provider() as (_, env):
        plain = await run("submit", "a boat", folder=tmp_path, env=env)
        as_json = await run("submit", "a boat", "--json", folder=tmp_path, env=env)
        (first, _, _), (second, _, _) = rows(tmp_path)
        assert plain.code == as_json.code == 0
        assert plain.out.endswith(f"Follow it with: receiver wait {first}\n")
        record = json.loads(as_json.out)
        assert set(record) == {"submission", "task", "status", "detail"}
        assert (record["submission"], record["status"]) == (second, "accepted")
        waited = await run("wait", record["task"], "--json", folder=tmp_path, env=env)
    assert json.loads(waited.out)["submission"] == second
    assert waited.code == 0


def test_with_callbacks_beside_serve(tmp_path: Path) -> None:
    """While `receiver serve` runs on the same database, results come by callback, and no token is ever logged."""
    with simulating(tmp_path, "--key", KEY, speed=20) as url:
        port = free_port()
        env = environment(url) | {
            "RECEIVER_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "RECEIVER_PORT": str(port),
            "RECEIVER_LOG_LEVEL": "debug",
            "RECEIVER_POLL_INTERVAL": "60",
        }
        with serving_receiver(tmp_path, env) as (command, address):
            result = receiver("submit", "a boat", "--wait", folder=tmp_path, env=env | {"RECEIVER_LOG_LEVEL": "error"})
            assert result.code == 0, result
            bad = httpx.post(f"{address}/callbacks/{'MARKER' * 5}", json={"id": "MARKER"}, trust_env=False)
            assert bad.status_code == 401
            served = command.stop()
    assert saved(result.last_line)
    assert "Drawing" in result.err
    assert served.code == 0
    bodies = [json.loads(body) for (body,) in rows(tmp_path, "SELECT body FROM callbacks WHERE cause IS NULL")]
    assert len(bodies) >= 3
    said = served.err + served.out
    lines = [json.loads(line) for line in served.err.splitlines()]
    assert sum(line["event"] == "callback.received" for line in lines) >= 3
    for body in bodies:
        assert body["state"].endswith(".[redacted]")
        assert body["state"] not in said
        hook = body["properties"]["notifyHook"].rpartition("/")[2]
        assert hook not in said
        assert hook.rpartition(".")[2] not in said
    assert KEY not in said
    assert "MARKER" not in said


@pytest.mark.parametrize(
    ("fault", "wait", "code", "words"),
    [
        ("failure", True, 3, "The task failed: 任务超时"),
        ("ambiguous_lost", True, 5, "The task was lost. "),
        ("ambiguous_created", False, 1, "Error: The provider's answer does not say whether a task was made"),
        ("banned_word", False, 1, "Error: The provider refuses the word"),
        ("banned_word", True, 1, "Error: The provider refuses the word"),
        ("validation", True, 1, "Error: The provider calls the request wrong"),
    ],
)
async def test_provider_says_no(tmp_path: Path, fault: str, *, wait: bool, code: int, words: str) -> None:
    """Each end has its exit status and its sentence, and no request is sent twice."""
    async with provider(faults=[fault]) as (simulator, env):
        result = await run("submit", "a boat", *(["--wait"] if wait else []), folder=tmp_path, env=env)
    assert result.code == code, result
    assert result.err.splitlines()[-1].startswith(words)
    assert len(simulator.submits) == 1
    assert not [name for name in files(tmp_path) if name.endswith((".png", ".part"))]
    if code == 1:
        assert_error(result)
        assert "ubmit it again" not in result.err  # the sentence itself says what to do, although it quotes Chinese
        assert files(tmp_path) == []


async def test_wrong_key(tmp_path: Path) -> None:
    """A key the provider does not take is named by its variable, never shown."""
    async with provider(key="sk-another-key-0002") as (_, env):
        result = await run("submit", "a boat", "--wait", folder=tmp_path, env=env)
    assert_error(result, "COMETAPI_KEY")
    assert result.err.endswith("check COMETAPI_KEY.\n")
    assert [row[1:] for row in rows(tmp_path)] == [("refused", None)]
    shown = await run("tasks", "show", "last", folder=tmp_path, env=env)
    assert "status       refused\n" in shown.out


def test_unreachable_provider(tmp_path: Path) -> None:
    """A provider that cannot be reached is named; the submission is over, because nobody waits for it."""
    url = f"http://127.0.0.1:{free_port()}"
    assert_error(receiver("submit", "a boat", "--wait", folder=tmp_path, env=environment(url)), url)
    assert [row[1:] for row in rows(tmp_path)] == [("refused", None)]


async def test_full_queue(tmp_path: Path) -> None:
    """A full queue is no error: the submission is kept, and sent again when its time has come."""
    async with provider(faults=["queue_full"]) as (simulator, env):
        first = await run("submit", "a boat", folder=tmp_path, env=env)
        second = await run("submit", "a cat", "--json", folder=tmp_path, env=env)
        assert first.code == second.code == 0
        assert first.err.count("\n") == second.err.count("\n") == 1
        (kept, status, ended), _ = rows(tmp_path)
        assert (status, ended) == ("prepared", None)
        assert f"`receiver wait {kept}`" in first.err
        assert json.loads(second.out)["status"] == "prepared"
        rows(tmp_path, "UPDATE submissions SET send_due_ms = 1")  # half a minute later
        waited = await run("wait", kept, folder=tmp_path, env=env)
    assert waited.code == 0, waited
    assert saved(waited.last_line)
    assert len(simulator.submits) >= 3


async def test_unwritable_folder(tmp_path: Path) -> None:
    """A folder that cannot be made is an error with its reason; the result stays in the journal for a later try."""
    (tmp_path / "taken").touch()
    async with provider() as (_, env):
        env["RECEIVER_TO"] = "file:./taken/outputs"
        result = await run("submit", "a boat", "--wait", folder=tmp_path, env=env)
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert last.startswith("Error: The result did not reach file: ")
    assert "{" not in result.err  # the sentence says it all, without lines of a log
    assert str(tmp_path / "taken") in last
    assert ".." not in last
    assert files(tmp_path) == ["taken"]
    assert [row[1:] for row in rows(tmp_path)] == [("accepted", "task.succeeded")]
    assert rows(tmp_path, "SELECT status FROM deliveries") == [("pending",)]


async def test_what_was_brought_anew_has_arrived(tmp_path: Path) -> None:
    """A delivery is dead, a person makes another of it (`--as-new`), and that one arrives: so has the result."""
    script = tmp_path / "publish"
    script.write_text("#!/bin/sh\ncat >/dev/null\nexit 65\n")
    script.chmod(0o755)
    async with provider() as (_, env):
        env["RECEIVER_TO"] = "command:./publish"
        first = await run("submit", "a boat", "--wait", folder=tmp_path, env=env)
        assert first.code == 1, first
        assert "It is not tried again." in first.err
        script.write_text("#!/bin/sh\ncat >/dev/null\n")
        ((submission, _, _),) = rows(tmp_path)
        ((dead,),) = rows(tmp_path, "SELECT id FROM deliveries")
        assert (await run("deliveries", "replay", dead, "--as-new", folder=tmp_path, env=env)).code == 0
        waited = await run("wait", submission, folder=tmp_path, env=env)
    assert rows(tmp_path, "SELECT status FROM deliveries ORDER BY id") == [("dead",), ("succeeded",)]
    assert waited.code == 0, waited
    assert "did not reach" not in waited.err


async def test_locked_database(tmp_path: Path) -> None:
    """A journal that another program holds is an error after 10 s, before anything was sent or kept."""
    async with provider() as (simulator, env):
        assert (await run("submit", "a boat", folder=tmp_path, env=env)).code == 0
        path = tmp_path / ".receiver/journal.db"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked = await run("submit", "a cat", folder=tmp_path, env=env)
            listed = await run("tasks", "list", folder=tmp_path, env=env)
    assert_error(locked, "journal.db", "locked")
    assert len(simulator.submits) == len(rows(tmp_path)) == 1
    assert listed.code == 0  # reading goes on


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (("a boat",), {"COMETAPI_KEY": ""}, "COMETAPI_KEY is not set"),
        (("a boat",), {"RECEIVER_DEADLNE": "4"}, "Did you mean RECEIVER_DEADLINE?"),
        (("a boat",), {"RECEIVER_TO": "s4:nowhere"}, "s4"),
        ((" ",), {}, "The prompt is empty"),
        (("-",), {}, "Standard input cannot be read: line 2 is not UTF-8. Save it as UTF-8"),
        (("--file", "-"), {}, "Standard input cannot be read: line 2 is not UTF-8. Save it as UTF-8"),
        (("a boat", "--picture", "none.png"), {}, "none.png"),
    ],
)
def test_nothing_begins(tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], words: str) -> None:
    """What cannot be sent is said at once: no row, no file, no request."""
    env = environment(f"http://127.0.0.1:{free_port()}") | env
    assert_error(receiver("submit", *arguments, folder=tmp_path, env=env, stdin=b"a boat\ncaf\xe9"), words)
    assert files(tmp_path) == []
    if (tmp_path / ".receiver/journal.db").exists():
        assert rows(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give a prompt, or --file with prompts, one a line."),
        (("a boat", "--file", "-"), "Give either a prompt, or --file with prompts, not both."),
    ],
)
def test_one_prompt_or_a_file_of_them(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Neither or both is a mistake in the use, which is told with what to give."""
    result = receiver("submit", *arguments, folder=tmp_path, env=environment(f"http://127.0.0.1:{free_port()}"))
    assert (result.code, result.out) == (2, "")
    assert words in result.err


TYPED = "# boats\n\na red boat --ar 3:2\n  a café \u2028 by night \n#ff8800\nein Boot\n"
PROMPTS = ["a red boat --ar 3:2", "a café \u2028 by night", "ein Boot"]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_of_prompts_from_any_editor(tmp_path: Path, encoding: str, ends: str) -> None:
    """Line ends of Windows, Unix and old Macs, with and without a mark at the start. A comment begins with #."""
    file = tmp_path / "prompts.txt"
    file.write_bytes(TYPED.replace("\n", ends).encode(encoding))
    assert read_prompts(str(file)) == PROMPTS


def test_joined_files_of_prompts(tmp_path: Path) -> None:
    """`cat` leaves the mark of the second file in the middle."""
    file = tmp_path / "prompts.txt"
    file.write_bytes("a boat\n".encode("utf-8-sig") + "# more\na cat".encode("utf-8-sig"))
    assert read_prompts(str(file)) == ["a boat", "a cat"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a boat\r\nein schönes Boot".encode("cp1252"), "line 2 is not UTF-8. Save it as UTF-8, for instance with: ic"),
        (b"\xff\xfea", "line 1 is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 1 is not UTF-8"),
        (b"a\0boat", "it is no text"),
        (b"\xef\xbb\xbf# only this\r\n", "holds no prompt"),
    ],
)
def test_a_file_that_holds_no_prompts(tmp_path: Path, content: bytes, words: str) -> None:
    """No encoding is guessed, because a prompt that is read wrongly costs money. The line is named."""
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(words)):
        read_prompts(str(file))


async def test_interrupt_and_resume(tmp_path: Path) -> None:
    """Ctrl-C ends with 130 and the command that resumes, and that command brings the picture."""
    async with provider(speed=20) as (simulator, env):

        def interrupted() -> Result:
            with Command("submit", "a boat", "--wait", folder=tmp_path, env=env) as command:
                command.err.line("Accepted")
                command.send_signal(signal.SIGINT)
                return command.wait()

        result = await asyncio.to_thread(interrupted)
        ((submission, status, ended),) = rows(tmp_path)
        assert result.code == 130
        assert result.out == ""
        assert result.err.splitlines()[-1] == (
            f"Interrupted; the task goes on. Resume with: receiver wait {submission}"
        )  # fmt: skip
        assert "Traceback" not in result.err
        assert (status, ended) == ("accepted", None)
        resumed = await run("wait", submission, folder=tmp_path, env=env)
    assert resumed.code == 0, resumed
    assert saved(resumed.last_line)
    assert len(simulator.submits) == 1


LINGERING = """
import asyncio, sys
from receiver.deliveries import Receipt
from receiver.handlers.base import HandlerOptions

class Lingering:
    name, summary, schemes = "lingering", "For tests.", ("lingering",)
    class Options(HandlerOptions):
        pass

    @staticmethod
    def options_from_url(url):
        return {}

    def __init__(self, options):
        pass

    async def deliver(self, attempt):
        return Receipt(ref="there")

    async def aclose(self):
        print("closing", file=sys.stderr, flush=True)
        await asyncio.Event().wait()
"""


@pytest.mark.parametrize("command_line", [["a boat", "--wait"], ["--file", "prompts.txt"]])
async def test_interrupted_after_the_result(tmp_path: Path, command_line: list[str]) -> None:
    """The result was told, and only the end takes its time: Ctrl-C makes it short, and changes no exit status."""
    info = tmp_path / "site" / "receiver_lingering-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: receiver-lingering\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[receiver.handlers]\nlingering = receiver_lingering:Lingering\n")
    (info.parent / "receiver_lingering.py").write_text(LINGERING)
    (tmp_path / "prompts.txt").write_text("a boat\n")
    async with provider() as (_, env):
        env |= {"RECEIVER_TO": "lingering:here", "PYTHONPATH": str(info.parent)}

        def interrupted() -> Result:
            with Command("submit", *command_line, folder=tmp_path, env=env) as command:
                command.err.line("closing")
                command.send_signal(signal.SIGINT)
                return command.wait()

        result = await asyncio.to_thread(interrupted)
    assert result.code == 0, result
    assert result.out == "lingering: there\n"
    assert "Interrupted" not in result.err


async def test_a_journal_that_fails_while_one_waits(tmp_path: Path) -> None:
    """The error is a sentence, and names the command that resumes once the journal is mended; that one does."""
    async with provider(speed=20) as (_, env):

        def failed() -> Result:
            with Command("submit", "a boat", "--wait", folder=tmp_path, env=env) as command:
                command.err.line("Accepted")
                rows(tmp_path, "ALTER TABLE submissions RENAME TO elsewhere")
                return command.wait()

        result = await asyncio.to_thread(failed)
        rows(tmp_path, "ALTER TABLE elsewhere RENAME TO submissions")
        ((submission, *_),) = rows(tmp_path)
        assert result.code == 1
        last = result.err.splitlines()[-1]
        assert last.startswith("Error: The journal ")
        resume = f"Resume with: receiver wait {submission}"
        assert last.endswith(f"no such table: submissions. {resume} (receiver help server)")
        assert "Traceback" not in result.err
        assert (await run("wait", submission, folder=tmp_path, env=env)).code == 0


async def test_an_engine_that_cannot_start_while_one_waits(tmp_path: Path) -> None:
    """The task is submitted and paid for by then, so the error names the command that goes on with it."""
    (tmp_path / "media").touch()
    async with provider() as (_, env):
        result = await run("submit", "a boat", "--wait", folder=tmp_path, env=env | {"RECEIVER_MEDIA": "media"})
        ((submission, *_),) = rows(tmp_path)
        assert result.code == 1
        assert "media cannot be used (File exists)" in result.err.splitlines()[-1]
        assert f"Resume with: receiver wait {submission}" in result.err.splitlines()[-1]
        assert (await run("wait", submission, folder=tmp_path, env=env)).code == 0
        assert len(rows(tmp_path)) == 1


async def test_an_impatient_interrupt(tmp_path: Path) -> None:
    """Ctrl-C again while a delivery is let finish: it ends within seconds, and the delivery is as if never tried."""
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\ntouch started\nexec sleep 50\n")
    slow.chmod(0o755)
    async with provider(speed=20) as (_, env):
        env["RECEIVER_TO"] = "command:./slow"

        def interrupted() -> Result:
            with Command("submit", "a boat", "--wait", folder=tmp_path, env=env) as command:
                while not (tmp_path / "started").exists():
                    time.sleep(0.05)
                command.send_signal(signal.SIGINT)
                time.sleep(0.5)  # nothing outside shows that it drains
                command.send_signal(signal.SIGINT)
                return command.wait()

        result = await asyncio.to_thread(interrupted)
    assert result.code == 130
    assert "is closed" not in result.err
    assert rows(tmp_path, "SELECT status, failures FROM deliveries") == [("pending", 0)]


async def test_a_database_that_is_restarted(tmp_path: Path) -> None:
    """Whoever waits for a result is its engine, and goes on when the database is there again."""
    server = postgres.own_server()
    url = await postgres.new_database("waiting", server=server)
    async with provider(speed=5) as (simulator, env):
        env |= {"DATABASE_URL": url, "RECEIVER_KEYS": "k" * 64}

        def restarted() -> Result:
            with Command("submit", "a boat", "--wait", folder=tmp_path, env=env) as command:
                command.err.line("Accepted")
                server.restart("immediate")
                return command.wait()

        result = await asyncio.to_thread(restarted)
    assert result.code == 0, result
    assert saved(str(tmp_path / result.last_line))
    assert len(simulator.submits) == 1


async def test_wait_again(tmp_path: Path) -> None:
    """Waiting for what has ended tells the end again; an unknown or short id is an error."""
    async with provider() as (_, env):
        done = await run("submit", "a boat", "--wait", folder=tmp_path, env=env)
        ((submission, _, _),) = rows(tmp_path)
        again = await run("wait", submission[-8:], folder=tmp_path, env=env)
        assert (again.code, again.out) == (0, done.out)
        assert_error(await run("wait", "01NOSUCH", folder=tmp_path, env=env), "'01NOSUCH'", "receiver tasks list")


def test_without_an_engine_a_submit_says_so(tmp_path: Path) -> None:
    """Nothing fetches the result, until one command delivers what is due and ends."""
    with simulating(tmp_path, speed=50) as url:
        env = {"COMETAPI_KEY": "x", "RECEIVER_PROVIDER_URL": url, "RECEIVER_POLL_INTERVAL": "0.1"}
        submitted = receiver("submit", "a paper boat", folder=tmp_path, env=env)
        assert submitted.code == 0
        assert submitted.err.startswith("No engine runs: ")
        while (
            json.loads(receiver("tasks", "show", "last", "--json", folder=tmp_path, env=env).out)["status"]
            != "succeeded"
        ):
            assert receiver("worker", "--once", folder=tmp_path, env=env).code == 0
        again = receiver("deliveries", "replay", "last", "--now", folder=tmp_path, env=env)
        assert again.code == 0
        assert again.out.splitlines()[-1].split()[1:5] == ["file", "succeeded", "task.succeeded", "2"]
        idle = receiver("worker", "--once", folder=tmp_path, env=env)
        assert (idle.code, idle.err.splitlines()[-1]) == (0, "Nothing was due.")
        late = receiver("cancel", "last", folder=tmp_path, env=env)
    assert (late.code, late.out) == (1, "")
    assert "has succeeded: nothing is left to cancel." in late.err


def test_a_button_that_no_grid_has(tmp_path: Path) -> None:
    """It is refused before anything is sent or written."""
    result = receiver("submit", "x", "--auto", "U9", folder=tmp_path, env={"COMETAPI_KEY": "x"})
    assert result.code == 1
    assert result.err.startswith("Error: There is no button U9: a grid has U1 to U4 and V1 to V4.")
