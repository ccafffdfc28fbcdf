"""The `s3` handler: pictures in an object store, by `s3://`, `gs://` and `az://` URLs.

Effects are once. A picture is put only if its key is free (`If-None-Match: *`). Otherwise the digest decides: the
object is ours, from an attempt whose response was lost, or another one that is left alone. The JSON is named after its
event and put last, so that a reader who finds it also finds the pictures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qsl, quote, unquote

from msgspec import Meta

from receiver.bucket import BucketError, BucketOptions, PreconditionFailed, open_bucket, split_url
from receiver.bucket.options import BucketURL
from receiver.deliveries import Receipt
from receiver.disk import in_thread
from receiver.errors import SettingsError, require
from receiver.events import Event, id_ms
from receiver.handlers import result_files
from receiver.handlers.base import Attempt, Guarantee, HandlerBase, HandlerOptions, Kind, Rejected, RetryLater
from receiver.settings.kinds import Seconds

TRANSFER_SECONDS = 600.0
"""Limit of one upload or download."""
BUSY_SECONDS = 15.0
"""Delay while a store is too busy; obstore does not pass on the store's own."""
WHOLE = 16 * 1024 * 1024
"""Bytes up to which a file is put in one request. Only such a put can be conditional on every store."""
LONGEST_LINK = 7 * 86400.0
"""Seconds; no store signs for longer (S3: 604,800)."""

# Metadata of each picture. Letters and digits only: Azure takes no hyphens there, and some proxies drop underscores.
DIGEST = "sha256"
ORIGINAL = "original"

NAMES = "{date}/{slug}-{id}{tile}.{ext}"
"""Template below the path of a URL."""
FIELDS = ("date", "year", "month", "day", "slug", "id", "kind", "tile", "ext")
NEEDED = ("id", "tile", "ext")
"""Fields that keep two files from having one key."""
MAX_TEMPLATE = 400
"""Characters. A key made of it stays below the 1024 bytes that S3 allows."""
_FIELD = re.compile(r"\{([^{}]*)\}")
_LITERAL = re.compile(r"[A-Za-z0-9/_.=!~-]*\Z")
"""Characters that no store, browser or shell changes."""
_LABEL = re.compile(r"label\.[A-Za-z0-9_.-]{1,64}\Z")
_TIMES = {"date": "%Y-%m-%d", "year": "%Y", "month": "%m", "day": "%d"}
_HEADER = re.compile(r"[\x20-\x7e]{1,200}\Z")
_NOT_IN_URL = frozenset({"access_key", "secret_key", "session_token", "bucket", "service", "path"})


class StoreError(Exception):
    """The store refused, or cannot be reached. The text names the remedy."""


# --- keys ---


def check_template(template: str) -> str:
    """Return the template if every key made of it is safe and belongs to one file only, or raise ValueError."""

    def listed(names: Iterable[str]) -> str:
        return " ".join(f"{{{name}}}" for name in names)

    for name in _FIELD.findall(template):
        if name not in FIELDS and not _LABEL.match(name):
            raise ValueError(f"{{{name[:40]}}} is no field of it; there are: {listed(FIELDS)} and {{label.NAME}}")
    if not _LITERAL.match(_FIELD.sub("", template)):
        raise ValueError("beside fields it may hold letters, digits and / _ . = ! ~ - only")
    if missing := [name for name in NEEDED if f"{{{name}}}" not in template]:
        raise ValueError(f"{listed(missing)} must be in it, or two files would have one key")
    if len(template) > MAX_TEMPLATE:
        raise ValueError(f"it is longer than {MAX_TEMPLATE} characters")
    for key in (_FIELD.sub("x", template.replace("{tile}", tile)) for tile in ("", "-u1")):
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise ValueError("a part of it between slashes would be empty, '.' or '..'; it also begins without a slash")
    return template


def fill(template: str, event: Event, *, mark: str, ext: str) -> str:
    """Return the key of one file of an event. Of foreign text, only words in `[a-z0-9-]` get into it.

    `mark` tells the file from others of its result. A submission id that is not ours raises ValueError.
    """
    made = datetime.fromtimestamp(id_ms(event.submission_id) / 1000, UTC)  # no retry changes it
    given = {"id": event.submission_id, "tile": f"-{mark}" if mark else "", "ext": ext}

    def plain(text: str) -> str:
        return result_files.joined(result_files.plain_words(text)) or "none"

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in _TIMES:
            return made.strftime(_TIMES[name])
        if name == "slug":
            return result_files.slug(event.prompt, event.button or "") or plain(event.kind)
        if name == "kind":
            return plain(event.kind)
        return given[name] if name in given else plain(event.labels.get(name.removeprefix("label."), ""))

    return _FIELD.sub(value, template)


# --- options ---


def _check_header(value: str) -> str:
    if value and not _HEADER.match(value):
        raise ValueError("it holds characters that no header has, or is too long")
    return value


class S3Options(BucketOptions, HandlerOptions):
    """Options of an `s3` destination."""

    path: Annotated[
        str,
        Kind(check=check_template),
        "Where each file goes, of letters, digits, `/ _ . = ! ~ -` and the fields `{date} {year} {month} "
        "{day} {slug} {id} {kind} {tile} {ext} {label.NAME}`; `{id}`, `{tile}` and `{ext}` must be in it.",
    ] = f"mj/{NAMES}"
    tiles: Annotated[bool, "Also put a grid's four pictures: `{tile}` is `-u1` to `-u4`. Extra `images`."] = False
    embed: Annotated[bool, "Write prompt, parameters and task id into PNGs, as iTXt chunks."] = False
    cache_control: Annotated[str, Kind(check=_check_header), "The pictures' Cache-Control; empty for none."] = (
        "max-age=31536000, immutable"
    )
    conditional: Annotated[
        bool,
        "Put pictures by `If-None-Match: *`. Off for servers that do not know it: then we look first, and a file that "
        "comes in between is overwritten.",
    ] = True
    public_url: Annotated[BucketURL | None, "The base URL under which the bucket is public: receipts link there."] = (
        None
    )
    link_for: Annotated[
        Seconds | None,
        Meta(le=LONGEST_LINK),
        "Or how long a signed link in the receipt opens the file, at most 7d.",
    ] = None

    def check_together(self) -> None:
        super().check_together()
        if self.public_url is not None and self.link_for is not None:
            raise ValueError("public_url and link_for are two ways to link: give one of them")


# --- delivery ---


class S3Handler(HandlerBase):
    """Puts results into a bucket: `task.succeeded` as pictures and JSON, other recorded events as JSON."""

    name = "s3"
    summary = "Pictures in a bucket of S3 (or what speaks it), Google Cloud Storage or Azure, each with a .json."
    schemes = ("s3", "gs", "az")
    guarantee: ClassVar[Guarantee] = "once"
    Options = S3Options

    def __init__(self, options: S3Options) -> None:
        if options.tiles:
            require("PIL", extra="images", why="The option tiles")
        self._bucket = open_bucket(options, why="The handler s3", transfer_seconds=TRANSFER_SECONDS)
        self._options = options

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Return the options of `s3://BUCKET/PATH?OPTION=VALUE`, `gs://` or `az://`. PATH is a folder or a template."""
        parts = split_url(url)
        if parts.fragment:
            raise SettingsError("it holds a '#', which no key may have.")
        given: dict[str, Any] = {"service": parts.scheme.lower(), "bucket": parts.netloc}
        path = unquote(parts.path).strip("/")
        if path:
            given["path"] = path if "{" in path else f"{path}/{NAMES}"
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name in _NOT_IN_URL:
                raise SettingsError(f"{name} does not belong into its query. Write a table [destinations.NAME] for it.")
            given[name] = value
        return given

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Put the files of an event.

        Raise RetryLater if the store is too busy, StoreError with a remedy if it refuses or cannot be reached, Rejected
        if there will be no picture (the JSON is put and gives the reason) or another file has its key.
        """
        event = attempt.event
        if event.type not in result_files.SIDECAR_EVENTS:
            return Receipt()
        succeeded, options = event.type == "task.succeeded", self._options
        found = result_files.ResultFiles()
        if succeeded:
            found = await result_files.gather(attempt, tiles=options.tiles, embed=options.embed)
        named = [
            (fill(options.path, event, mark=piece.mark, ext=piece.stored.media.extension[1:]), piece)
            for piece in found.files
        ]
        # Named after the event, so that a later event replaces nothing.
        name = fill(options.path, event, mark="", ext=f"{event.type}.json")
        try:
            files = [await self._put_file(key, piece, attempt) for key, piece in named]
            attributes = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
            tag = await self._bucket.put(name, result_files.sidecar(attempt, named, found.problem), attributes)
            page = await self._described(name, tag.etag)
        except BucketError as exc:
            if exc.fate == "later":  # a busy store is busy for every delivery
                raise RetryLater(BUSY_SECONDS, str(exc), pause=True) from exc
            raise (Rejected if exc.fate == "never" else StoreError)(str(exc)) from exc
        if attempt.without_files:
            raise Rejected(f"Only {page['url']} was put, without the picture. {attempt.media_problem}")
        first = files[0] if files else page
        return Receipt(ref=first["url"], url=first.get("link"), data={"files": files, "record": page})

    async def _put_file(self, key: str, piece: result_files.ResultFile, attempt: Attempt) -> dict[str, Any]:
        """Put a piece if its key is free, and return its entry in the receipt."""
        attributes = {
            "Content-Type": piece.stored.media.type,
            DIGEST: piece.digest,
            ORIGINAL: piece.stored.media.digest,
            "submission": attempt.event.submission_id,
        }
        if self._options.cache_control:
            attributes["Cache-Control"] = self._options.cache_control
        etag = await self._put_once(key, piece, attributes)
        tile = {"tile": f"U{piece.stored.tile}"} if piece.stored.tile else {}
        return {**await self._described(key, etag), "sha256": piece.digest, **tile}

    async def _put_once(self, key: str, piece: result_files.ResultFile, attributes: dict[str, str]) -> str:
        """Put a piece if its key is free, and return its ETag. Parts, and some servers, know no conditions. Then look
        first: a concurrent put of the same delivery writes the same bytes."""
        large = piece.size > WHOLE
        conditional = self._options.conditional and not large
        if not conditional and (etag := await self._ours(key, piece)) is not None:
            return etag
        if large:
            await in_thread(lambda: [None for _ in piece.blocks()])  # find a damaged file before its first part leaves
            return (await self._bucket.upload(key, piece.blocks(), attributes)).etag
        data = await in_thread(piece.read)
        try:
            return (await (self._bucket.create if conditional else self._bucket.put)(key, data, attributes)).etag
        except PreconditionFailed:
            if (etag := await self._ours(key, piece)) is not None:
                return etag
            raise StoreError(f"{self._url(key)} was there and is gone: another program writes there.") from None

    async def _ours(self, key: str, piece: result_files.ResultFile) -> str | None:
        """Return the ETag of this very piece, or None if the key is free. Raise Rejected for another object."""
        found = await self._bucket.head(key)
        if found is None:
            return None
        # Another version of Pillow, or of us, may have made the same piece of the same original in other bytes.
        if piece.made and found.attributes.get(ORIGINAL) == piece.stored.media.digest:
            return found.etag
        if found.size == piece.size:
            digest = found.attributes.get(DIGEST)
            if not digest:
                sha256 = hashlib.sha256()
                await self._bucket.download(key, sha256.update)
                digest = sha256.hexdigest()
            if digest == piece.digest:
                return found.etag
        raise Rejected(
            f"Another file is at {self._url(key)} and was left alone. Move it away, or set another path; "
            "then replay the delivery."
        )

    async def _described(self, key: str, etag: str) -> dict[str, Any]:
        """Return an object's entry in the receipt, with a link that a person can open if the options have one."""
        entry, options = {"url": self._url(key), "key": key, "etag": etag}, self._options
        if options.public_url is not None:
            entry["link"] = f"{options.public_url}/{quote(key)}"
        elif options.link_for is not None:
            entry["link"] = await self._bucket.sign(key, options.link_for)
        return entry

    def _url(self, key: str) -> str:
        return f"{self._bucket.url}/{key}"
