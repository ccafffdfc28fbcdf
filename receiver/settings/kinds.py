"""Kinds of values a setting can have: how each is read, shown, and asked for when it is wrong.

Nothing here ever puts the value itself into an error: people paste secrets into the wrong variable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\Z")
_YEAR = 366 * 86400.0
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")
_OPEN_SCHEMES = frozenset({"file", "s3", "gs", "az"})
"""Schemes whose URLs name a place and carry no secret outside userinfo and query."""
_BUCKETS = frozenset({"s3", "gs", "az"})
_CALLER = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")
_API_SECRET = re.compile(r"[A-Za-z0-9._~+/=-]{16,200}\Z")
"""The characters a bearer token may have (RFC 6750 §2.1)."""

MASK = "••••"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a person should write for such a setting, and how its value is shown to one."""

    write: str
    show: Callable[[Any], str] = str


@dataclass(frozen=True, slots=True)
class KnownAs:
    """The name of an environment variable people already have for this setting."""

    name: str


@dataclass(frozen=True, slots=True)
class Unset:
    """What an absent value (None, or empty) amounts to, in words for a table."""

    text: str


def parse_seconds(value: object) -> object:
    """Seconds from a number or a text such as `30s`, `15m`, `72h`, `2d`."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("it is not a length of time")
    seconds = float(value) if isinstance(value, int | float) else _amount(value, _SECONDS, "a length of time")
    if not seconds <= _YEAR:  # so written that NaN is refused too
        raise ValueError("it is longer than a year")
    return seconds


def parse_keep(value: object) -> object:
    """Seconds as by `parse_seconds`, also of more than a year; 0 for `forever`."""
    if isinstance(value, str) and value.strip().lower() in {"forever", "for ever"}:
        return 0.0
    if isinstance(value, str):
        value = _amount(value, _SECONDS, "a length of time")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("it is not a length of time")
    if not 0 <= value <= 100 * _YEAR:  # so written that NaN is refused too
        raise ValueError("it is longer than a hundred years, or less than nothing")
    return float(value)


def parse_size(value: object) -> object:
    """Bytes from a number or a text such as `256MiB`."""
    return int(_amount(value, _BYTES, "a size")) if isinstance(value, str) else value


def _amount(text: str, units: dict[str, int], what: str) -> float:
    match = _AMOUNT.match(text.strip())
    unit = match and units.get(match[2].lower())
    if match is None or unit is None:
        raise ValueError(f"it is not {what}")
    return float(match[1]) * unit


def show_seconds(seconds: float) -> str:
    """The shortest way to write it: 4200 becomes `70m`."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:g}{unit}"
    return f"{seconds:g}s"


def show_keep(seconds: float) -> str:
    """As `show_seconds`, and `forever` for 0."""
    return show_seconds(seconds) if seconds else "forever"


def show_size(size: int) -> str:
    """The shortest exact way to write it: 268435456 becomes `256MiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit.lower()] == 0:
            return f"{size // _BYTES[unit.lower()]}{unit}"
    return str(size)


def split_words(value: object) -> object:
    """A list from a text whose words are separated by spaces or commas; anything else stays as it is."""
    return re.split(r"[\s,]+", value.strip(" \t\r\n,")) if isinstance(value, str) else value


def split_named(value: object) -> object:
    """A table from a text of `name:secret` pairs; anything else stays as it is."""
    words = split_words(value)
    if not isinstance(words, list):
        return words
    if not all(":" in word for word in words):
        raise ValueError("an entry of it is not NAME:SECRET")
    pairs = [word.split(":", 1) for word in words]
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name stands in it twice")
    return dict(pairs)


def join_words(value: object) -> object:
    """One text from a list, so that TOML may hold URLs as a list."""
    if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return value


def lower(value: object) -> object:
    """Lower case for names where case means nothing."""
    return value.lower() if isinstance(value, str) else value


def check_origin_url(value: str) -> str:
    """A base URL to which paths are added: http(s), a host, no query; without its last slash."""
    parts = _split(value)
    if parts is None or parts[0] not in {"http", "https"} or any(char.isspace() for char in value):
        raise ValueError("it is not an http:// or https:// URL with a host")
    if "?" in value or "#" in value:
        raise ValueError("it must not have a query or a fragment")
    return value.rstrip("/")


def check_callback_base(value: str) -> str:
    """As `check_origin_url`, and short enough that a callback URL stays under the 512 characters we allow ourselves."""
    if len(value) > 400:
        raise ValueError("it is longer than 400 characters")
    return check_origin_url(value)


def check_hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    """Host names, or exact origins such as `http://127.0.0.1:8000`, in lower case."""
    hosts = tuple(value.lower() for value in values)
    for number, host in enumerate(hosts, start=1):
        if not (_HOST.match(host) or _is_origin(host)):
            raise ValueError(f"entry {number} of it is neither a host name nor an origin")
    return hosts


def check_urls(value: str) -> str:
    """Destination URLs separated by whitespace: each needs a scheme."""
    for number, word in enumerate(value.split(), start=1):
        if not _SCHEME.match(word):
            raise ValueError(f"entry {number} of it is not a URL with a scheme")
    return value


def check_api_tokens(value: dict[str, SecretStr]) -> dict[str, SecretStr]:
    """Names for the log, and secrets that nobody guesses and no two callers share."""
    secrets = [secret.get_secret_value() for secret in value.values()]
    for number, (name, secret) in enumerate(zip(value, secrets, strict=True), start=1):
        if not _CALLER.match(name):
            raise ValueError(f"the name of entry {number} is not made of a-z, 0-9, - and _")
        if not _API_SECRET.match(secret):
            raise ValueError(f"the secret of entry {number} does not have 16 to 200 letters, digits or -._~+/=")
    if len(set(secrets)) < len(secrets):
        raise ValueError("two names have the same secret")
    return value


def check_folder(value: Path) -> Path:
    """A path with `~` filled in, because a variable from a file never met a shell."""
    return value.expanduser() if str(value).startswith("~") else value


def is_bucket(url: str) -> bool:
    """Whether it is a URL of a bucket, by its scheme."""
    scheme, found, _ = url.partition("://")
    return bool(found) and scheme.lower() in _BUCKETS


def check_media(value: str) -> str:
    """A folder with `~` filled in, or a bucket's URL without a secret in it; whether that is a good one, the media
    store says when it is opened."""
    _, found, rest = value.partition("://")
    if value.lower().startswith("file:"):
        raise ValueError("a folder is written as its path alone, without file:")
    if not found:
        return str(check_folder(Path(value)))
    if not is_bucket(value):
        raise ValueError("it is neither a folder nor a URL that begins with s3://, gs:// or az://")
    if "@" in rest.partition("/")[0]:
        raise ValueError("it holds a user name or a secret, which belong into the environment")
    return value


def _split(url: str) -> tuple[str, str, str] | None:
    """Scheme, host with port, and path; None where there is no host or the port is no number."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return (parts.scheme, host if port is None else f"{host}:{port}", parts.path) if host else None


def _is_origin(text: str) -> bool:
    parts = _split(text)
    return parts is not None and parts[0] in {"http", "https"} and text == f"{parts[0]}://{parts[1]}"


def show_url(url: str) -> str:
    """A URL without what may be secret: userinfo, query, and the path where paths hold tokens (chats, webhooks)."""
    scheme, _, rest = url.partition(":")
    if scheme in _OPEN_SCHEMES:
        place = re.sub(r"^//[^/]*@", f"//{MASK}@", rest)
        return f"{scheme}:{re.sub(r'[?].*', f'?{MASK}', place)}"
    parts = _split(url)
    if scheme not in {"http", "https"} or parts is None:
        return f"{scheme}:{MASK}"
    return f"{scheme}://{parts[1]}" + (f"/{MASK}" if parts[2].strip("/") else "")


def show_urls(text: str) -> str:
    """Several URLs, each as by `show_url`."""
    return " ".join(show_url(url) for url in text.split())


def show_base_url(url: str) -> str:
    """A base URL with its path (it names a route, no token), but without userinfo."""
    return re.sub(r"//[^/]*@", f"//{MASK}@", url)


def show_secret(secret: SecretStr) -> str:
    """That it is set, and how long, which is enough to notice a cut-off copy."""
    return f"set, {len(secret.get_secret_value())} characters"


def show_secrets(secrets: Sequence[SecretStr]) -> str:
    """How many there are."""
    return f"set, {len(secrets)} key{'s' if len(secrets) != 1 else ''}"


def show_names(table: Mapping[str, object]) -> str:
    """The names, without what they stand for."""
    return ", ".join(f"{name}: {MASK}" for name in table)


def show_flag(flag: bool) -> str:
    """As it is written."""
    return "true" if flag else "false"


def show_words(words: Sequence[str]) -> str:
    """The way a list is written in a variable."""
    return " ".join(words)


Seconds = Annotated[
    float,
    BeforeValidator(parse_seconds),
    Kind("seconds as a number, or for instance 30s, 15m or 72h", show_seconds),
]
Keep = Annotated[
    float, BeforeValidator(parse_keep), Kind("for instance 12h or 90d, or forever (0 means that too)", show_keep)
]
Size = Annotated[int, BeforeValidator(parse_size), Kind("bytes as a number, or for instance 256MiB", show_size)]
Secret = Annotated[SecretStr | None, Kind("the key as you were given it", show_secret)]
Secrets = Annotated[
    tuple[SecretStr, ...],
    BeforeValidator(split_words),
    Kind(
        "keys of at least 32 bytes, newest last, separated by spaces; make one with: openssl rand -hex 32", show_secrets
    ),
]
ApiTokens = Annotated[
    dict[str, SecretStr],
    BeforeValidator(split_named),
    AfterValidator(check_api_tokens),
    Kind("NAME:SECRET for each caller, separated by spaces; make a secret with: openssl rand -hex 32", show_names),
]
BaseURL = Annotated[str, AfterValidator(check_origin_url), Kind("for instance https://api.cometapi.com", show_base_url)]
Hosts = Annotated[
    tuple[str, ...],
    BeforeValidator(split_words),
    AfterValidator(check_hosts),
    Kind("host names or exact origins, for instance: cdn.example.com http://127.0.0.1:9000", show_words),
]
Flag = Annotated[bool, Kind("true or false", show_flag)]
Folder = Annotated[Path, AfterValidator(check_folder), Kind("a folder this user may write")]
URLs = Annotated[
    str,
    BeforeValidator(join_words),
    AfterValidator(check_urls),
    Kind("URLs separated by spaces, for instance file:./outputs", show_urls),
]
Words = Annotated[
    tuple[str, ...],
    BeforeValidator(split_words),
    Kind("words separated by spaces, or a list", show_words),
]
