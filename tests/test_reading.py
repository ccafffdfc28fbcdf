"""How every payload of the protocol is read."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_answers import ANSWERS, JSON

from receiver.errors import NotATask, NotJSON, PayloadError, ReceiverError
from receiver.provider import inspect

PAYLOADS = Path(__file__).parent / "payloads"
KEYS = {
    "kind", "id", "status", "terminal", "progress", "event_type", "image_url", "video_url", "fail_reason", "buttons",
    "code", "outcome", "retry", "problems",
}  # fmt: skip
UNSET: dict[str, Any] = dict.fromkeys(KEYS) | {"terminal": False, "retry": False, "buttons": [], "problems": []}

CDN = "https://cdn.discordapp.com/attachments"
PREVIEW = (
    f"{CDN}/1149637842809667605/1265207879204605953/9be78713-0423-4f5a-9232-12ea940b5ed7_grid_0.webp"
    "?ex=66a0ac28&is=669f5aa8&hm=85f7a1ced4eb4c94c6ff5faae6407f2cfd49aeab83ebe3b22e43e1e2b8d6eb66&"
)
GRID = f"{CDN}/111/222/user_a_paper_boat_eb86b767-9306-434d-908a-aca7b0f8b589.png?ex=69b4a1c0&is=69b35040&hm=aa11&"
JOB = "eb86b767-9306-434d-908a-aca7b0f8b589"
NINE = [
    *({"label": f"U{n}", "custom_id": f"MJ::JOB::upsample::{n}::{JOB}"} for n in (1, 2, 3, 4)),
    {"label": "🔄", "custom_id": f"MJ::JOB::reroll::0::{JOB}::SOLO"},
    *({"label": f"V{n}", "custom_id": f"MJ::JOB::variation::{n}::{JOB}"} for n in (1, 2, 3, 4)),
]


def task(id: str, status: str | None, progress: int | None = None, **other: Any) -> dict[str, Any]:
    types = {
        "SUBMITTED": "task.accepted",
        "MODAL": "task.input_required",
        "IN_PROGRESS": "task.progressed",
        "SUCCESS": "task.succeeded",
        "FAILURE": "task.failed",
        None: None,
    }
    terminal = status in ("SUCCESS", "FAILURE")
    known = {"kind": "task", "id": id, "status": status, "progress": progress, "terminal": terminal}
    return UNSET | known | {"event_type": types[status]} | other


def submit(code: int, outcome: str, **other: Any) -> dict[str, Any]:
    return UNSET | {"kind": "submit", "code": code, "outcome": outcome} | other


def error(said: str, outcome: str | None = None, code: Any = None, *, retry: bool = False) -> dict[str, Any]:
    return UNSET | {"kind": "error", "code": code, "outcome": outcome, "fail_reason": said, "retry": retry}


EXPECTED: dict[str, tuple[int, dict[str, Any]]] = {
    "callback_01_java_submitted.json": (200, task("1689231405853400", "SUBMITTED", 0)),
    "callback_02_java_in_progress_0.json": (200, task("1689231405853400", "IN_PROGRESS", 0)),
    "callback_03_java_in_progress_46_webp.json": (
        200,
        task("1689231405853400", "IN_PROGRESS", 46, image_url=PREVIEW),
    ),
    "callback_05_java_failure_timeout.json": (200, task("3714863075843529", "FAILURE", fail_reason="任务超时")),
    "callback_07_java_describe_success.json": (
        200,
        task("14001929738841620", "SUCCESS", 100, image_url=f"{CDN}/xxx/xxx/14001929738841620.png"),
    ),
    "callback_11_csharp_submitted.json": (200, task("1773314942177684", "SUBMITTED", 0)),
    "callback_13_csharp_success.json": (
        200,
        task("1773314942177684", "SUCCESS", 100, image_url=GRID, buttons=NINE),
    ),
    "callback_14_csharp_failure_banned.json": (
        200,
        task("1773314942177684", "FAILURE", fail_reason="可能包含敏感词"),
    ),
    "callback_18_csharp_late_progress_after_success.json": (200, task("1773314942177684", "IN_PROGRESS", 93)),
    "callback_19_crazyrouter_minimal.json": (
        200,
        task("task_abc123", "SUCCESS", 100, image_url="https://cdn.example.com/image.png"),
    ),
    "callback_20_csharp_wire_escaping.raw.json": (
        200,
        task(
            "1773314942177684",
            "SUCCESS",
            100,
            image_url=f"{CDN}/1/2/a.png?ex=69b4a1c0&is=69b35040&hm=aa11&",
            buttons=[{"label": "🔄", "custom_id": "MJ::JOB::reroll::0::x::SOLO"}],
        ),
    ),
    "error_02_relay_upstream_timeout_400.json": (400, error("do_request_failed", "ambiguous", 5)),
    "error_03_relay_saturated_429.json": (
        429,
        error(
            "rate limited 当前分组负载已饱和，请稍后再试，或升级账户以提升服务质量。", "rate_limited", 30, retry=True
        ),
    ),
    "error_04_relay_task_not_found_400.json": (400, error("task_no_found", "not_found", 4)),
    "error_06_openai_style_401.json": (
        401,
        error("无效的令牌 (request id: 20260205132859798638387SIHCnxzJ)", "unauthorized"),
    ),
    "error_07_comet_503_no_channel.json": (
        503,
        error(
            "no available channel for group default and model mj_imagine (distributor) "
            "(request id: 20260205132859798638387SIHCnxzJ)",
            "no_channel",
            "model_not_found",
            retry=True,
        ),
    ),
    "error_09_image_proxy.json": (
        200,
        UNSET
        | {
            "kind": "error",
            "answers": [
                error("midjourney_task_not_found"),
                error("request blocked: ..."),
                error("http_get_image_failed"),
                error("This content is no longer available."),
            ],
        },
    ),
    "fetch_01_relay_before_first_poll.json": (200, task("1711217942120945", None, 0)),
    "fetch_02_relay_in_progress.json": (
        200,
        task(
            "1711217942120945",
            "IN_PROGRESS",
            46,
            image_url="http://localhost:3000/mj/image/1711217942120945?rand=1711217960123456789",
        ),
    ),
    "fetch_05_cometapi_docs.json": (
        200,
        task(
            "1773314942177684",
            "SUCCESS",
            100,
            image_url="https://api.cometapi.com/mj/image/1773314942177684",
            buttons=[{"label": "U1", "custom_id": "MJ::JOB::upsample::1::example"}],
        ),
    ),
    "fetch_07_list_by_condition.json": (
        200,
        UNSET
        | {
            "kind": "list",
            "tasks": [task("1711217942120945", "SUCCESS", 100), task("1711217942120946", "MODAL")],
        },
    ),
    "submit_01_ok_cometapi.json": (
        200,
        submit(1, "accepted", id="1773314942177684", event_type="task.accepted"),
    ),
    "submit_02_queued_22.json": (200, submit(22, "queued", id="0741798445574458", event_type="task.accepted")),
    "submit_03_queue_full_23.json": (
        200,
        submit(23, "queue_full", retry=True, fail_reason="队列已满，请稍后尝试"),
    ),
    "submit_03b_queue_full_23_null_result.json": (
        200,
        submit(23, "queue_full", retry=True, fail_reason="Queue is full, please try again later"),
    ),
    "submit_04_banned_24.json": (200, submit(24, "banned_word", fail_reason="可能包含敏感词")),
    "submit_05_existed_21.json": (200, submit(21, "accepted", id="0741798445574458", event_type="task.accepted")),
    "submit_06_modal_21.json": (200, submit(21, "modal", id="1773315001234567", event_type="task.input_required")),
    "submit_07_validation_4.json": (200, submit(4, "validation", fail_reason="参数错误")),
    "submit_08_no_account_3.json": (
        200,
        submit(3, "no_account", retry=True, fail_reason="无可用的账号实例"),
    ),
    "submit_09_failure_9.json": (200, submit(9, "failed", fail_reason="提交失败，队列已满，请稍后重试")),
    "submit_10_numeric_result.json": (
        200,
        submit(1, "accepted", id="1320098173412546", event_type="task.accepted"),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_payloads(name: str) -> None:
    """Every recorded payload is read right."""
    http_status, expected = EXPECTED[name]
    assert inspect((PAYLOADS / name).read_bytes(), http_status) == expected


def test_every_recorded_payload_is_in_the_table() -> None:
    """A new payload needs a line above; the request is what we send."""
    assert {path.name for path in PAYLOADS.glob("*.json")} - {"request_01_imagine.json"} == set(EXPECTED)


def test_the_http_status_decides_where_the_body_does_not() -> None:
    """The same routing error is a wrong key with 401, and nothing clear with 200."""
    body = (PAYLOADS / "error_06_openai_style_401.json").read_bytes()
    assert inspect(body)["outcome"] == "ambiguous"
    assert inspect(body, 403)["outcome"] == "unauthorized"


def test_an_http_error_without_json_is_read_by_its_status() -> None:
    """With an HTTP error even an empty body says something, and the problem is noted."""
    reading = inspect(b"", 403)
    assert (reading["kind"], reading["outcome"], reading["retry"]) == ("error", "rate_limited", True)
    assert reading["problems"]
    assert inspect(b"<html>", 502)["outcome"] == "ambiguous"


@pytest.mark.parametrize(
    ("body", "error_type", "match"),
    [
        (b"", NotJSON, "does not know the task"),
        (b"  \n", NotJSON, "does not know the task"),
        (b"null", PayloadError, "does not know the task"),
        (b"<html></html>", NotJSON, "HTML"),
        (b'{"id": "1"', NotJSON, "cut short"),
        (b"\xff", NotJSON, "not JSON"),
        (b"[" * 100 + b"]" * 100, NotJSON, "too deep"),
        (b'"hello"', NotATask, "no task"),
        (b"7", NotATask, "no task"),
        (b"{}", NotATask, "no task id"),
        (b'{"id": null}', NotATask, "no task id"),
        (b'{"hello": 1}', NotATask, "no task id"),
        (b'{"prompt": "a boat"}', PayloadError, "which Receiver sends"),
        (b'{"taskId": "1", "customId": "x"}', PayloadError, "which Receiver sends"),
        (b'{"motion": "low"}', PayloadError, "which Receiver sends"),
        (b'{"sourceBase64": "data:x"}', PayloadError, "which Receiver sends"),
    ],
)
def test_what_cannot_be_read(body: bytes, error_type: type[PayloadError], match: str) -> None:
    """What is no payload is refused with a sentence."""
    with pytest.raises(error_type, match=match):
        inspect(body)


def test_the_recorded_request_is_what_receiver_sends() -> None:
    """A request is recognised as such."""
    with pytest.raises(PayloadError, match="submit request, which Receiver sends"):
        inspect((PAYLOADS / "request_01_imagine.json").read_bytes())


def test_an_item_that_is_no_task_keeps_its_place() -> None:
    """The rest of a list is read around it."""
    reading = inspect(b'[{"id": 5, "status": "success"}, {"status": "SUCCESS"}, 7]')
    assert [item["id"] for item in reading["tasks"]] == ["5", None, None]
    assert [bool(item["problems"]) for item in reading["tasks"]] == [False, True, True]
    assert inspect(b"[]") == UNSET | {"kind": "list", "tasks": []}


def test_problems_are_noted() -> None:
    """What was read around is told; so is an HTTP status that forbids taking a task."""
    reading = inspect(b'{"id": "1", "status": "PAUSED", "progress": "Waiting to start"}', 500)
    assert len(reading["problems"]) == 3
    assert (reading["status"], reading["progress"], reading["event_type"]) == ("PAUSED", None, None)


def test_bare_string_errors() -> None:
    """The picture route's errors are errors without an outcome, unless the status alone says it."""
    assert inspect(b'{"error": "http_get_image_failed"}', 500) == error("http_get_image_failed")
    assert inspect(b'{"error": "slow down"}', 429) == error("slow down", "rate_limited", retry=True)


def test_the_upstreams_validation_envelope_is_an_error() -> None:
    """`success: false` is read with its own words and code."""
    body = {"success": False, "code": -1, "message": "prompt required", "timestamp": 1}
    assert inspect(json.dumps(body).encode()) == error("prompt required", "validation", -1)


def test_links_of_lists_stand_in() -> None:
    """Where only the list of links is filled, its first one is shown."""
    body = b'{"id":"1","status":"SUCCESS","imageUrls":[{"url":"https://a"}],"videoUrls":["https://v"]}'
    reading = inspect(body)
    assert (reading["image_url"], reading["video_url"]) == ("https://a", "https://v")


def test_an_upload_is_read_by_its_links() -> None:
    """Its answer names no task, so it is none's event; the first link is shown."""
    body = b'{"code":1,"description":"ok","result":["https://a.test/1.png","https://a.test/2.png"]}'
    assert inspect(body) == submit(1, "accepted", image_url="https://a.test/1.png")


TASKS = st.dictionaries(st.sampled_from(["id", "status", "progress", "buttons", "imageUrl", "submitTime"]), JSON)


@given(
    st.integers(100, 599),
    st.binary() | st.builds(lambda value: json.dumps(value).encode(), JSON | ANSWERS | TASKS | st.lists(TASKS)),
)
def test_nothing_breaks_the_reading(http_status: int, body: bytes) -> None:
    """Any bytes are read with all the keys, or refused with one of our errors."""
    with suppress(ReceiverError):
        reading = inspect(body, http_status)
        assert reading.keys() - {"tasks", "answers"} == KEYS
        json.dumps(reading).encode()
