"""The chat handler, which is Apprise, against a real mail server and a real Matrix server."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
import logging
import re
import threading
import tracemalloc
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from flows import served
from matrices import homeserver
from PIL import Image
from ports import free_port
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from waiting import PATIENCE

from receiver.cli.servers import address, bind
from receiver.deliveries import Receipt
from receiver.errors import SettingsError
from receiver.handlers.base import Attempt, StoredMedia
from receiver.handlers.chat import ChatHandler, ChatOptions, harmless
from receiver.handlers.place import Outcome, subject
from receiver.handlers.registry import build
from receiver.settings import Destination, load
from receiver.settings.options import read_options
from receiver.testing import check_handler, make_attempt

SECRET = "hunter22-of-boats"


class Mailbox:
    """What the mail server took, as strict as servers are. `refuse` is its answer in place of taking a mail with more
    than `most` bytes."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.refuse: str | None = None
        self.most = 0
        self.open = threading.Event()
        self.open.set()

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        assert isinstance(envelope.content, bytes)
        if self.refuse is not None and len(envelope.content) > self.most:
            return self.refuse
        head = envelope.content.partition(b"\r\n\r\n")[0]
        if not head.isascii() or any(len(line) > 998 for line in envelope.content.split(b"\r\n")):
            return "550 5.6.0 a line is too long, or a header is not ASCII (RFC 5322)"
        self.open.wait(PATIENCE)  # the whole server stands still, in its own thread
        self.mails.append(BytesParser(EmailMessage, policy=default).parsebytes(envelope.content))
        return "250 OK"


class MailServer(Controller):
    """A real SMTP server on a free port."""

    def __init__(self, box: Mailbox) -> None:
        super().__init__(
            box,
            hostname="127.0.0.1",
            port=free_port(),
            auth_require_tls=False,
            authenticator=lambda server, session, envelope, mechanism, data: AuthResult(
                success=isinstance(data, LoginPassword) and data.password == SECRET.encode()
            ),
        )


@pytest.fixture
def box() -> Mailbox:
    return Mailbox()


@pytest.fixture
def mail(box: Mailbox) -> Iterator[str]:
    """The mailbox as an Apprise URL."""
    server = MailServer(box)
    server.start()
    yield f"mailto://boats:{SECRET}@127.0.0.1:{server.port}?from=boats@example.com&to=me@example.com&mode=insecure"
    server.stop()


def handler_of(url: str, **options: Any) -> ChatHandler:
    return ChatHandler(read_options(ChatOptions, {"url": url} | options))


def body_of(mail: EmailMessage) -> str:
    part = mail.get_body(("html", "plain"))
    assert part is not None
    return str(part.get_content())


async def test_a_result_is_a_mail_with_the_picture(box: Mailbox, mail: str, tmp_path: Path) -> None:
    """A real SMTP server takes it: subject, prompt, labels, and the file to its last byte under a readable name."""
    handler = handler_of(mail)
    attempt = make_attempt(tmp_path, pictures=2)
    await handler.deliver(attempt)
    (got,) = box.mails
    attached = list(got.iter_attachments())
    assert got["subject"] == f"Ready: {attempt.event.prompt}"
    assert attempt.event.prompt in body_of(got)
    assert "order: 17" in body_of(got)
    assert [part.get_content() for part in attached] == [item.path.read_bytes() for item in attempt.media]
    assert [str(part.get_filename())[-6:] for part in attached] == ["_1.png", "_2.png"]
    assert attached[0].get_content_type() == "image/png"
    await handler.aclose()


async def test_a_failure_says_why_and_what_to_change(box: Mailbox, mail: str, tmp_path: Path) -> None:
    """Progress is not posted: a mail cannot be edited."""
    handler = handler_of(mail)
    assert await handler.deliver(make_attempt(tmp_path, "task.progressed")) == Receipt()
    await handler.deliver(make_attempt(tmp_path, "task.failed"))
    (got,) = box.mails
    assert "--nonsense" in body_of(got)
    assert "Correct what begins with --" in body_of(got)
    await handler.aclose()


async def test_words_of_others_mark_up_nothing_and_add_no_header(box: Mailbox, mail: str, tmp_path: Path) -> None:
    """HTML in a prompt is text, a line end in it ends no header, and an @ calls nobody."""
    handler = handler_of(mail)
    attempt = make_attempt(tmp_path)
    bad = "<b>bold</b> <script>x</script>\r\nBcc: all@example.com\r\n\r\n@everyone"
    await handler.deliver(dataclasses.replace(attempt, event=msgspec.structs.replace(attempt.event, prompt=bad)))
    (got,) = box.mails
    assert got["bcc"] is None
    assert "<script>" not in body_of(got)
    assert "<b>" not in body_of(got)
    assert harmless("@everyone <!channel>") == "@\u200beveryone <\u200b!channel>"
    await handler.aclose()


def said(attempt: Attempt, prompt: str) -> Attempt:
    return dataclasses.replace(attempt, event=msgspec.structs.replace(attempt.event, prompt=prompt))


@pytest.mark.parametrize("word", ["猫", "ねこ", "แมว", "🐈", "é", "x" * 60, "=?utf-8?q?=42?= "])
async def test_a_subject_in_any_script_reaches_a_strict_server(
    box: Mailbox, mail: str, tmp_path: Path, word: str
) -> None:
    """110 characters and more of it. The words arrive as they are, cut at 120 characters."""
    handler = handler_of(mail)
    prompt = (word * 120)[:110].strip()
    await handler.deliver(said(make_attempt(tmp_path), prompt))
    (got,) = box.mails
    assert got["subject"] == f"Ready: {prompt}"
    await handler.deliver(said(make_attempt(tmp_path), word * 500))
    assert str(box.mails[1]["subject"]).startswith(f"Ready: {word}")
    assert str(box.mails[1]["subject"]).endswith("…")
    await handler.aclose()


@pytest.mark.parametrize("text", ["猫" * 500, "🐈" * 500, "a\r\nBcc: x@example.com", "\u202eabc\x00", "é" * 90, "boat"])
def test_a_subject_is_short_words_in_ascii(text: str) -> None:
    """Each encoded word has 75 characters at most (RFC 2047)."""
    for most in (250, 900):
        encoded = subject(text, most)
        assert encoded.isascii()
        assert encoded.isprintable()
        assert len(encoded) <= most
        assert all(len(word) <= 75 for word in encoded.split())


async def test_a_mail_server_that_takes_less_gets_a_smaller_picture(box: Mailbox, mail: str, tmp_path: Path) -> None:
    """Then none, and the words say so with the server's own reason, whatever the log level."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # as a program around us may set it
    handler = handler_of(mail)
    box.refuse, box.most = "552 5.3.4 message is larger than boats may be", 2_000_000
    attempt = make_attempt(tmp_path)
    path = tmp_path / "noise.png"
    Image.effect_noise((900, 900), 90).convert("RGB").save(path)
    media = msgspec.structs.replace(attempt.media[0].media, size=path.stat().st_size)
    attempt = dataclasses.replace(attempt, deadline=60.0, media=(StoredMedia(media=media, path=path),))
    await handler.deliver(attempt)
    box.most = 20_000
    await handler.deliver(attempt)
    smaller, without = box.mails
    (picture,) = smaller.iter_attachments()
    assert picture.get_content_type() == "image/jpeg"
    assert "smaller or missing here" in body_of(smaller)
    assert list(without.iter_attachments()) == []
    assert "did not take the picture, so the post is without it." in body_of(without)
    assert "larger than boats may be" in body_of(without)
    await handler.aclose()


async def test_without_attachments_where_asked(box: Mailbox, mail: str, tmp_path: Path) -> None:
    """`attach = false`."""
    handler = handler_of(mail, attach=False)
    await handler.deliver(make_attempt(tmp_path))
    assert list(box.mails[0].iter_attachments()) == []
    await handler.aclose()


async def test_a_refusal_is_a_failure_with_apprises_warnings(box: Mailbox, mail: str, tmp_path: Path) -> None:
    """A bool is all Apprise returns; its warnings become the attempt's detail, without the password."""
    handler = handler_of(mail)
    box.refuse = f"554 no boats here, {SECRET}"
    with pytest.raises(ConnectionError, match=r"E-Mail could not be reached by Apprise\. .*email") as caught:
        await handler.deliver(make_attempt(tmp_path))
    assert SECRET not in str(caught.value)
    assert "no boats here" in str(caught.value)
    await handler.aclose()


@pytest.mark.parametrize("wrong", ["wrong-password-of-boats"])
async def test_a_wrong_password_is_a_failure_that_does_not_show_it(mail: str, tmp_path: Path, wrong: str) -> None:
    """The server's own answer to it."""
    handler = handler_of(mail.replace(SECRET, wrong))
    with pytest.raises(ConnectionError) as caught:
        await handler.deliver(make_attempt(tmp_path))
    assert wrong not in str(caught.value)
    await handler.aclose()


async def test_nobody_there_is_a_failure(tmp_path: Path) -> None:
    """A port where nothing listens."""
    place = f"boats:{SECRET}@127.0.0.1:{free_port()}"
    handler = handler_of(f"mailto://{place}?from=boats@example.com&to=me@example.com&mode=insecure")
    with pytest.raises(ConnectionError, match="Connection error"):
        await handler.deliver(make_attempt(tmp_path))
    await handler.aclose()


async def test_the_server_of_a_wrong_address_is_named_whole(tmp_path: Path) -> None:
    """Also where the domain of a recipient is a part of it."""
    handler = handler_of(f"mailto://boats:{SECRET}@smtp.boats.invalid?to=me@boats.invalid&mode=insecure")
    with pytest.raises(ConnectionError, match=r'"smtp\.boats\.invalid"') as caught:
        await handler.deliver(make_attempt(tmp_path))
    assert SECRET not in str(caught.value)
    await handler.aclose()


async def test_a_slow_server_is_left_before_the_deadline(box: Mailbox, mail: str, tmp_path: Path) -> None:
    """Apprise is told how long it may take, so that its reason is there before the attempt is ended from outside."""
    handler = handler_of(mail)
    box.open.clear()
    try:
        with pytest.raises(ConnectionError):
            await handler.deliver(dataclasses.replace(make_attempt(tmp_path), deadline=1.5))
    finally:
        box.open.set()
    await handler.aclose()


async def test_without_its_picture_a_result_says_why(box: Mailbox, mail: str, tmp_path: Path) -> None:
    """The mail says so, and goes out."""
    handler = handler_of(mail)
    await handler.deliver(make_attempt(tmp_path, media=(), media_problem="404 from the host"))
    assert "404 from the host" in body_of(box.mails[0])
    await handler.aclose()


async def test_a_result_reaches_a_real_matrix_room(tmp_path: Path) -> None:
    """Synapse itself takes the words, and the picture to its last byte."""
    attempt = make_attempt(tmp_path, deadline=PATIENCE)
    with homeserver(tmp_path) as matrix:
        handler = handler_of(matrix.place)
        await handler.deliver(attempt)
        sent = matrix.messages()
        (picture,) = [content for content in sent if content["msgtype"] == "m.image"]
        data = matrix.file(picture["url"])
    assert any(attempt.event.prompt in content["body"] for content in sent)
    assert data == attempt.media[0].path.read_bytes()
    await handler.aclose()


@dataclasses.dataclass
class Wall:
    """A place that Apprise posts to by HTTP. `answers` are given in turn; without one, it takes the post. Files are
    taken only after `slow`."""

    url: str = ""
    answers: list[Response] = dataclasses.field(default_factory=list)
    posts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    slow: asyncio.Event | None = None

    async def take(self, request: Request) -> Response:
        found = json.loads(await request.body())
        if self.slow is not None and found["attachments"]:
            await self.slow.wait()
        if self.answers:
            return self.answers.pop(0)
        self.posts.append(found)
        return Response()


@asynccontextmanager
async def wall() -> AsyncIterator[Wall]:
    it = Wall()
    with bind("127.0.0.1", 0) as listener:
        it.url = address(listener)
        async with served(Starlette(routes=[Route("/{path:path}", it.take, methods=["POST"])]), listener):
            yield it


async def test_a_refused_picture_does_not_silence_the_words(tmp_path: Path) -> None:
    """Also a proxy's answer, and one that is cut off."""
    async with wall() as place:
        handler = handler_of(place.url.replace("http://", "json://"))
        place.answers = [HTMLResponse("<html>413 Request Entity Too Large</html>", status_code=413)]
        await handler.deliver(make_attempt(tmp_path))
        await handler.aclose()
    (post,) = place.posts
    assert post["attachments"] == []
    assert "JSON did not take the picture" in post["message"]
    assert "413" in post["message"]


async def test_files_that_are_too_slow_do_not_silence_the_words(tmp_path: Path) -> None:
    """A place that never ends with them: after two attempts, the words go out alone."""
    async with wall() as place:
        handler = handler_of(place.url.replace("http://", "json://"))
        attempt = dataclasses.replace(make_attempt(tmp_path), deadline=5.0)
        place.slow = asyncio.Event()
        for _ in range(2):
            with pytest.raises(ConnectionError, match="did not finish within"):
                await handler.deliver(attempt)
        await handler.deliver(dataclasses.replace(attempt, deadline=30.0))
        place.slow.set()
        await handler.aclose()
    assert [post["attachments"] for post in place.posts if not post["attachments"]] == [[]]
    assert "JSON did not take the picture, so the post is without it. It took too long." in place.posts[0]["message"]


async def test_a_place_without_attachments_says_so(tmp_path: Path) -> None:
    """Apprise itself would leave them out in silence."""
    async with wall() as place:
        handler = handler_of(f"{place.url.replace('http://', 'gotify://')}/tokentoken")
        await handler.deliver(make_attempt(tmp_path))
        await handler.aclose()
    assert "Gotify takes no files, so the post is without the picture." in place.posts[0]["message"]


@pytest.mark.parametrize(
    ("scheme", "rest"),
    [("mmost", "/" + "a" * 24), ("json", "/?format=markdown"), ("json", "/?format=html"), ("json", "")],
)
async def test_markup_of_others_is_text_where_apprise_renders_it(tmp_path: Path, scheme: str, rest: str) -> None:
    """Markdown is escaped where the service renders it, also where Apprise calls that plain text. Titles hold none."""
    bad = "**bold** [click](https://evil.example) <b>x</b> `code` # head"
    async with wall() as place:
        handler = handler_of(f"{scheme}://{place.url.removeprefix('http://')}{rest}")
        await handler.deliver(said(make_attempt(tmp_path, media=()), bad))
        await handler.aclose()
    (post,) = place.posts
    text = post.get("text") or post["message"]
    assert "bold" in text
    assert post.get("title", "Ready") == "Ready"
    if "html" in rest:
        assert not re.search(r"<(?!br ?/>)", text)
    elif rest:
        assert not re.search(r"(?<!\\)(\*|\[|`|#)", text)


@pytest.mark.parametrize(("prompt", "least"), [("*" * 9000, 1900), ("boat " * 2000, 3900)])
async def test_a_text_above_the_limit_of_a_service_is_cut(tmp_path: Path, prompt: str, least: int) -> None:
    """Mattermost takes 4000 characters. Escaping doubles a text at most, and is counted."""
    async with wall() as place:
        handler = handler_of(f"mmost://{place.url.removeprefix('http://')}/{'a' * 24}")
        await handler.deliver(said(make_attempt(tmp_path, media=()), prompt))
        await handler.aclose()
    assert least < len(place.posts[0]["text"]) <= 4000


async def test_an_answer_of_a_place_is_read_and_unpacked_under_a_cap(tmp_path: Path) -> None:
    """Apprise would read all of it into memory."""
    packed = gzip.compress(bytes(200 * 2**20), 1)
    async with wall() as place:
        handler = handler_of(place.url.replace("http://", "json://"))
        await handler.deliver(make_attempt(tmp_path, media=()))
        place.answers = [Response(packed, headers={"Content-Encoding": "gzip"})]
        tracemalloc.start()
        try:
            await handler.deliver(make_attempt(tmp_path, media=()))
            assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
        finally:
            tracemalloc.stop()
        await handler.aclose()


class Watched(ChatHandler):
    """Knows which of its threads are at work: one whose attempt was cancelled goes on."""

    working: ClassVar[set[int]] = set()

    def _notify(self, *arguments: Any) -> Outcome:
        self.working.add(threading.get_ident())
        try:
            return super()._notify(*arguments)
        finally:
            self.working.discard(threading.get_ident())


async def test_the_contract_holds() -> None:
    """At least once: each attempt makes at most one post, whatever happens in between. The place is a local one that
    Apprise posts JSON to, because a mail server takes longer than the check gives a cancelled attempt."""
    posts: list[int] = []

    async def take(request: Request) -> Response:
        await request.body()
        posts.append(len(posts))
        return Response()

    async def effects() -> Iterable[Hashable]:
        while Watched.working:  # noqa: ASYNC110 - threads of a cancelled attempt, which tell nobody
            await asyncio.sleep(0.005)
        return list(posts)

    with bind("127.0.0.1", 0) as listener:
        place = address(listener).replace("http://", "json://")
        async with served(Starlette(routes=[Route("/", take, methods=["POST"])]), listener):
            await check_handler(Watched, {"url": place}, effects=effects)


def test_wrong_options_stop_the_start() -> None:
    """What Apprise does not understand is refused, and not shown."""
    with pytest.raises(SettingsError, match="none that Apprise understands") as caught:
        build(Destination(name="mail", handler="chat", options={"url": "nope://boats:s3cret@example.com"}))
    assert "s3cret" not in str(caught.value)


def test_a_url_is_enough(tmp_path: Path) -> None:
    """By its own scheme, or after `chat:`."""
    to = "mailto://me:secret@example.com chat:ntfy://boats"
    for destination in load({"RECEIVER_TO": to}, tmp_path).resolved_destinations():
        assert isinstance(build(destination), ChatHandler)
