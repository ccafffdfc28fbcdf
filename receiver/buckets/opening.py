"""Opens buckets by obstore (extra `s3`)."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from receiver.buckets.options import BucketOptions
from receiver.buckets.profile import read_profile
from receiver.errors import SettingsError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

Store = S3Store | GCSStore | AzureStore
PART = 8 * 1024 * 1024
"""Bytes of one part of a large upload; S3 wants at least 5 MiB."""
_SERVERS = {"s3": "The object store", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
# Short, because our own policies wait longer and better; enough for a connection that went stale.
_RETRY: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
}


def open_bucket(options: BucketOptions, prefix: str = "") -> Store:
    """obstore's store for a bucket. No request is made.

    Args:
        options: whose, and how to get in.
        prefix: a folder in it; keys are below that.

    Raises:
        SettingsError: the options do not make a store.
    """
    try:
        return _MAKERS[options.service](options, prefix or None)
    except BaseError as exc:
        raise SettingsError(f"The bucket {options.bucket} cannot be used: {_first_line(exc)}") from exc


def server_of(options: BucketOptions) -> str:
    """What to call the other side, at the beginning of a sentence."""
    return f"The server {urlsplit(options.endpoint).netloc}" if options.endpoint else _SERVERS[options.service]


def endpoint_of(options: BucketOptions) -> str | None:
    """The server's URL by the options or the environment; None where it is the service's own."""
    if options.endpoint is not None or options.service != "s3":
        return options.endpoint
    return next(filter(None, _endpoints()), None)


def _s3(options: BucketOptions, prefix: str | None) -> Store:
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
    return S3Store(options.bucket, prefix=prefix, client_options=_client(options), retry_config=_RETRY, **config)


def _with_bucket(options: BucketOptions) -> str:
    """obstore wants the bucket in the endpoint's host where it is not in the path."""
    scheme, _, rest = (options.endpoint or "").partition("://")
    return f"{scheme}://{options.bucket}.{rest}"


def _gs(options: BucketOptions, prefix: str | None) -> Store:
    config: dict[str, Any] = {}
    if options.service_account is not None:
        config["service_account"] = str(options.service_account.expanduser())
    if options.endpoint is not None:
        config["base_url"] = options.endpoint
    return GCSStore(options.bucket, prefix=prefix, client_options=_client(options), retry_config=_RETRY, **config)


def _az(options: BucketOptions, prefix: str | None) -> Store:
    config: dict[str, Any] = {}
    if options.account is not None:
        config["account_name"] = options.account
    if options.access_key is not None:
        config["account_key"] = options.access_key.get_secret_value()
    if options.endpoint is not None:
        config["endpoint"] = options.endpoint
    return AzureStore(options.bucket, prefix=prefix, client_options=_client(options), retry_config=_RETRY, **config)


_MAKERS = {"s3": _s3, "gs": _gs, "az": _az}


def _client(options: BucketOptions) -> ClientConfig:
    """Time is limited by whoever asks, not by obstore's 30 s a request; http is the operator's choice."""
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
