"""Pictures that go out with a request, read and checked before anything is sent."""

from __future__ import annotations

import base64
import os
import struct
import time
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest
from engine import JPEG, PNG

from receiver.errors import InputError
from receiver.submissions.inputs import MAX_BYTES, MAX_MASK_BYTES, data_uri, is_link, read_mask, read_picture


@pytest.mark.parametrize(("data", "type"), [(PNG, "image/png"), (JPEG, "image/jpeg")])
async def test_a_picture_is_read_from_a_file(tmp_path: Path, data: bytes, type: str) -> None:
    """Content and kind come back; the kind is what the bytes say, not the name."""
    path = tmp_path / "wrongly.named"
    path.write_bytes(data)
    assert await read_picture(str(path)) == (data, type)


async def test_a_data_uri_is_read_and_written_alike() -> None:
    """What `data_uri` writes, `read_picture` reads, in any case of its scheme."""
    uri = data_uri(PNG, "image/png")
    assert uri.startswith("data:image/png;base64,")
    assert await read_picture(uri) == (PNG, "image/png")
    assert await read_picture("DATA:" + uri[5:]) == (PNG, "image/png")


WRAPPED = base64.encodebytes(PNG + bytes(range(256))).decode()
"""In lines of 76 characters, as `base64 file` prints it, with all letters of the alphabet."""
JOINED = WRAPPED.replace("\n", "")


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{WRAPPED}",
        f"data:image/png;base64,\r\n{WRAPPED}".replace("\n", "\r\n"),
        f"data:image/png;charset=utf-8;base64,{JOINED}",
        f"data:image/png;name=a.png;base64,{JOINED}",
        f'data:image/png; name="my boat.png"; base64, {JOINED}',
        f"data:image/png;base64,{JOINED}\n",
        f"data:image/png;base64,{quote(JOINED)}",
        f"data:image/png;base64,{quote(WRAPPED)}",
        f"data:image/png;base64,{JOINED.replace('+', '-').replace('/', '_')}",
        f"data:image/png;base64,{JOINED.rstrip('=')}",
        f"data:;base64,{JOINED}",
        f"data:image/svg+xml;BASE64,{JOINED}",
    ],
)
async def test_a_data_uri_is_read_as_tools_write_it(uri: str) -> None:
    """In lines, with parameters, percent-encoded, URL-safe, without padding: the picture is the same, and goes out in
    the provider's form."""
    assert await read_picture(uri) == (PNG + bytes(range(256)), "image/png")


async def test_a_hostile_data_uri_is_refused_at_once() -> None:
    """The beginning is read in one pass, however many parameters there are."""
    for uri in ("data:" + ";" * 20_000_000, "data:" + ";a=b" * 5_000_000, "data:" + "a" * 20_000_000):
        begun = time.process_time()
        with pytest.raises(InputError, match="does not start"):
            await read_picture(uri)
        assert time.process_time() - begun < 5


async def test_the_declared_kind_does_not_count() -> None:
    """A JPEG declared as PNG goes out as what it is."""
    assert (await read_picture(data_uri(JPEG, "image/png")))[1] == "image/jpeg"


@pytest.mark.parametrize(
    "source",
    [
        "data:image/png,plain",
        "data:image/png;base64",
        "data:image/png;base64,%%%",
        "data:image/png;base64,AAA",
        "data:image/png;base64,ääää",
        "data:;base64,",
        data_uri(b"<svg/>", "image/png"),
        data_uri(b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41", "image/png"),
        "/does/not/exist.png",
        "https://example.com/a.png",
        "a\0b.png",
        "caf\udce9.png",
        "x" * 5000,
        "",
    ],
)
async def test_what_cannot_be_sent_is_refused_in_a_sentence(source: str) -> None:
    """Broken data URIs, other kinds of files and impossible paths raise InputError, never anything else."""
    with pytest.raises(InputError, match=r"\.$"):
        await read_picture(source)


async def test_too_large_a_picture_is_refused(tmp_path: Path) -> None:
    """16 MiB pass, one byte more does not, from a file and from a data URI."""
    path = tmp_path / "big.png"
    path.write_bytes(PNG + bytes(MAX_BYTES - len(PNG)))
    assert len((await read_picture(str(path)))[0]) == MAX_BYTES
    path.write_bytes(PNG + bytes(MAX_BYTES - len(PNG) + 1))
    for source in (str(path), f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"):
        with pytest.raises(InputError, match="larger than 16 MiB"):
            await read_picture(source)


async def test_only_files_are_read(tmp_path: Path) -> None:
    """A folder, a pipe that nobody writes and a device without end are refused at once."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for source in (tmp_path, pipe, Path("/dev/zero")):
        with pytest.raises(InputError, match="it is no file"):
            await read_picture(str(source))


# --- masks and links ----------------------------------------------------------------------------------------------


def png(width: int = 8, height: int = 8) -> bytes:
    """A real PNG, white all over."""

    def chunk(type: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + type + data + struct.pack(">I", zlib.crc32(type + data))

    rows = zlib.compress((b"\x00" + b"\xff" * width) * height)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(600)
GIF = b"GIF89a" + bytes(600)


@pytest.mark.parametrize(
    ("data", "type"), [(png(), "image/png"), (png() + b"more", "image/png"), (JPEG, "image/jpeg"), (WEBP, "image/webp")]
)
async def test_a_mask_is_read(tmp_path: Path, data: bytes, type: str) -> None:
    """PNG, JPEG and WebP, from files and from data URIs."""
    path = tmp_path / "mask"
    path.write_bytes(data)
    assert await read_mask(str(path)) == await read_mask(data_uri(data, type)) == (data, type)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (GIF, "is a GIF"),
        (png()[:-8], "cut short"),
        (png()[:20], "cut short"),
        (PNG, "cut short"),
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 600, "cut short"),
        (JPEG + bytes(MAX_MASK_BYTES), "larger than 4 MiB"),
        (b"<svg/>", "no PNG, JPEG, WebP or GIF"),
    ],
)
async def test_a_bad_mask_is_refused(data: bytes, match: str) -> None:
    """What moves, is too large, was cut short or is no picture costs a task for nothing."""
    with pytest.raises(InputError, match=match):
        await read_mask(data_uri(data, "image/png"))


@pytest.mark.parametrize("link", ["https://example.com/a.png", "HTTP://example.com"])
async def test_a_link_is_not_read(link: str) -> None:
    """The sentence says what to do instead; nothing is fetched."""
    assert is_link(link)
    for read in (read_picture, read_mask):
        with pytest.raises(InputError, match=r"is a link\. Download it"):
            await read(link)
