"""Words of others at every handler: prompt, task id, labels, state, reason, buttons, texts and links hold whatever
somebody thought of, and none of it reaches a path, a key, a header, markup or a command line as more than words."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slacks import check_blocks

from receiver.events import EVENT_TYPES, Event
from receiver.handlers.base import Attempt
from receiver.handlers.chat import harmless
from receiver.handlers.cloudevents import cloud_event
from receiver.handlers.command import INHERITED, CommandHandler
from receiver.handlers.discord import payload_of
from receiver.handlers.file import FileHandler
from receiver.handlers.posts import post_of
from receiver.handlers.result_files import provenance
from receiver.handlers.s3 import fill
from receiver.handlers.slack.blocks import detail_blocks, fallback, linked_picture, post_blocks, uploaded
from receiver.handlers.webhook import new_secret, signed_headers
from receiver.settings.options import read_options
from receiver.tasks import Button, Task
from receiver.testing import make_attempt, make_event, make_media

WORDS = (
    "../../etc/passwd", "/abs", "..\\..\\x", "a\0b", "a\r\nSet-Cookie: x=1", "$(touch pwned)", "`id`", "; rm -rf ~",
    "<!channel> <@U123> <https://evil.example|click>", "@everyone @here <@&1>", "**bold** _it_ ~~no~~ ||spoiler||",
    "[text](https://evil.example)", "# title\n> quote\n- item\n1. one", "```\ncode", "https://evil.example",
    "<script>alert(1)</script>", "&lt;b&gt;", "%0a", "\u202etxt.exe", "任务超时", "{id}{tile}", "--v", "x" * 5000, "",
)  # fmt: skip
"""No lone surrogates: intake stores those as U+FFFD."""
words = st.sampled_from(WORDS) | st.text(max_size=60) | st.lists(st.sampled_from(WORDS[:-2]), max_size=3).map(" ".join)
ID = r"[0-9A-HJKMNP-TV-Z]{26}"
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def events(draw: Any) -> Event:
    """Whatever happened, with others' words wherever they can stand."""
    type = draw(st.sampled_from(EVENT_TYPES))
    buttons = draw(st.lists(words, max_size=3))
    task = Task(
        id=draw(words), status="SUCCESS", action=draw(words), prompt=draw(words), final_prompt=draw(words),
        seed=draw(words), image_url=draw(words), fail_reason=draw(words),
        buttons=tuple(Button(custom_id=text, label=text) for text in buttons),
    )  # fmt: skip
    return make_event(
        type, task_id=task.id, task=task, prompt=draw(words), kind=draw(words), state=draw(words), reason=draw(words),
        button=draw(st.none() | words), labels=draw(st.dictionaries(words, words, max_size=2)),
    )  # fmt: skip


def attempt_of(event: Event, folder: Path) -> Attempt:
    """With a picture whose link is the task's."""
    if event.type != "task.succeeded":
        return make_attempt(folder, event.type, event=event)
    (picture,) = make_media(folder)
    assert event.task is not None
    media = msgspec.structs.replace(picture.media, url=event.task.image_url)
    return make_attempt(folder, event=event, media=(dataclasses.replace(picture, media=media),))


@QUICK
@given(events())
def test_a_folder_gets_plain_names(event: Event) -> None:
    """Everything lies in the folder itself, under letters, digits, dots and dashes; the words are in the JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "outputs"
        handler = FileHandler(FileHandler.Options(path=folder))
        asyncio.run(handler.deliver(attempt_of(event, Path(name) / "media")))
        written = list(folder.rglob("*")) if folder.exists() else []
        assert {path.parent for path in written} <= {folder}
        assert all(re.fullmatch(rf"[0-9-]{{10}}(_[a-z0-9-]+)?_{ID}\.(png|json|txt)", path.name) for path in written)
        assert {path.name for path in Path(name).iterdir()} <= {"outputs", "media"}
        for path in written:
            if path.suffix == ".json":
                assert json.loads(path.read_text())["task"]["id"] == event.task_id


@QUICK
@given(events(), st.sampled_from(["", "u1"]))
def test_a_bucket_gets_plain_keys(event: Event, mark: str) -> None:
    """No part is empty, `.` or `..`, and none holds more than letters, digits and dashes."""
    key = fill("mj/{label.order}/{kind}/{date}/{slug}-{id}{tile}.{ext}", event, mark=mark, ext="png")
    assert re.fullmatch(rf"mj/[a-z0-9-]+/[a-z0-9-]+/[0-9-]{{10}}/[a-z0-9-]+-{ID}(-u1)?\.png", key)


@QUICK
@given(events())
def test_a_picture_gets_whole_chunks(event: Event) -> None:
    """Provenance is iTXt chunks, each as long as it says: no word ends one early."""
    data, found = provenance(event, 0), []
    while data:
        length = int.from_bytes(data[:4], "big")
        found.append(data[4:8])
        data = data[12 + length :]
    assert set(found) <= {b"iTXt"}


@QUICK
@given(events(), words)
def test_slack_gets_plain_text(event: Event, link: str) -> None:
    """Slack's own SDK takes the blocks. Marked up are our own words alone; of anybody else's, no `<` and no `&` is left
    as it was."""
    with tempfile.TemporaryDirectory() as name:
        post = post_of(attempt_of(event, Path(name)))
    pictures = [uploaded("F0123ABCD", post.alt_text, title="U1")]
    if event.type == "task.succeeded" and (picture := linked_picture(link, post.alt_text)) is not None and link:
        pictures.append(picture)
    blocks = post_blocks(post, pictures, f"https://a.example/{link}" if link else None)
    check_blocks(blocks)
    for block in [*blocks, *detail_blocks(post)]:
        for text in [block.get("text"), *block.get("fields", ()), *block.get("elements", ())]:
            if text is None:
                continue
            if text["type"] == "plain_text":
                assert text["emoji"] is False
                assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", text["text"])
            else:
                assert re.fullmatch(
                    r":\w+: \*[A-Za-z0-9 ,:%.()]+\*"
                    rf"|`receiver (modal|tasks show|action) {ID}[A-Za-z0-9 .()'\"…-]*`"
                    r"|<https://a\.example/[^<>|]*\|Open the stored copy>",
                    text["text"],
                ), text["text"]
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", fallback(post))


@QUICK
@given(events())
def test_discord_gets_escaped_text(event: Event) -> None:
    """Nothing pings; what is not ours is escaped to its last character; the title and file names are plain."""
    with tempfile.TemporaryDirectory() as name:
        post = post_of(attempt_of(event, Path(name)))
    payload = payload_of(post, ["boat.png"], ["image/png"])
    assert payload["allowed_mentions"] == {"parse": []}
    (embed,) = payload["embeds"]
    assert re.fullmatch(r"[A-Za-z0-9 ,:%.()]+", embed["title"])
    ours = rf"\*\*(Why|What to do|Next steps):\*\*|`receiver (modal|tasks show|action) {ID}[A-Za-z0-9 .()'\"…-]*`"
    rest = re.sub(r"\\[\\*_~`|<>@#:\[\].+-]", "", re.sub(ours, "", embed["description"]))
    advice = re.sub(r"[A-Za-z0-9 ,;:.'\n-]", "", post.advice)
    assert not set(rest) & set("\\*_~`|<>@#[]") - set(advice), rest


@QUICK
@given(events())
def test_chats_get_no_mention(event: Event) -> None:
    """After each `@` and `<` stands a space of no width."""
    with tempfile.TemporaryDirectory() as name:
        post = post_of(attempt_of(event, Path(name)))
    assert not re.search(r"[@<](?!\u200b)", harmless(f"{post.title}: {post.body}"))


@QUICK
@given(events())
def test_a_webhook_gets_it_in_json_alone(event: Event) -> None:
    """Headers hold our own id, a time and signatures, whatever the event says, and the body is one JSON document."""
    with tempfile.TemporaryDirectory() as name:
        attempt = attempt_of(event, Path(name))
        body = msgspec.json.encode(cloud_event(attempt))
    headers = signed_headers([new_secret()], attempt.idempotency_key, body, 1_732_200_402)
    assert re.fullmatch(ID, headers["webhook-id"])
    assert all(re.fullmatch(r"[A-Za-z0-9+/=, ]+", value) for value in headers.values())
    assert json.loads(body)["subject"] == event.submission_id


@settings(QUICK, max_examples=15)
@given(events())
def test_a_command_gets_it_on_standard_input_alone(event: Event) -> None:
    """Its arguments are what was configured, and its environment holds ids and paths of ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = "tr '\\0' '\\n' < /proc/$$/environ > env; tr '\\0' '\\n' < /proc/$$/cmdline > args; cat > in"
        command = ["/bin/sh", "-c", script, "configured"]
        handler = CommandHandler(read_options(CommandHandler.Options, {"command": command, "folder": folder}))
        asyncio.run(handler.deliver(attempt_of(event, folder / "media")))
        assert (folder / "args").read_text().splitlines() == [*command[:2], script, "configured"]
        given = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines())
        said = {"EVENT_ID", "EVENT_TYPE", "SUBMISSION_ID", "IDEMPOTENCY_KEY", "ATTEMPT", "MEDIA_PATH"}
        assert all(re.fullmatch(r"[A-Za-z0-9./_-]+", given[key]) for key in said & given.keys())
        assert given.keys() <= said | {*INHERITED, "PWD"}
        assert json.loads((folder / "in").read_bytes())["data"]["prompt"] == event.prompt
        assert {path.name for path in folder.iterdir()} <= {"args", "env", "in", "media"}
