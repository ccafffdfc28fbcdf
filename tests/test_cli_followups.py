"""The second step from a shell: real processes, one after another, on one journal."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from flows import SIDE
from ports import free_port
from servers import Result, serving, serving_receiver
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from test_cli_submit import assert_error, environment, files, provider, rows, run, saved
from waiting import PATIENCE

from receiver.simulator import Simulator


async def test_from_a_prompt_to_a_family(tmp_path: Path) -> None:
    """Grid, U2, a zoom that asks and is answered, a video; `tasks show` draws the tree."""
    async with provider(profile="relay") as (simulator, env):

        async def command(*arguments: str) -> dict[str, str]:
            result = await run(*arguments, "--json", folder=tmp_path, env=env)
            found: dict[str, str] = json.loads(result.out)
            return {**found, "code": str(result.code)}

        grid = await command("submit", "a paper boat --v 6.1", "--wait")
        upscaled = await command("action", grid["submission"], "U2", "--wait")
        asking = await command("action", upscaled["submission"], "custom zoom", "--wait")
        zoomed = await command("modal", asking["submission"], "--prompt", "wider --zoom 1.5", "--wait")
        film = await command("action", upscaled["task"], "animate low", "--wait")
        again = await run("action", grid["submission"], "u2", folder=tmp_path, env=env)
        shown = await run("tasks", "show", upscaled["submission"], folder=tmp_path, env={})
        listed = await run("tasks", "show", upscaled["submission"], "--json", folder=tmp_path, env={})

    assert [each["code"] for each in (grid, upscaled, asking, zoomed, film)] == ["0", "0", "4", "0", "0"]
    assert (asking["status"], zoomed["status"]) == ("input_required", "succeeded")
    assert zoomed["submission"] == asking["submission"]
    assert saved(upscaled["files"][0])["lineage"]["button"] == "U2"
    assert film["files"][0].endswith("_1.mp4")
    assert again.code == 0
    assert f"There is already {upscaled['submission']}" in again.out
    assert simulator.endpoints.count("action") == 3
    tree = [line.split()[:2] for line in shown.out.partition("FAMILY")[2].partition("EVENT")[0].splitlines()[1:]]
    assert tree == [
        [grid["submission"], "imagine"],
        [upscaled["submission"], "U2"],
        [zoomed["submission"], "custom"],
        [film["submission"], "animate"],
    ]
    made_by = [each["made_by"] for each in json.loads(listed.out)["family"]]
    assert made_by == ["imagine", "U2", "custom zoom", "animate low"]


class Front:
    """Before a simulated provider: answers the next request to a path itself. `instead` holds, by the path's end, the
    answers, and whether the provider has the request nevertheless."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.instead: dict[str, tuple[Response, bool]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, passed = self.instead.pop(scope.get("path", "").rpartition("/")[2], (None, True))
        if answer is None:
            await self._app(scope, receive, send)
            return
        if passed:
            await self._app(scope, receive, _unheard)
        await answer(scope, receive, send)


async def _unheard(message: Message) -> None:
    """Where an answer goes that is lost."""


@asynccontextmanager
async def fronted() -> AsyncIterator[tuple[Front, dict[str, str]]]:
    front = Front(Simulator(speed=100, side=SIDE).app)
    async with serving(front) as url:
        yield front, environment(url)


BUSY = JSONResponse({"code": 23, "description": "The queue is full.", "result": None, "properties": {}})
LOST = Response("<html>502</html>", status_code=502, media_type="text/html")


async def asking(folder: Path, env: dict[str, str]) -> str:
    """The id of a submission that asks for input."""
    found = {"submission": ""}
    for arguments in (("submit", "a boat"), ("action", "", "U2"), ("action", "", "custom zoom")):
        words = [word or found["submission"] for word in arguments]
        found = json.loads((await run(*words, "--wait", "--json", folder=folder, env=env)).out)
    return found["submission"]


async def replied(
    folder: Path, env: dict[str, str], front: Front, instead: tuple[Response, bool], *options: str
) -> tuple[str, Result]:
    """What a reply comes to that the provider answers so, and the id of the submission that asked for it."""
    id = await asking(folder, env)
    front.instead["modal"] = instead
    return id, await run("modal", id, "--prompt", "wider --zoom 1.5", *options, folder=folder, env=env)


async def test_a_reply_to_a_busy_provider_is_kept(tmp_path: Path) -> None:
    """That is no error, and said; it goes out again when its time has come."""
    async with fronted() as (front, env):
        id, result = await replied(tmp_path, env, front, (BUSY, False))
        assert (result.code, result.out) == (0, ""), result
        assert f"The reply to {id} is kept and sent again by" in result.err
        rows(tmp_path, "UPDATE submissions SET send_due_ms = 1")  # half a minute later
        waited = await run("wait", id, folder=tmp_path, env=env)
    assert waited.code == 0, waited
    assert saved(waited.last_line)


async def test_whoever_waits_is_told_what_becomes_of_a_reply(tmp_path: Path) -> None:
    """Its answer was lost, and the provider has it: the command stays for the result."""
    async with fronted() as (front, env):
        _, result = await replied(tmp_path, env, front, (LOST, True), "--wait")
    assert result.code == 0, result
    assert saved(result.last_line)


async def test_a_reply_whose_answer_was_lost(tmp_path: Path) -> None:
    """Whoever does not wait is told where to look."""
    async with fronted() as (front, env):
        id, result = await replied(tmp_path, env, front, (LOST, False))
    assert_error(result, f"See: receiver tasks show {id}")


async def test_a_press_whose_answer_was_lost(tmp_path: Path) -> None:
    """Pressed again it is not sent again; what is known of it is said."""
    async with fronted() as (front, env):
        env["RECEIVER_PUBLIC_URL"] = "http://127.0.0.1:9"  # a callback might still tell
        grid = json.loads((await run("submit", "a boat", "--wait", "--json", folder=tmp_path, env=env)).out)
        front.instead["action"] = (LOST, False)
        assert (await run("action", grid["submission"], "U2", folder=tmp_path, env=env)).code == 1
        again = await run("action", grid["submission"], "U2", folder=tmp_path, env=env)
    _, (id, status, _) = rows(tmp_path)
    assert (again.code, status) == (0, "unknown")
    assert again.out.startswith(f"Submission {id}: unknown. ")
    assert again.out.endswith(f". See: receiver tasks show {id}\n")


async def test_many_prompts_a_few_at_a_time(tmp_path: Path) -> None:
    """Each line is submitted, and the paths are printed as they come."""
    (tmp_path / "prompts.txt").write_text("a cat\n# a remark\n\na dog\na mountain\n")
    async with provider() as (simulator, env):
        result = await run("submit", "--file", "prompts.txt", "--jobs", "2", folder=tmp_path, env=env)
    assert result.code == 0, result
    assert sorted(Path(line).name.split("_")[1] for line in result.out.splitlines()) == ["cat", "dog", "mountain"]
    assert "3 of 3 succeeded, 3 in " in result.err.splitlines()[-1]
    assert len(simulator.submits) == 3


async def test_follow_ups_by_themselves(tmp_path: Path) -> None:
    """`--auto` stays for what it starts, and prints each path."""
    async with provider() as (_, env):
        result = await run("submit", "a boat", "--auto", "U1,U3", "--wait", folder=tmp_path, env=env)
    assert result.code == 0, result
    assert [Path(line).name.split("_")[1] for line in result.out.splitlines()] == ["boat", "boat-u1", "boat-u3"]


async def test_many_prompts_with_follow_ups(tmp_path: Path) -> None:
    """`--file` stays for what `--auto` starts, too: nothing is left unsent."""
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    async with provider() as (_, env):
        result = await run("submit", "--file", "prompts.txt", "--auto", "U1", folder=tmp_path, env=env)
    assert result.code == 0, result
    assert [end for _, _, end in rows(tmp_path)] == ["task.succeeded"] * 4
    assert sorted(Path(line).name.split("_")[1] for line in result.out.splitlines()) == [
        "cat", "cat-u1", "dog", "dog-u1",
    ]  # fmt: skip
    assert "2 of 2 succeeded, 4 in file." in result.err.splitlines()[-1]


def with_desktop(folder: Path, env: dict[str, str]) -> dict[str, str]:
    """The environment with a desktop that says what it opens, and notes it in a file."""
    programs = folder / "programs"
    programs.mkdir()
    (folder / "opened").touch()
    for name in ("xdg-open", "open"):
        (programs / name).write_text(f'#!/bin/sh\necho "opens $1"\necho "$1" >> "{folder}/opened"\n')
        (programs / name).chmod(0o755)
    return {**env, "PATH": f"{programs}:{os.environ['PATH']}"}


async def test_the_newest_picture_is_opened(tmp_path: Path) -> None:
    """A task that has not ended is not in its way. Without a server there is no page."""
    async with provider() as (_, given):
        env = with_desktop(tmp_path, {**given, "RECEIVER_PORT": str(free_port())})
        made = json.loads((await run("submit", "a boat", "--wait", "--json", folder=tmp_path, env=env)).out)
        assert (await run("submit", "a crane", folder=tmp_path, env=env)).code == 0
        result = await run("open", folder=tmp_path, env=env)
        missing = await run("open", "--page", folder=tmp_path, env=env)
        for program in (tmp_path / "programs").iterdir():
            program.write_text("#!/bin/sh\necho 'no method available' >&2\nexit 3\n")
        bare = await run("open", folder=tmp_path, env=env)
    assert result.code == 0, result
    assert result.out.splitlines() == made["files"] == (tmp_path / "opened").read_text().splitlines()
    assert missing.code == 1
    assert "Start it: receiver serve" in missing.err
    assert bare.out.splitlines() == made["files"]
    assert bare.err == f"No desktop here can open it; do so elsewhere: {made['files'][0]}\n"


async def test_the_page_is_opened_where_it_is_served(tmp_path: Path) -> None:
    """The address that is opened logs in and goes on to the picture. The printed one holds no key."""
    async with provider() as (_, given):
        env = with_desktop(tmp_path, {**given, "RECEIVER_PORT": str(free_port())})
        made = json.loads((await run("submit", "a boat", "--wait", "--json", folder=tmp_path, env=env)).out)
        with serving_receiver(tmp_path, env) as (_, url):
            home = await run("open", folder=tmp_path, env=env)
            one = await run("open", "last", "--page", folder=tmp_path, env=env)
            picture = await run("open", "last", folder=tmp_path, env=env)
            async with asyncio.timeout(PATIENCE):
                while len(opened := (tmp_path / "opened").read_text().splitlines()) < 3:  # noqa: ASYNC110 - programs
                    await asyncio.sleep(0.05)
            async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as browser:
                shown = await browser.get(max(opened))  # the longest way
    assert sum(item.startswith(f"{url}/login?key=") for item in opened) == 2
    assert home.out == one.out == f"{url}/login\n"
    assert shown.url.path == f"/pictures/{made['submission']}"
    assert shown.status_code == 200
    assert made["files"][0] in opened
    assert made["files"][0] in picture.out


async def test_follow_ups_where_a_destination_fails(tmp_path: Path) -> None:
    """The task has succeeded, so its buttons are pressed; that a destination has no result stays an error."""
    (tmp_path / "taken").touch()
    async with provider() as (_, env):
        env |= {"RECEIVER_TO": "file:./outputs", "RECEIVER_DESTINATIONS__BAD__URL": "file:./taken/outputs"}
        result = await run("submit", "a boat", "--auto", "U1", "--wait", folder=tmp_path, env=env)
    assert result.code == 1, result
    assert [row[1:] for row in rows(tmp_path)] == [("accepted", "task.succeeded")] * 2
    assert [Path(line).name.split("_")[1] for line in result.out.splitlines()] == ["boat", "boat-u1"]
    assert result.err.count("did not reach bad") == 2


def refuse(folder: Path, button: str) -> None:
    """Let the provider have refused the press of a button."""
    rows(
        folder,
        "UPDATE submissions SET status = 'refused', once = NULL, ended = NULL, "  # noqa: S608
        "body = json_remove(json_set(body, '$.status', 'refused'), '$.once', '$.ended') "
        f"WHERE body ->> '$.button' = '{button}'",
    )


async def test_what_a_person_pressed_is_no_part_of_the_result(tmp_path: Path) -> None:
    """`wait` tells of the task and of what it started by itself, also where that was refused; not of other presses."""
    async with provider() as (_, env):
        made = await run("submit", "a boat", "--auto", "U1", "--wait", folder=tmp_path, env=env)
        (id, _, _), _ = rows(tmp_path)
        assert made.code == 0, made
        for button in ("V1", "V2"):
            assert (await run("action", id, button, folder=tmp_path, env=env)).code == 0
        refuse(tmp_path, "V1")
        rows(
            tmp_path,
            "UPDATE submissions SET ended = 'task.failed', body = json_set(body, '$.ended', 'task.failed') "
            "WHERE body ->> '$.button' = 'V2'",
        )
        assert (await run("wait", id, folder=tmp_path, env=env)).code == 0
        refuse(tmp_path, "U1")
        assert (await run("wait", id, folder=tmp_path, env=env)).code == 1


async def test_texts_are_printed(tmp_path: Path) -> None:
    """`shorten` prints the prompts it found, and then where they lie."""
    async with provider() as (_, env):
        result = await run("shorten", "a very long prompt about a boat", "--wait", folder=tmp_path, env=env)
    *texts, path = result.out.splitlines()
    assert len(texts) >= 2
    assert Path(path).read_text().splitlines() == texts


async def test_a_task_of_somebody_else(tmp_path: Path) -> None:
    """`watch` takes it over by its id; one that the provider does not know is a sentence."""
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    async with provider() as (simulator, env):
        first = await run("submit", "a cat", "--json", folder=tmp_path / "theirs", env=env)
        task = json.loads(first.out)["task"]
        result = await run("watch", task, "--wait", folder=tmp_path / "ours", env=env)
        unknown = await run("watch", "1234567890123456", folder=tmp_path / "ours", env=env)
    assert result.code == 0, result
    assert saved(result.last_line)["task"]["id"] == task
    assert_error(unknown, "1234567890123456", "does not know")
    assert len(simulator.submits) == 1


async def test_nothing_is_spent_on_a_mistake(tmp_path: Path) -> None:
    """A wrong button, an unfinished task, a reply nobody asked for and an unknown destination are a sentence each."""
    async with provider() as (simulator, env):
        grid = json.loads((await run("submit", "a boat", "--wait", "--json", folder=tmp_path, env=env)).out)
        id = grid["submission"]
        kept = files(tmp_path)
        assert_error(await run("action", id, "U9", folder=tmp_path, env=env), "no button U9", "U1 to U4")
        assert_error(await run("modal", id, "--prompt", "x", folder=tmp_path, env=env), "does not ask for input")
        assert_error(await run("submit", "x", "--to", "nowhere", folder=tmp_path, env=env), "'nowhere'", "file")
        assert_error(await run("blend", "one.png", folder=tmp_path, env=env), "2 to 5 pictures")
        assert_error(await run("video", "no.png", "--prompt", "it sails", folder=tmp_path, env=env), "no.png")
        assert_error(await run("action", "01ABCDEFGH", "U1", folder=tmp_path, env=env), "01ABCDEFGH")
        assert files(tmp_path) == kept
        assert simulator.endpoints == ["imagine"]


async def test_small_questions(tmp_path: Path) -> None:
    """`seed`, `cancel` and `upload` ask once and journal nothing."""
    async with provider() as (simulator, env):
        grid = json.loads((await run("submit", "a boat", "--wait", "--json", folder=tmp_path, env=env)).out)
        seed = await run("seed", grid["submission"], folder=tmp_path, env=env)
        cancel = await run("cancel", grid["task"], folder=tmp_path, env=env)
        upload = await run("upload", grid["files"][0], folder=tmp_path, env=env)
    assert seed.out.strip().isdigit()
    assert_error(cancel, "has succeeded: nothing is left to cancel")
    assert upload.out.startswith("http")
    assert simulator.endpoints.count("upload-discord-images") + simulator.endpoints.count("upload") == 1
