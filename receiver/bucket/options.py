"""Options of a bucket, URLs for them, and AWS profiles."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from msgspec import Meta

from receiver.errors import SettingsError
from receiver.settings.kinds import check_origin_url, show_base_url
from receiver.settings.options import Kind, Options, Secret, WrongValues, read_options

Service = Literal["s3", "gs", "az"]
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}\Z")
_FOLDER = re.compile(r"(?:(?!\.+(?:/|\Z))[A-Za-z0-9_.=!~-]+(?:/|\Z))*\Z")
"""A path of characters that no store, browser or shell changes, without `.` and `..`."""
_SERVERS = {"s3": "The object store", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
_ENDPOINT_URL = re.compile(r"^\s*endpoint_url\s*=\s*(\S+)", re.MULTILINE)
_PROFILE_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_IN_URL = frozenset({"endpoint", "region", "addressing", "profile", "account", "service_account"})


def _check_bucket(value: str) -> str:
    if not _BUCKET.match(value) or ".." in value:
        raise ValueError("it is no bucket's name")
    return value


def _check_url(value: str) -> str | None:
    return check_origin_url(value) if value else None


BucketURL = Annotated[
    str, Kind(check=_check_url, write="a URL, for instance https://minio.example.com", show=show_base_url)
]
"""Base URL of a bucket. An empty one, as a variable in a file may be, counts as none."""


class BucketOptions(Options):
    """A bucket and its credentials. Credentials left out come from the environment, a profile or the machine's role."""

    bucket: Annotated[str, Kind(check=_check_bucket), "The bucket, or Azure's container."]
    service: Annotated[Service, "What it speaks: S3, Google Cloud Storage or Azure Blob Storage."] = "s3"
    endpoint: Annotated[
        BucketURL | None,
        "The server's URL, where it is not the service's own: MinIO, R2, SeaweedFS, Ceph …; "
        "else of the environment or the profile. The bucket may be in its path or host.",
    ] = None
    region: Annotated[
        str | None,
        Meta(pattern=r"^[a-z0-9-]{1,40}\Z"),
        Kind(write="a region such as eu-central-1"),
        "The bucket's region; else of the environment, or us-east-1.",
    ] = None
    addressing: Annotated[
        Literal["path", "virtual"] | None,
        "`path` is `https://host/bucket/key`, `virtual` is `https://bucket.host/key`; else `path`, unless the endpoint "
        "has the bucket in its host.",
    ] = None
    profile: Annotated[
        str | None, "Profile of `~/.aws/credentials` and `~/.aws/config`; else AWS_PROFILE, or `default`."
    ] = None
    access_key: Annotated[
        Secret | None, "Access key id; on Azure the account's key. Without it: the usual chain, see below."
    ] = None
    secret_key: Annotated[Secret | None, "Secret access key, together with `access_key`."] = None
    session_token: Annotated[Secret | None, "Session token, for temporary keys."] = None
    account: Annotated[
        str | None,
        Meta(pattern=r"^[a-z0-9]{3,24}\Z"),
        Kind(write="3 to 24 of a-z and 0-9"),
        "Azure's storage account; else AZURE_STORAGE_ACCOUNT_NAME.",
    ] = None
    service_account: Annotated[
        Path | None, "Google's service account file; else GOOGLE_APPLICATION_CREDENTIALS or the machine's."
    ] = None

    def check_together(self) -> None:
        if self.service == "s3" and (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key go together: give both, or neither")
        if self.service != "s3" and (self.addressing == "virtual" or self.profile is not None):
            raise ValueError("addressing and profile belong to s3 only")
        if self.service == "gs" and (self.access_key or self.secret_key or self.session_token):
            raise ValueError("access_key, secret_key and session_token are not for gs: set service_account instead")
        if self.service == "s3" and self.endpoint is not None:
            split_endpoint(self.endpoint, self.bucket)


def split_url(url: str) -> SplitResult:
    """Take a bucket's URL apart. Raise SettingsError, as `read_url`, if it is none or holds a secret."""
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise SettingsError("it is no URL such as s3://acme/pictures.") from exc
    if "@" in parts.netloc:
        raise SettingsError(
            "it holds a user name or a secret. Put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the environment."
        )
    return parts


def read_url(url: str) -> tuple[BucketOptions, str]:
    """Return bucket and folder of `s3://BUCKET/FOLDER?endpoint=https://…`, also with `gs` and `az`.

    The folder has no slashes at its ends.

    Raises:
        SettingsError: no such URL, a secret in it, or an unknown option. The text begins with a small letter, so that
            the name of the setting can precede it.
    """
    parts = split_url(url)
    folder = unquote(parts.path).strip("/")
    if parts.fragment or not _FOLDER.match(folder):
        raise SettingsError(
            "the folder in it may have letters, digits and - _ . = ! ~ only, and no name of dots alone."
        )
    given: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(given.keys() - _IN_URL):
        raise SettingsError(f"its query may hold {', '.join(sorted(_IN_URL))}, but it has {unknown[0][:40]!r}.")
    try:
        options = read_options(BucketOptions, {"service": parts.scheme.lower(), "bucket": parts.netloc, **given})
    except WrongValues as exc:
        path, problem = next(iter(exc.problems.items()))
        raise SettingsError(f"{'.'.join(path) or 'its options'} {problem}") from exc
    return options, folder


def server_of(options: BucketOptions) -> str:
    """Return the name of the other side, as the subject of a sentence."""
    return f"The server {urlsplit(options.endpoint).netloc}" if options.endpoint else _SERVERS[options.service]


def address_of(options: BucketOptions, environ: Mapping[str, str] = os.environ) -> tuple[str | None, bool]:
    """Return the server's URL without the bucket, and True if the bucket belongs into its host.

    The URL comes from the options, the environment or the profile, in this order. None stands for the service's own.

    Raises:
        SettingsError: the URL in the environment or the profile has a form that cannot be used.
    """
    virtual = options.addressing == "virtual"
    if options.service != "s3":
        return options.endpoint, virtual
    endpoint = options.endpoint
    if endpoint is None:
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")  # obstore itself knows them, too
        found = (environ[name] for name in names if environ.get(name))
        endpoint = next(found, None) or profile_endpoint(options.profile, environ)
    if endpoint is None:
        return None, virtual
    try:
        endpoint, in_host = split_endpoint(endpoint, options.bucket)
    except ValueError as exc:
        raise SettingsError(f"The endpoint {endpoint} cannot be used: {exc}.") from None
    return endpoint, virtual or (in_host and options.addressing is None)


def split_endpoint(endpoint: str, bucket: str) -> tuple[str, bool]:
    """Return an endpoint without the bucket, and True if the bucket was in its host.

    Dashboards show it with the bucket behind the host or in front of it. A ValueError says the right form.
    """
    parts = urlsplit(endpoint.rstrip("/"))
    host, path = parts.netloc, [part for part in parts.path.split("/") if part]
    if "console.aws." in host or ".s3-website" in host:
        raise ValueError(
            "it is a page for people. The server is https://s3.REGION.amazonaws.com, or leave endpoint out"
        )
    if bucket in path[:-1]:
        raise ValueError("it goes on behind the bucket. End it before the bucket, and put the folder into path")
    if path[-1:] == [bucket]:
        path.pop()
    in_host = host.startswith(f"{bucket}.") and "." in host.removeprefix(f"{bucket}.")
    host = host.removeprefix(f"{bucket}.") if in_host else host
    return f"{parts.scheme}://{'/'.join([host, *path])}", in_host


def profile_endpoint(name: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the `endpoint_url` of a profile, for S3 before all services (docs.aws.amazon.com/sdkref, ss-endpoints)."""
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return None
    profile, config_file = _profile(name or environ.get("AWS_PROFILE") or "default", environ)
    services = _section(config_file, f"services {profile['services']}") if "services" in profile else {}
    own = _ENDPOINT_URL.search(services.get("s3", ""))
    return own[1] if own else profile.get("endpoint_url")


def read_profile(name: str | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return keys and region of a profile in `~/.aws`, by obstore's names. obstore knows the rest of AWS's chain.

    Without a name that is AWS_PROFILE, or `default` if that exists. Empty if the environment has keys or there is no
    profile.

    Raises:
        SettingsError: the profile is missing, or gets its keys in a way that needs AWS's own tools.
    """
    asked = name or environ.get("AWS_PROFILE")
    if name is None and "AWS_ACCESS_KEY_ID" in environ:
        return {}
    found, config_file = _profile(asked or "default", environ)
    if asked and not found:
        raise SettingsError(f"There is no profile {asked} in {_keys_file(environ)} or {config_file}.")
    keys = {name.removeprefix("aws_"): found[name] for name in _PROFILE_KEYS if name in found}
    if asked and "access_key_id" not in keys:
        raise SettingsError(
            f"The profile {asked} holds no access key. Keys by SSO, a role or a program come from AWS's own tools: "
            f'run eval "$(aws configure export-credentials --profile {asked} --format env)" first.'
        )
    return keys | ({"region": found["region"]} if "region" in found else {})


def _keys_file(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()


def _profile(name: str, environ: Mapping[str, str]) -> tuple[dict[str, str], Path]:
    """Return all values of a profile, and the path of the file of settings."""
    config_file = Path(environ.get("AWS_CONFIG_FILE", "~/.aws/config")).expanduser()
    settings = _section(config_file, name if name == "default" else f"profile {name}")
    return _section(_keys_file(environ), name) | settings, config_file


def _section(file: Path, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, default_section="\0")
    try:
        parser.read(file, encoding="utf-8")
    except (OSError, UnicodeError, configparser.Error) as exc:
        raise SettingsError(f"{file} cannot be read ({type(exc).__name__}).") from exc
    return dict(parser[name]) if parser.has_section(name) else {}
