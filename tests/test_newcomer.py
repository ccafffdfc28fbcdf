"""A fresh clone, as a newcomer meets it: a new folder, a new virtual environment, the README's command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

ROOT = Path(__file__).parent.parent
PROMPT = "a paper boat floating on calm water at sunrise --v 6.1"

newcomer = pytest.mark.newcomer


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("newcomer") / "receiver"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("RECEIVER_", "VIRTUAL_ENV"))}


@newcomer
@pytest.mark.parametrize("options", [[], ["--no-callbacks"]])
def test_the_demo_ends_with_the_path_of_a_picture(clone: Path, environ: dict[str, str], options: list[str]) -> None:
    """One command in a fresh clone installs, runs, and prints where the picture lies, with callbacks and without."""
    done = subprocess.run(
        [clone / "scripts" / "demo", PROMPT, "--speed", "20", *options],
        cwd=clone,
        env=environ,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    picture = Path(done.stdout.splitlines()[-1])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "paper-boat" in picture.name
    assert picture.with_suffix(".json").exists()
    kept = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert kept.stdout == "", "the demo leaves nothing behind that git would want"


@newcomer
def test_the_demo_shows_three_destinations_at_once(clone: Path, environ: dict[str, str]) -> None:
    """A folder with the tiles, a verified webhook and a program's page, and where each has put the result."""
    places = [word for place in ("file", "webhook", "command") for word in ("--to", place)]
    done = subprocess.run(
        [clone / "scripts" / "demo", PROMPT, "--speed", "20", *places],
        cwd=clone,
        env=environ,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = {line.split()[0]: line for line in done.stderr.splitlines() if " succeeded: " in line}
    assert told.keys() == {"file", "webhook", "command"}
    picture = Path(done.stdout.splitlines()[-1])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert told["file"].endswith(str(picture))
    assert all(picture.with_stem(f"{picture.stem}_u{number}").exists() for number in (1, 2, 3, 4))
    page = Path(told["command"].partition("succeeded: ")[2]).read_text()
    assert PROMPT in page
    assert "data:image/png;base64," in page
    assert " verified  task.succeeded " in done.stderr


@newcomer
@pytest.mark.parametrize("ends_by", ["Ctrl-C", "kill"])
def test_the_demo_keeps_serving_until_interrupted(clone: Path, environ: dict[str, str], ends_by: str) -> None:
    """`--serve` says what to try next. Ctrl-C in its terminal, or a kill of it alone, ends everything it started."""
    demo = subprocess.Popen(
        [clone / "scripts" / "demo", PROMPT, "--speed", "20", "--serve"],
        cwd=clone,
        env=environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert demo.stderr is not None
    lines = []
    for line in demo.stderr:
        lines.append(line)
        if "receiver deliveries list" in line:
            break
    if ends_by == "Ctrl-C":
        os.killpg(demo.pid, signal.SIGINT)
    else:
        demo.terminate()
    demo.communicate(timeout=PATIENCE)  # until the servers, too, have closed their standard error
    assert any("export COMETAPI_KEY=" in line for line in lines)
    assert any("/login?key=" in line for line in lines)
    assert demo.returncode in ((0, 130) if ends_by == "Ctrl-C" else (143,))


@pytest.mark.parametrize("script", ["demo", "test", "faults", "bench", "posts"])
def test_a_python_that_is_too_old_is_one_sentence(environ: dict[str, str], script: str) -> None:
    """It names the version, and no traceback stands behind it."""
    command = [ROOT / "scripts" / script]
    if b"python" in command[0].read_bytes().splitlines()[0]:
        command.insert(0, Path(sys.executable).resolve())  # outside of .venv, as a newcomer's
    done = subprocess.run(command, env={**environ, "PYTHON": "false"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Receiver needs Python 3.11 or newer; false is older or missing.")
