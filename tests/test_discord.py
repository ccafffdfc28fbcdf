"""The discord handler against a strict local server that plays a Discord webhook."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import AsyncIterator, Hashable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from discords import ID, THREAD, TOKEN, Discord, channel, rate_limit
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from receiver.errors import SettingsError
from receiver.events import EventType
from receiver.handlers.base import Attempt, Rejected, RetryLater, StoredMedia
from receiver.handlers.discord import DiscordError, DiscordHandler, DiscordOptions, escape, read_url
from receiver.handlers.registry import build
from receiver.settings import Destination, load
from receiver.settings.options import read_options
from receiver.testing import check_handler, make_attempt


@pytest.fixture
async def discord() -> AsyncIterator[Discord]:
    async with channel() as served:
        yield served


@pytest.fixture
async def handler(discord: Discord) -> AsyncIterator[DiscordHandler]:
    made = handler_of(discord)
    yield made
    await made.aclose()


def handler_of(discord: Discord, **options: Any) -> DiscordHandler:
    return DiscordHandler(read_options(DiscordOptions, {"webhook_url": discord.hook} | options))


def with_picture(attempt: Attempt, folder: Path, data: bytes) -> Attempt:
    """The attempt with this picture in place of its own."""
    (item,) = attempt.media
    path = folder / f"{len(data)}.png"
    path.write_bytes(data)
    media = msgspec.structs.replace(item.media, size=len(data))
    return dataclasses.replace(attempt, media=(StoredMedia(media=media, path=path),))


def noise(side: int) -> bytes:
    """A PNG that no compression makes smaller."""
    data = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(data, "PNG")
    return data.getvalue()


async def test_a_result_is_one_post_with_its_picture_attached(
    discord: Discord, handler: DiscordHandler, tmp_path: Path
) -> None:
    """The embed shows the attachment, whose alt text is the prompt; the receipt is the message's id."""
    attempt = make_attempt(tmp_path)
    receipt = await handler.deliver(attempt)
    post = discord.only
    ((name, data),) = post.files.items()
    assert data == attempt.media[0].path.read_bytes()
    assert post.embed["image"] == {"url": f"attachment://{name}"}
    assert post.payload["attachments"][0]["description"] == attempt.event.prompt
    assert "order: 17" in post.embed["footer"]["text"]
    assert [receipt.ref] == list(discord.messages)


async def test_progress_is_edited_to_its_end(discord: Discord, handler: DiscordHandler, tmp_path: Path) -> None:
    """Submitted, under way and ready are one post, and a repeat edits it once more."""
    await follow(handler, tmp_path, "task.accepted", "task.progressed", "task.succeeded", "task.succeeded")
    assert discord.only.edits == 3
    assert discord.only.embed["title"] == "Ready"
    assert len(discord.only.files) == 1


async def follow(handler: DiscordHandler, folder: Path, *types: EventType) -> None:
    first, receipt = make_attempt(folder), None
    for type in types:
        attempt = make_attempt(folder, type, submission_id=first.event.submission_id, previous=receipt)
        receipt = await handler.deliver(attempt)


async def test_a_failure_says_why_and_what_to_change(discord: Discord, handler: DiscordHandler, tmp_path: Path) -> None:
    """In place of the progress, without any picture."""
    await follow(handler, tmp_path, "task.accepted", "task.failed")
    assert "nonsense" in discord.only.embed["description"]
    assert "Correct what begins with --" in discord.only.embed["description"]
    assert discord.only.files == {}


async def test_a_deleted_post_is_made_anew(discord: Discord, handler: DiscordHandler, tmp_path: Path) -> None:
    """The result comes, also where somebody deleted its progress."""
    before = await handler.deliver(make_attempt(tmp_path, "task.accepted"))
    discord.messages.clear()
    await handler.deliver(make_attempt(tmp_path, previous=before))
    assert discord.only.embed["title"] == "Ready"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_no_prompt_is_markup(text: str) -> None:
    """Every character Discord could read as markup, a mention or a link has its backslash; nothing else is changed."""
    escaped = escape(text)
    assert re.sub(r"\\(.)", r"\1", escaped) == text
    assert not re.search(r"(?<!\\)(?:\\\\)*[*_~`|<>@#:\[\]]", escaped)
    assert not re.search(r"(?<!\\)://", escaped)
    assert not re.search(r"(?m)^\s*\d+\.", escaped)


async def test_words_of_others_ping_nobody(discord: Discord, handler: DiscordHandler, tmp_path: Path) -> None:
    """The server refuses any payload that lets a mention ping; here they are not even shown as one."""
    attempt = make_attempt(tmp_path, "task.failed")
    bad = "@everyone <@123456789012345678> [click](https://evil.example) https://evil.example"
    await handler.deliver(
        dataclasses.replace(attempt, event=msgspec.structs.replace(attempt.event, prompt=bad, reason=bad))
    )
    described = discord.only.embed["description"]
    assert not re.search(r"(?<!\\)(?:[@<]|://|\]\()", described)


async def test_a_prompt_of_any_length_fits(discord: Discord, handler: DiscordHandler, tmp_path: Path) -> None:
    """Escaping doubles it at most, and the server counts."""
    attempt = make_attempt(tmp_path)
    await handler.deliver(
        dataclasses.replace(attempt, event=msgspec.structs.replace(attempt.event, prompt="*_" * 5000))
    )
    assert len(discord.only.embed["description"]) <= 4096


async def test_in_place_of_a_large_picture_goes_a_jpeg(discord: Discord, tmp_path: Path) -> None:
    """Within the limit, in the size of the original where that fits, and the post says so."""
    handler = handler_of(discord, max_bytes=300_000)
    discord.limit = 300_000
    await handler.deliver(with_picture(make_attempt(tmp_path), tmp_path, noise(600)))
    ((name, data),) = discord.only.files.items()
    assert name.endswith(".jpg")
    assert len(data) <= 300_000
    assert Image.open(io.BytesIO(data)).size == (600, 600)
    assert "the original has 0.9 MB" in discord.only.embed["description"].replace("\\", "")
    await handler.aclose()


async def test_where_discord_takes_less_than_told_a_smaller_one_goes(discord: Discord, tmp_path: Path) -> None:
    """413 is answered with half of what was thought to be the limit."""
    handler = handler_of(discord, max_bytes=2_000_000)
    discord.limit = 1_000_000
    await handler.deliver(with_picture(make_attempt(tmp_path), tmp_path, noise(800)))
    assert next(iter(discord.only.files)).endswith(".jpg")
    await handler.aclose()


async def test_hostile_pictures_do_not_silence_a_post(discord: Discord, tmp_path: Path) -> None:
    """Large ones that cannot be decoded are left out. The one beside them is sent as a JPEG."""
    handler = handler_of(discord, max_bytes=100_000)
    attempt = with_picture(make_attempt(tmp_path), tmp_path, noise(400))
    bad = [with_picture(attempt, tmp_path, noise(size)[: 500 * size]).media[0] for size in (300, 310)]
    await handler.deliver(dataclasses.replace(attempt, media=(bad[0], *attempt.media, bad[1])))
    assert len(discord.only.files) == 1
    assert "larger than the 0.1 MB Discord takes" in discord.only.embed["description"].replace("\\", "")
    await handler.aclose()


async def test_what_cannot_be_made_smaller_is_left_out_and_told(discord: Discord, tmp_path: Path) -> None:
    """A large file that is no picture: the post goes out without it and says why."""
    handler = handler_of(discord, max_bytes=100_000)
    await handler.deliver(with_picture(make_attempt(tmp_path), tmp_path, b"no picture" * 20_000))
    assert discord.only.files == {}
    assert "larger than the 0.1 MB Discord takes" in discord.only.embed["description"].replace("\\", "")
    await handler.aclose()


def with_files(attempt: Attempt, folder: Path, *sizes: int) -> Attempt:
    """The attempt with videos of these sizes in bytes."""
    (item,) = attempt.media
    found = []
    for at, size in enumerate(sizes):
        path = folder / f"{at}.mp4"
        path.write_bytes(bytes([at]) * size)
        media = msgspec.structs.replace(item.media, size=size, type="video/mp4", extension=".mp4", index=at)
        found.append(StoredMedia(media=media, path=path))
    return dataclasses.replace(attempt, media=tuple(found))


async def test_files_that_are_too_much_together_go_in_several_posts(discord: Discord, tmp_path: Path) -> None:
    """All to their last byte. The first post is the one with the words, and the receipt knows the others."""
    handler = handler_of(discord, max_bytes=1_000_000)
    discord.limit, discord.together = 1_000_000, 1_500_000
    first = await handler.deliver(make_attempt(tmp_path, "task.accepted"))
    attempt = with_files(make_attempt(tmp_path, previous=first), tmp_path, 700_000, 250_000, 700_000, 700_000)
    receipt = await handler.deliver(attempt)
    posts = [discord.messages[id] for id in (receipt.ref, *receipt.data["more"])]
    assert [[len(data) for data in post.files.values()] for post in posts] == [[700_000, 250_000], [700_000], [700_000]]
    assert [post.embed["title"] for post in posts] == ["Ready", "Ready, continued: 2 of 3", "Ready, continued: 3 of 3"]
    assert receipt.ref == first.ref
    again = await handler.deliver(dataclasses.replace(attempt, previous=receipt))
    assert (again, len(discord.messages)) == (receipt, 3)
    await handler.aclose()


async def test_a_retry_edits_the_posts_that_were_made(discord: Discord, tmp_path: Path) -> None:
    """A rate limit between two posts leaves no second copy of the first."""
    handler = handler_of(discord, max_bytes=1_000_000)
    discord.together = 1_000_000
    attempt = with_files(make_attempt(tmp_path), tmp_path, 900_000, 900_000)
    discord.answers = [None, None, rate_limit(1, versioned=True)]
    with pytest.raises(RetryLater):
        await handler.deliver(attempt)
    await handler.deliver(attempt)
    assert [len(post.files) for post in discord.messages.values()] == [1, 1]
    await handler.aclose()


@pytest.mark.parametrize(
    "refusal",
    [
        JSONResponse({"code": 20009, "message": "Explicit content cannot be sent"}, status_code=400),
        HTMLResponse("<html>413 Request Entity Too Large</html>", status_code=413),
    ],
)
async def test_a_refused_file_does_not_silence_the_post(discord: Discord, tmp_path: Path, refusal: Response) -> None:
    """Smaller, then without, and the words say so."""
    handler = handler_of(discord)
    discord.answers = [refusal, refusal]
    await handler.deliver(make_attempt(tmp_path))
    assert discord.only.files == {}
    assert "does not take the file" in discord.only.embed["description"]
    await handler.aclose()


async def test_four_pictures_are_four_attachments(discord: Discord, handler: DiscordHandler, tmp_path: Path) -> None:
    """Discord shows them as a gallery, so the embed shows none of them again."""
    await handler.deliver(make_attempt(tmp_path, pictures=4))
    assert len(discord.only.files) == 4
    assert "image" not in discord.only.embed


async def test_it_posts_into_a_thread_under_another_name(discord: Discord, tmp_path: Path) -> None:
    """As the options say; edits go to the same thread."""
    handler = handler_of(discord, thread_id=THREAD, username="Boats")
    await follow(handler, tmp_path, "task.accepted", "task.succeeded")
    assert (discord.only.thread_id, discord.only.edits) == (THREAD, 1)
    await handler.aclose()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ((404, 10015), "the webhook was deleted"),
        ((401, 50027), "URL is wrong"),
        ((404, 10003), "Check thread_id"),
        ((400, 50083), "thread is archived"),
        ((400, 220001), "this is a forum"),
        ((400, 50035), "please report it"),
        ((403, 50013), "the webhook does not work"),
        ((404, 0), "the webhook does not work"),
    ],
)
async def test_what_stays_wrong_is_rejected_with_the_remedy(
    discord: Discord, handler: DiscordHandler, tmp_path: Path, error: tuple[int, int], sentence: str
) -> None:
    """Dead at once, with Discord's words and what to do, without the webhook's secret."""
    discord.answers = [JSONResponse({"code": error[1], "message": "as Discord says"}, status_code=error[0])]
    with pytest.raises(Rejected, match=sentence) as caught:
        await handler.deliver(make_attempt(tmp_path))
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("path", [f"1/{TOKEN}", f"{ID}/wrong"])
async def test_a_wrong_webhook_is_rejected(discord: Discord, tmp_path: Path, path: str) -> None:
    """The server's own answers to an unknown id and a wrong token."""
    handler = handler_of(discord, webhook_url=f"{discord.url}/api/webhooks/{path}")
    with pytest.raises(Rejected, match="Make a new one"):
        await handler.deliver(make_attempt(tmp_path))
    await handler.aclose()


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (JSONResponse({"message": "limited"}, status_code=429, headers={"X-RateLimit-Reset-After": "1.337"}), 1.337),
        (PlainTextResponse("error code: 1015", status_code=429, headers={"Retry-After": "40"}), 40),
        (JSONResponse({"message": "limited"}, status_code=429, headers={"X-RateLimit-Reset-After": "nan"}), 30),
        (JSONResponse({"message": "limited", "retry_after": 1.337, "global": False}, status_code=429), 1.337),
        (JSONResponse({"retry_after": "soon"}, status_code=429), 30),
        (rate_limit(1.337, versioned=False), 1.337),
    ],
)
async def test_a_rate_limit_pauses_the_destination(
    discord: Discord, handler: DiscordHandler, tmp_path: Path, answer: Response, seconds: float
) -> None:
    """Discord's own header goes before Retry-After, which an address without a version has in milliseconds."""
    discord.answers = [answer]
    with pytest.raises(RetryLater) as caught:
        await handler.deliver(make_attempt(tmp_path))
    assert (caught.value.after, caught.value.pause) == (seconds, True)


@pytest.mark.parametrize("path", ["/api/webhooks", "/api/v10/webhooks"])
async def test_a_rate_limit_is_the_same_at_every_address(discord: Discord, tmp_path: Path, path: str) -> None:
    """The stand-in names it in the unit of the address."""
    handler = handler_of(discord, webhook_url=f"{discord.url}{path}/{ID}/{TOKEN}")
    discord.limited = 1.337
    with pytest.raises(RetryLater) as caught:
        await handler.deliver(make_attempt(tmp_path))
    assert caught.value.after == 1.337
    await handler.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("bad gateway", status_code=502),
        JSONResponse([]),
        JSONResponse({"id": ""}),
        JSONResponse({"code": 40333, "message": "internal network error"}, status_code=403),
        HTMLResponse("<html><title>Sign in</title></html>", status_code=403),
        HTMLResponse("<!DOCTYPE html>404", status_code=404),
        PlainTextResponse("404 page not found", status_code=404),
        PlainTextResponse("error code: 1010", status_code=403),
        JSONResponse({"error": "unauthorized"}, status_code=401),
        Response(status_code=401),
        Response(b"\x1f\x8b damaged", status_code=403, headers={"Content-Encoding": "gzip"}),
    ],
)
async def test_what_may_pass_is_a_failure(
    discord: Discord, handler: DiscordHandler, tmp_path: Path, answer: Response
) -> None:
    """Tried again by schedule. A proxy in front of Discord has no word about the webhook."""
    discord.answers = [answer]
    with pytest.raises(DiscordError):
        await handler.deliver(make_attempt(tmp_path))


async def test_nobody_there_is_a_failure_without_the_secret(tmp_path: Path) -> None:
    """The error of a connection holds no URL."""
    handler = DiscordHandler(read_options(DiscordOptions, {"webhook_url": f"http://127.0.0.1:9/webhooks/{ID}/{TOKEN}"}))
    with pytest.raises(ConnectionError) as caught:
        await handler.deliver(make_attempt(tmp_path))
    assert TOKEN not in str(caught.value)
    await handler.aclose()


async def test_without_its_picture_a_result_says_why(discord: Discord, handler: DiscordHandler, tmp_path: Path) -> None:
    """The post says so, and goes out."""
    await handler.deliver(make_attempt(tmp_path, media=(), media_problem="404 from the host"))
    assert "404 from the host" in discord.only.embed["description"]


async def test_the_contract_holds(discord: Discord) -> None:
    """At least once: each attempt makes at most one post, whatever happens in between."""

    async def effects() -> Iterable[Hashable]:
        return [(id, message.embed["title"]) for id, message in discord.messages.items()]

    await check_handler(DiscordHandler, {"webhook_url": discord.hook}, effects=effects)


HOOK = "https://discord.com/api/v10/webhooks/1423/abc"


@pytest.mark.parametrize(
    ("url", "address", "thread"),
    [
        ("https://discord.com/api/webhooks/1423/abc", HOOK, None),
        ("https://discord.com/api/webhooks/1423/abc?thread_id=123456789012345678", HOOK, "123456789012345678"),
        ("https://discord.com/api/webhooks/1423/abc?wait=true", HOOK, None),
        ("https://discord.com/api/webhooks/1423/abc/", HOOK, None),
        ("https://discordapp.com/api/webhooks/1423/abc", HOOK, None),
        ("https://ptb.discord.com/api/v9/webhooks/1423/abc", HOOK, None),
        ("https://canary.discord.com/api/webhooks/1423/abc/?wait=1&thread_id=123456789012345", HOOK, "123456789012345"),
        (" https://discord.com/api/webhooks/1423/abc\n", HOOK, None),
        ("https://hooks.example/api/webhooks/1423/abc", "https://hooks.example/api/webhooks/1423/abc", None),
        ("https://discord.com.example/api/webhooks/1/a", "https://discord.com.example/api/webhooks/1/a", None),
    ],
)  # fmt: skip
def test_a_webhook_has_several_addresses(url: str, address: str, thread: str | None) -> None:
    """Discord's own get the API's version. Another server's stays as it is."""
    assert read_url(url) == (address, thread)


async def test_the_thread_may_be_in_the_url(discord: Discord, tmp_path: Path) -> None:
    """As Discord documents it, and in the short form too. The option goes before it."""
    for options in ({"webhook_url": f"{discord.hook}?thread_id={THREAD}"}, {
        "webhook_url": f"{discord.hook}/?thread_id=123456789012345678", "thread_id": THREAD,
    }):  # fmt: skip
        handler = handler_of(discord, **options)
        await follow(handler, tmp_path, "task.accepted", "task.succeeded")
        await handler.aclose()
    assert {message.thread_id for message in discord.messages.values()} == {THREAD}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "the option webhook_url is missing"),
    ({"webhook_url": "https://discord.com/channels/secret"}, "it is not a webhook's URL"),
    ({"webhook_url": f"https://discord.com/api/webhooks/{ID}/secret/slack"}, "Leave out /slack or /github"),
    ({"webhook_url": f"https://discord.com/api/webhooks/{ID}/secret?thread_id=x"}, "thread_id is not an id"),
    ({"webhook_url": f"https://discord.com/api/webhooks/{ID}/secret?username=x"}, "may hold thread_id and wait only"),
    ({"webhook_url": f"https://discord.com/api/webhooks/{ID}/secret", "thread_id": "general"}, "the option thread_id"),
    ({"webhook_url": f"https://discord.com/api/webhooks/{ID}/secret", "max_bytes": 5}, "the option max_bytes"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG)
def test_wrong_options_stop_the_start(options: dict[str, Any], sentence: str) -> None:
    """The destination, the option and the remedy are named, the secret is not."""
    with pytest.raises(SettingsError) as caught:
        build(Destination(name="team", handler="discord", options=options))
    assert sentence in str(caught.value)
    assert "/secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "webhook"),
    [
        ({"RECEIVER_TO": "discord://", "DISCORD_WEBHOOK_URL": f"https://discord.com/api/webhooks/{ID}/env"}, "env"),
        ({"RECEIVER_TO": f"discord://{ID}/url"}, "url"),
        ({"RECEIVER_TO": f"discord:https://discord.com/api/webhooks/{ID}/long"}, "long"),
        ({"RECEIVER_TO": f"discord://{ID}/thread?thread_id={THREAD}"}, "thread"),
    ],
)
def test_a_url_or_the_name_people_have_is_enough(environ: dict[str, str], webhook: str, tmp_path: Path) -> None:
    """`DISCORD_WEBHOOK_URL`, or the webhook within the destination's URL."""
    (destination,) = load(environ, tmp_path).resolved_destinations()
    handler = build(destination)
    assert isinstance(handler, DiscordHandler)
    assert handler._url == f"https://discord.com/api/v10/webhooks/{ID}/{webhook}"
