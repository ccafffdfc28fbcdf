"""The callback endpoint over real HTTP, with a real journal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from doors import JSON, MARKER, MAX_AGE, TASK, Door, assert_problem, body, opened, path, tokens
from engine import logged
from servers import connect, exchange, serving
from waiting import PATIENCE

from receiver.clock import Clock
from receiver.events import Submission, new_id
from receiver.intake import Intake, Policy
from receiver.intake.transitions import MAX_LATE_CALLBACKS
from receiver.web.app import create_app
from receiver.web.callbacks import AT_ONCE, Callbacks
from receiver.web.health import Readyz

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAYLOADS = Path(__file__).parent / "payloads"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """An endpoint that accepts a terminal callback at once, without confirmation."""
    async with opened(tmp_path_factory.mktemp("door"), policy=Policy(confirm_ms=0)) as found:
        yield found


# Trust

STATES: dict[str, Callable[[Submission, Submission], object]] = {
    "good": lambda row, other: tokens().state_token(row.id),
    "missing": lambda row, other: None,
    "empty": lambda row, other: "",
    "mangled": lambda row, other: tokens().state_token(row.id)[:-8] + "AAAAAAAA",
    "a URL token": lambda row, other: tokens().url_token(row.id),
    "a number": lambda row, other: 5,
    "a list": lambda row, other: [tokens().state_token(row.id)],
    "expired": lambda row, other: tokens(shift=-MAX_AGE - 60).state_token(row.id),
    "another submission's": lambda row, other: tokens().state_token(other.id),
}


@pytest.mark.parametrize(
    ("url", "state", "task_id", "status", "cause"),
    [
        ("good", "good", TASK, 200, None),
        ("good", "good", "other", 202, "other_task"),
        ("good", "missing", TASK, 202, "no_state"),
        ("good", "empty", TASK, 202, "no_state"),
        ("good", "mangled", TASK, 202, "bad_state"),
        ("good", "a URL token", TASK, 202, "bad_state"),
        ("good", "a number", TASK, 202, "bad_state"),
        ("good", "a list", TASK, 202, "no_state"),
        ("good", "expired", TASK, 202, "bad_state"),
        ("good", "another submission's", TASK, 202, "other_state"),
        ("none", "good", TASK, 202, "no_url_token"),
        ("none", "good", "other", 202, "no_url_token"),
        ("none", "missing", TASK, 401, None),
        ("none", "empty", TASK, 401, None),
        ("none", "mangled", TASK, 401, None),
        ("none", "a URL token", TASK, 401, None),
        ("none", "a number", TASK, 401, None),
        ("none", "a list", TASK, 401, None),
        ("none", "expired", TASK, 401, None),
    ],
)
async def test_trust(door: Door, *, url: str, state: str, task_id: str, status: int, cause: str | None) -> None:
    """Both tokens and the right task id are accepted. With one token the callback is kept and the provider asked."""
    row, other = await door.submission(), await door.submission()
    before = await door.stored()
    where = path(row) if url == "good" else "/callbacks"
    response = await door.post(where, body(row, state=STATES[state](row, other), id=task_id, prompt=MARKER))
    after = await door.journal.find(row.id)
    if status == 401:
        assert_problem(response, 401)
        assert await door.stored() == before
        assert after == row
        return
    assert response.status_code == status
    assert response.json() == {"accepted": status == 200}
    assert await door.kept(row) == [cause]
    assert await door.kept(other) == []
    assert after.callbacks == 1
    assert after.task_id == TASK
    if status == 200:
        assert await door.types(row) == ["task.progressed.46"]
    else:
        assert after.poll_due_ms is not None
        assert after.poll_due_ms <= Clock().now_ms()
        assert await door.types(row) == []


BAD_PATHS: dict[str, Callable[[Submission], str]] = {
    "empty": lambda row: "/callbacks/",
    "garbage": lambda row: f"/callbacks/{MARKER}",
    "id alone": lambda row: f"/callbacks/{row.id}",
    "expired": lambda row: f"/callbacks/{tokens(shift=-MAX_AGE - 60).url_token(row.id)}",
    "from the future": lambda row: f"/callbacks/{tokens(shift=120).url_token(row.id)}",
    "another key's": lambda row: f"/callbacks/{tokens(key='x' * 32).url_token(row.id)}",
    "the state token": lambda row: f"/callbacks/{tokens().state_token(row.id)}",
    "cut short": lambda row: path(row)[:-4],
    "without signature": lambda row: path(row).rpartition(".")[0],
    "signature altered": lambda row: re.sub(r"\.(.)([\w-]{42})$", lambda m: "." + chr(ord(m[1]) ^ 1) + m[2], path(row)),
    "another id": lambda row: path(row).replace(row.id, new_id(row.created_ms)),
    "lower case": lambda row: path(row).replace(row.id, row.id.lower()),
    "very long": lambda row: f"/callbacks/{'A' * 50_000}",
    "twice": lambda row: f"{path(row)}{path(row)}",
    "two slashes behind": lambda row: path(row) + "//",
    "slash before": lambda row: path(row).replace("/callbacks/", "/callbacks//"),
    "more behind": lambda row: f"{path(row)}/{MARKER}",
    "encoded slash": lambda row: path(row).replace(".", "%2F"),
    "encoded NUL": lambda row: path(row) + "%00",
    "encoded bytes": lambda row: path(row) + "%FF%FE",
    "half an encoding": lambda row: path(row) + "%",
    "encoded twice": lambda row: path(row).replace(".", "%252E"),
    "dots": lambda row: "/callbacks/../callbacks",
}


@pytest.mark.parametrize("name", BAD_PATHS)
async def test_bad_url_token(door: Door, name: str) -> None:
    """Every bad URL token gets the same 401, whatever the body, and nothing is stored."""
    row = await door.submission()
    before, refused = await door.stored(), door.callbacks.unsigned
    answers = []
    for content in (body(row), MARKER.encode() * 100):
        head = f"POST {BAD_PATHS[name](row)} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        end = f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        answers.append(await exchange(door.url, (head + end).encode() + content))
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert answer.endswith(b'"detail":"This address is not signed by us."}')
        assert MARKER.encode() not in answer
    assert await door.stored() == before
    assert door.callbacks.unsigned == refused + 2


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.replace(".", "%2E"),
        lambda path: path + "?rand=1",
        lambda path: path + "/",
        lambda path: path + "%2F",
        lambda path: path + "/?rand=1",
        lambda path: path,
    ],
    ids=["encoded dots", "query", "slash", "encoded slash", "slash and query", "plain"],
)
async def test_good_url_token(door: Door, change: Callable[[str], str]) -> None:
    """A token whose unreserved characters were encoded on the way, or that got a slash or a query, is still good."""
    row = await door.submission()
    assert (await door.post(change(path(row)), body(row))).status_code == 200
    assert await door.kept(row) == [None]


async def test_clock_a_little_behind(door: Door) -> None:
    """Tokens from 50 s in the future are good: clocks differ."""
    row = await door.submission()
    ahead = tokens(shift=50)
    answer = await door.post(
        f"/callbacks/{ahead.url_token(row.id)}", body(row, state=ahead.state_token(row.id))
    )  # fmt: skip
    assert answer.status_code == 200


async def test_unknown_submission(door: Door) -> None:
    """Good tokens of a submission that is not in this journal get a 404, and nothing is stored."""
    before = await door.stored()
    row = await door.submission()
    gone = new_id(1)
    state = tokens().state_token(gone)
    response = await door.post(f"/callbacks/{tokens().url_token(gone)}", body(row, state=state, prompt=MARKER))
    assert_problem(response, 404)
    assert await door.stored() == before


async def test_callback_before_the_submit_answer(door: Door) -> None:
    """A callback that outruns the submit answer binds the task id."""
    row = await door.submission(task_id=None)
    assert (await door.post(path(row), body(row))).status_code == 200
    after = await door.journal.find(row.id)
    assert (after.task_id, after.status) == (TASK, "accepted")
    assert await door.types(row) == ["task.accepted", "task.progressed.46"]


async def test_terminal_callback_waits_for_confirmation(tmp_path: Path) -> None:
    """With a time for confirmation, a SUCCESS is kept as a claim and makes no event yet."""
    async with opened(tmp_path, policy=Policy(confirm_ms=30_000)) as door:
        row = await door.submission()
        assert (await door.post(path(row), body(row, status="SUCCESS", progress="100%"))).status_code == 200
        after = await door.journal.find(row.id)
        assert after.claim is not None
        assert after.ended is None
        assert await door.types(row) == []


class _Broken:
    """An intake with a fault of ours in it."""

    async def received(self, *_: Any) -> bool:
        raise ZeroDivisionError(MARKER)


async def test_a_fault_of_ours_is_a_problem(door: Door) -> None:
    """Callbacks come past the middleware, so they answer for themselves: 500, one line with the traceback, no echo."""
    row = await door.submission()
    callbacks = Callbacks(intake=cast(Intake, _Broken()), tokens=tokens(), admission=door.admission)
    async with serving(create_app(callbacks=callbacks, readyz=Readyz({}))) as url:
        with logged() as lines:
            response = await door.client.post(url + path(row), content=body(row), headers=JSON)
    assert_problem(response, 500)
    assert [line["event"] for line in lines] == ["callback.failed"]


# Many at once


async def test_same_callback_at_once(door: Door) -> None:
    """Fifty copies of one callback at the same time are all kept and make one event."""
    row = await door.submission()
    answers = await asyncio.gather(*(door.post(path(row), body(row)) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert await door.kept(row) == [None] * 50
    assert await door.types(row) == ["task.progressed.46"]


# Our own trouble


async def test_a_submission_has_its_share(door: Door) -> None:
    """After its end a few more are kept. Then 429, and nothing is stored. Others are accepted."""
    row, other = await door.submission(), await door.submission()
    answers = [
        (await door.post(path(row), body(row, status="FAILURE", number=number))).status_code
        for number in range(MAX_LATE_CALLBACKS + 3)
    ]
    assert answers == [200] * (1 + MAX_LATE_CALLBACKS) + [429] * 2
    assert len(await door.kept(row)) == 1 + MAX_LATE_CALLBACKS
    assert_problem(await door.post(path(row), body(row)), 429)
    assert (await door.post(path(other), body(other))).status_code == 200


async def test_one_token_reads_few_bodies_at_once(door: Door) -> None:
    """Slow bodies of one token take their share, and a further one is refused unread. Another token has its own."""
    row, other = await door.submission(), await door.submission()
    head = f"POST {path(row)} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(AT_ONCE):
            slow = stack.enter_context(await asyncio.to_thread(connect, door.url))
            slow.sendall(head.encode())
        async with asyncio.timeout(PATIENCE):
            while (answer := await door.post(path(row), body(row))).status_code != 429:
                pass
        assert_problem(answer, 429)
        assert (await door.post(path(other), body(other))).status_code == 200


async def test_journal_gone(tmp_path: Path) -> None:
    """A callback that cannot be stored is answered 503 with Retry-After, never 2xx."""
    async with opened(tmp_path, policy=Policy()) as door:
        row = await door.submission()
        await door.journal.aclose()
        response = await door.post(path(row), body(row, prompt=MARKER))
        assert_problem(response, 503)
        assert response.headers["retry-after"].isdigit()
        assert str(tmp_path) not in response.text


async def test_one_line_in_the_log(door: Door) -> None:
    """Each request is one line, whatever it came to, and no line holds a token or the body."""
    row = await door.submission()
    url, state = path(row), tokens().state_token(row.id)
    requests = [
        (url, body(row, prompt=MARKER, state=state), JSON, "callback.received"),
        (f"/callbacks/{MARKER}", body(row), JSON, "callback.refused"),
        ("/callbacks", body(row, state=MARKER), JSON, "callback.refused"),
        (url, MARKER.encode(), JSON, "callback.refused"),
        (url, body(row, state=state), {"Content-Type": MARKER}, "callback.refused"),
    ]
    for where, content, headers, event in requests:
        with logged() as lines:
            await door.post(where, content, headers)
        ours = [line for line in lines if line["event"].startswith("callback.")]
        assert [line["event"] for line in ours] == [event]
        assert MARKER not in repr(lines)
        assert url.rpartition("/")[2] not in repr(lines)
        assert state not in repr(lines)


# Recorded payloads

_ACCEPTED = ["task.accepted"]
RECORDED = {
    "callback_01_java_submitted.json": _ACCEPTED,
    "callback_02_java_in_progress_0.json": [*_ACCEPTED, "task.progressed.0"],
    "callback_03_java_in_progress_46_webp.json": [*_ACCEPTED, "task.progressed.46"],
    "callback_05_java_failure_timeout.json": [*_ACCEPTED, "task.failed"],
    "callback_07_java_describe_success.json": [*_ACCEPTED, "task.succeeded"],
    "callback_11_csharp_submitted.json": _ACCEPTED,
    "callback_13_csharp_success.json": [*_ACCEPTED, "task.succeeded"],
    "callback_14_csharp_failure_banned.json": [*_ACCEPTED, "task.failed"],
    "callback_18_csharp_late_progress_after_success.json": [*_ACCEPTED, "task.progressed.93"],
    "callback_19_crazyrouter_minimal.json": [*_ACCEPTED, "task.succeeded"],
    "callback_20_csharp_wire_escaping.raw.json": [*_ACCEPTED, "task.succeeded"],
}


def ours(name: str, state: str) -> bytes:
    """A recorded callback with this state and our task id, and every other byte as it came."""
    text = (PAYLOADS / name).read_text(encoding="utf-8")
    recorded = json.loads(text)
    text = text.replace(json.dumps(recorded["id"]), json.dumps(TASK))
    if recorded.get("state"):
        return text.replace(json.dumps(recorded["state"]), json.dumps(state)).encode()
    return text.replace("{", f'{{"state": "{state}",', 1).encode()


async def test_every_recorded_callback_is_tried() -> None:
    """The table below holds every recorded callback."""
    assert sorted(RECORDED) == sorted(file.name for file in PAYLOADS.glob("callback_*.json"))


@pytest.mark.parametrize("name", RECORDED)
async def test_recorded_callback(door: Door, name: str) -> None:
    """Every recorded callback under our tokens is accepted and makes its events. It is kept without these tokens."""
    row = await door.submission(task_id=None)
    content = ours(name, tokens().state_token(row.id))
    response = await door.post(path(row), content)
    assert (response.status_code, response.json()) == (200, {"accepted": True})
    assert await door.types(row) == RECORDED[name]
    (callback,) = await door.journal.callbacks(row.id)
    assert callback.body == ours(name, f"{row.id}.[redacted]")
