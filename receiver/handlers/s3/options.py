"""Options of an `s3` destination, and the URLs that stand for them."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from receiver.buckets import BucketOptions
from receiver.errors import SettingsError
from receiver.handlers.base import HandlerOptions
from receiver.handlers.s3.keys import check_template
from receiver.settings.kinds import Seconds, check_origin_url

NAMES = "{date}/{slug}-{id}{tile}.{ext}"
"""What stands below the path of a URL."""
LONGEST_LINK = 7 * 86400.0
"""Seconds; no store signs for longer (S3: 604,800)."""
_HEADER = re.compile(r"[\x20-\x7e]{1,200}\Z")
_NOT_IN_URL = frozenset({"access_key", "secret_key", "session_token", "bucket", "service", "path"})


def _check_header(value: str) -> str:
    if value and not _HEADER.match(value):
        raise ValueError("it holds characters that no header has, or is too long")
    return value


class S3Options(BucketOptions, HandlerOptions):
    """Options of an `s3` destination."""

    path: Annotated[str, AfterValidator(check_template)] = Field(
        default=f"mj/{NAMES}",
        description="Where each file goes, of letters, digits, `/ _ . = ! ~ -` and the fields `{date} {year} {month} "
        "{day} {slug} {id} {kind} {tile} {ext} {label.NAME}`; `{id}`, `{tile}` and `{ext}` must be in it.",
    )
    tiles: bool = Field(
        default=False,
        description="Whether a grid's four pictures are put, too: `{tile}` is `-u1` to `-u4`. Extra `images`.",
    )
    embed: bool = Field(
        default=False, description="Whether prompt, parameters and task id are written into PNGs, as iTXt chunks."
    )
    cache_control: Annotated[str, AfterValidator(_check_header)] = Field(
        default="max-age=31536000, immutable", description="The pictures' Cache-Control; empty for none."
    )
    conditional: bool = Field(
        default=True,
        description="Whether pictures are put by `If-None-Match: *`. Off for servers that do not know it: "
        "then we look first, and a file that comes in between is overwritten.",
    )
    public_url: Annotated[str | None, AfterValidator(lambda value: value and check_origin_url(value))] = Field(
        default=None, description="The base URL under which the bucket is public: receipts link there."
    )
    link_for: Annotated[Seconds, Field(gt=0, le=LONGEST_LINK)] | None = Field(
        default=None, description="Or how long a signed link in the receipt opens the file, at most 7d."
    )

    @model_validator(mode="after")
    def _one_link(self) -> S3Options:
        if self.public_url is not None and self.link_for is not None:
            raise ValueError("public_url and link_for are two ways to link: give one of them")
        return self


def options_from_url(url: str) -> dict[str, Any]:
    """Options from `s3://BUCKET`, `s3://BUCKET/PATH` or `s3://BUCKET/PATH?OPTION=VALUE`, also with `gs` and `az`.

    PATH is a folder, or a whole template where it has a `{`.

    Raises:
        SettingsError: the URL holds a secret, which belongs into the environment, or what we do not know.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise SettingsError(
            "it holds a user name or a secret. Put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the environment."
        )
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
