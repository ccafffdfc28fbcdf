"""Rules that hold for any bytes that come as a callback. Shared by the property-based tests and `scripts/fuzz`."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec

from receiver.clock import Clock
from receiver.errors import NotATask, NotJSON, TokenError
from receiver.tasks import MAX_TASK_ID, RANKS, Task, decode_json, decode_task, read_task
from receiver.tokens import Tokens
from receiver.verification import unwrap

PAYLOADS = sorted((Path(__file__).parent / "payloads").glob("*.json"))
TOKENS = Tokens(["k" * 32], max_age=3600, clock=Clock())
URL_TOKEN = TOKENS.url_token("01KKGM7NK10000000000000001")
DATABASE = sqlite3.connect(":memory:", check_same_thread=False)


def check_body(body: bytes) -> bool:
    """Only the documented errors, the same by the quick way as by the thorough one; and what is accepted can be stored
    and read again. Returns whether it was."""
    try:
        task = read_task(decode_json(body))
    except (NotJSON, NotATask) as exc:
        check_refused(body, type(exc))
        return False
    check_task(task)
    text = body.decode()
    assert "\x00" not in text
    check_stored(text)
    unwrapped = unwrap(TOKENS, body, URL_TOKEN)
    assert unwrapped.task == decode_task(body) == task
    assert not unwrapped.trusted
    check_unsigned(body)
    return True


def check_refused(body: bytes, error: type[Exception]) -> None:
    """The quick way refuses it, too, and for the same reason."""
    try:
        decode_task(body)
    except error:
        return
    raise AssertionError("the quick way takes what the thorough one refuses")


def check_task(task: Task) -> None:
    """It survives its own encoding, half characters are gone, and every value is within its bounds."""
    text = msgspec.json.encode(task).decode()
    assert msgspec.json.decode(text, type=Task) == task
    assert "\x00" not in text
    check_stored(text)
    assert task.id.strip()
    assert len(task.id) <= MAX_TASK_ID
    assert task.progress is None or 0 <= task.progress <= 100
    assert task.rank[0] == RANKS.get(task.status, -1)
    for time in (task.submit_ms, task.start_ms, task.finish_ms):
        assert time is None or 0 < time < 2**63
    assert all(isinstance(line, str) for line in (*task.texts, *task.result_urls, *task.problems))


def check_stored(text: str) -> None:
    """A database gives it back as it was."""
    assert DATABASE.execute("SELECT ?", (text,)).fetchone() == (text,)


def check_unsigned(body: bytes) -> None:
    """Without a good token no body is accepted."""
    try:
        unwrap(TOKENS, body, None)
    except (TokenError, NotJSON, NotATask):
        return
    raise AssertionError("an unsigned body was taken for ours")


def check_token(text: str) -> None:
    """Any text as a token is either refused as one, or names a submission; it never fails otherwise."""
    for read in (TOKENS.read_url_token, TOKENS.read_state_token):
        try:
            found = read(text)
        except TokenError:
            continue
        assert len(found) == 26
