"""What a media store does: it keeps every archived file once, under the SHA-256 of its content."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar, Protocol

from receiver.events import Media


class Store(Protocol):
    """A folder (`MediaStore`), or a bucket with a cache in a folder of this machine (`BucketStore`).

    Several processes may share it: nothing in it ever changes its content.

    Attributes:
        remote: whether it is a service elsewhere, and may be out of reach while all is well here.
    """

    remote: ClassVar[bool]

    @property
    def place(self) -> str:
        """What to call it in a sentence: the folder, or the URL."""

    async def identity(self) -> str:
        """The same for everybody who uses this very store, and for nobody else.

        Raises:
            MediaError: it cannot be told.
        """

    async def put(self, chunks: AsyncIterator[bytes], *, url: str, index: int, max_bytes: int) -> Media:
        """Keep what `chunks` yields; it is safe when this returns, and nothing is left otherwise.

        Raises:
            MediaError: larger than `max_bytes` (permanent), neither picture nor video, or the store cannot be written.
        """

    async def put_bytes(self, data: bytes, *, url: str) -> Media:
        """Keep a file already in memory, e.g. a picture to be sent with a request. Raises as `put`."""

    async def read(self, digest: str) -> bytes:
        """The content whose SHA-256 is `digest`.

        Raises:
            MediaError: not there (permanent), damaged (permanent), or unreadable.
        """

    async def local(self, media: Media) -> Path:
        """Where its content can be read on this machine; brought there if needed. See `holding`.

        Raises:
            MediaError: the store has it no more, or only damaged (permanent); or it cannot be had now.
        """

    def holding(self, files: Sequence[Media]) -> AbstractAsyncContextManager[tuple[Path, ...]]:
        """Like `local` for several, and what is there stays there until the end of the block."""

    def path(self, media: Media) -> Path:
        """Where `local` puts it. Says nothing about whether it lies there."""

    def tile_paths(self, digest: str) -> tuple[Path, ...]:
        """Where the four tiles of a grid lie, or would lie, on this machine: beside it, and gone with it."""

    def write(self, path: Path, data: bytes) -> None:
        """Something made of what is kept here, at one of `tile_paths`: whole and on disk under its name, or not there.
        A blocking call.

        Raises:
            OSError: it cannot be written.
        """

    async def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of the digests whose file is not in the store.

        Raises:
            MediaError: the store cannot be read.
        """

    async def remove(self, digest: str, *, unless_younger: float) -> bool:
        """Remove a file nobody needs. Returns whether it is gone.

        One younger than that many seconds, by the store's own clock, stays: somebody may just have put the same
        content there, and not said so in the journal yet.

        Raises:
            MediaError: the store cannot be written.
        """

    async def check(self) -> None:
        """Try to write and read, and clear away what killed processes left.

        Raises:
            MediaError: that cannot be done.
        """

    async def aclose(self) -> None:
        """Give up what is under way. Idempotent."""
