"""The webhook handler, over real HTTP: what it sends, and what becomes of a delivery by what it is answered."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gzip
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from engine import destination, engine
from standardwebhooks import Webhook
from test_dispatcher import owed
from waiting import PATIENCE

from receiver.deliveries import Receipt
from receiver.errors import SettingsError
from receiver.handlers.base import Attempt, Rejected, RetryLater
from receiver.handlers.registry import build
from receiver.handlers.webhook import (
    GONE_SECONDS,
    WebhookFailed,
    WebhookHandler,
    check_secret,
    new_secret,
    signed_headers,
    verify,
)
from receiver.settings import Destination
from receiver.settings.options import read_options
from receiver.testing import check_handler, make_attempt

SECRET = new_secret()
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclasses.dataclass(frozen=True)
class Arrived:
    path: str
    headers: dict[str, str]
    body: bytes


class Place:
    """A server that reads requests to their end and answers with the bytes it was given, or as a function does."""

    def __init__(self, answer: bytes | Callable[[asyncio.StreamWriter], Any]) -> None:
        self.answer = answer
        self.arrived: list[Arrived] = []
        self.connections = 0
        self.url = ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self._answer(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed the connection
        finally:
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = head.decode().rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.arrived.append(Arrived(first.split()[1], headers, body))
        if isinstance(self.answer, bytes):
            writer.write(self.answer)
            await writer.drain()
        else:
            await self.answer(writer)


@asynccontextmanager
async def place(answer: Any = OK, context: ssl.SSLContext | None = None) -> AsyncIterator[Place]:
    it = Place(answer)
    server = await asyncio.start_server(it.talk, "127.0.0.1", 0, ssl=context)
    it.url = f"http{'s' if context else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks/s3cret-path?a=1"
    try:
        yield it
    finally:
        server.close()


@asynccontextmanager
async def handler(url: str, **options: Any) -> AsyncIterator[WebhookHandler]:
    item = WebhookHandler(read_options(WebhookHandler.Options, {"url": url, "secret": SECRET, **options}))
    try:
        yield item
    finally:
        await item.aclose()


async def deliver(url: str, attempt: Attempt, **options: Any) -> Receipt:
    async with handler(url, **options) as item:
        return await item.deliver(attempt)


def answered(status: str, *headers: str, body: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode("latin-1")


# What is sent


async def test_the_official_library_accepts_us(tmp_path: Path) -> None:
    """A receiver written with it, with each of two secrets; the id is the delivery's."""
    old = new_secret()
    attempt = make_attempt(tmp_path)
    async with place() as there:
        receipt = await deliver(there.url, attempt, secret=f"{old} {SECRET}")
    (got,) = there.arrived
    for secret in (old, SECRET):
        event = Webhook(secret).verify(got.body, got.headers)
        assert (event["type"], event["id"]) == ("task.succeeded", attempt.event.id)
    assert got.path == "/hooks/s3cret-path?a=1"
    assert got.headers["webhook-id"] == attempt.idempotency_key == receipt.ref
    assert got.headers["content-type"] == "application/cloudevents+json"
    assert receipt.data == {"status": 204}


async def test_the_id_stays_over_retries_and_each_attempt_has_its_time(tmp_path: Path) -> None:
    """So that a receiver drops what it had, and refuses what somebody recorded."""
    attempt = make_attempt(tmp_path)
    async with place() as there, handler(there.url) as item:
        await item.deliver(attempt)
        await asyncio.sleep(1.01)  # the header counts whole seconds
        await item.deliver(dataclasses.replace(attempt, number=2))
        assert there.connections == 1
    first, second = there.arrived
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    Webhook(SECRET).verify(second.body, second.headers)


async def test_further_headers_go_along(tmp_path: Path) -> None:
    """And the content type a place wants."""
    options = {
        "headers": {"Authorization": "Bearer of-the-place", "User-Agent": "mine"},
        "content_type": "application/json",
        "source": "/mj",
    }
    async with place() as there:
        await deliver(there.url, make_attempt(tmp_path), **options)
    (got,) = there.arrived
    assert got.headers["user-agent"] == "mine"
    assert (got.headers["authorization"], got.headers["content-type"]) == ("Bearer of-the-place", "application/json")
    assert json.loads(got.body)["source"] == "/mj"


async def test_files_go_along_where_they_fit(tmp_path: Path) -> None:
    """As Base64; larger ones only as what they are."""
    attempt = make_attempt(tmp_path, pictures=2)
    size = sum(item.media.size for item in attempt.media)
    async with place() as there:
        await deliver(there.url, attempt, picture="inline", inline_max=size)
        await deliver(there.url, attempt, picture="inline", inline_max=size - 1)
        await deliver(there.url, attempt)
    inline, large, link = (json.loads(got.body)["data"]["media"] for got in there.arrived)
    assert [base64.b64decode(item["base64"]) for item in inline] == [item.path.read_bytes() for item in attempt.media]
    assert large == link == [{k: v for k, v in item.items() if k != "base64"} for item in inline]


async def test_a_file_that_comes_late_is_one_further_event(tmp_path: Path) -> None:
    """The first one has what is there and says what is missing; the further one has an id of its own, and all files."""
    gone = "1 of 2 files is missing. 404 from cdn.discordapp.com"
    both = make_attempt(tmp_path, pictures=2)
    first = dataclasses.replace(both, media=both.media[:1], media_problem=gone, media_expected=2, media_pending=True)
    event = msgspec.structs.replace(both.event, id=f"{both.event.id}.1", further=1)
    async with place() as there:
        await deliver(there.url, first)
        await deliver(there.url, dataclasses.replace(both, event=event, media_expected=2))
    told, further = (json.loads(got.body) for got in there.arrived)
    assert (told["data"]["media_problem"], len(told["data"]["media"]), told["data"]["further"]) == (gone, 1, 0)
    assert (further["data"]["media_problem"], len(further["data"]["media"]), further["data"]["further"]) == (None, 2, 1)
    assert further["id"] == f"{told['id']}.1"


async def test_a_certificate_of_ones_own(tmp_path: Path) -> None:
    """Refused, with the reason, until its authority is named."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with place(OK, context) as there:
        with pytest.raises(WebhookFailed, match=r"127\.0\.0\.1:\d+ could not be .* certificate is not trusted: "):
            await deliver(there.url, make_attempt(tmp_path))
        await deliver(there.url, make_attempt(tmp_path), ca=tmp_path / "ca.pem")
    assert len(there.arrived) == 1


async def test_the_surroundings_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the environment is asked."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with place() as there:
        await deliver(there.url, make_attempt(tmp_path))
    assert len(there.arrived) == 1


# What the answer makes of it

LATER = {
    "410": (answered("410 Gone"), GONE_SECONDS, True),
    "429": (answered("429 Too Many Requests", "Retry-After: 17"), 17.0, True),
    "503": (answered("503 Service Unavailable", "Retry-After: 120", body="busy"), 120.0, True),
    "503 nonsense": (answered("503 Service Unavailable", "Retry-After: soon"), 60.0, True),
}


@pytest.mark.parametrize("name", LATER)
async def test_answers_that_ask_to_wait(tmp_path: Path, name: str) -> None:
    """The whole destination waits, and no attempt is used up."""
    answer, after, pause = LATER[name]
    async with place(answer) as there:
        with pytest.raises(RetryLater) as caught:
            await deliver(there.url, make_attempt(tmp_path))
    assert (caught.value.after, caught.value.pause) == (after, pause)
    assert f"answered {name[:3]}" in str(caught.value)
    assert "s3cret-path" not in str(caught.value)


FAILED = {
    "400": (
        answered("400 Bad Request", body='{"error": "no such\n field\x1b[2J"}'),
        'answered 400: {"error": "no such',
    ),
    "401": (answered("401 Unauthorized"), "answered 401"),
    "404": (answered("404 Not Found", body="not registered"), "answered 404: not registered"),
    "429 alone": (answered("429 Too Many Requests"), "answered 429"),
    "410 by a proxy": (answered("410 Gone", body="<html>Tunnel closed</html>"), "answered 410: <html>Tunnel closed"),
    "packed": (
        b"HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: 24\r\n\r\n" + gzip.compress(b"boat", mtime=0),
        "answered 500: boat",
    ),
    "500": (answered("500 Internal Server Error", body="x" * 100_000), "answered 500: " + "x" * 200),
    "503 alone": (answered("503 Service Unavailable"), "answered 503"),
    "301": (
        answered("301 Moved Permanently", "Location: https://user:pw@other.example/s3cret-path"),
        "answered 301 and points to other.example. Redirects are not followed: put the final address into the option",
    ),
    "307": (answered("307 Temporary Redirect", "Location: /s3cret-path"), "answered 307 and points elsewhere."),
    "308": (answered("308 Permanent Redirect", "Location: https://[s3cret-path"), "127.0.0.1:"),
    "302": (answered("302 Found", "Location: https://s3cret-path:x/\xff"), "127.0.0.1:"),
    "304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", "answered 304"),
    "half": (b"HTTP/1.1 20", "could not be reached, or broke off: "),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "could not be reached, or broke off: "),
}


@pytest.mark.parametrize("name", FAILED)
async def test_answers_that_fail(tmp_path: Path, name: str) -> None:
    """The reason says who answered what, in a line, and never where the webhook lies. A 4xx without a word on rate,
    access or availability is about the event alone."""
    answer, reason = FAILED[name]

    async def and_close(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with place(and_close) as there:
        with pytest.raises(WebhookFailed) as caught:
            await deliver(there.url, make_attempt(tmp_path))
        assert len(there.arrived) == 1
    text = str(caught.value)
    assert reason in text
    assert text.isprintable()
    assert len(text) < 300
    assert "s3cret-path" not in text
    assert caught.value.about_event == (name in ("400", "404"))


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "204 No Content", "299 Fine"])
async def test_any_2xx_is_a_success(tmp_path: Path, status: str) -> None:
    """Whatever else it says."""
    async with place(answered(status, body="" if status.startswith("204") else "{not json")) as there:
        receipt = await deliver(there.url, make_attempt(tmp_path))
    assert receipt.data == {"status": int(status[:3])}


async def test_an_answer_without_end_is_a_success_all_the_same(tmp_path: Path) -> None:
    """It was taken; what else is said is read no longer than half a second, and no further than 64 KiB."""

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nx")
        await asyncio.Event().wait()

    for answer in (endless, slow):
        async with place(answer) as there, asyncio.timeout(PATIENCE):
            assert (await deliver(there.url, make_attempt(tmp_path))).data == {"status": 200}


async def test_an_answer_in_drops_has_a_total_deadline(tmp_path: Path) -> None:
    """A byte now and then keeps no attempt alive."""

    async def drops(writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    async with place(drops) as there:
        with pytest.raises(WebhookFailed, match=r"did not answer within 0\.4 s"):
            await deliver(there.url, make_attempt(tmp_path, deadline=0.5))


async def test_connections_are_kept(tmp_path: Path) -> None:
    """Attempts one after the other share one, and attempts at once have one each."""
    attempt = make_attempt(tmp_path)
    async with place(OK) as there:
        options = read_options(WebhookHandler.Options, {"url": there.url, "secret": SECRET})
        handler = WebhookHandler(options)
        for _ in range(3):
            await handler.deliver(attempt)
        assert there.connections == 1
        for _ in range(3):
            await asyncio.gather(*(handler.deliver(attempt) for _ in range(5)))
        assert there.connections == 5
        await handler.aclose()


async def test_nobody_there(tmp_path: Path) -> None:
    """The system's own word for it."""
    with pytest.raises(WebhookFailed, match=r"127\.0\.0\.1:1 could not be reached, or broke off: Connection refused"):
        await deliver("http://127.0.0.1:1/s3cret-path", make_attempt(tmp_path))


async def test_gone_pauses_the_destination_until_a_person_ends_it(tmp_path: Path) -> None:
    """The row says why and what to do; when the pause is ended, what waited with it is due at once."""
    async with place(answered("410 Gone")) as there, handler(there.url) as item, engine(tmp_path) as kit:
        await owed(kit)
        dispatcher = kit.dispatcher(destination("main", item))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        (row,) = await kit.journal.destinations()
        assert row.paused(kit.clock.now_ms())
        assert "answered 410: it wants no more events, so the destination is paused." in str(row.paused_reason)
        assert str(row.paused_reason).endswith("receiver destinations resume main")
        assert await dispatcher.dispatch_once() == 0
        there.answer = OK
        assert await kit.journal.resume("main")
        assert await dispatcher.dispatch_once() == 1
        await dispatcher.settle()
        (delivery,) = await kit.journal.deliveries(limit=10)
        assert (delivery.status, delivery.failures) == ("succeeded", 0)


# The contract, and the options


async def test_the_contract(tmp_path: Path) -> None:
    """Once, for a receiver that drops the ids it had."""
    async with place() as there:

        async def effects() -> list[tuple[str, str]]:
            return sorted({(got.headers["webhook-id"], json.loads(got.body)["type"]) for got in there.arrived})

        await check_handler(WebhookHandler, {"url": there.url, "secret": SECRET}, effects=effects)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"secret": None},
            "the option secret is missing. Write a secret text, or a list of them. Signing secret: `whsec_`",
        ),
        (
            {"secret": "s3cret"},
            "the option secret is wrong: a secret begins with whsec_; make one",
        ),
        ({"secret": ""}, "the option secret is wrong. Write "),
        ({"url": "ftp://s3cret.example"}, "the option url is wrong: it is no http"),
        ({"url": "https://"}, "the option url is wrong: it is no http or https URL."),
        ({"url": "https://u:s3cret@x.example"}, 'it holds a user name; write that as headers = { Authorization = "Bas'),
        ({"headers": {"Webhook-Id": "s3cret"}}, "a further header cannot be called 'Webhook-Id'"),
        ({"headers": {"X\r\nY": "s3cret"}}, "a further header cannot be called"),
        ({"headers": {"X": "s3cret\r\nHost: y"}}, "the value of the header X holds a line end, or what is not ASCII"),
        (
            {"content_type": "text/plain"},
            "the option content_type is wrong. Write application/cloudevents+json or application/json.",
        ),
        ({"ca": "nowhere.pem"}, "the option ca is wrong: certificates cannot be read from nowhere.pem (No such file"),
        ({"secrets": "x"}, "the option secrets does not exist. Did you mean secret?"),
    ],
)
def test_wrong_options_stop_the_start(options: dict[str, Any], problem: str) -> None:
    """Naming destination, option and remedy, and never a secret."""
    given = {"url": "https://x.example/y", "secret": SECRET, **options}
    table = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(SettingsError) as caught:
        build(Destination(name="hook", handler="webhook", options=table))
    assert str(caught.value).startswith("Destination hook: ")
    assert problem in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_the_short_form_holds_the_secret_behind_the_hash(tmp_path: Path) -> None:
    """For RECEIVER_TO; it never leaves."""
    async with place() as there:
        item = build(Destination(name="https", url=f"{there.url}#{SECRET}"))
        await item.deliver(make_attempt(tmp_path))
        await item.aclose()
    (got,) = there.arrived
    assert "#" not in got.path
    Webhook(SECRET).verify(got.body, got.headers)


VECTOR = json.loads((Path(__file__).parent / "vectors/standard-webhooks.json").read_text())
BODY = '{"prompt": "ein Papierboot auf ruhigem Wasser, 紙の船"}'.encode()


def test_the_published_vector() -> None:
    """The fixed vector of the standard's own client libraries."""
    headers = signed_headers([VECTOR["secret"]], VECTOR["id"], VECTOR["body"].encode(), VECTOR["timestamp"])
    assert headers == {
        "webhook-id": VECTOR["id"],
        "webhook-timestamp": str(VECTOR["timestamp"]),
        "webhook-signature": VECTOR["signature"],
    }


def test_while_secrets_rotate_a_receiver_may_know_either() -> None:
    """Each secret signs; the official library accepts with either, and not with another."""
    old, new = new_secret(), new_secret()
    headers = signed_headers([old, new], "id", BODY, int(time.time()))
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, headers) == json.loads(BODY)
        assert verify([secret], headers, BODY) is None
    assert verify([new_secret()], headers, BODY) == "no matching signature found"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"webhook-signature": "v1"}, "the headers cannot be read"),
        ({"webhook-signature": "v1,é"}, "the headers cannot be read"),
        ({"webhook-signature": "v2,AAAA"}, "no matching signature found"),
        ({"webhook-signature": ""}, "missing required headers"),
        ({"webhook-id": "other"}, "no matching signature found"),
        ({"webhook-timestamp": "soon"}, "invalid Signature Headers"),
        ({"webhook-timestamp": -301}, "message timestamp too old"),
        ({"webhook-timestamp": 400}, "message timestamp too new"),
    ],
)
def test_what_is_wrong_is_told(change: dict[str, str | int], problem: str) -> None:
    """Also for headers the library would stumble over. A number is a time from now, in seconds."""
    secret, now = new_secret(), int(time.time())
    changed = {name: str(now + value) if isinstance(value, int) else value for name, value in change.items()}
    headers = signed_headers([secret], "id", BODY, now) | changed
    assert verify([secret], headers, BODY) == problem


def test_another_body_is_not_signed() -> None:
    """One byte is enough."""
    secret = new_secret()
    headers = signed_headers([secret], "id", BODY, int(time.time()))
    assert verify([secret], headers, BODY + b" ") == "no matching signature found"


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("s3cret", "a secret begins with whsec_"),
        ("whsec_s3cret!", "after whsec_ a secret is Base64"),
        ("whsec_czNjcmV0", "a secret has 24 to 64 bytes, not 6"),
        ("whsec_" + "QUFB" * 30, "a secret has 24 to 64 bytes, not 90"),
    ],
)
def test_a_weak_secret_is_refused_with_the_remedy(secret: str, problem: str) -> None:
    """Without showing it."""
    with pytest.raises(ValueError, match=problem) as caught:
        check_secret(secret)
    assert "openssl rand -base64 32" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert check_secret(VECTOR["secret"]) == VECTOR["secret"]


# Replies to the URL that a submission named


async def replied(attempt: Attempt, **options: Any) -> Receipt:
    item = WebhookHandler(read_options(WebhookHandler.Options, {"secret": SECRET, **options}))
    try:
        return await item.deliver(attempt)
    finally:
        await item.aclose()


async def test_a_reply_goes_to_the_url_of_its_submission(tmp_path: Path) -> None:
    """Signed like any other webhook, in the type that n8n reads if that is set."""
    async with place() as there:
        attempt = dataclasses.replace(make_attempt(tmp_path), reply_to=there.url)
        await replied(attempt, hosts=origin(there.url), content_type="application/json")
    (got,) = there.arrived
    assert (got.path, got.headers["content-type"]) == ("/hooks/s3cret-path?a=1", "application/json")
    Webhook(SECRET).verify(got.body, got.headers)


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
async def test_a_url_that_is_no_more_is_dead_and_pauses_nobody(tmp_path: Path, status: str) -> None:
    """The URL is one submission's, and its answer may repeat it."""
    async with place(answered(status, body="no webhook /hooks/s3cret-path?a=1")) as there:
        attempt = dataclasses.replace(make_attempt(tmp_path), reply_to=there.url)
        with pytest.raises(Rejected, match="named is no more") as caught:
            await replied(attempt, hosts=origin(there.url))
    assert "s3cret" not in str(caught.value)


async def test_a_reply_is_never_sent_elsewhere(tmp_path: Path) -> None:
    """Not after its host was taken off the list, and not without a URL."""
    async with place() as there:
        attempt = dataclasses.replace(make_attempt(tmp_path), reply_to=there.url)
        assert "s3cret" not in repr(attempt)
        with pytest.raises(Rejected, match=r"^127\.0\.0\.1:\d+, which .* is not in the option hosts\.$"):
            await replied(attempt, hosts="n8n.example.com")
        with pytest.raises(Rejected, match="names no URL"):
            await replied(make_attempt(tmp_path), hosts="n8n.example.com")
    assert there.arrived == []


@pytest.mark.parametrize("options", [{}, {"url": "https://a.example/", "hosts": "a.example"}])
def test_a_webhook_has_a_url_or_hosts(options: dict[str, str]) -> None:
    """One of both."""
    with pytest.raises(SettingsError, match="give either the option url, or hosts"):
        build(Destination(name="reply", handler="webhook", options={"secret": SECRET, **options}))


def origin(url: str) -> str:
    return url.partition("/hooks")[0]


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("https://discord.com/api/webhooks/1423/s3cret", 'Discord. Write discord:https://…, or handler = "discord"'),
        ("https://ptb.discordapp.com/api/v10/webhooks/1423/s3cret?wait=true", "Discord. Write discord:https://…"),
        ("https://hooks.slack.com/services/T0/B0/s3cret", 'Slack. Write handler = "slack", webhook_url and link'),
        ("https://hooks.slack.com/triggers/T0/1/s3cret", "Slack. "),
        ("https://acme.webhook.office.com/webhookb2/s3cret@b/IncomingWebhook/c/d", 'a chat. Write handler = "chat"'),
        ("https://chat.googleapis.com/v1/spaces/A/messages?key=s3cret&token=s3cret", "a chat. "),
        ("https://ntfy.sh/s3cret", "a chat. "),
        ("https://api.telegram.org/bot1:s3cret/sendMessage", "a chat. "),
        ("https://acme.s3.amazonaws.com/s3cret", "an object store. Write s3://BUCKET/FOLDER"),
        ("https://s3.eu-central-1.amazonaws.com/acme/s3cret", "an object store. "),
        ("HTTPS://0a1b.r2.cloudflarestorage.com/acme", "an object store. "),
    ],
)
def test_the_address_of_another_service_is_refused_with_what_to_write(url: str, remedy: str) -> None:
    """A person pastes what the service shows. It would answer 400 to each event, hours later."""
    for given in (
        Destination(name="hook", url=url),
        Destination(name="hook", url=f"{url}#{SECRET}"),
        Destination(name="hook", handler="webhook", options={"url": url, "secret": SECRET}),
    ):
        with pytest.raises(SettingsError) as caught:
            build(given)
        assert f"it is an address of {remedy}" in str(caught.value)
        assert "s3cret" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://0a1b.execute-api.eu-central-1.amazonaws.com/hooks",
        "https://0a1b.lambda-url.eu-central-1.on.aws/hooks",
        "https://hook.eu2.make.com/0a1b",
        "https://ntfy.example.com/hooks",
        "https://discord.com.example.com/api/webhooks",
        "https://prod-1.westeurope.logic.azure.com:443/workflows/0a1b/triggers/manual/paths/invoke?sig=x",
    ],
)
def test_addresses_that_take_events_are_no_other_service(url: str) -> None:
    """API gateways, functions, automation, and hosts that only look alike."""
    build(Destination(name="hook", url=f"{url}#{SECRET}"))
