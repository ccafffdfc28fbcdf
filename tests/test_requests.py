"""Requests: their bodies, values that are refused, their paths, and the declaration all interfaces follow."""

from __future__ import annotations

import inspect
import json
from contextlib import suppress
from typing import Any

import httpx
import pytest
from answering import Answering
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from receiver import Receiver
from receiver.cli import app
from receiver.clock import Clock
from receiver.errors import InputError
from receiver.provider import Provider
from receiver.requests import (
    KINDS,
    REQUIRED,
    PictureField,
    Request,
    build,
    check_task_id,
    is_link,
    with_pictures,
)

LINK = "https://cdn.discordapp.com/attachments/1/2/a.png?ex=1&hm=2"
DATA = "data:image/png;base64,iVBORw0KGgo="
ID = "1773314942177684"
FLAGS = f"{LINK} a boat sails away --video 1 --motion high"

COMMANDS = [kind for kind, declared in KINDS.items() if declared.fields and kind not in ("imagine", "modal")]
BUILT = [kind for kind, declared in KINDS.items() if declared.fields]
PRESSED = {
    "action": {"taskId": ID, "customId": "MJ::JOB::upsample::2::9be78713-0423-4f5a-9232-12ea940b5ed7"},
    "change": {"taskId": ID, "action": "UPSCALE", "index": 1},
}
"""Bodies of the kinds that submissions build from a button."""


def make(kind: str, args: tuple[Any, ...], options: dict[str, Any]) -> Request:
    """A request whose first values come in the order of the declaration."""
    names = [field.name for field in KINDS[kind].fields]
    return build(kind, **dict(zip(names, args, strict=False)), **options)


def files(field: str, *sources: str) -> tuple[PictureField, ...]:
    return tuple(PictureField(field=field, source=source) for source in sources)


GOOD: list[tuple[str, tuple[Any, ...], dict[str, Any], dict[str, Any], tuple[PictureField, ...]]] = [
    ("imagine", (" a boat\n",), {}, {"prompt": "a boat"}, ()),
    ("imagine", ("x" * 6000,), {"account_filter": {"remark": None}}, {"prompt": "x" * 6000}, ()),
    ("imagine", (FLAGS,), {}, {"prompt": FLAGS}, ()),
    (
        "imagine",
        ("a boat",),
        {
            "bot_type": "NIJI_JOURNEY",
            "pictures": ["a.png", DATA],
            "account_filter": {"modes": ["FAST"], "instanceId": "5e6c", "remix": True, "remark": None},
        },
        {
            "prompt": "a boat",
            "botType": "NIJI_JOURNEY",
            "accountFilter": {"modes": ["FAST"], "instanceId": "5e6c", "remix": True},
        },
        files("base64Array", "a.png", DATA),
    ),
    ("modal", (f" {ID} ",), {}, {"taskId": ID}, ()),
    ("modal", ("task_abc-1",), {}, {"taskId": "task_abc-1"}, ()),
    ("modal", (ID,), {}, {"taskId": ID}, ()),
    ("modal", (ID,), {"prompt": " a hat "}, {"taskId": ID, "prompt": "a hat"}, ()),
    ("modal", (ID,), {"mask": "m.png"}, {"taskId": ID}, files("maskBase64", "m.png")),
    ("blend", (("a.png", "b.png"),), {}, {}, files("base64Array", "a.png", "b.png")),
    (
        "blend",
        ([DATA] * 5,),
        {"dimensions": "PORTRAIT", "bot_type": "MID_JOURNEY"},
        {"dimensions": "PORTRAIT", "botType": "MID_JOURNEY"},
        files("base64Array", *[DATA] * 5),
    ),
    ("blend", ([LINK, LINK],), {}, {"base64Array": [LINK, LINK]}, ()),
    (
        "blend",
        (["a.png", LINK, "b.png"],),
        {"account_filter": {"modes": ["FAST"]}},
        {"base64Array": ["", LINK, ""], "accountFilter": {"modes": ["FAST"]}},
        files("base64Array", "a.png", "b.png"),
    ),
    ("imagine", ("a",), {"pictures": [LINK]}, {"prompt": "a", "base64Array": [LINK]}, ()),
    ("describe", (f" {DATA}\n",), {}, {}, files("base64", DATA)),
    ("describe", (LINK,), {"account_filter": {"remark": "x"}}, {"link": LINK, "accountFilter": {"remark": "x"}}, ()),
    ("shorten", ("a",), {"account_filter": {"remix": True}}, {"prompt": "a", "accountFilter": {"remix": True}}, ()),
    ("describe", ("a.png",), {}, {}, files("base64", "a.png")),
    (
        "describe",
        (LINK,),
        {"bot_type": "MID_JOURNEY", "language": "zh-CN"},
        {"link": LINK, "botType": "MID_JOURNEY", "language": "zh-CN"},
        (),
    ),
    ("shorten", ("a boat",), {}, {"prompt": "a boat"}, ()),
    ("shorten", ("a boat",), {"bot_type": "MID_JOURNEY"}, {"prompt": "a boat", "botType": "MID_JOURNEY"}, ()),
    ("video", (LINK,), {"prompt": "p"}, {"motion": "low", "image": LINK, "prompt": "p"}, ()),
    (
        "video",
        ("a.png",),
        {"motion": "high", "prompt": "p"},
        {"motion": "high", "prompt": "p"},
        files("image", "a.png"),
    ),
    (
        "video",
        (DATA,),
        {
            "prompt": "it sails",
            "end_image": "b.png",
            "loop": False,
            "video_type": "vid_1.1_i2v_720",
            "batch_size": 2,
        },
        {
            "motion": "low",
            "prompt": "it sails",
            "loop": False,
            "videoType": "vid_1.1_i2v_720",
            "batchSize": 2,
        },
        (*files("image", DATA), *files("endImage", "b.png")),
    ),
    (
        "video",
        ("a.png", "low", "p"),
        {"end_image": LINK},
        {"motion": "low", "prompt": "p", "endImage": LINK},
        files("image", "a.png"),
    ),
    (
        "video",
        (),
        {"prompt": "p", "action": "extend", "index": 0, "task_id": ID},
        {"motion": "low", "prompt": "p", "action": "extend", "index": 0, "taskId": ID},
        (),
    ),
    (
        "video",
        (LINK,),
        {"prompt": "p", "action": "extend", "index": 3, "task_id": ID},
        {"motion": "low", "prompt": "p", "image": LINK, "action": "extend", "index": 3, "taskId": ID},
        (),
    ),
    ("edits", ("a hat", LINK), {}, {"prompt": "a hat", "image": LINK}, ()),
    (
        "edits",
        ("a hat", "a.png"),
        {"mask": DATA, "account_filter": {"modes": ["RELAX", "TURBO"]}},
        {"prompt": "a hat", "accountFilter": {"modes": ["RELAX", "TURBO"]}},
        (*files("image", "a.png"), *files("maskBase64", DATA)),
    ),
    ("swap", ("a.png", "b.png"), {}, {}, (*files("sourceBase64", "a.png"), *files("targetBase64", "b.png"))),
    ("swap", (LINK, "b.png"), {}, {"sourceUrl": LINK}, files("targetBase64", "b.png")),
    ("swap", ("a.png", LINK), {}, {"targetUrl": LINK}, files("sourceBase64", "a.png")),
    ("upload", (["a.png"],), {}, {}, files("base64Array", "a.png")),
    ("upload", ([DATA] * 5,), {"account_filter": {}}, {}, files("base64Array", *[DATA] * 5)),
]


@pytest.mark.parametrize(("kind", "args", "options", "body", "pictures"), GOOD)
def test_what_a_request_is_made_of(
    kind: str,
    args: tuple[Any, ...],
    options: dict[str, Any],
    body: dict[str, Any],
    pictures: tuple[PictureField, ...],
) -> None:
    """The protocol's names, what is unset left out, links in the body and files beside it."""
    expected = Request(kind=kind, body=body, prompt=body.get("prompt", ""), pictures=pictures)
    assert make(kind, args, options) == expected


BAD: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    # prompts
    ("imagine", ("",), {}, "The prompt is empty"),
    ("imagine", (" \n",), {}, "The prompt is empty"),
    ("imagine", ("x" * 6001,), {}, "6001 characters; shorten it to 6000"),
    ("imagine", ("a\x00b",), {}, "NUL"),
    ("imagine", ("a\ud800b",), {}, "half a character"),
    ("imagine", (7,), {}, "must be text"),
    ("imagine", (None,), {}, "must be text"),
    ("shorten", ("",), {}, "The prompt is empty"),
    ("edits", ("", LINK), {}, "The prompt is empty"),
    ("modal", (ID,), {"prompt": " "}, "The prompt is empty"),
    ("video", (LINK,), {"prompt": "x" * 6001}, "shorten it"),
    ("video", (LINK,), {}, "The prompt must be text"),
    ("video", (), {"action": "extend", "index": 1, "task_id": ID}, "The prompt must be text"),
    # words
    ("imagine", ("a",), {"bot_type": "DALL_E"}, "'DALL_E' cannot be botType; use one of MID_JOURNEY, NIJI_JOURNEY"),
    ("imagine", ("a",), {"bot_type": 10**5000}, "botType must be text"),
    ("describe", ("a.png",), {"bot_type": ""}, "botType"),
    ("blend", (["a", "b"],), {"dimensions": "square"}, "dimensions; use one of PORTRAIT, SQUARE, LANDSCAPE"),
    ("video", (LINK,), {"motion": "medium"}, "use one of low, high"),
    ("video", (LINK,), {"motion": None}, "motion must be text"),
    (
        "video",
        (LINK,),
        {"prompt": "p", "video_type": "vid_1.1_i2v_1080"},
        "use one of vid_1.1_i2v_480",
    ),
    ("video", (), {"prompt": "p", "action": "extend it", "index": 1, "task_id": ID}, "a single word, like extend"),
    ("video", (), {"prompt": "p", "action": "", "index": 1, "task_id": ID}, "a single word, like extend"),
    ("describe", (LINK,), {"language": "the King's English"}, "write it like en"),
    # numbers, and true and false
    ("video", (), {"prompt": "p", "action": "extend", "task_id": ID}, "Say which one: index must be one of 0, 1, 2, 3"),
    ("video", (), {"prompt": "p", "action": "extend", "task_id": ID, "index": 4}, "index must be one of 0, 1, 2, 3"),
    ("video", (LINK,), {"prompt": "p", "batch_size": 3}, "batchSize must be one of 1, 2, 4"),
    ("video", (LINK,), {"prompt": "p", "batch_size": True}, "batchSize must be one of"),
    ("video", (LINK,), {"prompt": "p", "batch_size": "1"}, "batchSize must be one of"),
    ("video", (LINK,), {"prompt": "p", "batch_size": 1.0}, "batchSize must be one of"),
    ("video", (LINK,), {"prompt": "p", "loop": "yes"}, "loop must be true or false"),
    # task ids
    ("modal", ("",), {}, "The task id is empty"),
    ("modal", (" ",), {}, "The task id is empty"),
    ("modal", (17,), {}, "must be text"),
    ("modal", (), {}, "must be text"),
    ("modal", ("..",), {}, "The task id is empty"),
    ("modal", ("x" * 65,), {}, "65 characters"),
    ("modal", ("1\u202e2",), {}, "is no task id"),
    ("modal", ("1,2",), {}, "without spaces or commas"),
    ("modal", ("1 2",), {}, "without spaces or commas"),
    ("video", (), {"prompt": "p", "action": "extend", "index": 1, "task_id": ""}, "The task id is empty"),
    # pictures
    ("imagine", ("a",), {"pictures": ["a.png"] * 6}, "at most 5 pictures, not 6"),
    ("imagine", ("a",), {"pictures": "a.png"}, "must be a list"),
    ("imagine", ("a",), {"pictures": ["ftp://x.test/a.png"]}, "no http or https link"),
    ("upload", ([LINK],), {}, "must be a file or a data URI here. Download it"),
    ("imagine", ("a",), {"pictures": [" "]}, "is empty"),
    ("imagine", ("a",), {"pictures": [b"x"]}, "must be text"),
    ("blend", (["a.png"],), {}, "2 to 5 pictures, not 1"),
    ("blend", (["a.png"] * 6,), {}, "2 to 5 pictures, not 6"),
    ("upload", ([],), {}, "1 to 5 pictures, not 0"),
    ("upload", (["a.png"] * 6,), {}, "1 to 5 pictures, not 6"),
    ("modal", (ID,), {"mask": LINK}, "The mask is a link"),
    ("modal", (ID,), {"mask": ""}, "The mask is empty"),
    ("edits", ("a hat", LINK), {"mask": LINK}, "The mask is a link"),
    ("edits", ("a hat", None), {}, "is missing"),
    ("edits", ("a hat", ""), {}, "is empty"),
    ("describe", ("",), {}, "is empty"),
    ("describe", (None,), {}, "is missing"),
    ("swap", ("a.png", ""), {}, "is empty"),
    ("swap", (None, "a.png"), {}, "is missing"),
    # links
    ("describe", ("ftp://x.test/a.png",), {}, "no http or https link"),
    ("describe", ("file:///etc/passwd",), {}, "no http or https link"),
    ("describe", ("https://",), {}, "no http or https link"),
    ("describe", ("https://[",), {}, "no http or https link"),
    ("describe", ("https://x.test/a b",), {}, "no http or https link"),
    ("describe", ("https://x.test/" + "a" * 2048,), {}, "shorten it to 2048"),
    ("video", ("gopher://x.test/a",), {}, "no http or https link"),
    ("video", (LINK,), {"prompt": "p", "end_image": "ftp://x.test/a"}, "no http or https link"),
    ("edits", ("a hat", "ftp://x.test/a"), {}, "no http or https link"),
    ("imagine", ("a",), {"pictures": ["ftp://x.test/a"]}, "no http or https link"),
    # what does not belong together
    (
        "video",
        (),
        {
            "prompt": "p",
        },
        "The picture for image is missing",
    ),
    ("video", (LINK,), {"prompt": "p", "task_id": ID}, "need an action"),
    ("video", (LINK,), {"prompt": "p", "index": 1}, "need an action"),
    ("video", (), {"prompt": "p", "action": "extend", "index": 1}, "needs the task id"),
    # accountFilter
    ("imagine", ("a",), {"account_filter": ["FAST"]}, "must be an object"),
    ("imagine", ("a",), {"account_filter": {"mode": "FAST"}}, "'mode' cannot be a key of accountFilter"),
    ("imagine", ("a",), {"account_filter": {7: "FAST"}}, "must be text"),
    ("imagine", ("a",), {"account_filter": {"modes": "FAST"}}, "list of RELAX, FAST, TURBO"),
    ("edits", ("a", LINK), {"account_filter": {"modes": ["fast"]}}, "'fast' cannot be a mode"),
    ("upload", (["a.png"],), {"account_filter": {"remix": "yes"}}, "true or false"),
    ("imagine", ("a",), {"account_filter": {"instanceId": 5}}, "must be text"),
]


@pytest.mark.parametrize(("kind", "args", "options", "match"), BAD)
def test_what_is_refused(kind: str, args: tuple[Any, ...], options: dict[str, Any], match: str) -> None:
    """What the provider could not take is found before anything is sent, and told in a sentence."""
    with pytest.raises(InputError, match=match) as refused:
        make(kind, args, options)
    assert str(refused.value).endswith(".")
    assert len(str(refused.value)) < 250


def test_every_kind_is_in_both_tables() -> None:
    """A new kind needs lines above."""
    assert {row[0] for row in GOOD} == {row[0] for row in BAD} == set(BUILT)
    assert {*BUILT, *PRESSED} == set(KINDS)


def test_an_unknown_field_is_a_mistake_of_the_caller() -> None:
    """Like an unknown argument of a function."""
    with pytest.raises(TypeError, match="no field 'motion'"):
        build("imagine", prompt="a boat", motion="low")


# --- interfaces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["imagine", *COMMANDS])
def test_the_methods_of_receiver_have_the_declared_fields(kind: str) -> None:
    """Same names, optionality and defaults; only `options` is added."""
    parameters = dict(inspect.signature(getattr(Receiver, kind)).parameters)
    del parameters["self"]
    parameters.pop("options", None)
    expected = {field.name: field.default for field in KINDS[kind].fields}
    found = {
        name: REQUIRED if item.default is inspect.Parameter.empty else item.default for name, item in parameters.items()
    }
    assert found == expected


def test_every_kind_has_a_method_or_a_button() -> None:
    """`modal` is `TaskHandle.reply`; buttons are pressed with `TaskHandle.action`."""
    methods = {kind for kind in KINDS if hasattr(Receiver, kind)}
    assert methods == {*KINDS} - {"modal", *PRESSED}


@pytest.mark.parametrize("kind", ["imagine", *COMMANDS])
def test_the_commands_have_the_declared_fields(kind: str) -> None:
    """Same names and optionality, each with its description. `submit` can read prompts from a file instead."""
    command = get_command(app).commands["submit" if kind == "imagine" else kind]  # type: ignore[attr-defined]
    parameters = {item.name: item for item in command.params}
    for field in KINDS[kind].fields:
        item = parameters[field.option or field.name]
        assert (item.param_type_name == "argument") == field.argument
        if (kind, field.name) != ("imagine", "prompt"):
            assert item.required == (field.default is REQUIRED)
            assert item.help.startswith(field.command_help)


# --- pictures -----------------------------------------------------------------------------------------------------


def test_links_and_pictures_of_one_list_keep_their_order() -> None:
    """A picture goes where the list has a gap, and the journalled body keeps the gap."""
    request = build("blend", pictures=["a.png", LINK, "b.png"])
    whole = with_pictures(request.body, [("base64Array", "data:,A"), ("base64Array", "data:,B")])
    assert whole["base64Array"] == ["data:,A", LINK, "data:,B"]
    assert request.body["base64Array"] == ["", LINK, ""]


def test_pictures_find_their_fields() -> None:
    """Lists keep their order, single fields hold one, and the journalled body stays as it was."""
    request = build("edits", prompt="a hat", image="a.png", mask="m.png")
    uris = [(picture.field, f"data:{picture.source}") for picture in request.pictures]
    expected = {"prompt": "a hat", "image": "data:a.png", "maskBase64": "data:m.png"}
    assert with_pictures(request.body, uris) == expected
    assert request.body == {"prompt": "a hat"}
    assert with_pictures({}, [("base64Array", "1"), ("base64Array", "2")]) == {"base64Array": ["1", "2"]}
    assert with_pictures({"prompt": "a"}, []) == {"prompt": "a"}


def test_what_a_picture_field_is() -> None:
    """Only maskBase64 is a mask."""
    fields = ("base64Array", "base64", "image", "endImage", "maskBase64", "sourceBase64", "targetBase64")
    assert [field for field in fields if PictureField(field=field, source="a").mask] == ["maskBase64"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (LINK, True),
        ("HTTP://x.test", True),
        ("a.png", False),
        ("/http://x", False),
        (DATA, False),
        ("ftp://x.test", False),
        ("", False),
    ],
)
def test_is_link(source: str, expected: bool) -> None:
    """http and https, in any case; nothing else."""
    assert is_link(source) is expected


# --- on the wire --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [None, "fast", "turbo", "relax"])
@pytest.mark.parametrize("kind", KINDS)
async def test_paths(kind: str, speed: str | None) -> None:
    """Each kind goes to its path, the speed before it, the body as it is."""
    seen: list[httpx.Request] = []
    result = LINK if kind == "upload" else "17"

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"code": 1, "description": "ok", "result": result})

    provider = Provider(base_url="https://r.test", key="", clock=Clock(), pool=Answering(answer))
    body = PRESSED.get(kind) or next(make(*row[:3]).body for row in GOOD if row[0] == kind)
    accepted = await provider.submit(kind, body, speed=speed)
    assert (accepted.task_id, accepted.urls) == (("", (LINK,)) if kind == "upload" else ("17", ()))
    prefix = f"/mj-{speed}/mj" if speed else "/mj"
    assert [(request.method, request.url.path) for request in seen] == [("POST", f"{prefix}/{KINDS[kind].path}")]
    assert json.loads(seen[0].content) == body


def test_the_protocols_paths() -> None:
    """As PROTOCOL.md §2 has them."""
    assert {kind.path.removeprefix("submit/") for kind in KINDS.values()} == {
        "imagine", "action", "modal", "blend", "describe", "shorten", "change", "video", "edits",
        "insight-face/swap", "upload-discord-images",
    }  # fmt: skip


# --- anything at all ----------------------------------------------------------------------------------------------

TEXT = st.text() | st.sampled_from(
    ["", "low", "UPSCALE", "extend", "MID_JOURNEY", LINK, DATA, ID, "a://", "http://[", "\ud800"]
)
ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | TEXT
VALUE = st.recursive(ANYTHING, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(ANYTHING, inner, max_size=3))


@pytest.mark.parametrize("kind", BUILT)
@given(st.data())
def test_nothing_breaks_a_builder(kind: str, data: st.DataObject) -> None:
    """A good request with any of its values exchanged makes one that JSON can carry, or InputError."""
    _, args, options, _, _ = data.draw(st.sampled_from([row for row in GOOD if row[0] == kind]))

    def other(value: Any) -> Any:
        return data.draw(VALUE) if data.draw(st.integers(0, 3)) == 3 else value

    with suppress(InputError):
        request = make(kind, tuple(map(other, args)), {name: other(value) for name, value in options.items()})
        json.dumps(request.body, allow_nan=False).encode()
        assert request.kind == kind
        assert isinstance(request.prompt, str)
        assert not any(is_link(picture.source) for picture in request.pictures)


@given(VALUE)
def test_nothing_breaks_a_task_id(value: Any) -> None:
    """What passes can stand in a path and in a database."""
    with suppress(InputError):
        checked = check_task_id(value)
        assert 0 < len(checked) <= 64
        assert checked.isprintable()
