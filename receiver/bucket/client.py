"""Client of one bucket by obstore (extra `s3`).

A put whose response was lost may have been done. A caller that retries a conditional put writes something that is
unique to it, and reads it back before the retry.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, NotModifiedError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from receiver.bucket.errors import WRITE_AND_READ, BucketError, PreconditionFailed, explain, wants_checksum
from receiver.bucket.options import BucketOptions, address_of, read_profile, server_of
from receiver.errors import SettingsError

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

PART = 8 * 1024 * 1024
"""Bytes of one part of a multipart upload; S3 wants at least 5 MiB."""
BLOCK = 256 * 1024
"""Bytes of one block of a download, at least."""
PAGE = 1000
"""Objects of one page of a list. No store gives more in one response."""
# Short, because our own retries wait longer. Enough for a connection that has gone stale.
_RETRY: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
}


@dataclass(frozen=True, slots=True)
class Tag:
    """Version of an object: its ETag, and its generation on Google Cloud Storage."""

    etag: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """An object without its content. `modified_ms` is by the store's clock. Lists leave `attributes` empty."""

    key: str
    etag: str
    size: int
    modified_ms: int
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object with its content. `modified_ms` is by the store's clock, on S3 in whole seconds."""

    data: bytes
    tag: Tag
    modified_ms: int


class Bucket:
    """A folder of a bucket. Keys are relative to it, and "" is the whole bucket.

    Every method raises BucketError if the store fails, or what `failure` makes of it.

    Args:
        options: name and credentials.
        folder: prefix of every key, without slashes at its ends.
        seconds: limit of one request in all, obstore's own retries included.
        transfer_seconds: limit of one upload or download, `seconds` unless given.
        needs: rights that the credentials must have, for error texts.
        failure: translates a BucketError for the caller's own callers.

    Attributes:
        identity: the URL, with the server unless that is the service's own.
        requests: number of requests by class (GET, PUT, DELETE, LIST), without obstore's retries.
        versioned: True once the store was seen to keep overwritten objects.

    Raises:
        SettingsError: the options contradict each other.
    """

    def __init__(
        self,
        options: BucketOptions,
        folder: str = "",
        *,
        seconds: float = 20.0,
        transfer_seconds: float | None = None,
        needs: str = WRITE_AND_READ,
        failure: Callable[[BucketError], Exception] = lambda error: error,
    ) -> None:
        self.name = options.bucket
        self.url = f"{options.service}://{options.bucket}/{folder}".rstrip("/")
        endpoint, _ = address_of(options)
        self.identity = self.url + (f"?endpoint={endpoint}" if endpoint else "")
        self.server = server_of(options)
        self.requests: Counter[str] = Counter()
        self.versioned = False
        self._seconds = seconds
        self._transfer_seconds = seconds if transfer_seconds is None else transfer_seconds
        self._needs = needs
        self._failure = failure
        self._checksums = False
        self._open = partial(_open, options, folder or None)
        try:
            self._store = self._open()
        except BaseError as exc:
            cause = str(exc).partition("\n")[0]
            if "Account must be specified" in cause:
                cause = "Azure's storage account is missing. Set account, or AZURE_STORAGE_ACCOUNT_NAME."
            raise SettingsError(f"The bucket {options.bucket} cannot be used: {cause}") from exc

    async def get(self, key: str) -> StoredObject | None:
        """Return an object, or None if there is none."""
        return await self._get(key, {})

    async def get_if_changed(self, key: str, tag: Tag) -> StoredObject | Tag | None:
        """Return an object (If-None-Match), the tag itself if that is still its version, or None if there is none."""
        try:
            return await self._get(key, {"if_none_match": tag.etag})
        except NotModifiedError:
            return tag

    async def _get(self, key: str, options: Any) -> StoredObject | None:
        async with self._request("GET", self._transfer_seconds):
            result = await self._found(key, options)
            if result is None:
                return None
            data, meta = bytes(await result.bytes_async()), result.meta
        return StoredObject(data, Tag(meta["e_tag"] or "", meta["version"]), _modified_ms(meta))

    async def head(self, key: str) -> ObjectHead | None:
        """Return an object without its content, or None if there is none.

        Asks for the first byte, because a failed HEAD request has no body that tells the cause.
        """
        async with self._request("GET", self._seconds):
            try:
                result = await self._found(key, {"range": (0, 1)})
                if result is not None:
                    await result.bytes_async()
            except BaseError as exc:
                if "416" not in str(exc):
                    raise
                result = await self._found(key, {})  # an empty object has no first byte
        return None if result is None else _head(result.meta, dict(result.attributes))

    async def download(self, key: str, add: Callable[[bytes], Awaitable[None] | None]) -> ObjectHead | None:
        """Pass an object's content to `add`, block by block. Return its head, or None if there is none."""
        async with self._request("GET", self._transfer_seconds):
            result = await self._found(key, {})
            if result is None:
                return None
            async for block in result.stream(min_chunk_size=BLOCK):
                if (pending := add(bytes(block))) is not None:
                    await pending
        return _head(result.meta, dict(result.attributes))

    async def _found(self, key: str, options: Any) -> GetResult | None:
        try:
            return await obstore.get_async(self._store, key, options=options)
        except (FileNotFoundError, NotFoundError) as exc:  # obstore raises the built-in one, unlike its type hints
            _check_bucket(exc)
            return None

    async def pages(self, folder: str, *, after: str = "") -> AsyncGenerator[list[ObjectHead], None]:
        """Yield the objects in a folder and below, in pages, in key order, behind the key `after`.

        Raises:
            BucketError: also if the store does not list in key order.
        """
        self.requests["LIST"] += 1
        pages = obstore.list(self._store, folder or None, offset=after or None, chunk_size=PAGE).__aiter__()
        last = after
        while True:
            async with self._request("", self._seconds):
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
            found = [_head(meta, {}) for meta in page]
            keys = [last, *(item.key for item in found)]
            if keys != sorted(keys):
                problem = BucketError(
                    f"{self.server} does not list the bucket {self.name} in key order, so nothing can be found there. "
                    "Use a general purpose bucket."
                )
                raise self._failure(problem)
            last = keys[-1]
            yield found

    async def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder, sorted."""
        async with self._request("LIST", self._seconds):
            found = await obstore.list_with_delimiter_async(self._store, folder)
        return sorted(prefix.rpartition("/")[2] for prefix in found["common_prefixes"])

    async def sign(self, key: str, seconds: float) -> str:
        """Return a link that opens an object for so long."""
        async with self._request("", self._seconds):
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=seconds))

    async def put(self, key: str, data: bytes | bytearray, attributes: Mapping[str, str] | None = None) -> Tag:
        """Put an object in one request. Return its version."""
        return await self._put(key, data, attributes)

    async def create(self, key: str, data: bytes | bytearray, attributes: Mapping[str, str] | None = None) -> Tag:
        """Put an object if there is none (If-None-Match: *). Raises PreconditionFailed."""
        return await self._put(key, data, attributes, "create")

    async def replace(self, key: str, data: bytes | bytearray, tag: Tag) -> Tag:
        """Put an object if it has that version (If-Match). Raises PreconditionFailed."""
        version = {} if tag.version is None else {"version": tag.version}
        return await self._put(key, data, None, {"e_tag": tag.etag, **version})

    async def upload(self, key: str, content: Path | Iterator[bytes], attributes: Mapping[str, str]) -> Tag:
        """Put an object in parts, two in memory at a time. Return its version. An object with that key is replaced."""
        return await self._put(key, content, attributes, parts=True)

    async def _put(
        self, key: str, data: Any, attributes: Mapping[str, str] | None, mode: Any = "overwrite", *, parts: bool = False
    ) -> Tag:
        def put() -> Awaitable[Any]:
            return obstore.put_async(
                self._store, key, data, attributes=dict(attributes or {}), mode=mode,
                use_multipart=parts, chunk_size=PART, max_concurrency=2,
            )  # fmt: skip

        async with self._request("PUT", self._transfer_seconds):
            try:
                try:
                    result = await put()
                except BaseError as exc:
                    if self._checksums or not wants_checksum(str(exc)):
                        raise
                    # From now on. Content that cannot be read twice goes out with the caller's retry.
                    self._store, self._checksums = self._open(checksums=True), True
                    if isinstance(data, Iterator):
                        raise
                    result = await put()
            except (AlreadyExistsError, PreconditionError) as exc:
                raise PreconditionFailed(key) from exc
            except (FileNotFoundError, NotFoundError) as exc:
                _check_bucket(exc)
                if mode in ("create", "overwrite"):
                    raise
                raise PreconditionFailed(key) from exc
        # Only S3 names a version because it keeps the old ones; Google always names a generation.
        self.versioned |= result["version"] not in (None, "null") and isinstance(self._store, S3Store)
        return Tag(result["e_tag"] or "", result["version"])

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. A missing one is no error."""
        if not keys:
            return
        async with self._request("DELETE", self._seconds):
            try:
                await obstore.delete_async(self._store, list(keys))
            except (FileNotFoundError, NotFoundError) as exc:
                _check_bucket(exc)

    @asynccontextmanager
    async def _request(self, kind: str, seconds: float) -> AsyncIterator[None]:
        """Count a request, limit its time, and translate its errors."""
        if kind:
            self.requests[kind] += 1
        try:
            async with asyncio.timeout(seconds):
                yield
        except NotModifiedError:
            raise
        except TimeoutError as exc:
            text = f"{self.server} did not answer in full within {seconds:g} s (bucket {self.name})."
            raise self._failure(BucketError(text, away=True)) from exc
        except (BaseError, OSError) as exc:
            problem = explain(exc, bucket=self.name, server=self.server, needs=self._needs)
            raise self._failure(problem) from exc


def _head(meta: ObjectMeta, attributes: Mapping[str, str]) -> ObjectHead:
    return ObjectHead(meta["path"], meta["e_tag"] or "", meta["size"], _modified_ms(meta), attributes)


def _modified_ms(meta: ObjectMeta) -> int:
    return int(meta["last_modified"].timestamp() * 1000)


def _check_bucket(error: BaseException) -> None:
    """Raise the error if the bucket is missing, not only the object."""
    if any(code in str(error) for code in ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")):
        raise error


def _open(options: BucketOptions, prefix: str | None, *, checksums: bool = False) -> S3Store | GCSStore | AzureStore:
    endpoint, virtual = address_of(options)
    client: ClientConfig = {
        "allow_http": (endpoint or "").startswith("http://"),
        "connect_timeout": timedelta(seconds=5),
        "timeout": timedelta(minutes=10),  # our own limits are shorter, unlike obstore's 30 s
        "user_agent": "imagine-receiver",
    }
    if endpoint is not None and virtual:
        endpoint = endpoint.replace("://", f"://{options.bucket}.", 1)  # obstore wants the bucket in the host
    access, secret, session = (
        item and item.text for item in (options.access_key, options.secret_key, options.session_token)
    )
    config: dict[str, Any]
    if options.service == "gs":
        kind: Any = GCSStore
        account = options.service_account
        config = {"service_account": account and str(account.expanduser()), "base_url": endpoint}
    elif options.service == "az":
        kind = AzureStore
        config = {"endpoint": endpoint, "account_name": options.account, "account_key": access}
    else:
        kind = S3Store
        keys = {"access_key_id": access, "secret_access_key": secret, "session_token": session}
        config = {
            **(keys if access and secret else read_profile(options.profile)),
            "endpoint": endpoint,
            "virtual_hosted_style_request": virtual,
            "checksum_algorithm": "SHA256" if checksums else None,
        }
        config["region"] = options.region or config.get("region")
    given = {name: value for name, value in config.items() if value is not None}
    store: S3Store | GCSStore | AzureStore
    store = kind(options.bucket, prefix=prefix, client_options=client, retry_config=_RETRY, **given)
    return store
