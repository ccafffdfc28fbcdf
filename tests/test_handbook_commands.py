"""Every command of README and handbook runs: ours in this process against one simulator, servers as processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from engine import forget_logging
from handbook import commands
from handbooks import BLOCKS, ROOT, TEXTS, block
from PIL import Image
from servers import Command, serving_receiver
from test_deployment import EXTRAS

from receiver.cli import main
from receiver.testing import Simulated, simulating

ELSEWHERE = {
    **dict.fromkeys(("pip", "python3", "sudo", "docker", "systemctl"), "it changes the machine"),
    **dict.fromkeys(("heroku", "gcloud", "sam", "aws", "git"), "it needs an account somewhere"),
    **dict.fromkeys(("seq", "ls", "wait", "kill", "curl", "api", "id"), "another test runs the whole block"),
}
"""Programs that are not run here, and why."""
SERVERS = ("serve", "worker", "listen", "simulate --port")
"""Commands that go on until they are stopped."""
NOT_HERE = {
    "open": "it starts a program of the desktop: tests/test_cli_followups.py",
    "migrate": "it needs PostgreSQL: tests/test_cli_processes.py, and the block of the page contributing",
    "journal copy": "it needs PostgreSQL: tests/test_cli_copying.py",
}
RARELY = 'events = ["task.lost"]'
STATUS = {
    'action LARGE "custom zoom"': {4},  # it asks
    "cancel": {0, 1},  # of a task that has ended
    "doctor": {0, 1},  # an address is not there
    "keys prune": {1},  # it is too early
    "restore": {1},  # there is a journal
}
"""Exit statuses other than 0 that are right."""


def lines(page: str) -> list[list[str]]:
    """The commands of a page as words, without comments and what is set before them."""
    found = []
    for item in BLOCKS:
        if (item.page, item.kind) == (page, "sh"):
            for line in item.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.strip(), comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words.pop(0)
                if words and words[0] not in ("export", "api()"):
                    found.append(words)
    return found


OURS = {page: [words[1:] for words in lines(page) if words[0] == "receiver"] for page in TEXTS}


def unique(pages: dict[str, list[list[str]]]) -> list[list[str]]:
    """Each command once, in the order of the pages."""
    return [list(words) for words in dict.fromkeys(tuple(words) for found in pages.values() for words in found)]


@dataclass
class Folder:
    """A working folder with a simulated provider, files for every command, and a finished grid."""

    path: Path
    provider: Simulated
    capsys: pytest.CaptureFixture[str]
    grid: str = ""
    large: str = ""
    task: str = ""
    said: list[str] = field(default_factory=list)

    def run(self, *words: str) -> tuple[int, str]:
        """Exit status and standard output of a command."""
        sys.argv = ["receiver", *words]
        try:
            main()
            code: object = 0
        except SystemExit as exc:
            code = exc.code
        out, err = self.capsys.readouterr()
        assert isinstance(code, int | None), err
        self.said.append(err)
        return code or 0, out

    def submit(self, prompt: str) -> str:
        """Submit and wait. Return the submission's id."""
        code, _ = self.run("submit", prompt, "--wait")
        assert code == 0, self.said
        return self.newest()

    def newest(self) -> str:
        """The id of the newest submission."""
        return str(json.loads(self.run("tasks", "list", "--json")[1])[0]["id"])

    def filled(self, words: list[str]) -> list[str]:
        """The command with ids, names and paths of this folder."""
        id = self.grid
        if words[0] == "deliveries" and "ID" in words and "--task" not in words:
            id = json.loads(self.run("deliveries", "list", "--json")[1])[0]["id"]
        elif words[0] == "modal":
            id = self.newest()
        elif words[0] == "erase":
            id = self.submit("a paper plane")
        names = {"ID": id, "LARGE": self.large, "TASK_ID": self.task, "NAME": "archive"}
        return [names.get(word, word).replace("/backup", str(self.path)) for word in words]


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Iterator[Folder]:
    """With destinations of every name that the handbook uses. The parameter is the simulator's profile."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    for name in ("photo.jpg", "one.png", "two.png", "mask.png", "face.jpg"):
        Image.new("RGB", (64, 64), "white").save(tmp_path / name)
    (tmp_path / "prompts.txt").write_text("a paper boat\na paper crane\n")
    (tmp_path / "payload.json").write_text('{"id": "1", "status": "SUCCESS"}')
    tables = [f'[destinations.{name}]\nurl = "file:./{name}"\n{RARELY}\n' for name in ("archive", "album", "room")]
    (tmp_path / "receiver.toml").write_text("\n".join(tables))
    with simulating(speed=500.0, side=128, profile=getattr(request, "param", "default")) as provider:
        for name, value in {
            "RECEIVER_PROVIDER_URL": provider.url,
            "COMETAPI_KEY": "simulator",
            "RECEIVER_POLL_INTERVAL": "0.1s",
            "RECEIVER_CONFIRM_WITHIN": "0",
            "RECEIVER_TO": "file:./outputs",
        }.items():
            monkeypatch.setenv(name, value)
        made = Folder(tmp_path, provider, capsys)
        made.grid = made.submit("a paper boat --v 6.1")
        assert made.run("action", made.grid, "U2", "--wait")[0] == 0
        made.large = made.newest()
        key = {"Authorization": "Bearer simulator"}
        answer = httpx.post(f"{provider.url}/mj/submit/imagine", json={"prompt": "a boat"}, headers=key)
        made.task = answer.json()["result"]
        yield made
    forget_logging()


def follow(folder: Folder, pages: dict[str, list[list[str]]]) -> None:
    """Run the commands as they stand but for ids and paths. Each ends with the status it should have."""
    for words in unique(pages):
        text = " ".join(words)
        if "&" in words or text.startswith((*SERVERS, *NOT_HERE)):
            continue
        expected = next((status for start, status in STATUS.items() if text.startswith(start.replace('"', ""))), {0})
        code, _ = folder.run(*folder.filled(words))
        assert code in expected, (words, folder.said[-1])


def test_the_commands_run(folder: Folder) -> None:
    """Page by page."""
    follow(folder, OURS)


@pytest.mark.parametrize("folder", ["relay", "csharp"], indirect=True)
def test_the_readme_works_on_other_profiles(folder: Folder) -> None:
    """They encode, name and leave out things differently. Java's proxy shows its buttons late, and a press waits."""
    follow(folder, {"README": OURS["README"]})


def test_every_command_exists_with_its_options() -> None:
    """Those that are run elsewhere, too."""
    known = dict(commands())
    for words in (words for found in OURS.values() for words in found):
        name = next(text for text in (f"receiver {' '.join(words[:2])}", f"receiver {words[0]}") if text in known)
        taken = {text for item in known[name].params for text in (*item.opts, *item.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= taken, words


def test_the_servers_start(tmp_path: Path) -> None:
    """Each says that it is ready, and ends when it is told to."""
    ready = {
        "serve": ("out", "listens on"), "worker": ("err", "engine.started"),
        "listen": ("out", "http://"), "simulate": ("out", "http://"),
    }  # fmt: skip
    env = {"COMETAPI_KEY": "simulator", "RECEIVER_PROVIDER_URL": "http://127.0.0.1:9", "RECEIVER_PORT": "0"}
    for name, (stream, words) in ready.items():
        (tmp_path / name).mkdir()
        port = ["--port", "0"] if name in ("listen", "simulate") else []
        with Command(name, *port, folder=tmp_path / name, env=env) as command:
            getattr(command, stream).line(words)
            assert command.stop().code == 0


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="curl or jq is not installed")
@pytest.mark.parametrize("page", ["README", "http"])
def test_the_http_api_answers_as_shown(tmp_path: Path, page: str) -> None:
    """The page's own lines for a shell, against a real server."""
    script = block(page, "sh", "TOKEN=the-secret").replace("--json", "-H 'Content-Type: application/json' --data")
    with simulating(speed=200.0, side=128) as provider:
        env = {
            "COMETAPI_KEY": "simulator",
            "RECEIVER_PROVIDER_URL": provider.url,
            "RECEIVER_POLL_INTERVAL": "0.1s",
            "RECEIVER_API_TOKENS": "me:the-secret-of-this-test",
        }
        with serving_receiver(tmp_path, env) as (_, url):
            script = script.replace("http://127.0.0.1:8000", url).replace("the-secret", "the-secret-of-this-test")
            done = subprocess.run(
                ["bash", "-e", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
            )
    assert done.returncode == 0, done.stderr
    assert '"id"' in done.stdout
    assert page == "README" or (tmp_path / "boat.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", TEXTS)
def test_other_programs_are_known(page: str) -> None:
    """Ours in the repository exist. Extras that are installed exist. No other program goes unnoticed."""
    for words in lines(page):
        program = words[0]
        if program == "pip" and "install" in words:
            for extras in re.findall(r"\[([a-z,0-9]+)\]", " ".join(words)):
                assert set(extras.split(",")) <= EXTRAS.keys()
        elif program.startswith("scripts/"):
            assert os.access(ROOT / program, os.X_OK)
        elif program == ".venv/bin/python":
            assert (ROOT / words[1]).exists()
        else:
            assert program == "receiver" or program in ELSEWHERE or program.startswith("id="), words
