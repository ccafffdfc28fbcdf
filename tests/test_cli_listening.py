"""`listen` and `destinations test`: real processes that talk to each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from servers import Command, Result, receiver
from starlette.responses import Response

from receiver.cli.serve import webhook_app
from receiver.handlers.webhook import new_secret


@contextmanager
def listening(folder: Path, *arguments: str) -> Iterator[tuple[Command, str]]:
    with Command("listen", "--port", "0", *arguments, folder=folder, env={}) as command:
        yield command, command.out.line("Listening on ").split()[-1]
        command.stop()


def tried(folder: Path, name: str, *arguments: str) -> Result:
    return receiver("destinations", "test", name, *arguments, folder=folder, env={})


def test_what_it_says_is_all_one_needs(tmp_path: Path) -> None:
    """The table it prints, pasted, makes a destination whose sample it verifies."""
    with Command("listen", "--port", "0", folder=tmp_path, env={}) as command:
        lines = [command.out.line(part).strip() for part in ("[destinations.listen]", "url = ", "secret = ")]
        (tmp_path / "receiver.toml").write_text("\n".join(lines))
        command.out.line("Listening on ")
        result = tried(tmp_path, "listen")
        assert re.fullmatch(r"listen took the sample\.\nref  [0-9A-Z]{26}\n", result.out), result.err
        line = command.out.line("task.succeeded")
        assert re.match(r"\d\d:\d\d:\d\d  verified  task\.succeeded  [0-9A-Z]{26}  SAMPLE, sent by", line)
        assert "image/png" in command.out.line("bytes")
        assert tried(tmp_path, "listen", "--type", "task.failed").code == 0
        assert "this is how a reason looks" in command.out.line("task.failed")
        place = lines[1].partition('"')[2].rstrip('"')
        table = "\n".join([lines[0], "handler = 'webhook'", f"hosts = '{place.rstrip('/')}'", lines[2]])
        (tmp_path / "receiver.toml").write_text(table)
        assert tried(tmp_path, "listen", "--url", f"{place}resume/1").code == 0
        command.stop()


def test_another_secret_is_refused(tmp_path: Path) -> None:
    """Both sides say so."""
    with listening(tmp_path, "--secret", new_secret()) as (command, url):
        (tmp_path / "receiver.toml").write_text(f'[destinations.hook]\nurl = "{url}/x"\nsecret = "{new_secret()}"\n')
        result = tried(tmp_path, "hook")
        assert "REFUSED   no matching signature found" in command.out.line("REFUSED")
    assert (result.code, result.out) == (1, "")
    assert "hook did not take the sample. An event would be tried again: 127.0.0.1:" in result.err
    assert "answered 401" in result.err


def test_it_answers_as_told(tmp_path: Path) -> None:
    """To see what becomes of a delivery; as JSON for scripts."""
    secret = new_secret()
    arguments = ("--secret", secret, "--answer", "503", "--retry-after", "17", "--json")
    with Command("listen", "--port", "0", *arguments, folder=tmp_path, env={}) as command:
        url = command.err.line("Listening on ").split()[-1]
        (tmp_path / "receiver.toml").write_text(f'[destinations.hook]\nurl = "{url}"\nsecret = "{secret}"\n')
        result = tried(tmp_path, "hook")
        assert re.search(r"It asks to come again in 17 s: 127\.0\.0\.1:\d+ answered 503", result.err)
        ended = command.stop()
    shown = json.loads(ended.out)
    assert (shown["problem"], shown["again"], shown["event"]["type"]) == (None, False, "task.succeeded")


def test_bad_input(tmp_path: Path) -> None:
    """What is no webhook gets its documented answer, and a secret that is none a sentence."""
    with listening(tmp_path) as (command, url):
        assert httpx.get(url).status_code == 405
        assert httpx.post(url, content=b"x").status_code == 415
        assert httpx.post(url, content=b"{", headers={"content-type": "application/json"}).status_code == 401
        assert "REFUSED   the body is not JSON" in command.out.line("REFUSED")
    wrong = receiver("listen", "--secret", "s3cret", folder=tmp_path, env={})
    assert (wrong.code, wrong.out) == (1, "")
    assert wrong.err.startswith("Error: --secret is wrong: a secret begins with whsec_; make one with: ")
    assert "s3cret" not in wrong.err


async def test_ids_are_known_again() -> None:
    """A repeat is shown as one."""
    shown: list[tuple[object, ...]] = []
    app = webhook_app(lambda headers, body: None, Response(None, 204), lambda *found: shown.append(found))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        for id in ("1", "2", "1"):
            assert (await client.post("/a/b", json={}, headers={"webhook-id": id})).status_code == 204
    assert [(id, again) for id, again, *_ in shown] == [("1", False), ("2", False), ("1", True)]
