"""Logs: their shape, and that no secret is in them."""

from __future__ import annotations

import html
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import structlog

from receiver.telemetry import (
    REDACTED,
    Log,
    configure,
    redact,
    redact_body,
    redact_fields,
    redact_known,
    use_logging,
)

TOKEN = "01JD7K3W8QZ5T9V2X4Y6A8B0CD.aBcD-_." + "s" * 43


@pytest.fixture(autouse=True)
def stream() -> Iterator[io.StringIO]:
    """A stream for lines; no secret is known from other tests, and whatever a test configures is undone after it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure()
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    yield io.StringIO()
    configure()
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_stream_that_is_no_terminal_gets_json_with_utc_times(stream: io.StringIO) -> None:
    """`auto` writes one JSON object per line, with level, name and an ISO time in UTC."""
    configure(stream=stream)
    Log("receiver.tests").info("delivery.succeeded", delivery_id="d1", attempt=2)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "delivery.succeeded", "level": "info", "delivery_id": "d1", "attempt": 2}


def test_a_logger_made_before_configure_takes_part(stream: io.StringIO) -> None:
    """A module's own logger, made at import, writes to what is configured later."""
    log = Log("receiver.tests")
    configure(stream=stream)
    log.info("engine.started")
    second = io.StringIO()
    configure(stream=second)
    log.info("engine.stopped")
    assert [line["event"] for line in lines(stream)] == ["engine.started"]
    assert [line["event"] for line in lines(second)] == ["engine.stopped"]


def test_the_level_filters(stream: io.StringIO) -> None:
    """Lines below the level are not written, neither ours nor other people's."""
    configure(level="warning", stream=stream)
    Log("receiver.tests").info("task.seen")
    logging.getLogger("asyncio").info("seen")
    Log("receiver.tests").warning("task.lost")
    assert [line["event"] for line in lines(stream)] == ["task.lost"]


def test_other_peoples_lines_take_the_same_way(stream: io.StringIO) -> None:
    """uvicorn and asyncio write the same JSON, redacted; httpx and access lines, which hold URLs, are left out."""
    configure(secrets=["hunter2222"], stream=stream)
    for name in ("httpx", "httpcore.http11", "uvicorn.access"):
        logging.getLogger(name).info("GET %s", f"/callbacks/{TOKEN}")
    try:
        raise RuntimeError("hunter2222")
    except RuntimeError:
        logging.getLogger("uvicorn.error").exception("broke at /callbacks/%s", TOKEN)
    (line,) = lines(stream)
    assert (line["logger"], line["event"]) == ("uvicorn.error", f"broke at /callbacks/{REDACTED}")
    assert "hunter2222" not in stream.getvalue()
    assert "RuntimeError" in line["exception"]


SECRET_KEYS = [
    *(
        "token",
        "url_token",
        "X-Token",
        "client_secret",
        "password",
        "Authorization",
        "api_key",
        "apiKey",
        "mj-api-secret",
    ),
    *("key", "provider_key", "keys", "notify_hook", "notifyHook", "state", "user_state", "cookie", "webhook_url"),
]


@pytest.mark.parametrize("name", SECRET_KEYS)
def test_a_secret_by_its_key_is_redacted_at_any_depth(name: str) -> None:
    """A field whose name says secret loses its value, nested in tables and lists too."""
    event = {name: "x", "a": [{"b": {name: {"deep": "x"}}}]}
    assert redact_fields(None, "info", event) == {name: REDACTED, "a": [{"b": {name: REDACTED}}]}


def test_plain_fields_stay() -> None:
    """Ids, numbers and statuses stay as they are; an absent token may be seen to be absent."""
    event = {"idempotency_key": "d1", "status": "pending", "statement": "x", "n": 1.5, "token": None, "ok": True}
    assert redact_fields(None, "info", dict(event)) == event


SHAPES = [
    (f"POST /callbacks/{TOKEN} HTTP/1.1", f"POST /callbacks/{REDACTED} HTTP/1.1"),
    ("https://h/callbacks/anything?x=1", f"https://h/callbacks/{REDACTED}"),
    ("hook=https%3A%2F%2Fh%2Fcallbacks%2Fanything", f"hook=https%3A%2F%2Fh%2Fcallbacks%2F{REDACTED}"),
    (f"state {TOKEN} of another", f"state 01JD7K3W8QZ5T9V2X4Y6A8B0CD.{REDACTED} of another"),
    ("authorization: bearer abc.def", f"authorization: bearer {REDACTED}"),
    (
        "'https://hooks.slack.com/services/T0/B0/xyz' said 404",
        f"'https://hooks.slack.com/{REDACTED}' said 404",
    ),
    (
        "https://discord.com/api/v10/webhooks/123/ab-C_d?wait=true",
        f"https://discord.com/api/v10/webhooks/{REDACTED}?wait=true",
    ),
    ("xoxb-1234-abcd and sk-shape0123456789abcXYZ", f"{REDACTED} and {REDACTED}"),
    ("postgres://user:pass@host/db", f"postgres://{REDACTED}@host/db"),
    (
        "https://cdn.discordapp.com/attachments/1/2/boat.png?ex=1",
        "https://cdn.discordapp.com/attachments/1/2/boat.png?ex=1",
    ),
    ("ask the task-list, basically", "ask the task-list, basically"),
    ("POST /callbacks said 401", "POST /callbacks said 401"),
]


@pytest.mark.parametrize(("text", "expected"), SHAPES)
def test_a_secret_by_its_shape_is_redacted(text: str, expected: str) -> None:
    """Our tokens, bearer values, webhook URLs and userinfo are redacted anywhere in a text; the rest stays."""
    assert redact(text) == expected


def test_known_secrets_are_redacted_however_they_are_spelled(stream: io.StringIO) -> None:
    """A configured secret is gone from texts, bytes, objects, keys and URLs; one too short to be one is left."""
    configure(secrets=["pa ss/word", "pa ss/word-longer", "abc"], stream=stream)
    told = redact("pa ss/word-longer, pa ss/word, pa%20ss%2Fword, abc")
    assert told == f"{REDACTED}, {REDACTED}, {REDACTED}, abc"
    event = {"a": b"pa ss/word", "b": ValueError("pa ss/word"), "c": {"pa ss/word": 1}}
    assert "pa ss" not in str(redact_fields(None, "info", event))


@pytest.mark.parametrize("secret", ["§±£€¥¢", "<&'/ä\"\\", "key&key<7", "päss-wörd-17"])
def test_a_secret_of_any_characters_is_redacted_in_every_spelling(secret: str, stream: io.StringIO) -> None:
    """Escaping may change every character of a secret, or only some. Text and body are redacted alike."""
    configure(secrets=[secret], stream=stream)
    spellings = [secret, quote(secret, safe=""), html.escape(secret), json.dumps(secret)[1:-1]]
    text = " ".join([*spellings, "and the rest"])
    assert redact_known(text) == " ".join([REDACTED] * 4 + ["and the rest"])
    assert redact_body(text.encode(), b"") == (redact_known(text).encode(), False)


@pytest.mark.parametrize(
    ("body", "alone"),
    [
        (f'{{"state":"{TOKEN}","seed":"1.2"}}', True),
        (f'{{"state":"{TOKEN}","a.sixsix.b":1}}', True),
        (f'{{"prompt":"{TOKEN}","state":"{TOKEN}"}}', False),
        (f'{{"notifyHook":"01JD.aBcD-_.{"t" * 43}","state":"{TOKEN}"}}', False),
    ],
)
def test_a_body_with_the_good_token_is_redacted_like_any_text(body: str, stream: io.StringIO, *, alone: bool) -> None:
    """The token that was verified is replaced first. Any other token, or a second copy, is found all the same."""
    configure(stream=stream)
    assert redact_body(body.encode(), TOKEN.encode()) == (redact_known(body).encode(), alone)


def test_an_exception_is_logged_with_its_traceback_redacted(stream: io.StringIO) -> None:
    """Tracebacks and chained causes are kept, without secrets."""
    configure(secrets=["hunter2222"], stream=stream)
    try:
        try:
            raise KeyError("hunter2222")
        except KeyError as exc:
            raise RuntimeError(f"at https://h/callbacks/{TOKEN}") from exc
    except RuntimeError as exc:
        Log("receiver.tests").error("delivery.failed", exc_info=exc)
    (line,) = lines(stream)
    assert "KeyError" in line["exception"]
    assert "RuntimeError" in line["exception"]
    assert not any(secret in stream.getvalue() for secret in ("hunter2222", TOKEN))


def test_a_value_whose_repr_fails_does_not_fail_the_line(stream: io.StringIO) -> None:
    """Whatever is logged, a line comes out: broken reprs, endless nesting, lone surrogates."""

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    endless: list[Any] = []
    endless.append(endless)
    configure(stream=stream)
    Log("receiver.tests").info("task.seen", broken=Broken(), endless=endless, prompt="\ud800")
    (line,) = lines(stream)
    assert line["broken"] == "<Broken: RuntimeError>"
    assert line["prompt"] == "\ud800"


def test_a_readable_line_cannot_be_forged(stream: io.StringIO) -> None:
    """On a terminal, line ends and control characters in values are shown escaped."""
    configure(format="console", stream=stream)
    Log("receiver.tests").info("task.seen", prompt="a\n2026 [info] task.succeeded\x1b[31m\u202e\ud800")
    logging.getLogger("asyncio").warning("one\ntwo")
    text = stream.getvalue()
    assert len(text.splitlines()) == 2
    assert not any(char in text for char in "\x1b\u202e\ud800")


def test_a_readable_line_has_what_a_person_needs(stream: io.StringIO) -> None:
    """Local time, no level unless it is a trouble, the ends of ids, and no field that says nothing."""
    configure(format="console", stream=stream)
    log, id = Log("receiver.tests"), "01M8QPP4HW6JVAAGHV590TDYZ3"
    log.info("delivery.done", submission=id, event_id=f"{id}.task.succeeded", to=["file", "s3"], detail=None, attempt=1)
    log.error("destination.paused", destination="file", reason=f"the disk of {id} is full", exc_info=ValueError("no"))
    done, paused, *traceback = [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in stream.getvalue().splitlines()]
    assert done == "delivery.done  submission 0TDYZ3  to file, s3  attempt 1"
    assert paused == "error destination.paused  destination file  reason the disk of 0TDYZ3 is full"
    assert traceback == ["ValueError: no"]


def test_a_stream_that_fails_does_not_fail_the_work(stream: io.StringIO) -> None:
    """A closed pipe or a full disk under the log is not the caller's problem."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    configure(stream=Full())
    Log("receiver.tests").info("task.seen")
    logging.getLogger("asyncio").warning("seen")
    configure(stream=stream)
    Log("receiver.tests").info("task.seen")
    assert len(lines(stream)) == 1


def test_in_a_library_lines_go_to_the_programs_own_logging(
    stream: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    """Redacted, under our loggers' names, and at the levels the program has set for them."""
    structlog.reset_defaults()
    use_logging()
    log = Log("receiver.for_tests")
    with caplog.at_level("INFO", "receiver.for_tests"):
        log.debug("task.looked_at")
        log.info("task.seen", callback_token="abc", problem=f"no {TOKEN}", number=17)
    assert [(item.name, item.levelname, item.message) for item in caplog.records] == [
        (
            "receiver.for_tests",
            "INFO",
            f'event=task.seen callback_token={REDACTED} problem="no {TOKEN[:27]}{REDACTED}" number=17',
        )
    ]


def test_a_program_with_a_structlog_of_its_own_keeps_it(stream: io.StringIO) -> None:
    """Whoever has configured structlog, we included, is left alone."""
    configure(stream=stream)
    use_logging()
    Log("receiver.tests").info("task.seen")
    assert [line["event"] for line in lines(stream)] == ["task.seen"]


def test_httpx_tells_no_secret_url_to_the_program_it_runs_in(caplog: pytest.LogCaptureFixture) -> None:
    """At info httpx logs each URL it calls; where the program shows that, a chat webhook's secret is not in it."""
    use_logging()
    with caplog.at_level(logging.INFO, logger="httpx"):
        logging.getLogger("httpx").info(
            'HTTP Request: %s %s "200 OK"', "POST", "https://hooks.slack.com/services/T/B/X"
        )
    assert caplog.messages == [f'HTTP Request: POST https://hooks.slack.com/{REDACTED} "200 OK"']


FORGING = "a\x7f\x9b31m\x85b\u2028c\u2029d\u202ee\u2066f\u200fg\u061ch\r\n\x1b[31m"
"""Delete, C1, line ends of every kind, and characters that turn the direction."""


@pytest.mark.parametrize("format", ["json", "console"])
def test_one_event_is_one_line(format: str, stream: io.StringIO) -> None:
    """No word from outside ends a line, turns its direction or steers a terminal, in a name, a value or a table."""
    configure(format=format, stream=stream)  # type: ignore[arg-type]
    Log("receiver.tests").info("task.failed", reason=FORGING, labels={FORGING: [FORGING]})
    logging.getLogger("other").warning("%s", FORGING)
    text = stream.getvalue()
    assert len(text.splitlines()) == text.count("\n") == 2
    assert not {char for char in FORGING if not char.isprintable()} & set(text.replace("\n", ""))
    if format == "json":
        assert lines(stream)[0]["reason"] == FORGING


def test_a_line_has_a_longest_length(stream: io.StringIO) -> None:
    """A long value is cut, and says so. So is a line of many."""
    configure(stream=stream)
    Log("receiver.tests").info("a.b", reason="x" * 10**6)
    Log("receiver.tests").info(
        "a.c", submission="s1", many=["y" * 100] * 10**4, **{f"n{n}": "z" * 3000 for n in range(99)}
    )
    one, many = stream.getvalue().splitlines()
    assert len(one) < 5000
    assert json.loads(one)["reason"].endswith("… (1000000 characters)")
    assert len(many) < 64_000
    assert (json.loads(many)["event"], json.loads(many)["submission"]) == ("a.c", "s1")
