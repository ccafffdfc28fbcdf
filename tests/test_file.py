"""The file handler: pictures in a folder, each with a `.json` beside it."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import attempts
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.deliveries import Receipt
from receiver.errors import MediaError, SettingsError
from receiver.events import Event, EventType, Media
from receiver.handlers.base import Attempt, Rejected, RetryLater, StoredMedia
from receiver.handlers.file import FileHandler
from receiver.handlers.result_files import file_stem, parameters, slug
from receiver.settings.options import WrongValues, read_options
from receiver.tasks import Button, Task
from receiver.testing import make_attempt

ID = "01JD7K0000ABCDEFGHJKMNPQRS"  # 2024-11-21T14:46:06.080Z
STEM = f"2024-11-21_paper-boat-calm-water_{ID}"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 5000
LINK = "https://cdn.discordapp.com/attachments/1/2/boat.png?ex=1&hm=2"
TASK = Task(
    id="1320098173412546",
    status="SUCCESS",
    progress=100,
    action="IMAGINE",
    prompt="a paper boat",
    final_prompt="a paper boat on calm water --v 6.1 --ar 16:9",
    state="01JD7K0000ABCDEFGHJKMNPQRS.token.secret",
    submit_ms=1732200366000,
    start_ms=1732200367500,
    finish_ms=1732200401000,
    image_url=LINK,
    buttons=(Button(custom_id="MJ::U1", label="U1"), Button(custom_id="MJ::reroll", emoji="🔄")),
    seed="42",
)
EVENT = Event(
    id=f"{ID}.task.succeeded",
    type="task.succeeded",
    submission_id=ID,
    created_ms=1732200402250,
    source="callback",
    task_id=TASK.id,
    status="SUCCESS",
    progress=100,
    prompt="a paper boat on calm water --v 6.1 --ar 16:9 --tile",
    kind="imagine",
    labels={"order": "7", "customer": "Zoë"},
    state="mine",
    parent_id=None,
    confirmed=True,
    task=TASK,
)


def event_of(type: EventType, **changes: Any) -> Event:
    return msgspec.structs.replace(EVENT, type=type, id=f"{ID}.{type}", **changes)


def attempt_of(event: Event, *media: StoredMedia, **changes: Any) -> Attempt:
    plain = Attempt(
        event=event,
        destination="folder",
        number=1,
        idempotency_key="01JD7K1111ABCDEFGHJKMNPQRS",
        deadline=30,
        receipts={},
    )
    return dataclasses.replace(plain, media=media, **changes)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "outputs"


@pytest.fixture
def handler(out: Path) -> FileHandler:
    return FileHandler(FileHandler.Options(path=out))


def stored(folder: Path, content: bytes = PNG, index: int = 0, extension: str = ".png") -> StoredMedia:
    """A file as the media store keeps it."""
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"{digest}{extension}"
    path.write_bytes(content)
    media = Media(digest=digest, type="image/png", size=len(content), extension=extension, url=LINK, index=index)
    return StoredMedia(media=media, path=path)


def names_in(folder: Path) -> list[str]:
    """Everything in `folder`, hidden files too."""
    return sorted(os.listdir(folder)) if folder.exists() else []


async def test_a_result_is_a_picture_and_a_json(handler: FileHandler, out: Path, tmp_path: Path) -> None:
    """Both lie under one readable name, and the receipt says where."""
    receipt = await handler.deliver(attempt_of(EVENT, stored(tmp_path)))
    files = [str(out / f"{STEM}.png"), str(out / f"{STEM}.json")]
    assert receipt == Receipt(ref=files[0], data={"files": files})
    assert names_in(out) == [f"{STEM}.json", f"{STEM}.png"]
    assert (out / f"{STEM}.png").read_bytes() == PNG
    await handler.aclose()


async def test_the_json_says_what_the_picture_is(handler: FileHandler, out: Path, tmp_path: Path) -> None:
    """Prompt, parameters, task, labels, lineage, times, links and the event; readable, and in this order."""
    item = stored(tmp_path)
    await handler.deliver(attempt_of(EVENT, item))
    text = (out / f"{STEM}.json").read_text(encoding="utf-8")
    expected = {
        "prompt": "a paper boat on calm water --v 6.1 --ar 16:9 --tile",
        "parameters": {"v": "6.1", "ar": "16:9", "tile": True},
        "kind": "imagine",
        "task": {
            "id": "1320098173412546",
            "action": "IMAGINE",
            "status": "SUCCESS",
            "progress": 100,
            "seed": "42",
            "final_prompt": "a paper boat on calm water --v 6.1 --ar 16:9",
            "description": "",
            "fail_reason": "",
            "buttons": [
                {"custom_id": "MJ::U1", "label": "U1", "emoji": ""},
                {"custom_id": "MJ::reroll", "label": "", "emoji": "🔄"},
            ],
        },
        "labels": {"customer": "Zoë", "order": "7"},
        "state": "mine",
        "lineage": {"submission": ID, "parent": None, "button": None},
        "times": {
            "submitted": "2024-11-21T14:46:06.000Z",
            "started": "2024-11-21T14:46:07.500Z",
            "finished": "2024-11-21T14:46:41.000Z",
            "event": "2024-11-21T14:46:42.250Z",
        },
        "texts": [],
        "links": [LINK],
        "media": [
            {"file": f"{STEM}.png", "sha256": item.media.digest, "type": "image/png", "size": len(PNG), "link": LINK}
        ],
        "event": {
            "id": f"{ID}.task.succeeded",
            "type": "task.succeeded",
            "confirmed": True,
            "reason": None,
            "supersedes": None,
            "schema": 1,
        },
    }
    assert text == json.dumps(expected, ensure_ascii=False, indent=2) + "\n"


async def test_our_tokens_are_not_written(handler: FileHandler, out: Path, tmp_path: Path) -> None:
    """The provider echoes our state token; the user's own state is what is written."""
    await handler.deliver(attempt_of(EVENT, stored(tmp_path)))
    assert "secret" not in (out / f"{STEM}.json").read_text(encoding="utf-8")


async def test_a_retry_writes_the_same_bytes_and_nothing_twice(handler: FileHandler, out: Path, tmp_path: Path) -> None:
    """A later attempt gives the same files; what is there already is not written again."""
    item = stored(tmp_path)
    first = await handler.deliver(attempt_of(EVENT, item))
    before = {name: ((out / name).read_bytes(), (out / name).stat().st_ino) for name in names_in(out)}
    second = await handler.deliver(attempt_of(EVENT, item, number=7, deadline=5))
    assert first == second
    assert {name: ((out / name).read_bytes(), (out / name).stat().st_ino) for name in names_in(out)} == before


async def test_a_retry_repairs_what_differs(handler: FileHandler, out: Path, tmp_path: Path) -> None:
    """A picture of the same size with another content, and a missing JSON, are written anew."""
    item = stored(tmp_path)
    await handler.deliver(attempt_of(EVENT, item))
    (out / f"{STEM}.png").write_bytes(bytes(len(PNG)))
    (out / f"{STEM}.json").unlink()
    (out / f".{attempt_of(EVENT).idempotency_key}.part").write_bytes(b"left by a killed process")
    await handler.deliver(attempt_of(EVENT, item))
    assert (out / f"{STEM}.png").read_bytes() == PNG
    assert names_in(out) == [f"{STEM}.json", f"{STEM}.png"]


async def test_the_picture_is_a_copy(handler: FileHandler, out: Path, tmp_path: Path) -> None:
    """An edit in the folder does not reach the archive."""
    item = stored(tmp_path)
    await handler.deliver(attempt_of(EVENT, item))
    with (out / f"{STEM}.png").open("r+b") as file:
        file.write(b"edited")
    assert item.path.read_bytes() == PNG


async def test_the_picture_is_the_archived_file_if_asked_for(out: Path, tmp_path: Path) -> None:
    """It takes no space of its own. What has something written into it is a copy all the same."""
    item, draft = stored(tmp_path), out / ".01JD7K1111ABCDEFGHJKMNPQRS.link"
    linking = FileHandler(FileHandler.Options(path=out, link=True))
    out.mkdir(parents=True)
    draft.write_text("of an attempt that was killed")
    for number in (1, 2):
        await linking.deliver(attempt_of(EVENT, item, number=number))
        assert (out / f"{STEM}.png").samefile(item.path)
        assert names_in(out) == [f"{STEM}.json", f"{STEM}.png"]
    marking = FileHandler(FileHandler.Options(path=out, link=True, embed=True))
    await marking.deliver(attempt_of(EVENT, make_attempt(tmp_path).media[0]))
    assert not (out / f"{STEM}.png").samefile(item.path)


async def test_a_damaged_file_of_the_archive_is_not_linked(out: Path, tmp_path: Path) -> None:
    """A link is checked by its digest: a program may have edited a picture in place."""
    item = stored(tmp_path)
    item.path.write_bytes(bytes(len(PNG)))
    with pytest.raises(OSError, match=r"The archived file .* is damaged"):
        await FileHandler(FileHandler.Options(path=out, link=True)).deliver(attempt_of(EVENT, item))
    assert names_in(out) == []


async def test_a_disk_that_takes_no_links_gets_a_copy(out: Path, tmp_path: Path) -> None:
    """Links end at the border of a disk, and the picture is delivered all the same."""
    item = stored(tmp_path)
    there = Path("/proc/self/fd") / str(os.open(item.path, os.O_RDONLY))  # on another file system, as links see it
    await FileHandler(FileHandler.Options(path=out, link=True)).deliver(
        attempt_of(EVENT, dataclasses.replace(item, path=there))
    )
    os.close(int(there.name))
    assert (out / f"{STEM}.png").read_bytes() == PNG
    assert not (out / f"{STEM}.png").samefile(item.path)


async def test_several_files_are_numbered(handler: FileHandler, out: Path, tmp_path: Path) -> None:
    """`_1`, `_2` before the extension, one JSON for all."""
    items = [stored(tmp_path), stored(tmp_path, PNG + b"2", 1), stored(tmp_path, b"mp4", 2, ".mp4")]
    receipt = await handler.deliver(attempt_of(EVENT, *items))
    names = [f"{STEM}_1.png", f"{STEM}_2.png", f"{STEM}_3.mp4", f"{STEM}.json"]
    assert names_in(out) == sorted(names)
    assert receipt.ref == str(out / names[0])
    assert receipt.data == {"files": [str(out / name) for name in names]}
    media = json.loads((out / names[3]).read_bytes())["media"]
    assert [item["file"] for item in media] == names[:3]


@pytest.mark.parametrize("type", ["task.failed", "task.lost", "task.input_required"])
async def test_what_has_no_picture_is_a_json(handler: FileHandler, out: Path, type: EventType) -> None:
    """Failed, lost and asking for input: the JSON alone, with the reason."""
    event = event_of(type, reason="the banned word was: boat", status="FAILURE")
    receipt = await handler.deliver(attempt_of(event))
    assert names_in(out) == [f"{STEM}.json"]
    assert receipt.ref == str(out / f"{STEM}.json")
    written = json.loads((out / f"{STEM}.json").read_bytes())
    assert written["event"]["type"] == type
    assert written["event"]["reason"] == "the banned word was: boat"


@pytest.mark.parametrize("type", ["task.accepted", "task.progressed"])
async def test_steps_on_the_way_write_nothing(handler: FileHandler, out: Path, type: EventType) -> None:
    """They succeed with an empty receipt and do not even make the folder."""
    assert await handler.deliver(attempt_of(event_of(type))) == Receipt()
    assert names_in(out) == []


async def test_a_late_result_takes_the_place_of_a_failure(handler: FileHandler, out: Path, tmp_path: Path) -> None:
    """`failed` and `lost` are provisional: the success that supersedes them overwrites their JSON."""
    await handler.deliver(attempt_of(event_of("task.failed", reason="timed out")))
    await handler.deliver(attempt_of(event_of("task.succeeded", supersedes=f"{ID}.task.failed"), stored(tmp_path)))
    written = json.loads((out / f"{STEM}.json").read_bytes())
    assert (written["event"]["type"], written["event"]["supersedes"]) == ("task.succeeded", f"{ID}.task.failed")
    assert len(names_in(out)) == 2


async def test_an_event_without_a_task_is_written(handler: FileHandler, out: Path) -> None:
    """A submission whose answer was lost has no task; the time is the one in our own id."""
    event = event_of("task.lost", task=None, task_id=None, status="", progress=None, prompt="")
    await handler.deliver(attempt_of(event))
    written = json.loads((out / f"2024-11-21_{ID}.json").read_bytes())
    assert written["task"]["id"] is None
    assert written["times"]["submitted"] == "2024-11-21T14:46:06.080Z"
    assert written["parameters"] == {}


async def test_a_file_that_comes_late_lies_beside_the_others(handler: FileHandler, out: Path, tmp_path: Path) -> None:
    """Under the name it would have had: the JSON first says what is missing, and then lists all."""
    whole = make_attempt(tmp_path / "media", pictures=2, submission_id=ID)
    part = dataclasses.replace(
        whole, media=whole.media[1:], media_expected=2, media_pending=True, media_problem="1 of 2 files is missing."
    )
    await handler.deliver(part)
    stem = file_stem(whole.event)
    assert names_in(out) == [f"{stem}.json", f"{stem}_2.png"]
    assert json.loads((out / f"{stem}.json").read_bytes())["media_problem"] == "1 of 2 files is missing."
    await handler.deliver(dataclasses.replace(whole, media_expected=2))
    assert names_in(out) == [f"{stem}.json", f"{stem}_1.png", f"{stem}_2.png"]
    written = json.loads((out / f"{stem}.json").read_bytes())
    assert [item["file"] for item in written["media"]] == [f"{stem}_1.png", f"{stem}_2.png"]
    assert "media_problem" not in written


async def test_a_picture_that_may_still_come_is_no_failure(handler: FileHandler, out: Path) -> None:
    """The JSON says why there is none yet."""
    receipt = await handler.deliver(attempt_of(EVENT, media_pending=True, media_problem="404"))
    assert receipt.ref == str(out / f"{STEM}.json")


async def test_a_picture_that_never_comes_is_rejected(handler: FileHandler, out: Path) -> None:
    """The JSON keeps what is known, and the delivery says that the picture is missing."""
    problem = "cdn.test/a.png answered 404. Provider links expire within a day; this one may have."
    with pytest.raises(Rejected, match=r"without the picture\. cdn\.test/a\.png answered 404"):
        await handler.deliver(attempt_of(EVENT, media_problem=problem))
    assert names_in(out) == [f"{STEM}.json"]
    assert json.loads((out / f"{STEM}.json").read_bytes())["media_problem"] == problem


async def test_a_result_of_words_is_a_json(handler: FileHandler, out: Path) -> None:
    """A describe has no files and is complete without."""
    task = Task(id="1", status="SUCCESS", action="DESCRIBE", description="a boat")
    receipt = await handler.deliver(attempt_of(event_of("task.succeeded", task=task)))
    assert receipt.ref == str(out / f"{STEM}.json")
    assert json.loads((out / f"{STEM}.json").read_bytes())["task"]["description"] == "a boat"


async def test_hostile_text_stays_text(handler: FileHandler, out: Path) -> None:
    """Lone surrogates and absurd times in a payload neither fail nor change names."""
    task = Task(id="../../x", status="FAILURE", finish_ms=2**53 - 1, fail_reason="\ud800")
    await handler.deliver(attempt_of(event_of("task.failed", task=task, task_id="../../x", prompt="../../etc \udfff")))
    (name,) = names_in(out)
    assert name == f"2024-11-21_etc_{ID}.json"
    written = json.loads((out / name).read_bytes())
    assert written["task"]["fail_reason"] == "\ud800"
    assert written["times"]["finished"] is None


@pytest.mark.parametrize("id", ["", "../../../../../../etc/pass", "1320098173412546", ID + "/x"])
async def test_an_id_that_is_not_ours_never_becomes_a_name(handler: FileHandler, out: Path, id: str) -> None:
    """Names are built from our own ids only."""
    with pytest.raises(ValueError, match="ULID"):
        await handler.deliver(attempt_of(event_of("task.failed", submission_id=id)))
    assert names_in(out) == []


@pytest.mark.parametrize("content", [PNG, PNG + b"new"], ids=["same", "new"])
async def test_a_symlink_is_replaced_not_followed(
    handler: FileHandler, out: Path, tmp_path: Path, content: bytes
) -> None:
    """A link planted under a name of ours, even to the same content, leads nothing out of the folder."""
    outside = tmp_path / "outside"
    outside.write_bytes(PNG)
    await handler.deliver(attempt_of(event_of("task.failed")))
    (out / f"{STEM}.png").symlink_to(outside)
    (out / f".{attempt_of(EVENT).idempotency_key}.part").symlink_to(outside)
    await handler.deliver(attempt_of(EVENT, stored(tmp_path, content)))
    assert not (out / f"{STEM}.png").is_symlink()
    assert outside.read_bytes() == PNG


async def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    """A path under a plain file: folder, reason and remedy, as an error that is retried."""
    (tmp_path / "file").write_text("")
    handler = FileHandler(FileHandler.Options(path=tmp_path / "file" / "outputs"))
    with pytest.raises(OSError, match=r"The folder /.*/file/outputs cannot be written \(.+\)\. A file stands in its"):
        await handler.deliver(attempt_of(event_of("task.failed")))


async def test_a_name_that_cannot_be_written_leaves_nothing(handler: FileHandler, out: Path, tmp_path: Path) -> None:
    """The rename fails: no temporary file remains and no JSON claims a picture."""
    (out / f"{STEM}.png" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="cannot be written"):
        await handler.deliver(attempt_of(EVENT, stored(tmp_path)))
    assert names_in(out) == [f"{STEM}.png"]


@pytest.mark.parametrize("damage", ["missing", "changed"])
async def test_an_archive_without_the_picture_is_named(
    handler: FileHandler, out: Path, tmp_path: Path, damage: str
) -> None:
    """The archive's fault is not blamed on the folder, and a picture of another size is not delivered."""
    item = stored(tmp_path)
    if damage == "missing":
        item.path.unlink()
    else:
        item.path.write_bytes(PNG[:-1])
    with pytest.raises(OSError, match="The archived file"):
        await handler.deliver(attempt_of(EVENT, item))
    assert names_in(out) == []


@pytest.mark.parametrize("moment", range(6))
async def test_a_cancelled_delivery_has_ended(handler: FileHandler, out: Path, tmp_path: Path, moment: int) -> None:
    """When the cancellation is through, no thread writes on and every visible file is whole."""
    work = asyncio.ensure_future(handler.deliver(attempt_of(EVENT, stored(tmp_path, PNG * 10))))
    await asyncio.sleep(moment / 1000)
    work.cancel()
    await asyncio.wait([work])
    names = names_in(out)
    await asyncio.sleep(0.02)
    assert names_in(out) == names
    assert not [name for name in names if name.startswith(".")]
    assert all((out / name).read_bytes() == PNG * 10 for name in names if name.endswith(".png"))


async def test_two_attempts_at_once_write_one_after_the_other(out: Path, tmp_path: Path) -> None:
    """Another engine that makes the same attempt waits: half of its picture must not be taken for the whole one."""
    whole, slow = stored(tmp_path), tmp_path / "slow"
    os.mkfifo(slow)
    one = FileHandler(FileHandler.Options(path=out))
    running = asyncio.create_task(one.deliver(attempt_of(EVENT, dataclasses.replace(whole, path=slow))))
    feed = await asyncio.to_thread(slow.open, "wb")
    other = FileHandler(FileHandler.Options(path=out))
    with pytest.raises(RetryLater, match="another attempt at this delivery is still writing"):
        await other.deliver(attempt_of(EVENT, whole))
    assert not (out / f"{STEM}.png").exists()

    def rest() -> None:
        with feed:
            feed.write(PNG)

    await asyncio.to_thread(rest)
    await running
    await other.deliver(attempt_of(EVENT, whole))
    assert (out / f"{STEM}.png").read_bytes() == PNG
    assert names_in(out) == [f"{STEM}.json", f"{STEM}.png"]


async def test_the_loop_goes_on_while_files_are_written(handler: FileHandler, tmp_path: Path) -> None:
    """Twenty megabytes on disk do not hold up other tasks."""
    item = stored(tmp_path, PNG * 16)
    turns = 0
    work = asyncio.ensure_future(handler.deliver(attempt_of(EVENT, item)))
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a paper boat floating on calm water at sunrise --v 6.1", "paper-boat-floating-calm-water-sunrise"),
        ("https://cdn.test/a.png The café's “naïve” Ærø — dusk", "cafes-naive-r-dusk"),
        ("a boat —ar 16:9", "boat"),
        ("--v 6.1", ""),
        ("", ""),
        ("the of a", ""),
        ("纸船", ""),
        ("well-known co-op", "well-known-co-op"),
        ("x" * 50, "x" * 40),
        ("short " + "y" * 50, "short"),
        ("../../etc/passwd\0\n", "etc-passwd"),
        ("one --notaflag\u00a0x", "one"),
    ],
)
def test_slugs(prompt: str, expected: str) -> None:
    """Words of the prompt that a person would look for."""
    assert slug(prompt) == expected


@given(st.text() | st.text(alphabet="aZ9 -—/\\.:é\0\n'"))
def test_any_prompt_gives_a_safe_slug(prompt: str) -> None:
    """Never longer than 40, never another character, so never a path; and the name stays one name."""
    result = slug(prompt)
    assert re.fullmatch("[a-z0-9-]{0,40}", result)
    assert not result.startswith("-")
    assert not result.endswith("-")
    stem = file_stem(msgspec.structs.replace(EVENT, prompt=prompt))
    assert Path(stem).name == stem
    assert stem == "_".join(part for part in ("2024-11-21", result, ID) if part)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("boat", {}),
        ("boat --v 6.1 --tile", {"v": "6.1", "tile": True}),
        ("boat --AR 16:9  --no cats, dogs ", {"ar": "16:9", "no": "cats, dogs"}),
        ("boat --v 5 --v 6", {"v": "6"}),
        ("a well--made boat -- 5", {}),
        ("--sref https://a.test/1 https://a.test/2", {"sref": "https://a.test/1 https://a.test/2"}),
    ],
)
def test_parameters(prompt: str, expected: dict[str, str | bool]) -> None:
    """The flags at the end, as the provider would read them."""
    assert parameters(prompt) == expected


@given(st.text())
def test_any_prompt_has_parameters(prompt: str) -> None:
    """Whatever stands in it, reading the flags does not fail."""
    parameters(f"{prompt} --{prompt}")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:./outputs", "./outputs"),
        ("file:outputs", "outputs"),
        ("file:/abs/dir", "/abs/dir"),
        ("file:///abs/dir", "/abs/dir"),
        ("file://localhost/abs", "/abs"),
        ("file:~/pictures", "~/pictures"),
        ("file:/with%20space", "/with space"),
        ("FILE:./a", "./a"),
    ],
)
def test_urls_give_the_folder(url: str, path: str) -> None:
    """Relative, absolute and home paths (RFC 8089), with spaces percent-encoded."""
    options = FileHandler.options_from_url(url)
    assert options == {"path": path}
    folder = FileHandler(FileHandler.Options(**options)).folder
    assert folder == Path(path).expanduser().absolute()


def test_the_folder_has_a_default() -> None:
    """`file:` alone is `./outputs`."""
    assert (
        FileHandler(FileHandler.Options(**FileHandler.options_from_url("file:"))).folder == Path("outputs").absolute()
    )


@pytest.mark.parametrize("url", ["file://outputs", "file://server/share", "file:/a%00b"])
def test_urls_of_no_folder_here_are_refused(url: str) -> None:
    """Two slashes name another machine: the error says what to write instead."""
    with pytest.raises(SettingsError, match=r"write file:\./|NUL"):
        FileHandler.options_from_url(url)


def test_unknown_options_are_refused() -> None:
    """A typo in the settings stops the start."""
    with pytest.raises(WrongValues):
        read_options(FileHandler.Options, {"path": "x", "folder": "y"})


async def test_tiles_and_provenance_if_asked_for(out: Path, tmp_path: Path) -> None:
    """The grid, its four pictures in the order of the buttons and a JSON that names them; provenance in each PNG."""
    grid = attempts.stored(tmp_path, attempts.grid_picture())
    cut = [
        dataclasses.replace(attempts.stored(tmp_path, attempts.grid_picture(10 + number, 8)), tile=number)
        for number in range(1, 5)
    ]

    async def tiles() -> tuple[StoredMedia, ...]:
        return tuple(cut)

    handler = FileHandler(FileHandler.Options(path=out, tiles=True, embed=True))
    await handler.deliver(attempt_of(EVENT, grid, tiles=tiles))
    names = [f"{STEM}.png", *(f"{STEM}_u{number}.png" for number in range(1, 5))]
    assert names_in(out) == sorted([*names, f"{STEM}.json"])
    written = json.loads((out / f"{STEM}.json").read_bytes())
    assert [item["file"] for item in written["media"]] == names
    assert [item.get("tile") for item in written["media"]] == [None, "U1", "U2", "U3", "U4"]
    assert written["media"][0]["original"] == grid.media.digest
    for item in written["media"]:
        data = (out / item["file"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (item["sha256"], item["size"])
        assert b"a paper boat on calm water" in data
    assert grid.path.read_bytes() == attempts.grid_picture()


async def test_a_picture_that_cannot_be_cut_is_written_whole(out: Path, tmp_path: Path) -> None:
    """No tiles is no reason for no picture: the JSON says why there are none."""

    async def tiles() -> tuple[StoredMedia, ...]:
        raise MediaError("The picture was not cut into tiles: it moves.", permanent=True)

    handler = FileHandler(FileHandler.Options(path=out, tiles=True))
    await handler.deliver(attempt_of(EVENT, stored(tmp_path), tiles=tiles))
    written = json.loads((out / f"{STEM}.json").read_bytes())
    assert written["tiles_problem"] == "The picture was not cut into tiles: it moves."
    assert names_in(out) == [f"{STEM}.json", f"{STEM}.png"]
