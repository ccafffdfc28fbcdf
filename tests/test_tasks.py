"""The provider's task object: read tolerantly, merged monotonically."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.errors import NotATask, NotJSON
from receiver.tasks import (
    MAX_DEPTH,
    RANKS,
    TERMINAL,
    Button,
    Task,
    decode_json,
    decode_task,
    event_type,
    merge,
    read_task,
)

PAYLOADS = Path(__file__).parent / "payloads"
CDN = "https://cdn.discordapp.com/attachments/"
BOAT = CDN + "111/222/user_a_paper_boat_eb86b767-9306-434d-908a-aca7b0f8b589.png?ex=69b4a1c0&is=69b35040&hm=aa11&"
BUTTONS = "U1 U2 U3 U4 🔄 V1 V2 V3 V4"


def read(name: str) -> Task:
    return read_task(decode_json((PAYLOADS / name).read_bytes()))


def task(status: str, progress: int | None = None, **fields: Any) -> Task:
    return Task(id="1", status=status, progress=progress, **fields)


# What recorded payloads say

RECORDED = {
    "callback_01_java_submitted.json": ("1689231405853400", "SUBMITTED", 0, (), "", ""),
    "callback_02_java_in_progress_0.json": ("1689231405853400", "IN_PROGRESS", 0, (), "", ""),
    "callback_03_java_in_progress_46_webp.json": ("1689231405853400", "IN_PROGRESS", 46, "PREVIEW", "", ""),
    "callback_05_java_failure_timeout.json": ("3714863075843529", "FAILURE", None, (), "任务超时", ""),
    "callback_07_java_describe_success.json": (
        "14001929738841620", "SUCCESS", 100, (), "", "",
    ),
    "callback_11_csharp_submitted.json": ("1773314942177684", "SUBMITTED", 0, (), "", ""),
    "callback_13_csharp_success.json": ("1773314942177684", "SUCCESS", 100, (BOAT,), "", BUTTONS),
    "callback_14_csharp_failure_banned.json": ("1773314942177684", "FAILURE", None, (), "可能包含敏感词", ""),
    "callback_18_csharp_late_progress_after_success.json": ("1773314942177684", "IN_PROGRESS", 93, (), "", ""),
    "callback_19_crazyrouter_minimal.json": (
        "task_abc123", "SUCCESS", 100, ("https://cdn.example.com/image.png",), "", "",
    ),
    "callback_20_csharp_wire_escaping.raw.json": (
        "1773314942177684", "SUCCESS", 100, (CDN + "1/2/a.png?ex=69b4a1c0&is=69b35040&hm=aa11&",), "", "🔄",
    ),
    "fetch_01_relay_before_first_poll.json": ("1711217942120945", "", 0, (), "", ""),
    "fetch_02_relay_in_progress.json": (
        "1711217942120945", "IN_PROGRESS", 46,
        ("http://localhost:3000/mj/image/1711217942120945?rand=1711217960123456789",), "", "",
    ),
    "fetch_05_cometapi_docs.json": (
        "1773314942177684", "SUCCESS", 100, ("https://api.cometapi.com/mj/image/1773314942177684",), "", "U1",
    ),
}  # fmt: skip


def test_every_recorded_task_is_in_the_table() -> None:
    """A new payload has to say what it means."""
    files = {path.name for pattern in ("callback_*", "fetch_*") for path in PAYLOADS.glob(pattern)}
    assert files == RECORDED.keys() | {"fetch_07_list_by_condition.json"}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_payload(name: str) -> None:
    """Every recorded task object is read whole, without a problem."""
    found = read(name)
    id, status, progress, urls, reason, buttons = RECORDED[name]
    assert (found.id, found.status, found.progress, found.fail_reason) == (id, status, progress, reason)
    if urls == "PREVIEW":
        assert re.search(r"_grid_0\.webp", found.image_url)
    else:
        assert found.result_urls == urls
    assert " ".join(button.text for button in found.buttons) == buttons
    assert found.problems == ()


def test_recorded_list() -> None:
    """A list holds bare task objects."""
    items = decode_json((PAYLOADS / "fetch_07_list_by_condition.json").read_bytes())
    found = [read_task(item) for item in items]
    assert [(one.id, one.status, one.progress) for one in found] == [
        ("1711217942120945", "SUCCESS", 100),
        ("1711217942120946", "MODAL", None),
    ]


def test_the_rest_of_a_recorded_payload() -> None:
    """Texts, times and lists come from where the protocol keeps them."""
    found = read("callback_13_csharp_success.json")
    assert found.submit_ms == 1773314942177
    assert found.start_ms == 1773314943101
    assert found.finish_ms == 1773314979204
    assert found.final_prompt == "a paper boat floating on calm water at sunrise --v 6.1"
    assert found.state == "v1.job_01JCZ8.q7.4b6vJ0m0sZ2n3l8y1xQkT9wq2rA"
    assert [url[-7:] for url in found.image_urls] == ["0_0.png", "0_1.png", "0_2.png", "0_3.png"]
    assert found.buttons[0].custom_id == "MJ::JOB::upsample::1::eb86b767-9306-434d-908a-aca7b0f8b589"
    assert read("callback_20_csharp_wire_escaping.raw.json").prompt == '猫 & "boat" <x>'


# Tolerance


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        (b'\xef\xbb\xbf{"id":"1","prompt":"x"}', "prompt", "x"),
        (b'{"id":"1","prompt":"a\\ud800b"}', "prompt", "a\ufffdb"),
        (b'{"id":"1","prompt":"\\ud83d\\ude00"}', "prompt", "😀"),
        (b'{"id":"1","prompt":"a\\u0000b"}', "prompt", "a\ufffdb"),
        (b'{"id":1773314942177684}', "id", "1773314942177684"),
        (b'{"id":"1","prompt":null}', "prompt", ""),
        (b'{"id":"1","prompt":7}', "prompt", "7"),
        (b'{"id":"1","prompt":1.5}', "prompt", "1.5"),
        (b'{"id":"1","status":null}', "status", ""),
        (b'{"id":"1","status":""}', "status", ""),
        (b'{"id":"1","status":" success "}', "status", "SUCCESS"),
        (b'{"id":"1","progress":"46%"}', "progress", 46),
        (b'{"id":"1","progress":" 46% "}', "progress", 46),
        (b'{"id":"1","progress":"46"}', "progress", 46),
        (b'{"id":"1","progress":46}', "progress", 46),
        (b'{"id":"1","progress":46.0}', "progress", 46),
        (b'{"id":"1","progress":""}', "progress", None),
        (b'{"id":"1","progress":null}', "progress", None),
        (b'{"id":"1","submitTime":0}', "submit_ms", None),
        (b'{"id":"1","submitTime":"0"}', "submit_ms", None),
        (b'{"id":"1","submitTime":""}', "submit_ms", None),
        (b'{"id":"1","submitTime":"1773314942177"}', "submit_ms", 1773314942177),
        (b'{"id":"1","submitTime":1.773314942177e12}', "submit_ms", 1773314942177),
        (b'{"id":"1","submitTime":1773314942}', "submit_ms", 1773314942000),
        (b'{"id":"1","submitTime":"1773314942"}', "submit_ms", 1773314942000),
        (b'{"id":"1","imageUrls":["u",{"url":"v"},{"url":null},3,null]}', "image_urls", ("u", "v")),
        (b'{"id":"1","image_urls":[{"url":"v"}]}', "image_urls", ("v",)),
        (b'{"id":"1","imageUrls":"https://u"}', "image_urls", ("https://u",)),
        (b'{"id":"1","imageUrl":null,"image_url":"u"}', "image_url", "u"),
        (b'{"id":"1","failReason":"","fail_reason":"r"}', "fail_reason", "r"),
        (b'{"id":"1","prompt_en":"x"}', "prompt_en", "x"),
        (b'{"id":"1","buttons":null}', "buttons", ()),
        (b'{"id":"1","buttons":"[{\\"customId\\":\\"c\\"}]"}', "buttons", (Button(custom_id="c"),)),
        (b'{"id":"1","buttons":[{"custom_id":"c"}]}', "buttons", (Button(custom_id="c"),)),
        (b'{"id":"1","properties":"{\\"finalPrompt\\":\\"x\\"}"}', "final_prompt", "x"),
        (b'{"id":"1","buttons":[null,{},{"customId":""},{"customId":"c"}]}', "buttons", (Button(custom_id="c"),)),
        (b'{"id":"1","properties":null}', "final_prompt", ""),
        (b'{"id":"1","properties":{"finalPrompt":"x"}}', "final_prompt", "x"),
        (b'{"id":"1","unheard":{"of":[1]}}', "id", "1"),
    ],
)
def test_tolerated_without_a_word(body: bytes, field: str, value: object) -> None:
    """Missing keys, null, "" and 0 are unset; numbers stand for strings; extra keys are nobody's business."""
    found = read_task(decode_json(body))
    assert getattr(found, field) == value
    assert found.problems == ()
    assert decode_task(body) == found


@pytest.mark.parametrize(
    ("body", "field", "value", "problem"),
    [
        (b'{"id":"1","status":"PAUSED"}', "status", "PAUSED", "status"),
        (b'{"id":"1","status":[1]}', "status", "", "status"),
        (b'{"id":"1","progress":"Waiting to start"}', "progress", None, "progress"),
        (b'{"id":"1","progress":"paused"}', "progress", None, "progress"),
        (b'{"id":"1","progress":"101%"}', "progress", None, "progress"),
        (b'{"id":"1","progress":-1}', "progress", None, "progress"),
        (b'{"id":"1","progress":true}', "progress", None, "progress"),
        (b'{"id":"1","progress":46.5}', "progress", None, "progress"),
        (b'{"id":"1","progress":1e999}', "progress", None, "progress"),
        (b'{"id":"1","progress":[]}', "progress", None, "progress"),
        (b'{"id":"1","prompt":true}', "prompt", "", "prompt"),
        (b'{"id":"1","prompt":{}}', "prompt", "", "prompt"),
        (b'{"id":"1","submitTime":"soon"}', "submit_ms", None, "submitTime"),
        (b'{"id":"1","submitTime":-5}', "submit_ms", None, "submitTime"),
        (b'{"id":"1","submitTime":1.5}', "submit_ms", None, "submitTime"),
        (b'{"id":"1","submitTime":9223372036854775808}', "submit_ms", None, "submitTime"),
        (b'{"id":"1","submitTime":' + b"9" * 300 + b"}", "submit_ms", None, "submitTime"),
        (b'{"id":"1","submitTime":1e999}', "submit_ms", None, "submitTime"),
        (b'{"id":"1","buttons":"none"}', "buttons", (), "buttons"),
        (b'{"id":"1","imageUrls":5}', "image_urls", (), "imageUrls"),
        (b'{"id":"1","imageUrl":{"width":5}}', "image_url", "", "imageUrl holds no link"),
        (
            b'{"id":"1","imageUrl":"data:image/png;base64,' + b"A" * 5000 + b'"}',
            "image_url",
            "",
            "imageUrl holds the file itself",
        ),
    ],
)
def test_read_around(body: bytes, field: str, value: object, problem: str) -> None:
    """What makes no sense is unset, and said in `problems`."""
    found = read_task(decode_json(body))
    assert getattr(found, field) == value
    assert len(found.problems) == 1
    assert found.problems[0].startswith(problem)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"<html></html>",
        b'{"id":"1"} x',
        b'{"id":"1","prompt":"\xe9"}',
        b"\xff\xfe{\x00}\x00",
        b'{"id":"1","progress":NaN}',
        b'{"id":"1","progress":-Infinity}',
        b'{"id":' + b"9" * 4301 + b"}",
        b"[" * 100_000,
        b"[" * 200 + b"]" * 200,
        b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
        b'{"id":"1","prompt":"\\ud800","deep":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_not_json(body: bytes) -> None:
    """Anything else than JSON of a sane depth is refused, never a crash."""
    with pytest.raises(NotJSON):
        decode_json(body)


def test_depth_that_is_still_read() -> None:
    """64 levels are read, 65 are not."""
    decode_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(NotJSON, match="deeper than 64"):
        decode_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "value",
    [
        None, [], "1", 1, {}, {"id": None}, {"id": ""}, {"id": "  "}, {"id": True}, {"id": 1.0}, {"id": ["1"]},
        {"id": {"a": 1}}, {"id": "x" * 65}, {"id": 10**64}, {"ID": "1"},
    ],
    ids=repr,
)  # fmt: skip
def test_not_a_task(value: Any) -> None:
    """A task has an id of 1–64 characters, a string or an integer."""
    with pytest.raises(NotATask):
        read_task(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "prompt_en", "image_url", "video_urls", "fail_reason",
    "status", "progress", "action", "prompt", "promptEn", "description", "state", "submitTime", "startTime",
    "finishTime", "imageUrl", "imageUrls", "image_urls", "videoUrl", "videoUrls", "failReason", "buttons",
    "properties", "seed",
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_no_field_can_break_a_task(fields: dict[str, Any]) -> None:
    """With a good id, any JSON in any field gives a task that can be journalled."""
    body = json.dumps({"id": "1", **fields}).encode()
    found = read_task(decode_json(body))
    assert decode_task(body) == found
    assert msgspec.json.decode(msgspec.json.encode(found), type=Task) == found


def test_a_body_is_utf_8() -> None:
    """Old Java senders write ISO-8859-1 (PROTOCOL.md §11): no JSON, be it where nobody reads."""
    for key in ("prompt", "unread"):
        body = json.dumps({"id": "1", key: "é"}, ensure_ascii=False)
        assert decode_task(body.encode()).id == "1"
        with pytest.raises(NotJSON):
            decode_task(body.encode("iso-8859-1"))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Decoding ends with a value or with NotJSON."""
    try:
        decode_json(body)
    except NotJSON:
        return


@pytest.mark.parametrize(
    ("fields", "urls"),
    [
        ({"image_url": "i"}, ("i",)),
        ({"image_url": "i", "image_urls": ("a", "b")}, ("i",)),
        ({"image_urls": ("a", "b")}, ("a", "b")),
        ({"image_url": "i", "video_url": "v"}, ("v",)),
        ({"image_url": "i", "video_url": "v", "video_urls": ("v1", "v2")}, ("v1", "v2")),
        ({}, ()),
    ],
)
def test_what_counts_as_the_result(fields: dict[str, Any], urls: tuple[str, ...]) -> None:
    """Videos before the picture, the picture before its quarters."""
    assert task("SUCCESS", **fields).result_urls == urls


@pytest.mark.parametrize("status", ["", "PAUSED", *RANKS])
def test_every_status_has_a_meaning(status: str) -> None:
    """Each of the protocol's statuses stands for an event, and nothing else does."""
    type = event_type(task(status))
    assert (type is not None) == (status in RANKS)
    assert (type in ("task.succeeded", "task.failed")) == (status in TERMINAL)


# Merging

STATUSES = st.sampled_from([*RANKS, "", "PAUSED"])
VIEWS = st.builds(
    Task,
    id=st.just("1"),
    status=STATUSES,
    progress=st.none() | st.integers(0, 100),
    image_url=st.sampled_from(["", "a", "b"]),
    fail_reason=st.sampled_from(["", "r"]),
    buttons=st.sampled_from([(), (Button(custom_id="c"),)]),
)


def fold(views: list[Task]) -> Task:
    merged: Task | None = None
    for view in views:
        merged = merge(merged, view)
    assert merged is not None
    return merged


@given(st.lists(VIEWS, min_size=1), VIEWS)
def test_a_duplicate_changes_nothing(views: list[Task], view: Task) -> None:
    """Merging a view twice is merging it once."""
    once = fold([*views, view])
    assert merge(once, view) == once


@given(st.lists(VIEWS, min_size=1), VIEWS)
def test_rank_never_falls(views: list[Task], view: Task) -> None:
    """Status and percentage only rise; but a SUCCESS takes the place of another end, whatever its percentage."""
    before = fold(views)
    after = merge(before, view)
    if after.status == before.status or not before.terminal:
        assert after.rank >= before.rank
    else:
        assert after.status == "SUCCESS"


@given(st.lists(VIEWS, min_size=1))
def test_a_success_is_kept(views: list[Task]) -> None:
    """Whatever comes before or after, a task that once succeeded has succeeded."""
    merged = fold([task("NOT_START"), *views])
    assert (merged.status == "SUCCESS") == any(view.status == "SUCCESS" for view in views)


@given(st.lists(VIEWS.filter(lambda view: view.status not in TERMINAL), min_size=1), st.sampled_from(sorted(TERMINAL)))
def test_a_preview_never_becomes_the_result(views: list[Task], end: str) -> None:
    """An end without a link has none, whatever was shown on the way."""
    assert fold([*views, task(end, 100)]).result_urls == ()


def test_a_false_failure_leaves_no_preview_and_no_reason() -> None:
    """A FAILURE's picture is a preview too, and its reason is void once the task has succeeded."""
    failure = task("FAILURE", 60, image_url="preview", fail_reason="too slow")
    merged = fold([failure, task("SUCCESS", 100)])
    assert merged.status == "SUCCESS"
    assert merged.result_urls == ()
    assert merged.fail_reason == ""


REAL = (
    task("SUBMITTED", 0, state="s"),
    task("IN_PROGRESS", 0, state="s"),
    task("IN_PROGRESS", 46, state="s", image_url="grid_0.webp"),
    task("IN_PROGRESS", 93, state="s", image_url="grid_0.webp"),
    task("SUCCESS", 100, state="s", image_url="result.png"),
)
ENDINGS = {
    "success": REAL,
    "failure": (*REAL[:4], task("FAILURE", None, state="s", fail_reason="任务超时")),
    "failure, then success": (*REAL[:3], task("FAILURE", None, state="s", fail_reason="任务超时"), REAL[4]),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_order_of_five_callbacks_ends_alike(name: str) -> None:
    """Callbacks come in any order; the task is the same at the end."""
    *_, last = ENDINGS[name]
    for order in itertools.permutations(ENDINGS[name]):
        assert fold(list(order)) == last


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        (task("IN_PROGRESS", 46), task("", 0), task("IN_PROGRESS", 46)),
        (task("IN_PROGRESS", 46), task("PAUSED", 99), task("IN_PROGRESS", 46, other_status="PAUSED")),
        (task("IN_PROGRESS", 46), task("IN_PROGRESS", None), task("IN_PROGRESS", 46)),
        (task("IN_PROGRESS", 46), task("SUBMITTED", 0), task("IN_PROGRESS", 46)),
        (task("MODAL"), task("SUBMITTED", 0), task("SUBMITTED", 0)),
        (task("SUBMITTED", 0), task("MODAL"), task("SUBMITTED", 0)),
        (task("FAILURE", 100, fail_reason="r"), task("CANCEL"), task("FAILURE", 100, fail_reason="r")),
        (task("SUCCESS", 100), task("FAILURE", 100, fail_reason="r"), task("SUCCESS", 100)),
        (task("SUCCESS", 100, image_url="a"), task("SUCCESS", 100, seed="7"),
         task("SUCCESS", 100, image_url="a", seed="7")),
        (task("IN_PROGRESS", 46, prompt="p"), task("SUCCESS", 100), task("SUCCESS", 100, prompt="p")),
    ],
    ids=["unpolled", "unknown", "no percent", "late", "dialogue over", "dialogue late", "two failures", "late failure",
         "links come late", "texts last"],
)  # fmt: skip
def test_merge(old: Task, new: Task, merged: Task) -> None:
    """Unknown and older views change nothing; newer ones keep what they leave unset."""
    assert merge(old, new) == merged


def test_the_texts_of_a_describe_are_its_result() -> None:
    """Its picture is the one we gave; its prompts come without their numbers."""
    task = read_task(decode_json((PAYLOADS / "callback_07_java_describe_success.json").read_bytes()))
    assert task.texts == ("Cat --ar 5:4", "Cat2 --ar 5:4")
    assert task.result_urls == ()


MARKED = "## Important tokens\na **paper** boat ~~that floats~~\n\n## Shortened prompts\n"
FINAL = {"action": "SHORTEN", "prompt": "p", "promptEn": "p", "description": "提交成功"}
BARS = "## 详情\n1. paper: ████████ 1.00\nboat ▇▇▇▇ (0.61)\n\n"


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"action": "DESCRIBE", "promptEn": "1️⃣ Cat\n\n2️⃣ Cat2", "prompt": ""}, ("Cat", "Cat2")),
        ({"action": "DESCRIBE", "properties": {"finalPrompt": "1️⃣ Chat"}, "promptEn": "1️⃣ Cat"}, ("Chat",)),
        ({"action": "DESCRIBE", "prompt": "1️⃣ 猫\n\n2️⃣ 船"}, ("猫", "船")),
        ({"action": "DESCRIBE", "promptEn": "1. 35mm\n2. 1.5 m tall,\nwith a hat"}, ("35mm", "1.5 m tall, with a hat")),
        ({"action": "DESCRIBE", "promptEn": "(1) a\n（2）b\n3、c\n④ d\n5) e\n🔟 f"}, ("a", "b", "c", "d", "e", "f")),
        ({"action": "DESCRIBE", "promptEn": "**1️⃣** by [Van Gogh](<https://x.test/?q=a>)\n\nfooter"}, ("by Van Gogh",)),
        ({"action": "DESCRIBE", "promptEn": "2 cats\n3D render\n16:9 wide"}, ("2 cats", "3D render", "16:9 wide")),
        (FINAL | {"properties": {"finalPrompt": MARKED + "1️⃣ paper boat\n\n2️⃣ boat"}}, ("paper boat", "boat")),
        ({"action": "SHORTEN", "prompt": "p", "description": MARKED + "1️⃣ boat", "properties": None}, ("boat",)),
        (FINAL | {"properties": {"finalPrompt": BARS + MARKED + "1️⃣ boat"}}, ("boat",)),
        (FINAL | {"properties": {"finalPrompt": MARKED + "paper boat"}}, ("paper boat",)),
        (FINAL | {"properties": {"finalPrompt": "p"}}, ()),
        ({"action": "IMAGINE", "prompt": "1. a"}, ()),
    ],
)  # fmt: skip
def test_only_prompts_are_texts(fields: dict[str, Any], texts: tuple[str, ...]) -> None:
    """In every numbering, from the first field that has them, without headings, bars and markup."""
    assert read_task({"id": "1", "status": "SUCCESS", **fields}).texts == texts


BOUNDS = [
    ("prompt", "prompt", 8_000), ("promptEn", "prompt_en", 8_000), ("description", "description", 8_000),
    ("failReason", "fail_reason", 4_000), ("action", "action", 100), ("seed", "seed", 100), ("status", "status", 100),
]  # fmt: skip


@pytest.mark.parametrize(("key", "name", "limit"), BOUNDS)
@pytest.mark.parametrize("more", [0, 1, 100_000])
def test_a_long_word_of_the_provider_is_cut(key: str, name: str, limit: int, more: int) -> None:
    """At its bound, whichever way it is read. A text that was cut says so."""
    text = "X" * (limit + more)
    for task in (decode_task(json.dumps({"id": "1", key: text}).encode()), read_task({"id": "1", key: text})):
        assert getattr(task, name) == (text if not more else "X" * (limit - 7) + "… (cut)")
    nested = read_task({"id": "1", "properties": {"finalPrompt": text}})
    assert len(nested.final_prompt) <= 8_000


def test_links_and_buttons_are_bounded() -> None:
    """Half a link and half a customId are of no use, so they are left out, and a problem says so."""
    link, buttons = (
        {"url": "https://x.test/a.png"},
        [{"customId": f"MJ::{n}", "label": "U" * 200} for n in range(1_000)],
    )
    body = {
        "id": "1",
        "imageUrl": "https://x.test/" + "a" * 5_000,
        "imageUrls": [{"url": "https://x.test/" + "a" * 5_000}, *[link] * 7_000],
        "videoUrls": [link] * 64,
        "buttons": [{"customId": "x" * 300, "label": "too long an id"}, *buttons],
    }
    task = decode_task(json.dumps(body).encode())
    assert task.image_url == ""
    assert task.image_urls == task.video_urls == (link["url"],) * 64
    assert [len(button.label) for button in task.buttons] == [100] * 50
    assert task.buttons[0].label.endswith("… (cut)")
    assert len(task.problems) == 3
    assert decode_task(msgspec.json.encode(task)).buttons == task.buttons  # the journal reads what it wrote


def test_json_of_many_brackets_is_not_read() -> None:
    """Four megabytes of `[[]],` are 1.6 million lists, which would take 100 MB."""
    with pytest.raises(NotJSON, match="lists and objects"):
        decode_json(b"[" + b"[[]]," * 800_000 + b"[]]")
    assert decode_json(b"[" + b"[]," * 40_000 + b"[]]")


@pytest.mark.parametrize(
    "wrapped",
    ['{"code": 200, "data": %s}', '{"success": true, "result": %s}', '{"task": %s}', '{"data": %s, "error": null}'],
)
def test_a_task_in_an_envelope_is_read(wrapped: str) -> None:
    """Gateways put their own object around the protocol's."""
    assert decode_task((wrapped % '{"id": "17", "status": "SUCCESS"}').encode()).id == "17"
    assert decode_task((wrapped % json.dumps('{"id": "17"}')).encode()).id == "17"


A, B = "https://x.test/a.png?w=1,2", "https://x.test/b.png"


@pytest.mark.parametrize(
    ("value", "links"),
    [
        (A, [A]),
        (f" {A}\r\n", [A]),
        (f'"{A}"', [A]),
        ([A], [A]),
        ({"url": A, "width": 5}, [A]),
        ([{"url": A}, {"imageUrl": B}], [A, B]),
        ([{"image_url": A, "thumbnail": B}], [A]),
        ({"0": A, "1": B}, [A, B]),
        (f"{A},{B}", [A, B]),
        (f"{A}, {B}\n", [A, B]),
        (f"{A}\n{B}", [A, B]),
        ([f"{A},{B}"], [A, B]),
        (json.dumps([A, B]), [A, B]),
        (json.dumps({"url": A}), [A]),
        ([None, 5, [], {}, "", A], [A]),
    ],
)
@pytest.mark.parametrize("key", ["imageUrl", "image_url", "imageUrls", "image_urls", "videoUrl", "videoUrls"])
def test_links_are_found_in_every_form(key: str, value: object, links: list[str]) -> None:
    """One or several, in the field for one or in that for several: none is lost, and each is one file."""
    task = read_task({"id": "1", "status": "SUCCESS", "action": "VIDEO" if "video" in key else "IMAGINE", key: value})
    assert task.result_urls == tuple(links)
    assert task.problems == ()


def test_several_links_in_the_field_for_one_give_way_to_the_list() -> None:
    """The list is the same files by the protocol's own name."""
    assert read_task({"id": "1", "imageUrl": [A, B], "imageUrls": [B]}).result_urls == (B,)


def test_another_status_is_remembered_and_changes_nothing() -> None:
    """Until the protocol's next one."""
    running = task("IN_PROGRESS", 50)
    seen = merge(running, read_task({"id": "1", "status": "succeeded", "imageUrl": A}))
    assert (seen.status, seen.progress, seen.image_url, seen.other_status) == ("IN_PROGRESS", 50, "", "SUCCEEDED")
    assert merge(seen, task("")) == seen
    assert merge(seen, task("IN_PROGRESS", 60)).other_status == ""
