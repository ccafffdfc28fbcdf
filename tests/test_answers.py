"""What every answer to a submit comes to, and whether it is sent again."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.errors import Ambiguous, ReceiverError, Refused
from receiver.provider import OUTCOMES, read_submit
from receiver.provider.answers import read_answer
from receiver.requests import KINDS

PAYLOADS = Path(__file__).parent / "payloads"

SUCCESS = {"code": 1, "description": "Submit success", "result": "1"}
ROUTING = {"error": {"message": "无效的令牌 (request id: 1)", "type": "new_api_error"}}


def routing(code: str = "", message: str = "m", type: str = "comet_api_error") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "type": type}}


def raw(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def outcome_of(http_status: int, body: Any, *, kind: str = "imagine") -> str:
    """The outcome's name, whichever way it comes out."""
    try:
        return read_submit(http_status, {}, raw(body), kind=kind).outcome
    except Refused as exc:
        return exc.outcome
    except Ambiguous:
        return "ambiguous"


RECORDED = [
    ("submit_01_ok_cometapi.json", 200, "accepted"),
    ("submit_02_queued_22.json", 200, "queued"),
    ("submit_03_queue_full_23.json", 200, "queue_full"),
    ("submit_03b_queue_full_23_null_result.json", 200, "queue_full"),
    ("submit_04_banned_24.json", 200, "banned_word"),
    ("submit_05_existed_21.json", 200, "accepted"),
    ("submit_06_modal_21.json", 200, "modal"),
    ("submit_07_validation_4.json", 200, "validation"),
    ("submit_08_no_account_3.json", 200, "no_account"),
    ("submit_09_failure_9.json", 200, "failed"),
    ("submit_10_numeric_result.json", 200, "accepted"),
    ("error_02_relay_upstream_timeout_400.json", 400, "ambiguous"),
    ("error_03_relay_saturated_429.json", 429, "rate_limited"),
    ("error_04_relay_task_not_found_400.json", 400, "not_found"),
    ("error_06_openai_style_401.json", 401, "unauthorized"),
    ("error_07_comet_503_no_channel.json", 503, "no_channel"),
]


@pytest.mark.parametrize(("name", "http_status", "expected"), RECORDED)
def test_recorded_answers(name: str, http_status: int, expected: str) -> None:
    """Every recorded answer comes to what the protocol says of it."""
    assert outcome_of(http_status, (PAYLOADS / name).read_bytes()) == expected


def test_every_recorded_answer_is_in_the_table() -> None:
    """A new submit or error payload needs a line above; the picture route's answers are no submit's."""
    names = {path.name for pattern in ("submit_*", "error_*") for path in PAYLOADS.glob(pattern)}
    assert names - {"error_09_image_proxy.json"} == {name for name, _, _ in RECORDED}


MADE_UP = [
    # success needs 2xx, the code and a result
    (200, SUCCESS, "accepted"),
    (201, SUCCESS, "accepted"),
    (200, SUCCESS | {"code": "1"}, "accepted"),
    (200, SUCCESS | {"code": 1.0, "result": 1.773314942177684e15}, "accepted"),
    (200, SUCCESS | {"code": True}, "ambiguous"),
    (200, SUCCESS | {"result": None}, "ambiguous"),
    (200, SUCCESS | {"result": ""}, "ambiguous"),
    (200, SUCCESS | {"result": 0}, "ambiguous"),
    (200, SUCCESS | {"result": {}}, "ambiguous"),
    (200, SUCCESS | {"result": "x" * 65}, "ambiguous"),
    (200, SUCCESS | {"result": "a\x00b"}, "ambiguous"),
    (200, {"code": 1, "description": "x"}, "ambiguous"),
    (200, {"code": 22, "description": "x"}, "ambiguous"),
    (500, SUCCESS, "ambiguous"),
    (400, SUCCESS, "ambiguous"),
    (200, SUCCESS | {"code": 21, "properties": {"status": "SUCCESS"}}, "accepted"),
    (200, SUCCESS | {"code": 21, "properties": {"imageUrl": "https://x"}}, "accepted"),
    (200, SUCCESS | {"code": 21, "properties": {"status": "", "imageUrl": None}}, "modal"),
    (200, SUCCESS | {"code": 21, "properties": None}, "modal"),
    (200, SUCCESS | {"code": 77}, "ambiguous"),
    # the protocol's codes
    (404, {"code": 3, "description": "关联任务不存在或已失效"}, "not_found"),
    (200, {"code": 4, "description": "quota_not_enough "}, "quota"),
    (400, {"code": 4, "description": "quota_not_enough user quota", "type": "upstream_error"}, "quota"),
    (400, {"code": 4, "description": "task_not_found", "type": "upstream_error"}, "not_found"),
    (400, {"code": 4, "description": "task_status_not_success ", "type": "upstream_error"}, "not_ready"),
    (400, {"code": 4, "description": "bind_request_body_failed ", "type": "upstream_error"}, "validation"),
    (200, {"code": 4, "description": "并发数已达上限"}, "validation"),
    (200, {"code": 5, "description": "x"}, "ambiguous"),
    (500, {"code": 9, "description": "x"}, "failed"),
    (200, {"code": 30}, "rate_limited"),
    (200, {"success": False, "code": -1, "message": "bad", "timestamp": 1}, "validation"),
    (500, {"success": False, "code": -1, "message": "crash"}, "ambiguous"),
    (200, {"code": -1}, "ambiguous"),
    (400, {"code": 99, "description": "x"}, "ambiguous"),
    # the routing layer
    (401, ROUTING, "unauthorized"),
    (401, b"", "unauthorized"),
    (401, b"Authorization header missing.", "unauthorized"),
    (403, ROUTING, "unauthorized"),
    (403, b"<html>blocked</html>", "unauthorized"),
    (403, b"", "rate_limited"),
    (403, routing("insufficient_user_quota"), "quota"),
    (403, routing("pre_consume_token_quota_failed"), "quota"),
    (403, routing(type="insufficient_quota"), "quota"),
    (402, b"", "quota"),
    (400, ROUTING, "validation"),
    (400, {"title": "One or more validation errors"}, "validation"),
    (400, b"<html>Bad Request</html>", "validation"),
    (400, b'{"descri', "ambiguous"),
    (400, b"", "ambiguous"),
    (413, b"<html>too large</html>", "validation"),
    (422, b"", "validation"),
    (503, routing("model_not_found"), "no_channel"),
    (200, routing("model_not_found"), "no_channel"),
    (503, routing(message="no channel (distributor) (request id: 1)"), "no_channel"),
    (500, routing(message="no channel (distributor)"), "ambiguous"),
    (503, routing(), "ambiguous"),
    (500, routing("invalid_request"), "validation"),
    (500, routing(type="invalid_request"), "validation"),
    (500, routing(), "ambiguous"),
    (200, ROUTING, "ambiguous"),
    (429, b"", "rate_limited"),
    (429, b"<html>", "rate_limited"),
    (429, ROUTING, "rate_limited"),
    # the address
    (301, b"", "wrong_address"),
    (302, b"<html>", "wrong_address"),
    (308, SUCCESS, "wrong_address"),
    (404, b"<!doctype html>", "wrong_address"),
    (404, routing(message="Invalid URL (POST /v1/x)"), "wrong_address"),
    (405, b"", "wrong_address"),
    (501, b"", "wrong_address"),
    # a gateway that sends nothing on
    (423, {"code": "token_check", "message": "no key of our own", "data": None}, "unauthorized"),
    (400, {"code": "token_check", "message": "no key of our own", "data": None}, "unauthorized"),
    (423, {"code": "locked", "message": "come back later", "data": None}, "turned_away"),
    (407, b"<html>", "turned_away"),
    (421, b"", "turned_away"),
    (428, b"{}", "turned_away"),
    (431, b"", "turned_away"),
    (451, b"<html>", "turned_away"),
    (424, {"code": "upstream", "message": "failed dependency"}, "ambiguous"),
    (409, b"", "ambiguous"),
    (499, b"", "ambiguous"),
    (500, {"code": "token_check"}, "ambiguous"),
    # an answer in an envelope, behind a byte order mark, or both
    (200, {"code": 200, "message": "ok", "data": SUCCESS}, "accepted"),
    (200, {"success": True, "data": SUCCESS | {"code": 22}}, "queued"),
    (200, {"code": 200, "data": json.dumps(SUCCESS)}, "accepted"),
    (200, {"code": 200, "data": {"code": 23, "description": "full", "result": None}}, "queue_full"),
    (200, b"\xef\xbb\xbf\r\n" + raw(SUCCESS), "accepted"),
    (200, {"success": False, "data": SUCCESS}, "ambiguous"),
    (200, {"code": 200, "message": "ok", "data": None}, "ambiguous"),
    # more results than any request makes
    (200, SUCCESS | {"result": ["1"] * 51}, "ambiguous"),
    (200, SUCCESS | {"result": ",".join(map(str, range(10_000)))}, "ambiguous"),
    # anything may have happened
    (200, b"", "ambiguous"),
    (200, b"\xef\xbb\xbf", "ambiguous"),
    (200, b"<html>", "ambiguous"),
    (200, b"null", "ambiguous"),
    (200, b"[]", "ambiguous"),
    (200, b'"1"', "ambiguous"),
    (200, b'{"code":1,"result":"17', "ambiguous"),
    (200, b"\xff\xfe", "ambiguous"),
    (204, b"", "ambiguous"),
    (408, b"", "ambiguous"),
    (500, b"", "ambiguous"),
    (502, b"<html>Bad gateway</html>", "ambiguous"),
    (503, b"<html>", "ambiguous"),
    (504, b"", "ambiguous"),
    (524, b"<html>", "ambiguous"),
]


@pytest.mark.parametrize(("http_status", "body", "expected"), MADE_UP)
def test_rules(http_status: int, body: Any, expected: str) -> None:
    """Each rule of the protocol, with the cases next to it."""
    assert outcome_of(http_status, body) == expected


LINK = "https://cdn.discordapp.com/attachments/1/2/a.png?ex=1&hm=a,b&"
LINKS = SUCCESS | {"result": [LINK, "https://x.test/b.png"]}

OTHER_KINDS = [
    # where one path is missing, the address is right all the same
    ("imagine", 404, b"<html>", "wrong_address"),
    ("video", 404, b"<html>", "unsupported"),
    ("swap", 405, b"", "unsupported"),
    ("shorten", 301, b"", "unsupported"),
    ("edits", 501, b"", "unsupported"),
    ("change", 404, {"code": 3}, "not_found"),
    ("video", 200, b"<html>", "ambiguous"),
    ("action", 400, {"code": 4, "description": "task_status_not_success "}, "not_ready"),
    # only an upload is answered by links, and only by links
    ("upload", 200, LINKS, "accepted"),
    ("upload", 200, SUCCESS | {"result": LINK}, "accepted"),
    ("upload", 200, SUCCESS, "ambiguous"),
    ("upload", 200, SUCCESS | {"result": []}, "ambiguous"),
    ("upload", 200, SUCCESS | {"result": None}, "ambiguous"),
    ("upload", 200, SUCCESS | {"result": [LINK, "17"]}, "ambiguous"),
    ("upload", 200, SUCCESS | {"result": [LINK, None]}, "ambiguous"),
    ("upload", 200, SUCCESS | {"result": ["ftp://x.test/a"]}, "ambiguous"),
    ("upload", 200, SUCCESS | {"result": ["https://x.test/a b"]}, "ambiguous"),
    ("upload", 200, SUCCESS | {"result": ["https://x.test/" + "a" * 5000]}, "ambiguous"),
    ("upload", 200, {"code": 4, "description": "base64 error"}, "validation"),
    ("imagine", 200, LINKS, "ambiguous"),
    ("describe", 200, SUCCESS | {"result": "https://x.test"}, "ambiguous"),
]


@pytest.mark.parametrize(("kind", "http_status", "body", "expected"), OTHER_KINDS)
def test_rules_by_kind(kind: str, http_status: int, body: Any, expected: str) -> None:
    """What was asked for decides what counts as a result, and what a missing path means."""
    assert outcome_of(http_status, body, kind=kind) == expected


def test_an_upload_gives_links_and_no_task() -> None:
    """One link for each picture, in their order, commas and all."""
    accepted = read_submit(200, {}, raw(LINKS), kind="upload")
    assert (accepted.urls, accepted.task_ids, accepted.task_id) == (tuple(LINKS["result"]), (), "")


@pytest.mark.parametrize("description", ["Waiting for window confirm", "confirm", "已存在", "", None])
@pytest.mark.parametrize(("properties", "expected"), [({}, "modal"), ({"status": "SUCCESS"}, "accepted")])
def test_code_21_is_not_told_by_its_text(description: Any, properties: dict[str, Any], expected: str) -> None:
    """Whether a modal waits stands in the properties; the words are for people."""
    body = SUCCESS | {"code": 21, "description": description, "properties": properties}
    assert outcome_of(200, body, kind="action") == expected


def test_what_may_be_sent_again() -> None:
    """Only outcomes that certainly made no task and that time can mend are sent again."""
    again = {name for name, outcome in OUTCOMES.items() if outcome.retry}
    assert again == {"queue_full", "no_account", "rate_limited", "no_channel", "not_ready"}
    assert all(OUTCOMES[name].task == "none" for name in again)
    assert {name for name, outcome in OUTCOMES.items() if outcome.task == "made"} == {"accepted", "queued", "modal"}


def test_every_outcome_can_happen() -> None:
    """No row of the table is dead."""
    assert {row[-1] for row in (*RECORDED, *MADE_UP, *OTHER_KINDS)} == set(OUTCOMES)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("0741798445574458", ("0741798445574458",)),
        (1320098173412546, ("1320098173412546",)),
        (1.320098173412546e15, ("1320098173412546",)),
        ("1, 2,,3", ("1", "2", "3")),
        ("1,1", ("1",)),
        (["1", 2], ("1", "2")),
        ("task_abc-1", ("task_abc-1",)),
    ],
)
def test_task_ids(result: Any, expected: tuple[str, ...]) -> None:
    """Ids come as string, number, list or joined by commas; the first is the one to follow."""
    accepted = read_submit(200, {}, raw(SUCCESS | {"result": result}))
    assert accepted.task_ids == expected
    assert accepted.task_id == expected[0]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 0 "}, 0.0),
        ({"RETRY-AFTER": "1.5"}, 1.5),
        ({"Retry-After": "86400"}, 3600.0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "é"}, None),
        ({"Retry-After": "Sun, 99 Foo 2026 00:00:00 GMT"}, None),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"Retry-After": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"Retry-After": "Sun, 22 Nov 2099 12:00:30 GMT"}, 3600.0),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT", "Date": "Sun, 22 Nov 2026 12:00:10 GMT"}, 20.0),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    """Seconds and dates are understood, nonsense is not, and nobody is waited for longer than an hour."""
    now = 1795348800.0  # Sun, 22 Nov 2026 12:00:00 GMT
    with pytest.raises(Refused) as refused:
        read_submit(429, headers, b"", now=now)
    assert refused.value.retry_after == expected


def test_a_date_without_a_clock_is_ignored() -> None:
    """Reading is pure: without `now` and `Date` there is nothing to measure a date by."""
    assert read_answer(429, {"Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT"}, b"").retry_after is None


def test_the_banned_word_is_named() -> None:
    """The sentence says which word to change."""
    with pytest.raises(Refused, match=r'refuses the word "nude" in the prompt .*; change the prompt\.'):
        read_submit(200, {}, (PAYLOADS / "submit_04_banned_24.json").read_bytes())


def test_sentences_say_what_happened_and_what_to_do() -> None:
    """One sentence with the HTTP status, the code, the provider's words and the remedy."""
    with pytest.raises(Refused) as refused:
        read_submit(401, {}, raw(ROUTING))
    text = 'The provider does not accept the key (HTTP 401, "无效的令牌 (request id: 1)"); check COMETAPI_KEY.'
    assert str(refused.value) == text


def test_wrong_address_names_the_setting() -> None:
    """A redirect or a web page points at the address, and says where it is set."""
    with pytest.raises(Refused, match=r"HTML instead of JSON.*RECEIVER_PROVIDER_URL"):
        read_submit(404, {}, b"<html>")


@pytest.mark.parametrize(
    ("name", "retry"), [("submit_03_queue_full_23.json", True), ("submit_09_failure_9.json", False)]
)
def test_a_refusal_says_whether_to_send_again(name: str, retry: bool) -> None:
    """The error carries what the table says."""
    with pytest.raises(Refused) as refused:
        read_submit(200, {}, (PAYLOADS / name).read_bytes())
    assert refused.value.retry is retry


def test_words_are_cleaned_and_cut() -> None:
    """The provider's words stay on one line, without control characters, within 200 characters."""
    body = {"code": 4, "description": "a\r\n\x1b[31m\u202eb\ud800" + "x" * 5000, "secret": "not repeated"}
    with pytest.raises(Refused) as refused:
        read_submit(200, {}, raw(body))
    quoted = re.search(r'"(.*)"', str(refused.value))
    assert quoted
    assert quoted[1].startswith("a [31m b xx")
    assert len(quoted[1]) == 200
    assert str(refused.value).isprintable()
    assert "not repeated" not in str(refused.value)


def test_huge_numbers_are_read() -> None:
    """An integer of thousands of digits is neither a code nor an id, and breaks nothing."""
    for digits in (100, 4300, 5000):
        number = b"9" * digits
        assert outcome_of(200, b'{"code":' + number + b',"result":1}') == "ambiguous"
        assert outcome_of(200, b'{"code":1,"result":' + number + b"}") == "ambiguous"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ["code", "result", "description", "properties", "error", "success", "message", "type"]
ANSWERS = st.dictionaries(st.sampled_from(FIELDS), JSON | st.sampled_from([1, 3, 4, 5, 9, 21, 22, 23, 24, 30, -1]))
BODIES = st.binary() | st.builds(lambda value: json.dumps(value).encode(), JSON | ANSWERS)


@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["Retry-After", "Date"]), st.text()),
    BODIES,
    st.sampled_from(sorted(KINDS)),
)
def test_no_answer_breaks_the_reading(http_status: int, headers: dict[str, str], body: bytes, kind: str) -> None:
    """Whatever comes back, it is accepted or one of our errors."""
    with suppress(ReceiverError):
        accepted = read_submit(http_status, headers, body, kind=kind, now=0.0)
        assert bool(accepted.urls) == (kind == "upload") != bool(accepted.task_id)
        assert 200 <= http_status < 300
    assert read_answer(http_status, headers, body, now=0.0).sentence.isprintable()
