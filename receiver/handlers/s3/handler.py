"""What is put where, in which order, and what a repeat does.

Once: a picture is put only where nothing lies (`If-None-Match: *`). Where something does, its digest decides: ours from
an attempt whose answer was lost, or somebody else's, which is left alone. The JSON is named after its event and comes
last, so who sees it finds the pictures.
"""

from __future__ import annotations

from typing import Any, ClassVar

from receiver.deliveries import Receipt
from receiver.disk import in_thread
from receiver.errors import require
from receiver.handlers.base import Attempt, Guarantee, Rejected, RetryLater
from receiver.handlers.result_files import ResultFile, ResultFiles, gather
from receiver.handlers.s3.answers import StoreError
from receiver.handlers.s3.keys import fill
from receiver.handlers.s3.options import S3Options, options_from_url
from receiver.handlers.sidecar import SIDECAR_EVENTS, sidecar

PENDING_SECONDS = 15.0
"""How long to wait for a picture that is still being downloaded."""
WHOLE = 16 * 1024 * 1024
"""Bytes up to which a file is put in one request; only that can be conditional everywhere."""

# Metadata of each picture. Letters and digits only: Azure takes no hyphens there, and some proxies drop underscores.
DIGEST = "sha256"
ORIGINAL = "original"


class S3Handler:
    """Puts results into a bucket: `task.succeeded` as pictures and JSON, what failed or asks for input as JSON."""

    name = "s3"
    summary = "Pictures in a bucket of S3 (or what speaks it), Google Cloud Storage or Azure, each with a .json."
    schemes = ("s3", "gs", "az")
    guarantee: ClassVar[Guarantee] = "once"
    Options = S3Options

    def __init__(self, options: S3Options) -> None:
        """Raises SettingsError where an extra is missing, or the options do not make a store."""
        require("obstore", extra="s3", why="The handler s3")
        if options.tiles:
            require("PIL", extra="images", why="The option tiles")
        from receiver.handlers.s3.place import Place, Taken  # noqa: PLC0415 - an optional extra

        self._place = Place(options)
        self._taken = Taken
        self._options = options

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Options from `s3://BUCKET/PATH?OPTION=VALUE`; see `options.options_from_url`."""
        return options_from_url(url)

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Put what the event is worth.

        Raises:
            RetryLater: the picture is still being downloaded, or the store is too busy.
            Rejected: there will be no picture (the JSON is put and says why), or another file lies under its key.
            StoreError: the store refuses or cannot be reached; the text names the remedy.
        """
        event = attempt.event
        if event.type not in SIDECAR_EVENTS:
            return Receipt()
        succeeded = event.type == "task.succeeded"
        if succeeded and not attempt.media and attempt.media_pending:
            raise RetryLater(PENDING_SECONDS, "the picture is still being downloaded")
        found = (
            await gather(attempt, tiles=self._options.tiles, embed=self._options.embed) if succeeded else ResultFiles()
        )
        named = [(self._key(attempt, piece.mark, piece.stored.media.extension[1:]), piece) for piece in found.files]
        files = [await self._put(key, piece, attempt) for key, piece in named]
        page = await self._put_record(attempt, sidecar(attempt, named, found.problem))
        if succeeded and not attempt.media and attempt.media_problem:
            raise Rejected(f"Only {page['url']} was put, without the picture. {attempt.media_problem}")
        first = files[0] if files else page
        return Receipt(ref=first["url"], url=first.get("link"), data={"files": files, "record": page})

    async def aclose(self) -> None:
        """Nothing stays open that needs closing."""

    def _key(self, attempt: Attempt, mark: str, ext: str) -> str:
        return fill(self._options.path, attempt.event, mark=mark, ext=ext)

    async def _put(self, key: str, piece: ResultFile, attempt: Attempt) -> dict[str, Any]:
        attributes = {
            "Content-Type": piece.stored.media.type,
            DIGEST: piece.digest,
            ORIGINAL: piece.stored.media.digest,
            "submission": attempt.event.submission_id,
        }
        if self._options.cache_control:
            attributes["Cache-Control"] = self._options.cache_control
        etag = await (self._put_whole if piece.size <= WHOLE else self._put_large)(key, piece, attributes)
        told = {"tile": f"U{piece.stored.tile}"} if piece.stored.tile else {}
        return {**await self._named(key, etag), "sha256": piece.digest, **told}

    async def _put_whole(self, key: str, piece: ResultFile, attributes: dict[str, str]) -> str:
        create = self._options.conditional
        if not create and (etag := await self._there(key, piece)) is not None:
            return etag
        data = await in_thread(piece.read)
        try:
            return await self._place.put(key, data, attributes, create=create)
        except self._taken:
            if (etag := await self._there(key, piece)) is not None:
                return etag
            raise StoreError(f"{self._place.url(key)} was there and is gone: somebody else writes there.") from None

    async def _put_large(self, key: str, piece: ResultFile, attributes: dict[str, str]) -> str:
        """Parts cannot be put conditionally everywhere, so look first; in between, our own bytes replace themselves."""
        if (etag := await self._there(key, piece)) is not None:
            return etag
        await in_thread(lambda: [None for _ in piece.blocks()])  # a damaged file is found before its first part leaves
        return await self._place.put_large(key, piece.blocks(), attributes)

    async def _there(self, key: str, piece: ResultFile) -> str | None:
        """The ETag if this very piece lies under the key; None if nothing does. Raises Rejected for something else."""
        found = await self._place.find(key)
        if found is None:
            return None
        # Another version of Pillow, or of us, may have made the same piece of the same original in other bytes.
        if piece.made and found.attributes.get(ORIGINAL) == piece.stored.media.digest:
            return found.etag
        if found.size == piece.size and (found.attributes.get(DIGEST) or await self._place.digest(key)) == piece.digest:
            return found.etag
        raise Rejected(
            f"Another file lies at {self._place.url(key)} and was left alone. Move it away, or set another path; "
            "then replay the delivery."
        )

    async def _put_record(self, attempt: Attempt, data: bytes) -> dict[str, Any]:
        """Named after its event, so that a later one takes nothing away; a retry writes the same bytes."""
        key = self._key(attempt, "", f"{attempt.event.type}.json")
        attributes = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
        return await self._named(key, await self._place.put(key, data, attributes, create=False))

    async def _named(self, key: str, etag: str) -> dict[str, Any]:
        link = await self._place.link(key)
        return {"url": self._place.url(key), "key": key, "etag": etag} | ({"link": link} if link else {})
