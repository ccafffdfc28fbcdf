"""A bucket by obstore: the only module that imports it (extra `s3`). Its errors leave as ours."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import AzureStore, GCSStore, S3Store

from receiver.errors import SettingsError
from receiver.handlers.s3.answers import explained
from receiver.handlers.s3.options import S3Options
from receiver.handlers.s3.profile import read_profile

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

Store = S3Store | GCSStore | AzureStore
PART = 8 * 1024 * 1024
"""Bytes of one part of a large upload; S3 wants at least 5 MiB."""
_SERVERS = {"s3": "The object store", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
# Short, because our own policy waits longer and better; enough for a connection that went stale.
_RETRY: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
}


class Taken(Exception):
    """Something lies under that key already, and nothing was put."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lies under a key. `attributes`: its headers, and the metadata whoever put it gave along."""

    etag: str
    size: int
    attributes: Mapping[str, str]


class Place:
    """One bucket.

    Raises:
        SettingsError: the options do not make a store.
    """

    def __init__(self, options: S3Options) -> None:
        self.bucket = options.bucket
        self.scheme = options.service
        self.server = f"The server {urlsplit(options.endpoint).netloc}" if options.endpoint else _SERVERS[self.scheme]
        self._public = options.public_url
        self._link_for = options.link_for
        try:
            self._store = _MAKERS[options.service](options)
        except BaseError as exc:
            raise SettingsError(f"The bucket {options.bucket} cannot be used: {_first_line(exc)}") from exc

    async def put(self, key: str, data: bytes | bytearray, attributes: dict[str, str], *, create: bool) -> str:
        """Put an object and return its ETag. With `create` only where nothing lies yet: raises Taken."""
        with self._translating():
            try:
                result = await obstore.put_async(
                    self._store, key, data, attributes=attributes, mode="create" if create else "overwrite",
                    use_multipart=False,
                )  # fmt: skip
            except (AlreadyExistsError, PreconditionError) as exc:
                raise Taken(key) from exc
        return result["e_tag"] or ""

    async def put_large(self, key: str, blocks: Iterator[bytes], attributes: dict[str, str]) -> str:
        """Put an object in parts, two under way at once, and return its ETag. What lies there is overwritten."""
        with self._translating():
            result = await obstore.put_async(
                self._store, key, blocks, attributes=attributes, use_multipart=True, chunk_size=PART, max_concurrency=2
            )
        return result["e_tag"] or ""

    async def find(self, key: str) -> Found | None:
        """What lies under the key; None for nothing."""
        with self._translating():
            try:
                # A GET whose body is not read: a HEAD's error has no body that says what is wrong.
                result = await obstore.get_async(self._store, key)
            except (FileNotFoundError, NotFoundError) as exc:  # obstore's is the built-in one, unlike its type hints
                if "NoSuchBucket" in str(exc) or "ContainerNotFound" in str(exc):
                    raise
                return None
        return Found(etag=result.meta["e_tag"] or "", size=result.meta["size"], attributes=result.attributes)

    async def digest(self, key: str) -> str:
        """The SHA-256 of what lies under the key, read in full."""
        sha256 = hashlib.sha256()
        with self._translating():
            result = await obstore.get_async(self._store, key)
            async for block in result.stream(min_chunk_size=1024 * 1024):
                sha256.update(block)
        return sha256.hexdigest()

    async def link(self, key: str) -> str | None:
        """A link a person can open, if the options say how."""
        if self._public is not None:
            return f"{self._public}/{quote(key)}"
        if self._link_for is None:
            return None
        with self._translating():
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=self._link_for))

    def url(self, key: str) -> str:
        """What the object is called: `s3://bucket/key`."""
        return f"{self.scheme}://{self.bucket}/{key}"

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as exc:
            raise explained(exc, bucket=self.bucket, server=self.server) from exc


def _s3(options: S3Options) -> Store:
    config: dict[str, Any] = {}
    if options.access_key is not None and options.secret_key is not None:
        config["access_key_id"] = options.access_key.get_secret_value()
        config["secret_access_key"] = options.secret_key.get_secret_value()
        if options.session_token is not None:
            config["session_token"] = options.session_token.get_secret_value()
    else:
        config |= read_profile(options.profile)
    if options.region is not None:
        config["region"] = options.region
    if options.endpoint is not None:
        config["endpoint"] = _with_bucket(options) if options.addressing == "virtual" else options.endpoint
    config["virtual_hosted_style_request"] = options.addressing == "virtual"
    return S3Store(options.bucket, client_options=_client(options), retry_config=_RETRY, **config)


def _with_bucket(options: S3Options) -> str:
    """obstore wants the bucket in the endpoint's host where it is not in the path."""
    scheme, _, rest = (options.endpoint or "").partition("://")
    return f"{scheme}://{options.bucket}.{rest}"


def _gs(options: S3Options) -> Store:
    config: dict[str, Any] = {}
    if options.service_account is not None:
        config["service_account"] = str(options.service_account.expanduser())
    if options.endpoint is not None:
        config["base_url"] = options.endpoint
    return GCSStore(options.bucket, client_options=_client(options), retry_config=_RETRY, **config)


def _az(options: S3Options) -> Store:
    config: dict[str, Any] = {}
    if options.account is not None:
        config["account_name"] = options.account
    if options.access_key is not None:
        config["account_key"] = options.access_key.get_secret_value()
    if options.endpoint is not None:
        config["endpoint"] = options.endpoint
    return AzureStore(options.bucket, client_options=_client(options), retry_config=_RETRY, **config)


_MAKERS = {"s3": _s3, "gs": _gs, "az": _az}


def _client(options: S3Options) -> ClientConfig:
    """Time is limited by the attempt as a whole, not by obstore's 30 s a request; http is the operator's choice."""
    return {
        "allow_http": any(url.startswith("http://") for url in (options.endpoint or "", *_endpoints())),
        "connect_timeout": timedelta(seconds=5),
        "timeout": timedelta(minutes=10),
        "user_agent": "imagine-receiver",
    }


def _endpoints() -> list[str]:
    """What obstore takes for an endpoint by itself."""
    return [os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
