"""The slack handler against a strict local server that plays Slack's API; blocks are judged by Slack's own SDK."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import AsyncIterator, Hashable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from slack_sdk.models.blocks import Block
from slacks import CHANNEL, TOKEN, Slack, check_blocks, workspace
from starlette.responses import JSONResponse, PlainTextResponse, Response

from receiver.app.factory import open_runtime
from receiver.deliveries import Receipt
from receiver.errors import MediaError, SettingsError
from receiver.events import EventType
from receiver.handlers.base import Rejected, RetryLater, StoredMedia
from receiver.handlers.posts import LINK_TRIES
from receiver.handlers.registry import build
from receiver.handlers.slack import SlackHandler, SlackOptions
from receiver.handlers.slack.api import FILE_REFUSED, REMEDIES, SCOPES, SlackError, UnknownFile, manifest
from receiver.settings import Destination, Settings, load
from receiver.settings.options import WrongValues, read_options
from receiver.testing import check_handler, make_attempt, make_media

HOSTILE = "<!channel> @here <@U123> *bold* & <https://evil.example|click> `x` \u202etxt"


@pytest.fixture
async def slack() -> AsyncIterator[Slack]:
    async with workspace() as served:
        yield served


@pytest.fixture
async def handler(slack: Slack) -> AsyncIterator[SlackHandler]:
    made = handler_of(slack)
    yield made
    await made.aclose()


def handler_of(slack: Slack, **options: Any) -> SlackHandler:
    given: dict[str, Any] = {"channel": CHANNEL, "token": TOKEN, "api_url": slack.api} | options
    return SlackHandler(read_options(SlackOptions, given), sleep=at_once)


async def at_once(seconds: float) -> None:
    """Nobody waits here for Slack to look at a file."""
    await asyncio.sleep(0)


def texts(blocks: list[dict[str, Any]]) -> str:
    """Everything the blocks say."""
    return json.dumps(blocks, ensure_ascii=False)


def images(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [block for block in blocks if block["type"] == "image"]


async def follow(handler: SlackHandler, folder: Path, *types: EventType, **fields: Any) -> Receipt:
    """Events of one submission, each with the receipt of the one before."""
    first = make_attempt(folder, types[0])
    receipt: Receipt | None = None
    for type in types:
        attempt = make_attempt(folder, type, submission_id=first.event.submission_id, previous=receipt, **fields)
        receipt = await handler.deliver(attempt)
    assert receipt is not None
    return receipt


async def test_a_result_is_one_post_with_the_uploaded_picture(
    slack: Slack, handler: SlackHandler, tmp_path: Path
) -> None:
    """The file goes up in three steps; the post in the channel shows it, with the prompt as its alt text, and the
    details are in the thread."""
    attempt = make_attempt(tmp_path)
    receipt = await handler.deliver(attempt)
    (post,), (reply,) = slack.top(), slack.replies()
    (image,) = images(post.blocks)
    file = slack.files[image["slack_file"]["id"]]
    assert file.data == attempt.media[0].path.read_bytes()
    assert file.name.endswith(".png")
    assert image["alt_text"] == file.alt_txt == attempt.event.prompt
    assert attempt.event.prompt in texts(post.blocks)
    assert "order: 17" in texts(post.blocks)
    assert attempt.event.submission_id in texts(reply.blocks)
    assert reply.thread_ts == receipt.data["ts"]
    assert receipt.ref == f"{CHANNEL}/{receipt.data['ts']}"


async def test_progress_is_edited_to_its_end(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """Submitted, under way and ready are one post; a repeat of the last one changes nothing but that post."""
    await follow(handler, tmp_path, "task.accepted", "task.progressed", "task.succeeded", "task.succeeded")
    (post,) = slack.top()
    assert post.edits == 3
    assert "*Ready*" in texts(post.blocks)
    assert len(images(post.blocks)) == 1
    assert len(slack.replies()) == 1
    assert len(slack.files) == 1


async def test_an_end_that_was_false_is_corrected_in_place(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """A success after a failure takes its place in the same post."""
    await follow(handler, tmp_path, "task.failed", "task.succeeded")
    (post,) = slack.top()
    assert "Failed" not in texts(post.blocks)
    assert images(post.blocks)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("Invalid parameter: `--nonsense`", "Correct what begins with --"),
        ("Banned prompt detected", "reword it"),
        ("可能包含敏感词", "reword it"),
        ("任务超时", "ran out of time"),
        ("Something odd", ""),
    ],
)
async def test_a_failure_says_why_and_what_to_change(
    slack: Slack, handler: SlackHandler, tmp_path: Path, reason: str, advice: str
) -> None:
    """The provider's words stand there, and below them what a person can do, if the reason is a known one."""
    attempt = make_attempt(tmp_path, "task.failed")
    attempt = dataclasses.replace(attempt, event=msgspec.structs.replace(attempt.event, reason=reason))
    await handler.deliver(attempt)
    (post,) = slack.top()
    assert reason in texts(post.blocks)
    assert advice in texts(post.blocks)
    assert ("What to do" in texts(post.blocks)) == bool(advice)
    assert reason in post.text


async def test_words_of_others_are_plain_text(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """A prompt, a label, a reason and a button mention nobody, link nowhere and mark up nothing."""
    for type in ("task.succeeded", "task.failed"):
        attempt = make_attempt(tmp_path, type)
        event = msgspec.structs.replace(
            attempt.event, prompt=HOSTILE, reason=HOSTILE, labels={HOSTILE: HOSTILE}, button=HOSTILE, state=HOSTILE
        )
        await handler.deliver(dataclasses.replace(attempt, event=event))
    for message in slack.messages.values():
        assert "<" not in message.text
        assert "\u202e" not in texts(message.blocks) + message.text
        for block in message.blocks:
            told = [block.get("text"), *block.get("fields", []), *block.get("elements", [])]
            for text in filter(None, told):
                assert text["type"] == "plain_text" or "channel" not in text["text"]
                assert text["type"] == "mrkdwn" or "<" not in text["text"]


async def test_a_prompt_of_any_length_fits(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """The channel has its beginning, the thread all that Slack allows; the server takes both."""
    attempt = make_attempt(tmp_path)
    event = msgspec.structs.replace(attempt.event, prompt="&<>" * 4000)
    await handler.deliver(dataclasses.replace(attempt, event=event))
    (post,), (reply,) = slack.top(), slack.replies()
    assert len(reply.blocks[0]["text"]["text"]) <= 3000
    assert images(post.blocks)[0]["alt_text"].endswith("…")


async def test_long_texts_together_fit(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """Slack limits the texts of a post in total, too. Each is cut, and none is left out."""
    attempt = make_attempt(tmp_path, pictures=0)
    assert attempt.event.task is not None
    found = [f"{at} {'<a&b> ' * 400}" for at in range(8)]
    task = msgspec.structs.replace(attempt.event.task, action="DESCRIBE", prompt="\n".join(found))
    event = msgspec.structs.replace(attempt.event, prompt="&<>" * 4000, kind="describe", task=task)
    for previous in (None, await handler.deliver(dataclasses.replace(attempt, event=event))):  # alone, and in a thread
        await handler.deliver(dataclasses.replace(attempt, event=event, parent=previous))
    for post in slack.messages.values():
        assert len(json.dumps(post.blocks)) < 12_000
        assert not re.search(r"&(?!amp;|lt;|gt;)", json.dumps(post.blocks))


@pytest.mark.parametrize("code", sorted(FILE_REFUSED))
async def test_a_refused_file_does_not_silence_the_post(
    slack: Slack, handler: SlackHandler, tmp_path: Path, code: str
) -> None:
    """The post goes out without it, and says why."""
    slack.answers["files.getUploadURLExternal"] = [JSONResponse({"ok": False, "error": code})]
    await handler.deliver(make_attempt(tmp_path))
    (post,) = slack.top()
    assert images(post.blocks) == []
    assert REMEDIES[code] in texts(post.blocks)


async def test_further_pictures_go_into_the_thread(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """The first of four pictures is in the channel, the others below it."""
    await handler.deliver(make_attempt(tmp_path, pictures=4))
    (post,), (reply,) = slack.top(), slack.replies()
    assert (len(images(post.blocks)), len(images(reply.blocks))) == (1, 3)


async def test_a_grids_tiles_go_into_its_thread(slack: Slack, tmp_path: Path) -> None:
    """Asked for, U1 to U4 stand below the grid in that order, and say which they are; where the grid cannot be cut,
    the rest goes out without them."""
    handler = handler_of(slack, tiles=True, details=False)
    attempt = make_attempt(tmp_path)
    media = make_media(tmp_path, 5)[1:]

    async def cut() -> tuple[StoredMedia, ...]:
        return tuple(dataclasses.replace(item, tile=at) for at, item in enumerate(media, 1))

    async def broken() -> tuple[StoredMedia, ...]:
        raise MediaError("The grid cannot be read.", permanent=True)

    await handler.deliver(dataclasses.replace(attempt, tiles=cut))
    (reply,) = slack.replies()
    shown = images(reply.blocks)
    assert [block["alt_text"][:2] for block in shown] == ["U1", "U2", "U3", "U4"]
    assert [slack.files[block["slack_file"]["id"]].name[-7:] for block in shown] == [
        f"_u{at}.png" for at in (1, 2, 3, 4)
    ]
    await handler.deliver(dataclasses.replace(make_attempt(tmp_path), tiles=broken))
    assert (len(slack.top()), len(slack.replies())) == (2, 1)
    await handler.aclose()


async def test_a_video_goes_into_the_thread_as_a_file(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """No block shows a video, so it is shared as a file."""
    attempt = make_attempt(tmp_path)
    (item,) = attempt.media
    media = msgspec.structs.replace(item.media, type="video/mp4", extension=".mp4")
    receipt = await handler.deliver(dataclasses.replace(attempt, media=(StoredMedia(media=media, path=item.path),)))
    shared = [message for message in slack.replies() if message.files]
    assert [slack.files[id].name[-4:] for message in shared for id in message.files] == [".mp4"]
    assert shared[0].thread_ts == receipt.data["ts"]


async def test_a_follow_up_goes_into_the_thread_of_what_it_follows(
    slack: Slack, handler: SlackHandler, tmp_path: Path
) -> None:
    """Also the follow-up of a follow-up: Slack's threads are one level deep."""
    grid = await handler.deliver(make_attempt(tmp_path))
    large = await handler.deliver(make_attempt(tmp_path, parent=grid))
    await handler.deliver(make_attempt(tmp_path, parent=large))
    assert len(slack.top()) == 1
    assert {reply.thread_ts for reply in slack.replies()} == {grid.data["ts"]}
    assert all(images(reply.blocks) for reply in slack.replies()[1:])


async def test_deleted_posts_are_made_anew(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """Who deletes the progress, or the grid's post, still gets the result."""
    before = await handler.deliver(make_attempt(tmp_path, "task.accepted"))
    slack.messages.clear()
    await handler.deliver(make_attempt(tmp_path, previous=before))
    await handler.deliver(make_attempt(tmp_path, parent=before))
    assert len(slack.top()) == 2


async def test_a_retry_edits_what_the_failed_attempt_posted(
    slack: Slack, handler: SlackHandler, tmp_path: Path
) -> None:
    """The reply failed after the post: the next attempt neither posts nor uploads again."""
    attempt = make_attempt(tmp_path, pictures=2)
    slack.answers["chat.postMessage"] = [None, JSONResponse({"ok": False, "error": "internal_error"})]
    with pytest.raises(SlackError):
        await handler.deliver(attempt)
    receipt = await handler.deliver(dataclasses.replace(attempt, number=2))
    (post,), (reply,) = slack.top(), slack.replies()
    assert (post.edits, reply.thread_ts, len(slack.files)) == (1, receipt.data["ts"], 2)


async def test_a_picture_slack_is_slow_to_take_in_is_waited_for(
    slack: Slack, handler: SlackHandler, tmp_path: Path
) -> None:
    """A block that names a file too early is refused, so its type is asked for first."""
    slack.slow = 1
    await handler.deliver(make_attempt(tmp_path))
    assert slack.calls.count("files.info") == 2


async def test_a_picture_that_may_not_be_shown_yet_is_tried_again(
    slack: Slack, handler: SlackHandler, tmp_path: Path
) -> None:
    """Slack refuses a block for a second or two although it knows the file: no reason to give the post up."""
    slack.blind = 1
    await handler.deliver(make_attempt(tmp_path))
    (post,) = slack.top()
    assert images(post.blocks)
    assert slack.calls.count("chat.postMessage") == 3
    assert len(slack.files) == 1


async def test_a_picture_that_is_never_shown_goes_into_the_thread(
    slack: Slack, handler: SlackHandler, tmp_path: Path
) -> None:
    """A failure first; the next attempt posts without it, says so, and shares the file."""
    slack.blind = 100
    attempt = make_attempt(tmp_path)
    with pytest.raises(UnknownFile):
        await handler.deliver(attempt)
    assert slack.messages == {}
    await handler.deliver(dataclasses.replace(attempt, number=2))
    (post,) = slack.top()
    assert "it is in the thread" in texts(post.blocks)
    assert not images(post.blocks)
    shared = [reply for reply in slack.replies() if reply.files]
    assert [slack.files[name].data for name in shared[0].files] == [attempt.media[0].path.read_bytes()]


async def test_a_file_that_comes_late_goes_into_the_thread(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """The post is edited, and the thread gets the new picture alone."""
    whole = make_attempt(tmp_path, pictures=3)
    first = dataclasses.replace(
        whole, media=whole.media[:2], media_expected=3, media_pending=True, media_problem="1 of 3 files is missing."
    )
    receipt = await handler.deliver(first)
    (post,) = slack.top()
    assert "1 of 3 files is missing." in texts(post.blocks)
    replies = len(slack.replies())
    event = msgspec.structs.replace(whole.event, id=f"{whole.event.id}.1", further=1)
    await handler.deliver(dataclasses.replace(whole, event=event, media_expected=3, previous=receipt))
    (post,) = slack.top()
    assert "missing" not in texts(post.blocks)
    new = slack.replies()[replies:]
    assert [len(images(reply.blocks)) for reply in new] == [1]


async def test_the_receipt_links_to_the_post(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """So that another destination's `link`, and who asks for the delivery, gets there; it is asked for once a post.
    Where Slack does not say it, the post is there all the same."""
    first = await handler.deliver(make_attempt(tmp_path, "task.progressed"))
    last = await handler.deliver(make_attempt(tmp_path, previous=first))
    assert first.url == last.url == f"https://acme.slack.com/archives/{CHANNEL}/p{first.data['ts'].replace('.', '')}"
    assert slack.calls.count("chat.getPermalink") == 1
    slack.answers["chat.getPermalink"] = [JSONResponse({"ok": False, "error": "internal_error"})]
    assert (await handler.deliver(make_attempt(tmp_path))).url is None


async def test_a_name_is_looked_up_once_and_a_public_channel_joined(slack: Slack, tmp_path: Path) -> None:
    """Pages are followed to the end; where the bot is no member it becomes one."""
    handler = handler_of(slack, channel="#public")
    await handler.deliver(make_attempt(tmp_path))
    await handler.deliver(make_attempt(tmp_path))
    assert {message.channel for message in slack.messages.values()} == {"C0999ZZZZ"}
    assert slack.calls.count("conversations.list") == 2
    assert slack.calls.count("conversations.join") == 1
    await handler.aclose()


@pytest.mark.parametrize(
    "link",
    [f"https://acme.slack.com/archives/{CHANNEL}", f"https://app.slack.com/client/T0123ABCD/{CHANNEL}/", CHANNEL],
)
async def test_a_channel_is_given_by_the_link_that_slack_copies(slack: Slack, tmp_path: Path, link: str) -> None:
    """In the option, and in a URL of RECEIVER_TO."""
    for channel in (link, SlackHandler.options_from_url(f"slack:{link}")["channel"]):
        handler = handler_of(slack, channel=channel)
        await handler.deliver(make_attempt(tmp_path))
        await handler.aclose()
    assert {message.channel for message in slack.messages.values()} == {CHANNEL}
    assert "conversations.list" not in slack.calls


async def test_a_channel_the_bot_may_not_join_or_see_is_rejected(slack: Slack, tmp_path: Path) -> None:
    """A private channel needs an invitation, and an unknown name a look at the option."""
    slack.channels["G0PRIVATE1"] = "private"
    for channel, sentence in (("private", "/invite"), ("nowhere", "no channel called nowhere")):
        handler = handler_of(slack, channel=channel)
        with pytest.raises(Rejected, match=sentence):
            await handler.deliver(make_attempt(tmp_path))
        await handler.aclose()


@pytest.mark.parametrize("code", sorted(REMEDIES))
async def test_what_stays_wrong_is_rejected_with_the_remedy(
    slack: Slack, handler: SlackHandler, tmp_path: Path, code: str
) -> None:
    """Every answer that a person has to do something about is dead at once, and says what."""
    slack.answers["chat.postMessage"] = [JSONResponse({"ok": False, "error": code})] * 2
    if code == "not_in_channel":
        slack.answers["conversations.join"] = [JSONResponse({"ok": False, "error": "missing_scope"})]
    with pytest.raises(Rejected) as caught:
        await handler.deliver(make_attempt(tmp_path))
    assert code in str(caught.value)
    assert REMEDIES[code] in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (JSONResponse({"ok": False, "error": "ratelimited"}, status_code=429, headers={"Retry-After": "17"}), 17),
        (JSONResponse({"ok": False, "error": "ratelimited"}, headers={"Retry-After": "4"}), 4),
        (PlainTextResponse("slow down", status_code=429), 30),
    ],
)
async def test_a_rate_limit_pauses_the_destination(
    slack: Slack, handler: SlackHandler, tmp_path: Path, answer: Response, seconds: float
) -> None:
    """As long as Slack says, and for everything that goes there."""
    slack.answers["chat.postMessage"] = [answer]
    with pytest.raises(RetryLater) as caught:
        await handler.deliver(make_attempt(tmp_path))
    assert (caught.value.after, caught.value.pause) == (seconds, True)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (JSONResponse({"ok": False, "error": "internal_error"}, status_code=500), SlackError),
        (JSONResponse({"ok": False, "error": "service_unavailable"}), SlackError),
        (JSONResponse({"ok": False, "error": "a_word_of_tomorrow"}), SlackError),
        (PlainTextResponse("<html>", status_code=503), ConnectionError),
        (JSONResponse({"error": "access_denied"}, status_code=403), ConnectionError),
        (PlainTextResponse("<html>Sign in</html>", status_code=200), ConnectionError),
        (JSONResponse([]), ConnectionError),
    ],
)
async def test_what_may_pass_is_a_failure(
    slack: Slack, handler: SlackHandler, tmp_path: Path, answer: Response, error: type[Exception]
) -> None:
    """Neither dead nor a pause: the delivery is tried again by schedule."""
    slack.answers["chat.postMessage"] = [answer]
    with pytest.raises(error):
        await handler.deliver(make_attempt(tmp_path))


async def test_a_wrong_token_is_rejected(slack: Slack, tmp_path: Path) -> None:
    """And never shown."""
    handler = handler_of(slack, token="xoxb-wrong-token")
    with pytest.raises(Rejected, match="invalid_auth") as caught:
        await handler.deliver(make_attempt(tmp_path))
    assert "xoxb-wrong" not in str(caught.value)
    await handler.aclose()


async def test_the_picture_goes_to_slacks_own_hosts_only(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """The address for the bytes comes in an answer, so it is checked."""
    for url in ("https://evil.example/upload", "https://slack.com.evil.example/", "http://files.slack.com/upload"):
        slack.answers["files.getUploadURLExternal"] = [JSONResponse({"ok": True, "upload_url": url, "file_id": "F1"})]
        with pytest.raises(ConnectionError, match="none of its own"):
            await handler.deliver(make_attempt(tmp_path))


async def test_without_its_picture_a_result_says_why(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """The post says so, and goes out."""
    await handler.deliver(make_attempt(tmp_path, media=(), media_problem="404 from the host."))
    (post,) = slack.top()
    assert "Ready, but without the picture" in texts(post.blocks)
    assert "404 from the host." in texts(post.blocks)


async def test_prompts_that_were_found_are_posted(slack: Slack, handler: SlackHandler, tmp_path: Path) -> None:
    """The result of a describe is text."""
    await handler.deliver(make_attempt(tmp_path, pictures=0))
    (post,) = slack.top()
    assert "a paper boat" in texts(post.blocks)


async def test_a_link_of_another_destination_is_waited_for(slack: Slack, tmp_path: Path) -> None:
    """A minute in steps of five seconds; then the post goes out, and says that there is none."""
    handler = handler_of(slack, link="assets")
    attempt = make_attempt(tmp_path)
    for number in (1, LINK_TRIES):
        with pytest.raises(RetryLater) as caught:
            await handler.deliver(dataclasses.replace(attempt, number=number))
        assert (caught.value.after * LINK_TRIES, caught.value.pause) == (60, False)
    await handler.deliver(dataclasses.replace(attempt, number=LINK_TRIES + 1))
    url = "https://assets.example/a|b<c>.png?x=1&y=2"
    await handler.deliver(make_attempt(tmp_path, receipts={"assets": Receipt(url=url)}))
    without, with_link = slack.top()
    assert "There is no link from assets." in texts(without.blocks)
    assert "<https://assets.example/a%7Cb%3Cc%3E.png?x=1&amp;y=2|Open the stored copy>" in texts(with_link.blocks)
    await handler.aclose()


# --- the incoming webhook -----------------------------------------------------------------------------------------


async def test_a_webhook_shows_the_stored_copy(slack: Slack, tmp_path: Path) -> None:
    """Ends are posted with the picture by its link; what it could only repeat, progress, is not."""
    handler = hooked(slack)
    receipts = {"assets": Receipt(url="https://assets.example/boat.png")}
    assert await handler.deliver(make_attempt(tmp_path, "task.progressed")) == Receipt()
    await handler.deliver(make_attempt(tmp_path, receipts=receipts))
    await handler.deliver(make_attempt(tmp_path, "task.failed"))
    done, failed = slack.hooked
    (image,) = images(done["blocks"])
    assert image["image_url"] == "https://assets.example/boat.png"
    assert "--nonsense" in texts(failed["blocks"])
    await handler.aclose()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "no_service"),
        (403, "invalid_token"),
        (403, "action_prohibited"),
        (404, "channel_not_found"),
        (410, "channel_is_archived"),
        (400, "invalid_payload"),
        (404, "no_team"),
        (410, "something_new"),
    ],
)
async def test_a_revoked_webhook_is_rejected(slack: Slack, tmp_path: Path, status: int, text: str) -> None:
    """With the remedy, and without its URL, which is its secret."""
    handler = hooked(slack)
    slack.answers["webhook"] = [PlainTextResponse(text, status_code=status)]
    with pytest.raises(Rejected) as caught:
        await handler.deliver(make_attempt(tmp_path, "task.failed"))
    assert "/services/" not in str(caught.value)
    await handler.aclose()


async def test_a_webhook_that_is_limited_or_down_is_tried_again(slack: Slack, tmp_path: Path) -> None:
    """429 pauses as long as it says. Anything else is a failure, also what a proxy in front of Slack answers."""
    handler = hooked(slack)
    slack.answers["webhook"] = [
        PlainTextResponse("", status_code=429, headers={"Retry-After": "9"}),
        PlainTextResponse("rollup_error", status_code=500),
        PlainTextResponse("", status_code=502),
        PlainTextResponse("<html>404 Not Found</html>", status_code=404),
        PlainTextResponse("404 page not found", status_code=404),
        PlainTextResponse("", status_code=410),
    ]
    for error in (RetryLater, RetryLater, *[ConnectionError] * 4):
        with pytest.raises(error):
            await handler.deliver(make_attempt(tmp_path, "task.failed"))
    await handler.aclose()


def hooked(slack: Slack) -> SlackHandler:
    return SlackHandler(read_options(SlackOptions, {"webhook_url": slack.hook, "link": "assets"}))


# --- contract, options, manifest ----------------------------------------------------------------------------------


async def test_the_contract_holds(slack: Slack) -> None:
    """At least once: each attempt makes at most one post and its reply, whatever happens in between."""

    async def effects() -> Iterable[Hashable]:
        return [(ts, message.text, message.thread_ts) for ts, message in slack.messages.items()]

    options = {"channel": CHANNEL, "token": TOKEN, "api_url": slack.api}
    await check_handler(SlackHandler, options, effects=effects)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"channel": "x"}, "Set SLACK_BOT_TOKEN"),
    ({"token": TOKEN}, "channel is missing"),
    ({"token": "sk-123", "channel": "x"}, "token is no bot token"),
    ({"webhook_url": "https://hooks.slack.com/services/T/B/secret"}, "a webhook cannot upload pictures. Set link"),
    ({"webhook_url": "https://h.example/s", "link": "a", "channel": "x"}, "webhook_url has its own channel"),
    ({"webhook_url": "hooks.slack.com/secret", "link": "a"}, "is not the URL of an incoming webhook"),
    ({"token": TOKEN, "channel": "x", "api_url": "slack.com"}, "the option api_url"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG)
def test_wrong_options_stop_the_start(options: dict[str, Any], sentence: str) -> None:
    """The destination, the option and the remedy are named, the secret is not."""
    with pytest.raises(SettingsError) as caught:
        build(Destination(name="team", handler="slack", options=options))
    assert str(caught.value).startswith("Destination team: ")
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_the_token_comes_from_the_name_people_have(tmp_path: Path) -> None:
    """`SLACK_BOT_TOKEN` and a URL are all it takes."""
    settings = load({"SLACK_BOT_TOKEN": TOKEN, "RECEIVER_TO": "slack://pictures?link=assets"}, tmp_path)
    (destination,) = settings.resolved_destinations()
    handler = build(destination)
    assert isinstance(handler, SlackHandler)
    assert handler.waits_for == "assets"
    assert TOKEN in settings.secret_values()
    assert TOKEN not in repr(settings) + repr(destination)


def test_options_refuse_what_they_do_not_know() -> None:
    """As every handler's."""
    with pytest.raises(WrongValues):
        read_options(SlackOptions, {"channel": "x", "token": TOKEN, "chanel": "x"})


def test_the_manifest_asks_for_what_the_handler_calls() -> None:
    """Nothing that reads what people write."""
    assert manifest("Boats")["oauth_config"]["scopes"]["bot"] == sorted(SCOPES)
    assert not any("history" in scope or "users" in scope for scope in SCOPES)


def test_the_judge_of_blocks_refuses() -> None:
    """A positive control: what is no block of Slack's does not pass."""
    for block in ({"type": "image", "alt_text": "x" * 2001, "image_url": "https://x.example"}, {"type": "boat"}):
        with pytest.raises(Exception, match=r"2000|invalid_blocks"):
            check_blocks([block])
    assert Block.parse({"type": "divider"})


@pytest.mark.parametrize("link", ["nowhere", "team"])
async def test_a_link_to_no_other_destination_stops_the_start(tmp_path: Path, link: str) -> None:
    """A name nobody has, or its own, would be waited for in vain."""
    settings = Settings(
        data=tmp_path,
        provider_key="k",
        to="file:./outputs",
        destinations={"team": {"handler": "slack", "channel": "x", "token": TOKEN, "link": link}},
    )
    with pytest.raises(SettingsError, match=f"Destination team: its option link names '{link}', .* are: file"):
        async with open_runtime(settings):
            pass
