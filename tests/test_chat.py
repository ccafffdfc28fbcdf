"""The chat handler, which is Apprise, against a real mail server and a real Matrix server."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Hashable, Iterable, Iterator
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
from ports import free_port
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.cli.servers import address, bind
from receiver.deliveries import Receipt
from receiver.errors import SettingsError
from receiver.handlers.base import Attempt, RetryLater
from receiver.handlers.chat import ChatHandler, ChatOptions, harmless
from receiver.handlers.registry import build
from receiver.settings import Destination, load
from receiver.testing import check_handler, make_attempt

SECRET = "hunter22-of-boats"


class Mailbox:
    """What the mail server took; `refuse` is its answer in place of taking it."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.refuse: str | None = None
        self.slow = 0.0

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        if self.refuse is not None:
            return self.refuse
        time.sleep(self.slow)  # noqa: ASYNC251 - the whole server stands still, in its own thread
        assert isinstance(envelope.content, bytes)
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
    return ChatHandler(ChatOptions.model_validate({"url": url} | options))


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


async def test_a_slow_server_is_left_before_the_deadline(box: Mailbox, mail: str, tmp_path: Path) -> None:
    """Apprise is told how long it may take, so that its reason is there before the attempt is ended from outside."""
    handler = handler_of(mail)
    box.slow = 3.0
    before = time.monotonic()
    with pytest.raises(ConnectionError):
        await handler.deliver(dataclasses.replace(make_attempt(tmp_path), deadline=2.5))
    assert time.monotonic() - before < 2.5
    await handler.aclose()


async def test_without_its_picture_a_result_says_why(box: Mailbox, mail: str, tmp_path: Path) -> None:
    """Still downloading: later. Gone: the mail says so, and goes out."""
    handler = handler_of(mail)
    with pytest.raises(RetryLater):
        await handler.deliver(make_attempt(tmp_path, media=(), media_problem="not yet", media_pending=True))
    await handler.deliver(make_attempt(tmp_path, media=(), media_problem="404 from the host"))
    assert "404 from the host" in body_of(box.mails[0])
    await handler.aclose()


async def test_a_result_reaches_a_real_matrix_room(tmp_path: Path) -> None:
    """Synapse itself takes the words, and the picture to its last byte."""
    attempt = make_attempt(tmp_path)
    with homeserver(tmp_path) as matrix:
        handler = handler_of(matrix.place)
        await handler.deliver(attempt)
        sent = matrix.messages()
        (picture,) = [content for content in sent if content["msgtype"] == "m.image"]
        data = matrix.file(picture["url"])
    assert any(attempt.event.prompt in content["body"] for content in sent)
    assert data == attempt.media[0].path.read_bytes()
    await handler.aclose()


class Watched(ChatHandler):
    """Knows which of its threads are at work: one whose attempt was cancelled goes on."""

    working: ClassVar[set[int]] = set()

    def _notify(self, attempt: Attempt) -> tuple[bool, str]:
        self.working.add(threading.get_ident())
        try:
            return super()._notify(attempt)
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
