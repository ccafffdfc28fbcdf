"""Files of a media store: their type, their names, and safe writing.

A folder store, its cache and a bucket have the same names: `<first two hex digits>/<digest><extension>`, and on disk
`<digest>.u1.png` to `.u4.png` beside a grid that was cut into tiles. A thumbnail is `<digest>.u.webp` beside its
picture, in a bucket too. An incoming file is `.<random>.part` at the top.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from receiver.disk import make_folder, sync_folder
from receiver.errors import MediaError

# --- names ---

TILES = 4
THUMBNAIL = ".u.webp"
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
IDENTITY = ".id"
"""The file that tells a folder store from any other."""
DRAFTS = ".*.part"


def key_of(digest: str, extension: str) -> str:
    """Return the relative path of a file, with slashes."""
    return f"{digest[:2]}/{digest}{extension}"


def path_in(folder: Path, digest: str, extension: str) -> Path:
    """Return the path of a file in a folder."""
    return folder / key_of(digest, extension)


def tile_paths_in(folder: Path, digest: str) -> tuple[Path, ...]:
    """Return the paths of a grid's four tiles, U1 to U4, beside it."""
    return tuple(path_in(folder, digest, f".u{number}.png") for number in range(1, TILES + 1))


def thumbnail_path_in(folder: Path, digest: str) -> Path:
    """Return the path of a picture's thumbnail, beside it."""
    return path_in(folder, digest, THUMBNAIL)


def derived_paths_in(folder: Path, digest: str) -> tuple[Path, ...]:
    """Return the paths of all that is made of a file and removed with it. Their names begin with `.u`."""
    return (*tile_paths_in(folder, digest), thumbnail_path_in(folder, digest))


# --- types, by the first bytes: the sender chooses name and Content-Type ---

HEAD = 512
"""Bytes that suffice to tell the type. The longest header is an `ftyp` box with many brands."""
EXTENSIONS: tuple[str, ...] = (".png", ".jpg", ".gif", ".webp", ".avif", ".mp4", ".mov", ".webm")
"""Every extension `sniff` gives."""
_MAGIC: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png", ".png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg", ".jpg"),
    (re.compile(rb"GIF8[79]a"), "image/gif", ".gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp", ".webp"),
    # EBML header whose DocType element (0x4282, 4 bytes long) says webm; plain Matroska says "matroska".
    (re.compile(rb"\x1a\x45\xdf\xa3.{0,64}?\x42\x82\x84webm", re.DOTALL), "video/webm", ".webm"),
)
_BRANDS: tuple[tuple[frozenset[bytes], str, str], ...] = (
    (frozenset({b"avif", b"avis"}), "image/avif", ".avif"),
    (frozenset({b"qt  "}), "video/quicktime", ".mov"),
    (
        frozenset(
            {b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"iso7", b"iso8", b"iso9", b"mp41", b"mp42", b"mp71"}
            | {b"avc1", b"dash", b"MSNV", b"M4V ", b"M4VH", b"M4VP", b"f4v "}
        ),
        "video/mp4",
        ".mp4",
    ),
)
_LOOKS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"<(!doctype html|html|head|body|script|!--)", re.IGNORECASE), "HTML"),
    (re.compile(rb"(<\?xml[^>]*>\s*)?(<!doctype svg[^>]*>\s*)?<svg", re.IGNORECASE), "SVG"),
    (re.compile(rb"<\?xml", re.IGNORECASE), "XML"),
    (re.compile(rb'[{\[]\s*(["{\[\]}\d]|$)'), "JSON"),
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"%PDF-"), "PDF"),
    (re.compile(rb"[\t\n\r\x20-\x7e]+\Z"), "plain text"),
)


def sniff(head: bytes) -> tuple[str, str] | None:
    """Return (media type, extension) of a picture or video by its magic bytes, or None for everything else."""
    for pattern, media_type, extension in _MAGIC:
        if pattern.match(head):
            return media_type, extension
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    compatible = {head[at : at + 4] for at in range(16, end - 3, 4)}
    # The major brand decides. Only if it is unknown, the compatible ones do (ISO/IEC 14496-12, 4.3).
    for candidates in ({head[8:12]}, compatible):
        for brands, media_type, extension in _BRANDS:
            if candidates & brands:
                return media_type, extension
    return None


def looks_like(head: bytes) -> str:
    """Return a person's word for bytes that are no picture: "HTML", "JSON", "empty" …"""
    if not head:
        return "empty"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((name for pattern, name in _LOOKS if pattern.match(start)), "an unknown format")


# --- writing ---

BLOCK = 256 * 1024
"""Bytes passed to a thread at once: few switches, little memory."""
LEFTOVER_SECONDS = 24 * 3600
"""Age after which a draft belongs to a process that was killed."""


class Draft:
    """A file in `folder` without its final name: hashed while it is written. Methods block: call them in a thread.

    A `durable` one is synced with its folder, so that a kept file survives a power cut.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.size = 0
        self.path = folder / f".{uuid.uuid4().hex}.part"
        self._folder = folder
        self._durable = durable
        self._file: BinaryIO | None = None
        self._sha256 = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.drop()

    @property
    def digest(self) -> str:
        """SHA-256 of what has been added so far, in hex."""
        return self._sha256.hexdigest()

    def add(self, block: bytes) -> None:
        if self._file is None:
            make_folder(self._folder, mode=0o700)
            self._file = self.path.open("xb")
        self._file.write(block)
        self._sha256.update(block)
        self.size += len(block)

    def finish(self) -> None:
        """Flush, sync if durable, and close the file."""
        if self._file is not None and not self._file.closed:
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())
            self._file.close()

    def keep_as(self, path: Path) -> None:
        """Give the file that name, and replace any file that has it."""
        self.finish()
        make_folder(path.parent, mode=0o700)
        os.replace(self.path, path)
        if self._durable:
            sync_folder(path.parent)

    def drop(self) -> None:
        """Remove the file. Without effect on one that was kept."""
        if self._file is not None:
            with suppress(OSError):  # on a full disk close() fails again, and the file must still go
                self._file.close()
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


def probe(folder: Path) -> None:
    """Make the folder, try to write in it, and remove drafts of killed processes. Blocks, and raises OSError."""
    with Draft(folder) as draft:
        draft.add(b"receiver")
        draft.finish()
    oldest = time.time() - LEFTOVER_SECONDS
    for leftover in folder.glob(DRAFTS):
        with suppress(FileNotFoundError):  # another process may remove it, too
            if leftover.stat().st_mtime < oldest:
                leftover.unlink()


def write(folder: Path, path: Path, data: bytes) -> None:
    """Write a whole file in such a folder: durable under its name, or not there. Blocks, and raises OSError."""
    with Draft(folder) as draft:
        draft.add(data)
        draft.keep_as(path)


async def receive(
    chunks: AsyncIterator[bytes], add: Callable[[bytes], Awaitable[None]], *, source: str, max_bytes: int
) -> tuple[str, str]:
    """Pass `chunks` to `add` in blocks. Return (media type, extension) of the content.

    A MediaError is permanent for a file that is too large. The type is checked before anything is written and before
    the rest is fetched.
    """

    def kind_of(head: bytes) -> tuple[str, str]:
        if (kind := sniff(head)) is None:
            raise MediaError(f"What {source} holds is neither picture nor video, but {looks_like(head)}.")
        return kind

    kind: tuple[str, str] | None = None
    held, size = bytearray(), 0
    async for chunk in chunks:
        size += len(chunk)
        if size > max_bytes:
            raise too_large(source, max_bytes)
        held += chunk
        if len(held) >= (BLOCK if kind else HEAD):
            kind = kind or kind_of(bytes(held[:HEAD]))
            await add(bytes(held))
            held.clear()
    kind = kind or kind_of(bytes(held))
    if held:
        await add(bytes(held))
    return kind


def too_large(source: str, max_bytes: int) -> MediaError:
    """Return the error for a file that is larger than allowed."""
    return MediaError(
        f"What {source} holds is larger than the limit of {max_bytes:,} bytes (RECEIVER_MEDIA_MAX_BYTES).",
        permanent=True,
    )


async def once(data: bytes) -> AsyncIterator[bytes]:
    """Yield bytes as a single chunk."""
    yield data
