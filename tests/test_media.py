"""The media store, and the one fetcher that follows links from payloads; against real servers on 127.0.0.1."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import ipaddress
import os
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpcore
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from proxies import ConnectProxy, connect_proxy

from receiver.errors import MediaError, SettingsError
from receiver.media import Fetcher, MediaStore, is_public, sniff
from receiver.media.links import Resolve, resolve

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
MP4 = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(600)
CAP = 1_000_000
TLS = httpcore.default_ssl_context()
"""What a fetcher uses by itself; made once, because it takes 20 ms."""


# --- kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (PNG, ("image/png", ".png")),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", ("image/jpeg", ".jpg")),
        (b"GIF89a\x01\x00", ("image/gif", ".gif")),
        (b"GIF87a\x01\x00", ("image/gif", ".gif")),
        (b"RIFF\n\x00\x00\x00WEBPVP8 ", ("image/webp", ".webp")),
        (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf", ("image/avif", ".avif")),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf", ("image/avif", ".avif")),
        (MP4, ("video/mp4", ".mp4")),
        (b"\x00\x00\x00\x18ftypM4V \x00\x00\x00\x01isomM4V ", ("video/mp4", ".mp4")),
        (b"\x00\x00\x00\x14ftypqt  \x00\x00\x02\x00qt  ", ("video/quicktime", ".mov")),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", ("video/webm", ".webm")),
    ],
)
def test_pictures_and_videos_are_known_by_their_first_bytes(head: bytes, kind: tuple[str, str]) -> None:
    """Every kind the provider's hosts serve is recognised."""
    assert sniff(head) == kind


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"<!DOCTYPE html><img src=x.png>",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
        b'{"error": "not found"}',
        b"\x89PNG",
        b" \x89PNG\r\n\x1a\n",
        b"RIFF\n\x00\x00\x00WAVEfmt ",
        b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
        b"\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00M4A mp4",
        b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x88matroska",
        b"%PDF-1.7",
        b"\x1f\x8b\x08",
        b"BM\x00\x00",
    ],
)
def test_everything_else_is_no_picture(head: bytes) -> None:
    """Markup, text, other containers and cut-off signatures are refused, whatever their name says."""
    assert sniff(head) is None


@given(st.binary(max_size=600))
def test_sniffing_never_fails(head: bytes) -> None:
    """Any bytes give a kind or None."""
    sniff(head)
    sniff(b"\x00\x00\x00\xffftyp" + head)


# --- addresses -------------------------------------------------------------------------------------------------------


def table(text: str) -> list[str]:
    return text.split()


REFUSED = table(
    "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.255 "
    "168.63.129.16 169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 "
    "192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.1 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1 "
    "203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 "
    ":: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:7f00:1 64:ff9b::7f00:1 64:ff9b::808:808 "
    "64:ff9b:1::1 100::1 2001::1 2001:0:7f00:1:: 2001:10::1 2001:20::1 2001:2::1 2001:db8::1 2002:7f00:1:: "
    "2002:808:808:: 2620:4f:8000::1 3ffe::1 3fff::1 2606:4700::5efe:a00:1 2606:4700::200:5efe:a00:1 4000::1 5f00::1 "
    "fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 2606:4700::1%eth0 fec0::1 ff00::1 ff02::1 ff0e::1"
)
PASSED = table(
    "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 162.159.135.232 172.15.255.255 "
    "172.32.0.0 192.0.1.1 198.17.255.255 198.20.0.0 223.255.255.255 2001:200::1 2001:4860:4860::8888 2003::1 "
    "2606:4700:4700::1111 2a00:1450:4001::1"
)


@pytest.mark.parametrize("address", [*REFUSED, "", "localhost", "127.1", "0x7f000001", "2130706433", "1.1.1.1:80"])
def test_what_is_not_public_is_refused(address: str) -> None:
    """Private, special-purpose, tunnelling and unassigned addresses are not public, nor is what is no address."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PASSED)
def test_public_addresses_pass(address: str) -> None:
    """Ordinary addresses pass, right up to the edges of the refused networks."""
    assert is_public(address)


@given(st.ip_addresses())
def test_public_is_stricter_than_the_standard_library(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Nothing passes that Python itself calls not global, or multicast, or reserved."""
    if is_public(str(address)):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


def test_the_tables_are_long_enough() -> None:
    """At least 40 refused and 8 passed, so that nobody thins them out unseen."""
    assert len(set(REFUSED)) >= 40
    assert len(set(PASSED)) >= 8


# --- the store -------------------------------------------------------------------------------------------------------


def files_in(folder: Path) -> list[str]:
    """Every file below `folder`, temporary ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def chunks_of(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.fixture
def store(tmp_path: Path) -> MediaStore:
    return MediaStore(tmp_path / "a" / "media")


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
async def test_a_file_is_kept_under_its_digest(store: MediaStore, size: int) -> None:
    """Digest, size, type and place are right however the content is cut into chunks."""
    media = await store.put(chunks_of(PNG, size), url="https://x.test/a.jpg", index=2, max_bytes=CAP)
    digest = hashlib.sha256(PNG).hexdigest()
    assert (media.digest, media.size, media.type, media.index) == (digest, len(PNG), "image/png", 2)
    assert media.url == "https://x.test/a.jpg"
    assert store.path(media) == store.folder / digest[:2] / f"{digest}.png"
    assert store.path(media).read_bytes() == PNG
    assert await store.read(digest) == PNG
    assert files_in(store.folder) == [f"{digest[:2]}/{digest}.png"]


async def test_the_same_content_twice_is_one_file(store: MediaStore) -> None:
    """Twenty at once give one file, and a damaged copy is healed by the next."""
    kept = await asyncio.gather(*(store.put_bytes(PNG, url="") for _ in range(20)))
    assert len(set(kept)) == 1
    assert len(files_in(store.folder)) == 1
    store.path(kept[0]).write_bytes(b"damaged")
    await store.put_bytes(PNG, url="")
    assert await store.read(kept[0].digest) == PNG


async def test_large_files_are_written_in_blocks(store: MediaStore) -> None:
    """Several blocks arrive whole and in order."""
    data = PNG + os.urandom(3_000_000)
    media = await store.put(chunks_of(data, 65_536), url="", index=0, max_bytes=len(data))
    assert await store.read(media.digest) == data


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (b"", "empty"),
        (b"  <!doctype HTML><p>expired", "HTML"),
        (b"\xef\xbb\xbf<html>", "HTML"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (b'{"code": 4}', "JSON"),
        (b"[]", "JSON"),
        (gzip.compress(PNG), "gzip"),
        (b"This content is no longer available.", "plain text"),
        (b"\x00\x01\x02", "an unknown format"),
    ],
)
async def test_what_is_no_picture_is_not_kept(store: MediaStore, data: bytes, looks: str) -> None:
    """The error says what it is instead, may be asked again, and nothing remains."""
    with pytest.raises(MediaError, match=f"but {looks}") as caught:
        await store.put(chunks_of(data), url="https://x.test/a.png?sig=secret", index=0, max_bytes=CAP)
    assert not caught.value.permanent
    assert "x.test/a.png" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert files_in(store.folder.parent) == []


async def test_a_file_over_the_cap_is_not_kept(store: MediaStore) -> None:
    """One byte too many ends it, however much has been written; the cap itself is allowed."""
    data = PNG + bytes(600_000)
    with pytest.raises(MediaError, match="larger than the limit") as caught:
        await store.put(chunks_of(data), url="", index=0, max_bytes=len(data) - 1)
    assert caught.value.permanent
    assert files_in(store.folder) == []
    await store.put(chunks_of(data), url="", index=0, max_bytes=len(data))


async def test_an_error_in_the_stream_leaves_nothing(store: MediaStore) -> None:
    """The sender's error comes through as it is."""

    async def broken() -> AsyncIterator[bytes]:
        yield PNG + bytes(600_000)
        raise ConnectionResetError("cut off")

    with pytest.raises(ConnectionResetError):
        await store.put(broken(), url="", index=0, max_bytes=CAP)
    assert files_in(store.folder) == []


@pytest.mark.parametrize("moment", range(0, 30, 3))
async def test_a_cancellation_leaves_nothing_half_written(store: MediaStore, moment: int) -> None:
    """Whenever it comes: either the whole file is there, or nothing."""

    async def slowly() -> AsyncIterator[bytes]:
        for at in range(0, len(PNG) * 100, 100_000):
            yield (PNG * 100)[at : at + 100_000]
            await asyncio.sleep(0)

    put = asyncio.ensure_future(store.put(slowly(), url="", index=0, max_bytes=10**8))
    await asyncio.sleep(moment / 1000)
    put.cancel()
    await asyncio.wait([put])
    assert files_in(store.folder) in ([], _whole(PNG * 100))


def _whole(data: bytes) -> list[str]:
    digest = hashlib.sha256(data).hexdigest()
    return [f"{digest[:2]}/{digest}.png"]


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A path under a plain file: every call says which folder, why, and what to do."""
    (tmp_path / "file").write_text("")
    store = MediaStore(tmp_path / "file" / "media")
    for call in (store.check(), store.put_bytes(PNG, url=""), store.read("0" * 64)):
        with pytest.raises(
            MediaError, match=r"media folder /.*/file/media cannot be used \(.+\)\. Free space"
        ) as caught:
            await call
        assert not caught.value.permanent


async def test_check_makes_the_folder_and_clears_old_leftovers(store: MediaStore) -> None:
    """What a killed process left a day ago goes; what may still be coming in stays."""
    await store.check()
    assert files_in(store.folder) == []
    old, young = store.folder / ".old.part", store.folder / ".young.part"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (time.time() - 100_000,) * 2)
    await store.check()
    assert files_in(store.folder) == [".young.part"]


@pytest.mark.parametrize("digest", ["", "0" * 64, "../../etc/passwd", "0" * 63 + "\n"])
async def test_reading_what_is_not_there(store: MediaStore, digest: str) -> None:
    """No such digest, or none at all: an error, and never a path from outside."""
    with pytest.raises(MediaError, match="is not in the media folder"):
        await store.read(digest)


async def test_a_damaged_file_is_not_read(store: MediaStore) -> None:
    """The content must still have its digest."""
    media = await store.put_bytes(PNG, url="")
    store.path(media).write_bytes(PNG[:-1])
    with pytest.raises(MediaError, match="damaged"):
        await store.read(media.digest)


async def test_what_is_gone_is_not_a_folder_that_is_not_there(store: MediaStore) -> None:
    """A file missing among others is gone for good; an empty folder is rather a volume that is not mounted."""
    media, other = await store.put_bytes(PNG, url=""), await store.put_bytes(MP4, url="")
    assert await store.local(media) == store.path(media)
    async with store.holding([media, other]) as paths:
        assert [path.read_bytes() for path in paths] == [PNG, MP4]
    store.path(media).unlink()
    with pytest.raises(MediaError, match=r"The archived file .* is gone") as caught:
        await store.local(media)
    assert caught.value.permanent
    shutil.rmtree(store.folder)
    for _ in range(2):
        with pytest.raises(
            MediaError, match=r"The media folder .* is empty\. Mount its volume, or restore it"
        ) as caught:
            await store.local(media)
        assert not caught.value.permanent
        store.folder.mkdir(exist_ok=True)


# --- the fetcher -----------------------------------------------------------------------------------------------------

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes = PNG, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Site:
    """A real server that answers each path with given bytes, or as a function likes; it keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Answer] = {"/ok.png": http()}
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(request)
            answer = self.answers[request.split(b" ")[1].decode().partition("?")[0]]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has closed the connection, as some tests want
        finally:
            writer.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site().running() as site:
        yield site


def resolving(*addresses: str, asked: list[tuple[str, int]] | None = None) -> Resolve:
    """A name service that gives these addresses for every name."""

    async def answer(host: str, port: int) -> Sequence[str]:
        if asked is not None:
            asked.append((host, port))
        return addresses

    return answer


@asynccontextmanager
async def fetching(
    *origins: str,
    hosts: Sequence[str] = (),
    max_bytes: int = CAP,
    seconds: float = 10,
    resolve: Resolve = resolve,
    tls: ssl.SSLContext = TLS,
    proxy: str | None = None,
) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(
        hosts=hosts, origins=origins, max_bytes=max_bytes, timeout=seconds, resolve=resolve, tls=tls,
        proxy_for=lambda url: proxy if url.startswith("https:") else None,
    )  # fmt: skip
    try:
        yield fetcher
    finally:
        await fetcher.aclose()


async def refused(fetcher: Fetcher, url: str, store: MediaStore, text: str, *, permanent: bool) -> None:
    """The fetch ends with this error; nothing is kept, and no signature is told."""
    with pytest.raises(MediaError, match=text) as caught:
        await fetcher.fetch(url, store)
    assert caught.value.permanent is permanent
    assert "secret" not in str(caught.value)
    assert files_in(store.folder.parent) == []


async def test_a_picture_from_a_trusted_origin_is_kept(site: Site, store: MediaStore) -> None:
    """The whole way over real HTTP, asking for plain bytes and sending no credentials."""
    async with fetching(site.origin) as fetcher:
        media = await fetcher.fetch(f"{site.origin}/ok.png?ex=1&sig=a%2Fb", store)
    assert media.digest == hashlib.sha256(PNG).hexdigest()
    assert media.url == f"{site.origin}/ok.png?ex=1&sig=a%2Fb"
    assert store.path(media).read_bytes() == PNG
    head, *lines = site.requests[0].decode().split("\r\n")
    assert head == "GET /ok.png?ex=1&sig=a%2Fb HTTP/1.1"
    assert f"Host: 127.0.0.1:{site.port}" in lines
    assert "Accept-Encoding: identity" in lines
    assert "User-Agent: imagine-receiver" in lines
    assert not [line for line in lines if line.lower().startswith(("cookie", "authorization"))]


async def test_names_beyond_ascii_are_encoded(site: Site, store: MediaStore) -> None:
    """Spaces and other scripts in a path are percent-encoded; what is encoded already stays."""
    site.answers["/%E7%BA%B8%20boat%20a.png"] = http()
    async with fetching(site.origin) as fetcher:
        await fetcher.fetch(f"{site.origin}/纸 boat%20a.png#part", store)


async def test_a_chunked_body_without_a_length_is_kept(site: Site, store: MediaStore) -> None:
    """As relays send it (PROTOCOL.md §9)."""
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(MP4), MP4)
    site.answers["/v"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: image/jpeg\r\n\r\n" + body
    async with fetching(site.origin) as fetcher:
        media = await fetcher.fetch(f"{site.origin}/v", store)
    assert (media.type, media.extension) == ("video/mp4", ".mp4")


@pytest.mark.parametrize(
    ("answer", "text", "permanent"),
    [
        (
            http(b"<html>expired</html>", "200 OK", "Content-Type: image/png"),
            "neither picture nor video, but HTML",
            False,
        ),
        (http(b""), "but empty", False),
        (http(b"x", "403 Forbidden"), "answered 403. Provider links expire within a day", False),
        (http(b"x", "404 Not Found"), "answered 404. Provider links expire within a day", False),
        (http(b"x", "410 Gone"), "answered 410. Provider links expire within a day", False),
        (http(b"x", "500 Oops"), "answered 500", False),
        (http(b"x", "429 Slow down"), "answered 429", False),
        (http(PNG, "206 Partial Content"), "answered 206", False),
        (http(gzip.compress(PNG), "200 OK", "Content-Encoding: gzip"), "compressed", False),
        (http(PNG, "200 OK", "content-encoding: identity", "Content-Encoding: br"), "compressed", False),
        (http(PNG, "200 OK", length=CAP + 1), "larger than the limit of 1,000,000 bytes", True),
        (http(PNG, "200 OK", length=10**15), "larger than the limit", True),
        (http(PNG, "200 OK", length=len(PNG) + 1), "broken or cut-off", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + PNG, "broken or cut-off", False),
        (b"HTTP/1.1 200 OK\r\n\r\n" + PNG + bytes(CAP), "larger than the limit", True),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "broken or cut-off", False),
        (b"", "broken or cut-off|cannot be reached", False),
        (http(b"", "302 Found"), "more than 3 redirects|404|redirect", False),
    ],
)
async def test_answers_that_are_no_picture(
    site: Site, store: MediaStore, answer: bytes, text: str, permanent: bool
) -> None:
    """Each says what came instead and whether asking again may help; nothing is kept."""
    site.answers["/x.png"] = answer
    async with fetching(site.origin) as fetcher:
        await refused(fetcher, f"{site.origin}/x.png?sig=secret", store, text, permanent=permanent)


async def test_an_endless_body_ends_at_the_cap(site: Site, store: MediaStore) -> None:
    """A body without end is left soon after the cap, not read on."""
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + PNG)
        while True:
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 100_000

    site.answers["/endless"] = endless
    async with fetching(site.origin) as fetcher:
        await refused(fetcher, f"{site.origin}/endless", store, "larger than the limit", permanent=True)
    assert sent < 50 * CAP


async def test_the_deadline_holds_for_the_whole_fetch(site: Site, store: MediaStore) -> None:
    """A byte now and then does not keep a fetch alive, nor does a server that says nothing."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(http(PNG[:600], "200 OK", length=10_000))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    site.answers |= {"/drip": drip, "/silent": silent}
    async with fetching(site.origin, seconds=0.3) as fetcher:
        for path in ("/drip", "/silent"):
            await refused(
                fetcher,
                f"{site.origin}{path}?sig=secret",
                store,
                "did not answer in full within 0.3 s",
                permanent=False,
            )


async def test_the_deadline_holds_for_the_name_service(store: MediaStore) -> None:
    """A name service that hangs is part of the fetch."""

    async def hanging(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    async with fetching(hosts=["cdn.test"], resolve=hanging, seconds=0.1) as fetcher:
        await refused(fetcher, "https://cdn.test/a.png", store, "did not answer in full", permanent=False)


async def test_cancelling_a_fetch_leaves_nothing(site: Site, store: MediaStore) -> None:
    """A drain in the middle of a download is a plain cancellation."""
    started = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(http(PNG + bytes(500_000), length=900_000))
        await writer.drain()
        started.set()
        await asyncio.sleep(5)

    site.answers["/slow"] = slow
    async with fetching(site.origin) as fetcher:
        fetch = asyncio.ensure_future(fetcher.fetch(f"{site.origin}/slow", store))
        await started.wait()
        await asyncio.sleep(0.05)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
    assert files_in(store.folder.parent) == []


async def test_three_redirects_are_followed_and_no_more(site: Site, store: MediaStore) -> None:
    """Relative and absolute ones; the link kept is the one that was asked for."""
    for step in range(5):
        site.answers[f"/{step}"] = http(b"", "302 Found", f"Location: /{step + 1}")
    site.answers["/5"] = http(b"", "301 Moved", f"LOCATION: {site.origin}/ok.png")
    async with fetching(site.origin) as fetcher:
        assert (await fetcher.fetch(f"{site.origin}/3", store)).url == f"{site.origin}/3"
        shutil.rmtree(store.folder)
        await refused(fetcher, f"{site.origin}/2", store, "more than 3 redirects", permanent=False)
    assert len(site.requests) == 8


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:1/x.png",
        "http://localhost:{port}/ok.png",
        "https://127.0.0.1:{port}/ok.png",
        "//169.254.169.254/latest/meta-data",
        "https://elsewhere.test/?sig=secret",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://user@127.0.0.1:{port}/ok.png",
        "http://[::1",
    ],
)
async def test_a_redirect_must_keep_the_rules(site: Site, store: MediaStore, location: str) -> None:
    """A trusted origin cannot send us to a place that is not allowed by itself."""
    site.answers["/x"] = http(b"", "302 Found", f"Location: {location.format(port=site.port)}")
    async with fetching(site.origin) as fetcher:
        await refused(fetcher, f"{site.origin}/x", store, "is not fetched|cannot be used", permanent=True)
    assert site.connections == 1


LOOPBACK = table(
    "127.0.0.1 127.1 127.0.1 0x7f000001 0x7f.1 0177.0.0.1 017700000001 2130706433 0 0.0.0.0 127.0.0.1. localhost "
    "LOCALHOST localhost. [::1] [0:0:0:0:0:0:0:1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] "
    "[64:ff9b::7f00:1] ①②⑦.⓪.⓪.① 127。0。0。1"
)


@pytest.mark.parametrize("host", LOOPBACK)
async def test_no_spelling_of_loopback_is_connected_to(site: Site, store: MediaStore, host: str) -> None:
    """Even with the host on the list, by mistake or malice: the address the system gives for it is refused."""
    async with fetching(hosts=[host, host.strip("[]").lower()]) as fetcher:
        with pytest.raises(MediaError):
            await fetcher.fetch(f"https://{host}:{site.port}/ok.png", store)
    assert site.connections == 0


async def test_the_loopback_test_would_notice_a_connection(site: Site, store: MediaStore) -> None:
    """The positive control: the same link as a trusted origin does arrive, and waits in vain for TLS."""
    async with fetching(f"https://127.0.0.1:{site.port}", seconds=0.3) as fetcher:
        await refused(fetcher, f"https://127.0.0.1:{site.port}/ok.png", store, "did not answer", permanent=False)
    assert site.connections == 1


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["2606:4700::1", "::1"], ["10.0.0.1"]])
async def test_every_address_of_a_host_must_be_public(site: Site, store: MediaStore, addresses: list[str]) -> None:
    """One private address among public ones is enough to refuse, after one question to the name service."""
    asked: list[tuple[str, int]] = []
    async with fetching(hosts=["cdn.test"], resolve=resolving(*addresses, asked=asked)) as fetcher:
        url = f"https://cdn.test:{site.port}/ok.png?sig=secret"
        await refused(fetcher, url, store, "cdn.test is not fetched from: .*RECEIVER_MEDIA_HOSTS", permanent=True)
    assert asked == [("cdn.test", site.port)]
    assert site.connections == 0


async def test_the_resolved_address_is_the_one_connected_to(site: Site, store: MediaStore) -> None:
    """The name is resolved once and by us; a dead first address leaves the second."""
    asked: list[tuple[str, int]] = []
    origin = f"http://n8n:{site.port}"
    async with fetching(origin, resolve=resolving("127.0.0.2", "127.0.0.1", asked=asked)) as fetcher:
        await fetcher.fetch(f"{origin}/ok.png", store)
    assert asked == [("n8n", site.port)]
    assert f"Host: n8n:{site.port}".encode() in site.requests[0]


async def test_a_host_off_the_list_is_named_with_the_setting(store: MediaStore) -> None:
    """The remedy stands in the error: which host, which setting; and no name is looked up for it."""
    asked: list[tuple[str, int]] = []
    async with fetching(hosts=["cdn.test"], resolve=resolving("8.8.8.8", asked=asked)) as fetcher:
        for host in ("evil.test", "cdn.test.evil.test", "xcdn.test", "sub.cdn.test", "cdn.test..", "8.8.8.8"):
            text = "is not on the list of hosts. If you trust it, set RECEIVER_MEDIA_HOSTS=.*; it adds to the built-in"
            await refused(fetcher, f"https://{host}/a.png?sig=secret", store, text, permanent=True)
    assert asked == []


@pytest.mark.parametrize("host", ["cdn.test", "CDN.Test", "cdn.test."])
@pytest.mark.parametrize("listed", ["cdn.test", "Cdn.TEST", "cdn.test."])
async def test_host_names_are_compared_as_names(store: MediaStore, host: str, listed: str) -> None:
    """Case and the root's dot make no difference: the host gets as far as its address."""
    async with fetching(hosts=[listed], resolve=resolving("10.0.0.1")) as fetcher:
        await refused(fetcher, f"https://{host}/a.png", store, "is not public", permanent=True)


UNUSABLE = [
    *table("a.png /a.png //cdn.test/a.png https: https:///a.png https://:443/a.png cdn.test/a.png ftp://cdn.test/a"),
    *table("http://cdn.test/a.png?sig=secret file:///etc/passwd data:image/png;base64,secret https://[cdn.test/a"),
    *table("https://user@cdn.test/a https://u:secret@cdn.test/a https://cdn.test@evil.test/ https://@cdn.test/"),
    *table("https://cdn.test:0/a https://cdn.test:65536/a https://cdn.test:x/a https://evil.test\\@cdn.test/"),
    *table("https://cdn%2etest/a https://[fe80::1%25eth0]/a https://сdn.test/a"),
    *("", "https://cdn.test\t/a", "https://cdn\n.test/a", "https://cdn.test/\r\nX: y", "https://cdn test/a"),
    "https://cdn.test/" + "a" * 9000,
]


@pytest.mark.parametrize("url", UNUSABLE)
async def test_links_that_cannot_be_used(store: MediaStore, url: str) -> None:
    """Other schemes, user names, control characters and unreadable hosts are refused before any look-up."""
    asked: list[tuple[str, int]] = []
    async with fetching(hosts=["cdn.test"], resolve=resolving("8.8.8.8", asked=asked)) as fetcher:
        await refused(fetcher, url, store, "cannot be used|is not fetched", permanent=True)
    assert asked == []


@given(st.text(max_size=60) | st.text(max_size=40).map("https://cdn.test".__add__) | st.text().map("https://".__add__))
def test_any_link_gives_a_sentence(url: str) -> None:
    """Whatever stands in a payload, the answer is a MediaError and never another exception."""

    async def attempt() -> None:
        async with fetching(hosts=["cdn.test"], resolve=resolving("10.0.0.1")) as fetcher:
            with pytest.raises(MediaError):
                await fetcher.fetch(url, MediaStore(Path("never-made")))

    asyncio.run(attempt())


async def test_an_origin_is_exact(site: Site, store: MediaStore) -> None:
    """Another scheme, port or host than the one named is not trusted."""
    async with fetching(site.origin) as fetcher:
        for url in (
            f"https://127.0.0.1:{site.port}/ok.png",
            f"http://127.0.0.1:{site.port + 1}/ok.png",
            f"http://localhost:{site.port}/ok.png",
            "http://127.0.0.1/ok.png",
        ):
            await refused(fetcher, url, store, "RECEIVER_MEDIA_HOSTS", permanent=True)
    assert site.connections == 0


@pytest.mark.parametrize("origin", ["", "cdn.test", "ftp://x", "http://x/path", "http://u@x", "http://x:99999", "*"])
def test_a_setting_that_is_no_origin_stops_the_start(origin: str) -> None:
    """The error names the setting."""
    with pytest.raises(SettingsError, match="RECEIVER_MEDIA_HOSTS"):
        Fetcher(hosts=[], origins=[origin], max_bytes=1, timeout=1)


async def test_a_host_that_is_not_there(store: MediaStore) -> None:
    """No such name, a name without address, and a closed port may all be asked again."""

    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    async with fetching(hosts=["cdn.test"], resolve=unknown) as fetcher:
        text = "cdn.test cannot be found .Name or service not known"
        await refused(fetcher, "https://cdn.test/a.png", store, text, permanent=False)
    async with fetching(hosts=["cdn.test"], resolve=resolving()) as fetcher:
        await refused(fetcher, "https://cdn.test/a.png", store, "has no address", permanent=False)
    async with fetching("http://127.0.0.1:1") as fetcher:
        await refused(fetcher, "http://127.0.0.1:1/a.png", store, "Connection refused", permanent=False)


async def test_proxies_in_the_environment_are_not_used(
    site: Site, store: MediaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would connect wherever it likes, so the checked address would mean nothing."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with fetching(site.origin) as fetcher:
        await fetcher.fetch(f"{site.origin}/ok.png", store)


async def test_a_full_disk_is_told_as_such(site: Site, tmp_path: Path) -> None:
    """What the disk says is not taken for the network's fault."""
    (tmp_path / "file").write_text("")
    async with fetching(site.origin) as fetcher:
        with pytest.raises(MediaError, match=r"media folder .* cannot be used"):
            await fetcher.fetch(f"{site.origin}/ok.png", MediaStore(tmp_path / "file" / "media"))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that only this test knows."""
    return trustme.CA()


async def test_tls_verifies_the_name_of_the_link(authority: trustme.CA, store: MediaStore) -> None:
    """The address is ours to choose, the name is not: a certificate for another name or of no authority is refused."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("cdn.test").configure_cert(server)
    known = ssl.create_default_context()
    authority.configure_trust(known)
    async with Site().running(server) as site:
        origins = [f"https://{host}:{site.port}" for host in ("cdn.test", "other.test")]
        at_home = resolving("127.0.0.1")
        async with fetching(*origins, resolve=at_home, tls=known) as fetcher:
            await refused(fetcher, f"{origins[1]}/ok.png", store, "certificate", permanent=False)
            await fetcher.fetch(f"{origins[0]}/ok.png", store)
        shutil.rmtree(store.folder)
        async with fetching(*origins, resolve=at_home) as fetcher:
            await refused(fetcher, f"{origins[0]}/ok.png", store, "certificate", permanent=False)


@asynccontextmanager
async def behind_proxy(authority: trustme.CA) -> AsyncIterator[tuple[Site, ConnectProxy, ssl.SSLContext]]:
    """A site for `cdn.test` that only a proxy reaches, and what trusts its certificate."""
    server, known = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("cdn.test").configure_cert(server)
    authority.configure_trust(known)
    async with Site().running(server) as site, connect_proxy(site.port) as proxy:
        yield site, proxy, known


async def test_a_proxy_is_asked_for_the_address_that_was_checked(authority: trustme.CA, store: MediaStore) -> None:
    """It cannot look the name up again and find another address. TLS verifies the name all the same."""
    async with behind_proxy(authority) as (site, proxy, known):
        url = f"http://me:p%40ss@127.0.0.1:{proxy.port}"
        options = {"hosts": ["cdn.test", "other.test"], "tls": known, "proxy": url}
        for address, target in (("93.184.216.34", "93.184.216.34:443"), ("2606:2800::1", "[2606:2800::1]:443")):
            async with fetching(resolve=resolving(address), **options) as fetcher:
                await fetcher.fetch("https://cdn.test/ok.png", store)
            assert proxy.asked[-1] == target
        assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:p@ss').decode()}" in proxy.heads[0]
        async with fetching(resolve=resolving("93.184.216.34"), **options) as fetcher:
            with pytest.raises(MediaError, match="certificate"):
                await fetcher.fetch("https://other.test/ok.png", store)
        assert "me:p" not in "".join(map(bytes.decode, site.requests))


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["10.0.0.8"], ["93.184.216.34", "169.254.169.254"], ["::1"]])
async def test_a_proxy_opens_no_way_to_private_addresses(
    authority: trustme.CA, store: MediaStore, addresses: list[str]
) -> None:
    """The guard is before it, for a first link and for a redirect. The proxy hears nothing."""
    async with behind_proxy(authority) as (site, proxy, known):
        site.answers["/away.png"] = http(b"", "302 Found", "Location: https://cdn2.test/ok.png")
        url = f"http://127.0.0.1:{proxy.port}"

        async def looked_up(host: str, port: int) -> Sequence[str]:
            return addresses if host == "cdn2.test" else ["93.184.216.34"]

        async with fetching(hosts=["cdn.test", "cdn2.test"], resolve=looked_up, tls=known, proxy=url) as fetcher:
            for link in ("https://cdn2.test/ok.png", "https://cdn.test/away.png"):
                await refused(fetcher, link, store, "leads to an address that is not public", permanent=True)
        assert proxy.asked == ["93.184.216.34:443"]


async def test_a_trusted_origin_behind_a_proxy_is_asked_by_its_name(authority: trustme.CA, store: MediaStore) -> None:
    """The proxy may know a name that this machine does not. http and a refusing proxy: directly, and as an error."""
    async with behind_proxy(authority) as (_, proxy, known), Site().running() as plain:
        url = f"http://127.0.0.1:{proxy.port}"
        async with fetching("https://cdn.test", plain.origin, resolve=resolving(), tls=known, proxy=url) as fetcher:
            await fetcher.fetch("https://cdn.test/ok.png", store)
        async with fetching(plain.origin, tls=known, proxy=url) as fetcher:
            await fetcher.fetch(f"{plain.origin}/ok.png", store)
        assert proxy.asked == ["cdn.test:443"]
    shutil.rmtree(store.folder)
    async with connect_proxy(status=407) as proxy:
        url = f"http://me:secret@127.0.0.1:{proxy.port}"
        async with fetching(hosts=["cdn.test"], resolve=resolving("93.184.216.34"), proxy=url) as fetcher:
            words = r"cannot be reached \(the proxy 127.0.0.1 answered 407\)"
            await refused(fetcher, "https://cdn.test/ok.png", store, words, permanent=False)
