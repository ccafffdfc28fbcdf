"""What a destination that keeps files gets of a result: the archived files, and tiles and provenance if asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from receiver.disk import in_thread
from receiver.errors import MediaError
from receiver.events import Event
from receiver.handlers.base import Attempt, StoredMedia
from receiver.handlers.provenance import HEADER, chunks, takes_chunks

BLOCK = 1024 * 1024


class ArchiveError(OSError):
    """An archived file cannot be read, or is damaged: not the destination's fault. The text says everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One file as it is to lie at the destination.

    Attributes:
        stored: the archived file, or a tile, that it is made of.
        mark: what tells it from the others of its result: "" for an only one, else `1`, `2` …, or `u1` to `u4`.
        digest: SHA-256 of what is to lie there, in hex; differs from the archived file's where `insert` goes in.
        size: bytes.
        insert: chunks that go in behind a PNG's header.
    """

    stored: StoredMedia
    mark: str
    digest: str
    size: int
    insert: bytes = b""

    @property
    def made(self) -> bool:
        """Whether it was made by us of the archived file, so that another version of us may make other bytes."""
        return bool(self.insert or self.stored.tile)

    def blocks(self) -> Iterator[bytes]:
        """The content. Blocks; raises ArchiveError, also at the end if it is not the content it should be."""
        sha256 = hashlib.sha256()
        for block in _blocks(self.stored, self.insert):
            sha256.update(block)
            yield block
        if sha256.hexdigest() != self.digest:
            raise ArchiveError(
                f"The archived file {self.stored.path} is damaged; its SHA-256 should be {self.stored.media.digest}."
            )

    def read(self) -> bytearray:
        """The content in memory, once. Blocks; raises as `blocks`."""
        held, at = bytearray(self.size), 0
        for block in self.blocks():
            held[at : at + len(block)] = block
            at += len(block)
        return held


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """All of a result. `problem` says why there are no tiles although they were asked for."""

    pieces: tuple[Piece, ...] = ()
    problem: str | None = None


async def gather(attempt: Attempt, *, tiles: bool, embed: bool) -> Pieces:
    """The files of a result in order: its own, then the tiles U1 to U4 if asked for and if it is a grid.

    Args:
        attempt: of an event with media.
        tiles: whether to cut a grid.
        embed: whether PNGs get their provenance.

    Raises:
        MediaError: the tiles cannot be made now; later may help.
        ArchiveError: an archived file is missing or damaged.
    """
    cut: Sequence[StoredMedia] = ()
    problem = None
    if tiles:
        try:
            cut = await attempt.tiles()
        except MediaError as exc:
            if not exc.permanent:
                raise
            problem = str(exc)
    made = await in_thread(_pieces, attempt, cut, embed)
    return Pieces(pieces=made, problem=problem)


def _pieces(attempt: Attempt, cut: Sequence[StoredMedia], embed: bool) -> tuple[Piece, ...]:
    several = len(attempt.media) > 1
    own = [(stored, str(at) if several else "") for at, stored in enumerate(attempt.media, 1)]
    tiles = [(stored, f"u{stored.tile}") for stored in cut]
    return tuple(_piece(stored, mark, attempt.event, embed) for stored, mark in (*own, *tiles))


def _piece(stored: StoredMedia, mark: str, event: Event, embed: bool) -> Piece:
    insert = chunks(event, stored.tile) if embed and _is_png(stored) else b""
    if not insert:
        return Piece(stored=stored, mark=mark, digest=stored.media.digest, size=stored.media.size)
    archived, sha256 = hashlib.sha256(), hashlib.sha256()
    for at, block in enumerate(_blocks(stored, insert)):
        sha256.update(block)
        if at != 1:  # the second is the insert
            archived.update(block)
    if archived.hexdigest() != stored.media.digest:
        raise ArchiveError(f"The archived file {stored.path} is damaged; its SHA-256 should be {stored.media.digest}.")
    size = stored.media.size + len(insert)
    return Piece(stored=stored, mark=mark, digest=sha256.hexdigest(), size=size, insert=insert)


def _is_png(stored: StoredMedia) -> bool:
    if stored.media.type != "image/png":
        return False
    return takes_chunks(next(_read(stored, HEADER), b""))


def _blocks(stored: StoredMedia, insert: bytes) -> Iterator[bytes]:
    blocks = _read(stored, HEADER if insert else 0)
    if insert:
        yield next(blocks, b"")
        yield insert
    yield from blocks


def _read(stored: StoredMedia, first: int) -> Iterator[bytes]:
    """The archived file in blocks, the first of another size if given."""
    try:
        with stored.path.open("rb") as file:
            if first:
                yield file.read(first)
            while block := file.read(BLOCK):
                yield block
    except OSError as exc:
        raise ArchiveError(f"The archived file {stored.path} cannot be read ({exc.strerror or exc}).") from exc
