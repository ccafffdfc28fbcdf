"""Answers of others by HTTP: read and unpacked under a cap, and told from those of a proxy in front."""

from __future__ import annotations

import asyncio
import errno
import gzip
import socket
import ssl
import tracemalloc
import zlib
from pathlib import Path

import httpx
import pytest
import trustme

from receiver.bodies import Body, certificates
from receiver.clock import Clock
from receiver.errors import ProviderError, SettingsError
from receiver.handlers.answers import Service, by_proxy, call, chat_client, json_object, read
from receiver.provider import Provider


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "x-gzip", " GZIP ", "deflate"])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_body_is_unpacked(encoding: str, size: int) -> None:
    """Whatever the pieces it comes in."""
    packed = b"boat"
    if "zip" in encoding.lower():
        packed = gzip.compress(packed)
    elif encoding == "deflate":
        packed = zlib.compress(packed)
    body = Body(encoding, 100)
    for at in range(0, len(packed), size):
        body.add(packed[at : at + size])
    assert (bytes(body.data), body.readable) == (b"boat", True)


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate"])
def test_no_more_is_kept_than_the_limit(encoding: str) -> None:
    """A chunk of 100 MB when unpacked takes no more memory than the limit."""
    content = bytes(100 * 2**20) if encoding else bytes(2**20)
    packed = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress}[encoding](content)
    body = Body(encoding, 1000)
    tracemalloc.start()
    try:
        assert not body.add(packed)
        assert not body.add(packed)
        assert len(body.data) == 1000
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("encoding", "packed"), [("br", b"x"), ("zstd", b"x"), ("gzip", b"no gzip at all"), ("gzip, gzip", b"x")]
)
def test_what_cannot_be_unpacked_is_not_read(encoding: str, packed: bytes) -> None:
    """Only the two encodings of the standard library are."""
    body = Body(encoding, 100)
    assert not body.add(packed)
    assert (bytes(body.data), body.readable) == (b"", False)


async def test_a_chats_answer_is_read_and_unpacked_under_a_cap() -> None:
    """A request asks for no compression. One that comes all the same is unpacked as far as the cap."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["accept-encoding"])
        packed = gzip.compress(b'{"ok": true, "more": "' + bytes(50 * 2**20))
        return httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(packed))

    headers = {"Accept-Encoding": "identity"}
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), headers=headers) as client:
        found = await call(client, "Slack", "GET", "https://slack.example")
        async with client.stream("GET", "https://slack.example") as response:
            assert len(await read(response, 100)) == 100
    assert len(found.body) == 4 * 2**20
    assert found.object is None
    assert asked == ["identity", "identity"]


OWN = b'{"message": "Unknown Webhook", "code": 10015}'


@pytest.mark.parametrize(
    ("service", "body", "proxy"),
    [
        ("discord", OWN, False),
        ("discord", b"\xef\xbb\xbf" + OWN, False),
        ("discord", b'{"message": "404: Not Found", "code": 0}', False),
        ("discord", b"<html>404</html>", True),
        ("discord", b"error code: 1010", True),
        ("discord", b"", True),
        ("discord", b"[]", True),
        ("discord", b"[" * 100_000, True),
        ("discord", b'{"error": "forbidden"}', True),
        ("slack", b'{"ok": false, "error": "invalid_auth"}', False),
        ("slack", b'{"error": "invalid_auth"}', True),
        ("slack", b"  <!DOCTYPE html>", True),
        ("slack webhook", b"no_service", False),
        ("slack webhook", b"no_service\n", False),
        ("slack webhook", b"404 page not found", True),
        ("slack webhook", b"<html>", True),
        ("slack webhook", b"", True),
        ("any", b"", False),
        ("any", b"gone", False),
        ("any", b'{"error": "gone"}', False),
        ("any", b"\xef\xbb\xbf\r\n<html>", True),
    ],
)
def test_an_answer_by_a_proxy_is_no_word_of_the_service(service: Service, body: bytes, proxy: bool) -> None:
    """A service speaks in its own form only. Of a server of any form, only a page of HTML is doubted."""
    assert by_proxy(service, body) is proxy


def test_json_has_an_object() -> None:
    """Anything else is none."""
    assert json_object(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert [json_object(body) for body in (b"", b"[]", b"{", b"\xff", b"[" * 100_000)] == [None] * 5


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.1', 443)"), "Connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (ssl.SSLError(1, "no shared cipher"), "TLS failed"),
    ],
)
async def test_a_chat_that_is_not_reached(cause: OSError, reason: str) -> None:
    """The error has the system's reason, also that of a resolver, without the URL, which is a webhook's secret."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"All connection attempts failed: {request.url}") from cause

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(ConnectionError, match=rf"^Slack could not be reached: {reason}\.$"):
            await call(client, "Slack", "POST", "https://hooks.test/s3cret")


NOT_REACHED = {
    "untrusted": ("https", "", "its certificate is not trusted"),
    "no TLS": ("https", "220 mail.example ESMTP\r\n", "it does not speak TLS, so the address may begin with http://"),
    "no HTTP": ("http", "220 mail.example ESMTP\r\nHello\r\n\r\n", "its answer is no valid HTTP"),
    "cut off": ("http", "HTTP/1.1 200 OK\r\nContent-Le", "it closed the connection early"),
    "cut short": ("http", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", "it closed the connection early"),
}


@pytest.mark.parametrize("name", NOT_REACHED)
async def test_every_client_says_in_words_why_nothing_came(name: str) -> None:
    """A certificate, the wrong scheme, another protocol, half an answer: never the name of a class or a library's own
    text, for the provider and for chats alike."""
    scheme, answer, reason = NOT_REACHED[name]
    context = None
    if name == "untrusted":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0, ssl=context)
    url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    provider = Provider(base_url=url, key="sk-1", clock=Clock())
    try:
        async with chat_client() as client:
            with pytest.raises(ConnectionError) as chat:
                await call(client, "Slack", "POST", f"{url}/s3cret")
        with pytest.raises(ProviderError) as asked:
            await provider.fetch("1")
    finally:
        await provider.aclose()
        server.close()
    assert str(chat.value).startswith(f"Slack could not be reached: {reason}")
    assert f"({reason}" in str(asked.value)
    for error in (chat.value, asked.value):
        assert not any(word in str(error) for word in ("Error", "SSL:", "_ssl", "bytearray", "s3cret"))


def test_certificates_of_the_environment_are_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A company's own authority, or none that can be read: then a sentence names the variable and the file."""
    file = tmp_path / "company.pem"
    trustme.CA().cert_pem.write_to_path(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert len(certificates.__wrapped__().get_ca_certs()) == 1
    for content in (None, "no certificate"):
        file.unlink()
        if content is not None:
            file.write_text(content)
        with pytest.raises(SettingsError, match=rf"^SSL_CERT_FILE, .* certificates in {file} cannot be read \("):
            certificates.__wrapped__()
        file.touch()
