"""The `receiver` command without provider or journal, and what it looks like on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import socket
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest
from servers import COMMAND, environment, receiver, simulating
from typer.testing import CliRunner
from waiting import PATIENCE

from receiver.cli import COMMANDS as SECTIONS
from receiver.cli import app
from receiver.cli.servers import bind
from receiver.errors import ReceiverError
from receiver.simulator import FAULTS, PROFILES

PAYLOADS = Path(__file__).parent / "payloads"
KEY = "sk-simulator-0001"
COMMANDS = [
    ["submit"], ["wait"], ["serve"], ["worker"], ["tasks"], ["tasks", "list"], ["tasks", "show"], ["events", "list"],
    ["events", "show"], ["deliveries", "list"], ["deliveries", "show"], ["handlers"], ["settings"], ["inspect"],
    ["slack", "manifest"],
    ["simulate"], ["action"], ["modal"], ["watch"], ["blend"], ["describe"], ["shorten"], ["video"], ["edits"],
    ["swap"], ["upload"], ["seed"], ["cancel"], ["destinations", "list"], ["destinations", "resume"], ["purge"],
    ["erase"], ["journal", "check"], ["backup"], ["restore"], ["usage"], ["journal", "compact"], ["events", "replay"],
    ["deliveries", "replay"], ["destinations", "test"], ["listen"], ["engines"], ["migrate"], ["journal", "copy"],
    ["doctor"], ["help"], ["open"], ["init"], ["media", "fetch"], ["keys", "rotate"], ["keys", "prune"],
    ["metrics", "dashboard"], ["metrics", "alerts"],
]  # fmt: skip


def invoke(*arguments: str, stdin: bytes | None = None) -> tuple[int, str]:
    """A command that opens nothing, run in this process."""
    result = CliRunner().invoke(app, arguments, input=stdin, env={"COLUMNS": "80"})
    if isinstance(result.exception, ReceiverError):
        raise result.exception
    return result.exit_code, result.output


def on_terminal(*arguments: str, folder: Path, env: dict[str, str], columns: int = 80) -> tuple[int, str, list[str]]:
    """A command on a terminal: its exit status, all it wrote, and the lines without colours and cursor movements."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = environment(folder, env | {"TERM": "xterm-256color"})
    process = subprocess.Popen([COMMAND, *arguments], cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    try:
        while select.select([ours], [], [], PATIENCE)[0]:
            written += os.read(ours, 65536)
        process.kill()
    except OSError:
        pass  # how a terminal says that the last writer has gone
    os.close(ours)
    text = written.decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", re.sub(r"\x1b\[2K", "\n", text))
    return process.wait(PATIENCE), text, [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_version(tmp_path: Path) -> None:
    """`--version` is one line with the distribution's name."""
    result = receiver("--version", folder=tmp_path, env={})
    assert re.fullmatch(r"imagine-receiver \d+\.\d+\.\d+\n", result.out)
    assert (result.code, result.err) == (0, "")


def test_every_command_is_known() -> None:
    """The list of this file holds every command there is, so that none goes untried."""
    _, text = invoke("-h")
    _, _, sections = text.partition("\nMake pictures:\n")
    listed = re.findall(r"^  ([a-z]+) ", sections, re.MULTILINE)
    assert sorted(listed) == sorted({command[0] for command in COMMANDS})
    assert "..." not in sections
    assert max(map(len, text.splitlines())) <= 80


def test_the_help_of_all_begins_like_the_help_of_one() -> None:
    """The first sentence of each, which `--help` prints without importing the command."""
    for name, text in ((name, text) for section in SECTIONS.values() for name, (_, text) in section.items()):
        own = " ".join(invoke(name, "--help")[1].split())
        assert f" {text} " in own, name


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help(command: Sequence[str]) -> None:
    """Every command explains itself and each of its options, within 80 columns."""
    code, text = invoke(*command, "--help")
    assert code == 0
    assert text.startswith(f"Usage: root {' '.join(command)} ") or " ".join(command) in text.splitlines()[0]
    assert max(len(line) for line in text.splitlines()) <= 80
    for name, words in re.findall(r"^  (--[a-z-]+)(.*)$", text, re.MULTILINE):
        assert re.search(r"  [A-Z{]|name=value|fast|midjourney|prepared|imagine|task\.|pending", words), name


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("submit", ["0 succeeded, 1 error, 3 failed, 4 input required, 5 lost", "130", "COMETAPI_KEY"]),
        ("wait", ["0 succeeded, 1 error, 3 failed, 4 input required, 5 lost", "130"]),
        ("serve", ["[env: RECEIVER_HOST]", "[env: RECEIVER_PORT, PORT]"]),
    ],
)
def test_help_names_what_scripts_need(command: str, words: list[str]) -> None:
    """Exit statuses and environment variables stand in the help."""
    text = " ".join(invoke(command, "--help")[1].split())
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    "arguments",
    [["nope"], ["submit"], ["submit", "x", "--nope"], ["submit", "a", "boat"], ["tasks", "list", "--limit", "0"]],
)
def test_wrong_command_line(tmp_path: Path, arguments: list[str]) -> None:
    """A command line that cannot be read is exit status 2 and one line that begins with Error."""
    code, text = invoke(*arguments)
    assert code == 2
    assert [line for line in text.splitlines() if line.startswith("Error: ")] == text.splitlines()[-1:]


def test_settings(tmp_path: Path) -> None:
    """All settings with their sources, none of them a secret in clear; nothing is made."""
    env = {"COMETAPI_KEY": KEY, "RECEIVER_KEYS": "0123456789abcdef" * 3, "RECEIVER_PORT": "8123"}
    (tmp_path / "receiver.toml").write_text('[destinations.team]\nhandler = "file"\npath = "x"\n')
    text = receiver("settings", folder=tmp_path, env=env)
    rows = json.loads(receiver("settings", "--json", folder=tmp_path, env=env).out)
    assert text.code == 0
    assert [set(row) for row in rows] == [{"name", "value", "source"}] * len(rows)
    by_name = {row["name"]: row for row in rows}
    assert by_name["port"] == {"name": "port", "value": "8123", "source": "environment RECEIVER_PORT"}
    assert by_name["provider_key"]["source"] == "environment COMETAPI_KEY"
    assert "destinations.team" in by_name
    header, *lines = text.out.splitlines()
    assert header.split() == ["SETTING", "VALUE", "SOURCE"]
    for row, line in zip(rows, lines, strict=True):
        assert line.split()[0] == row["name"]
        assert line.endswith(row["source"])
        assert row["value"] in line
    assert not any(secret in text.out + json.dumps(rows) for secret in (KEY, "0123456789abcdef"))
    assert [file.name for file in tmp_path.iterdir()] == ["receiver.toml"]


def test_settings_on_a_terminal(tmp_path: Path) -> None:
    """At 80 columns no line wraps, long values are folded, and every source can be read."""
    code, _, lines = on_terminal("settings", folder=tmp_path, env={"COMETAPI_KEY": KEY})
    assert code == 0
    assert max(len(line) for line in lines) <= 80
    assert sum(line.endswith("  default") for line in lines) > 10
    assert any(line.endswith("  environment COMETAPI_KEY") for line in lines)


def test_bad_settings(tmp_path: Path) -> None:
    """Everything that is wrong is told at once, a line each, the first after Error."""
    env = {"RECEIVER_PORT": "many", "RECEIVER_DEADLINE": "soon"}
    result = receiver("settings", folder=tmp_path, env=env)
    assert (result.code, result.out) == (1, "")
    first, second = result.err.splitlines()
    assert first.startswith("Error: RECEIVER_")
    assert second.startswith("RECEIVER_")
    assert "RECEIVER_PORT cannot be 'many'. Write a whole number" in result.err


def test_verbose(tmp_path: Path) -> None:
    """`-v` adds the traceback above the sentence."""
    result = receiver("-v", "settings", folder=tmp_path, env={"RECEIVER_PORT": "many"})
    assert result.code == 1
    assert result.err.startswith("Traceback (most recent call last):")
    assert result.err.splitlines()[-1].startswith("Error: RECEIVER_PORT cannot be 'many'.")


def test_handlers() -> None:
    """Each handler is there, with its options, in text and as JSON."""
    _, text = invoke("handlers")
    assert (
        "\nfile: Pictures in a folder, each with a .json that says what it is. (once)\n  path (path, default " in text
    )
    assert "\n  url (secret text, required): " in text
    found = {handler["name"]: handler for handler in json.loads(invoke("handlers", "--json")[1])}
    assert found.keys() >= {"chat", "command", "discord", "file", "s3", "slack", "webhook"}
    assert found["file"]["options"][0]["name"] == "path"


INSPECTED = {
    "kind", "id", "status", "terminal", "progress", "event_type", "image_url", "video_url", "fail_reason", "buttons",
    "code", "outcome", "retry", "problems",
}  # fmt: skip


@pytest.mark.parametrize("file", sorted(PAYLOADS.glob("*.json")), ids=lambda file: file.name)
def test_inspect(file: Path) -> None:
    """Every recorded payload is read from a file and from standard input alike; a request is no payload to read."""
    if file.name.startswith("request_"):
        with pytest.raises(ReceiverError, match=r"\.$"):
            invoke("inspect", str(file))
        return
    kind = {"callback": "task", "fetch": "task", "submit": "submit", "error": "error"}[file.name.partition("_")[0]]
    code, text = invoke("inspect", str(file))
    reading = json.loads(text)
    assert code == 0
    assert set(reading) >= INSPECTED
    assert reading["kind"] == ("list" if "list_by_condition" in file.name else kind)
    assert invoke("inspect", "-", stdin=file.read_bytes()) == (0, text)


def test_inspect_with_http_status() -> None:
    """The HTTP status decides where the body says nothing: what succeeds with 200 may not be sent again after 504."""
    assert json.loads(invoke("inspect", "-", "--http-status", "503", stdin=b"")[1])["kind"] == "error"
    with pytest.raises(ReceiverError, match="The payload is empty"):
        invoke("inspect", "-", stdin=b"")
    late = json.loads(invoke("inspect", "-", "--http-status", "504", stdin=b"<html>")[1])
    assert late["outcome"] == "ambiguous"
    assert late["retry"] is False


def test_inspect_unreadable(tmp_path: Path) -> None:
    """What cannot be read is a sentence and exit status 1."""
    result = receiver("inspect", "-", folder=tmp_path, env={}, stdin=b"\xff\xfe[[[")
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(r"Error: [^\n]+\.\n", result.err)


def test_simulator_lists_what_it_can_do() -> None:
    """`--faults list` and `--profile list` name everything with a sentence."""
    for option, known in (("--faults", FAULTS), ("--profile", PROFILES)):
        _, text = invoke("simulate", option, "list")
        assert [line.split()[0] for line in text.splitlines()] == list(known)
        with pytest.raises(ReceiverError, match="nope"):
            invoke("simulate", option, "nope")


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """The bar fits on one line at 80 columns, never goes back, vanishes at the end, and leaves the path alone."""
    with simulating(tmp_path, speed=20) as url:
        env = {"COMETAPI_KEY": KEY, "RECEIVER_PROVIDER_URL": url, "RECEIVER_POLL_INTERVAL": "0.2"}
        code, text, lines = on_terminal("submit", "a boat " * 20, "--wait", folder=tmp_path, env=env)
    assert code == 0, text
    bars = [line for line in lines if "━" in line]
    assert any("Drawing" in bar for bar in bars)
    assert all(len(bar) <= 80 for bar in bars)
    assert all(bar.count("━") >= 8 for bar in bars)
    assert any(re.search(r"about \d+ (s|min) left", bar) for bar in bars)
    assert not any("left" in bar for bar in bars if "Saving" in bar)
    file, short, _, command = (line.split(None, 1)[1] for line in lines[-4:])
    assert Path(file).exists()
    assert command == f"receiver action {short} U1 --wait"
    assert receiver("tasks", "show", short, folder=tmp_path, env={}).code == 0
    assert "Traceback" not in text


@pytest.mark.parametrize("host", ["::", "[::]"])
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
def test_all_addresses_are_those_of_both_families(host: str) -> None:
    """`RECEIVER_HOST=::` takes IPv4 too. `::1` is one address, and takes IPv6 alone."""
    with bind(host, 0) as listener:
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, listener.getsockname()[1])).close()
    with bind("::1", 0) as listener, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", listener.getsockname()[1]))


def test_no_answer_waits_for_an_acknowledgement() -> None:
    """What is accepted sends at once: Nagle's algorithm would hold back each answer for 40 ms."""
    with (
        bind("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as one,
    ):
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_one_file_of_settings_is_read(tmp_path: Path) -> None:
    """The one that --config names, or receiver.toml in the folder, or the user's own."""
    own = tmp_path / ".config" / "receiver" / "receiver.toml"
    own.parent.mkdir(parents=True)
    own.write_text("port = 1111\n")
    for file, port in ((own, "1111"), (tmp_path / "receiver.toml", "2222"), (tmp_path / "other.toml", "3333")):
        file.write_text(f"port = {port}\n")
        named = ["--config", "other.toml"] if file.name == "other.toml" else []
        result = receiver(*named, "settings", folder=tmp_path, env={})
        assert re.search(rf"^port +{port} ", result.out, re.MULTILINE)
        assert result.err == f"File read: {file}\n"
    missing = receiver("--config", "none.toml", "settings", folder=tmp_path, env={})
    assert missing.code == 1
    assert missing.err.startswith("Error: There is no file none.toml.")


def test_init_writes_what_it_has_tested(tmp_path: Path) -> None:
    """Only its owner may read the file, and one that is there stays as it is."""
    with simulating(tmp_path) as url:
        env = {"RECEIVER_PROVIDER_URL": url}
        wrong = receiver("init", folder=tmp_path, env=env, stdin=f"{KEY}\nfile:./pictures\nexample.com\n".encode())
        assert wrong.code == 1
        assert "Error: public_url is wrong: it is not an http:// or https:// URL with a host." in wrong.err
        assert wrong.err.endswith("Nothing was written. (receiver help proxy)\n")
        made = receiver("init", folder=tmp_path, env=env, stdin=f"{KEY}\nfile:./pictures\n\n".encode())
        assert made.code == 0
        file = tmp_path / "receiver.toml"
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.read_text() == f'provider_key = "{KEY}"\nto = "file:./pictures"\n'
        again = receiver("init", folder=tmp_path, env=env, stdin=b"x\n\n\n")
    assert again.code == 1
    assert "is there already" in again.err


@pytest.mark.parametrize("prompt", ["-boat", "--v 6 boat", "--wiat", "-5 boats"])
@pytest.mark.parametrize("command", ["submit", "shorten", "edits"])
def test_a_prompt_that_begins_with_a_dash_is_told_how_to_write_it(command: str, prompt: str) -> None:
    """It could be a misspelt option, so it is never taken for a prompt, which costs money."""
    status, text = invoke(command, prompt)
    assert status == 2
    assert f'A prompt that begins with a dash comes last: receiver {command} -- "-a boat"' in " ".join(text.split())


def test_an_unknown_option_of_other_commands_is_no_prompt() -> None:
    """Nor is one of a command whose prompt is an option."""
    for arguments in (("tasks", "list", "--prompt"), ("action", "last", "U1", "--promt"), ("--foo",)):
        status, text = invoke(*arguments)
        assert (status, "dash" in text) == (2, False)


def test_options_behind_the_dashes_are_no_prompt() -> None:
    """They would be read as words of the prompt."""
    status, text = invoke("submit", "--", "--v 6 boat", "--wait")
    assert (status, "Write options before --" in text) == (2, True)
