"""Which bucket, and how to get in: the options of everything that uses one, and the URLs that stand for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from receiver.errors import SettingsError
from receiver.settings.kinds import check_origin_url

Service = Literal["s3", "gs", "az"]
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}\Z")
_FOLDER = re.compile(r"(?:(?!\.+(?:/|\Z))[A-Za-z0-9_.=!~-]+(?:/|\Z))*\Z")
"""A path of what every store, browser and shell takes as it is; no `.` or `..` in it."""
_IN_URL = frozenset({"endpoint", "region", "addressing", "profile", "account", "service_account"})


def _check_bucket(value: str) -> str:
    if not _BUCKET.match(value) or ".." in value:
        raise ValueError("it is no bucket's name")
    return value


class BucketOptions(BaseModel):
    """A bucket and the way to it. Secrets may stay out of it: then the environment has them, or a profile, a role."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    bucket: Annotated[str, AfterValidator(_check_bucket)] = Field(description="The bucket, or Azure's container.")
    service: Service = Field(
        default="s3", description="What it speaks: S3, Google Cloud Storage or Azure Blob Storage."
    )
    endpoint: Annotated[str | None, AfterValidator(lambda value: value and check_origin_url(value))] = Field(
        default=None, description="The server's URL, where it is not the service's own: MinIO, R2, SeaweedFS, Ceph …"
    )
    region: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9-]{1,40}$",
        description="The bucket's region; else of the environment, or us-east-1.",
    )
    addressing: Literal["path", "virtual"] = Field(
        default="path", description="`path` is `https://host/bucket/key`, `virtual` is `https://bucket.host/key`."
    )
    profile: str | None = Field(
        default=None, description="Profile of `~/.aws/credentials` and `~/.aws/config`; else AWS_PROFILE, or `default`."
    )
    access_key: SecretStr | None = Field(
        default=None, description="Access key id; on Azure the account's key. Without it: the usual chain, see below."
    )
    secret_key: SecretStr | None = Field(default=None, description="Secret access key, together with `access_key`.")
    session_token: SecretStr | None = Field(default=None, description="Session token, for temporary keys.")
    account: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]{3,24}$",
        description="Azure's storage account; else AZURE_STORAGE_ACCOUNT_NAME.",
    )
    service_account: Path | None = Field(
        default=None, description="Google's service account file; else GOOGLE_APPLICATION_CREDENTIALS or the machine's."
    )

    @model_validator(mode="after")
    def _fitting(self) -> BucketOptions:
        if self.service == "s3" and (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key go together: give both, or neither")
        if self.service != "s3" and (self.addressing == "virtual" or self.profile is not None):
            raise ValueError("addressing and profile belong to s3 only")
        if self.service == "gs" and (self.access_key or self.secret_key or self.session_token):
            raise ValueError("access_key, secret_key and session_token are not for gs: set service_account instead")
        return self


def read_url(url: str) -> tuple[BucketOptions, str]:
    """A bucket and the folder in it, without slashes at its ends, from `s3://BUCKET/FOLDER?endpoint=https://…`; also
    with `gs` and `az`.

    The query may hold endpoint, region, addressing, profile, account and service_account. Secrets stay in the
    environment, or where the profile or the machine has them.

    Raises:
        SettingsError: it is none, holds a secret, or what we do not know. The text begins with a small letter, so that
            the setting's name can stand before it.
    """
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise SettingsError("it is no URL such as s3://acme/pictures.") from exc
    if "@" in parts.netloc:
        raise SettingsError(
            "it holds a user name or a secret. Put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the environment."
        )
    folder = unquote(parts.path).strip("/")
    if parts.fragment or not _FOLDER.match(folder):
        raise SettingsError(
            "the folder in it may have letters, digits and - _ . = ! ~ only, and no name of dots alone."
        )
    given: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(given.keys() - _IN_URL):
        raise SettingsError(f"its query may hold {', '.join(sorted(_IN_URL))}, but it has {unknown[0][:40]!r}.")
    try:
        options = BucketOptions.model_validate({"service": parts.scheme.lower(), "bucket": parts.netloc, **given})
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise SettingsError(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from exc
    return options, folder
