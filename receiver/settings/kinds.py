"""Kinds of setting values: parse, check and show each, with the remedy for a wrong one.

No error here holds the value itself: people paste secrets into the wrong variable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_WHOLE = re.compile(r"[+-]?\d{1,15}\Z", re.ASCII)
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\Z")
_YEAR = 366 * 86400.0
_LARGEST = 10**18
"""Limit of whole numbers, because TOML has some that no float can hold."""
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")
_JOINED = re.compile(r"[,;](?:\Z|[A-Za-z][A-Za-z0-9+.-]*://|(?:file|command):)")
_OPEN_SCHEMES = frozenset({"file", "s3", "gs", "az"})
"""Schemes whose URLs name a place and carry no secret outside userinfo and query."""
_PASSWORD = re.compile(r"\A([\w+.-]+://[^/?#@:]*):([^?#]+)@")
_PUBLIC_SCHEMES = _OPEN_SCHEMES | {"command", "slack"}
"""Schemes whose URLs hold a secret in userinfo or query only."""
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_WORDS = re.compile(r"[A-Z]?[a-z]*(?:[-_.][A-Z]?[a-z]*)*\Z")
_SHORTEST_TOKEN = 8
"""Characters from which a part of a URL can be a secret, unless it consists of words."""
_LONG = 10
"""Characters from which a whole path and query count as a secret."""
_BUCKETS = frozenset({"s3", "gs", "az"})
_CALLER = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")
_SHORTEST_API_SECRET = 16
_API_SECRET = re.compile(r"[A-Za-z0-9._~+/=-]{16,200}\Z")
"""The characters a bearer token may have (RFC 6750 §2.1)."""
_HIDDEN = r"([?&](?=[^?=&#]*=)[^?=&#]*(?:pass|secret|key|token|auth|credential|sig)[^?=&#]*=)([^&#]*)"
"""Query parameters whose value is a secret."""

MASK = "••••"


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that no repr shows."""

    text: str = field(repr=False)

    def get_secret_value(self) -> str:
        """Return the text."""
        return self.text


@dataclass(frozen=True, slots=True)
class Kind:
    """Kind of the values of a setting.

    Attributes:
        read: returns the value of what was given, or of a value. Raises ValueError with what is wrong.
        write: what a person should write.
        show: returns a value as text.
    """

    read: Callable[[Any], Any]
    write: str = ""
    show: Callable[[Any], str] = str


@dataclass(frozen=True, slots=True)
class KnownAs:
    """Name of an environment variable that people already have for a setting."""

    name: str


def parse_seconds(value: object) -> float:
    """Return seconds from a number or a text like `30s`, `15m`, `72h` or `2d`."""
    seconds = _amount(value, _SECONDS, "a length of time")
    if not seconds <= _YEAR:  # written so that NaN is refused too
        raise ValueError("it is longer than a year")
    return seconds


def parse_keep(value: object) -> float:
    """Return seconds as `parse_seconds` does, but of up to 100 years, and 0 for `forever`."""
    if str(value).strip().lower() in {"forever", "for ever"}:
        return 0.0
    seconds = _amount(value, _SECONDS, "a length of time")
    if not 0 <= seconds <= 100 * _YEAR:  # written so that NaN is refused too
        raise ValueError("it is longer than a hundred years, or less than nothing")
    return seconds


def parse_size(value: object) -> int:
    """Return bytes from a number or a text like `256MiB`."""
    size = _amount(value, _BYTES, "a size")
    if not math.isfinite(size):
        raise ValueError("it is not a size")
    return int(size)


def _amount(value: object, units: dict[str, int], what: str) -> float:
    if isinstance(value, str):
        match = _AMOUNT.match(value.strip())
        if match is not None and (unit := units.get(match[2].lower())):
            return float(match[1]) * unit
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return value if isinstance(value, float) else float(max(min(value, _LARGEST), -_LARGEST))
    raise ValueError(f"it is not {what}")


def show_seconds(seconds: float) -> str:
    """Return the shortest way to write it: 4200 becomes `70m`."""
    return _shown(seconds, {"d": 86400, "h": 3600, "m": 60}) or f"{seconds:g}s"


def show_size(size: int) -> str:
    """Return the shortest exact way to write it: 268435456 becomes `256MiB`."""
    return _shown(size, {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}) or str(size)


def _shown(amount: float, units: dict[str, int]) -> str | None:
    return next((f"{int(amount // size)}{unit}" for unit, size in units.items() if amount and amount % size == 0), None)


def split_words(value: object) -> object:
    """Split a text at spaces and commas. Other values stay as they are."""
    return re.split(r"[\s,]+", value.strip(" \t\r\n,")) if isinstance(value, str) else value


def split_named(value: object) -> object:
    """Return a table from a text of `name:secret` pairs. Other values stay as they are."""
    words = split_words(value)
    if not isinstance(words, list):
        return words
    if not all(isinstance(word, str) and ":" in word for word in words):
        raise ValueError("an entry of it is not NAME:SECRET")
    pairs = [word.split(":", 1) for word in words]
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is in it twice")
    return dict(pairs)


def read_text(value: object) -> str:
    """Return a text, and nothing else."""
    if not isinstance(value, str):
        raise ValueError("it is no text")
    return value


def _listed(value: object) -> list[Any] | tuple[Any, ...]:
    words = split_words(value)
    if not isinstance(words, list | tuple):
        raise ValueError("it is no list")
    return words


def read_words(value: object) -> tuple[str, ...]:
    """Return words from a text or a list."""
    return tuple(map(read_text, _listed(value)))


def read_table(value: object) -> dict[str, str]:
    """Return a table of texts."""
    if not isinstance(value, dict):
        raise ValueError("it is no table")
    return {name: read_text(text) for name, text in value.items()}


def read_flag(value: object) -> bool:
    """Return True or False from a text of an environment, too."""
    found = _FLAGS.get(str(value).lower())
    if found is None:
        raise ValueError("it is neither true nor false")
    return found


def read_secret(value: object) -> Secret:
    """Return a secret."""
    return value if isinstance(value, Secret) else Secret(read_text(value))


def read_token(value: object) -> Secret:
    """Return a secret that is long enough to be one."""
    secret = read_secret(value)
    if len(secret.text) < _SHORTEST_API_SECRET:
        raise ValueError(f"it has less than {_SHORTEST_API_SECRET} characters")
    return secret


def read_secrets(value: object) -> dict[str, Secret]:
    """Return a table of secrets, from a text of `name:secret` pairs too."""
    table = split_named(value)
    if not isinstance(table, dict):
        raise ValueError("it is no table")
    return {name: read_secret(secret) for name, secret in table.items()}


def read_urls(value: object) -> str:
    """Return URLs as one text. TOML may hold them as a list."""
    return check_urls(" ".join(map(read_text, value)) if isinstance(value, list | tuple) else read_text(value))


def read_folder(value: object) -> Path:
    """Return a path."""
    if not isinstance(value, str | Path):
        raise ValueError("it is no path")
    return check_folder(Path(value))


def _within(number: float, least: float, most: float, *, above: bool = False) -> None:
    """Raise ValueError for a number outside of the bounds. With `above` the lower one is outside, too."""
    if above and not number > least:
        raise ValueError(f"it should be greater than {least:g}")
    if not number >= least:
        raise ValueError(f"it should be greater than or equal to {least:g}")
    if not number <= most:
        raise ValueError(f"it should be less than or equal to {most:.15g}")


def whole(least: int, most: int, write: str = "") -> Kind:
    """Return the kind of whole numbers between two."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not _WHOLE.match(str(value)):
            raise ValueError("it should be a valid integer")
        _within(number := int(str(value)), least, most)
        return number

    return Kind(read, write or f"a whole number from {least} to {most}")


def one_of(*names: str) -> Kind:
    """Return the kind of names where case means nothing."""
    *others, last = (f"'{name}'" for name in names)

    def read(value: object) -> str:
        if isinstance(value, str) and value.lower() in names:
            return value.lower()
        raise ValueError(f"it should be {', '.join(others)} or {last}")

    return Kind(read, " or ".join(names))


def seconds(*, zero: bool = False) -> Kind:
    """Return the kind of lengths of time, perhaps with none at all."""

    def read(value: object) -> float:
        _within(found := parse_seconds(value), 0, _YEAR, above=not zero)
        return found

    return Kind(read, "seconds as a number, or for instance 30s, 15m or 72h", show_seconds)


def read_size(value: object) -> int:
    """Return bytes, at least one."""
    _within(size := parse_size(value), 0, math.inf, above=True)
    return size


def matching(pattern: str, write: str) -> Kind:
    """Return the kind of texts that match a pattern as a whole."""

    def read(value: object) -> str:
        if not re.fullmatch(pattern, read_text(value)):
            raise ValueError("it does not have the right form")
        return str(value)

    return Kind(read, write)


def check_origin_url(value: object) -> str:
    """Check a base URL: http(s), a host, no query. Return it without its last slash."""
    value = read_text(value)
    parts = _split(value)
    if parts is None or parts[0] not in {"http", "https"} or any(char.isspace() for char in value):
        raise ValueError("it is not an http:// or https:// URL with a host")
    if "?" in value or "#" in value:
        raise ValueError("it must not have a query or a fragment")
    if len(value) > 400:  # a callback URL below it has at most 512
        raise ValueError("it is longer than 400 characters")
    return value.rstrip("/")


def check_proxy(value: object) -> str | None:
    """Check the URL of an HTTP proxy. Return it with its scheme, or None for `none`."""
    value = read_text(value)
    if value.lower() == "none":
        return None
    url = value if "://" in value else f"http://{value}"
    parts = _split(url)
    if parts is None or parts[0] not in {"http", "https"} or parts[2].strip("/"):
        raise ValueError("it is no http:// or https:// URL of a proxy. RECEIVER_PROXY=none goes without one")
    return url.rstrip("/")


def check_hosts(values: object) -> tuple[str, ...]:
    """Check host names, or exact origins such as `http://127.0.0.1:8000`. Return them in lower case."""
    hosts = tuple(value.lower() for value in read_words(values))
    for number, host in enumerate(hosts, start=1):
        parts = _split(host)
        is_origin = parts is not None and parts[0] in {"http", "https"} and host == f"{parts[0]}://{parts[1]}"
        if not (_HOST.match(host) or is_origin):
            raise ValueError(f"entry {number} of it is neither a host name nor an origin")
    return hosts


def check_urls(value: str) -> str:
    """Check destination URLs separated by whitespace: each needs a scheme."""
    for number, word in enumerate(value.split(), start=1):
        if not _SCHEME.match(word):
            raise ValueError(f"entry {number} of it is not a URL with a scheme")
        if _JOINED.search(word):
            raise ValueError(
                f"entry {number} of it has a comma or semicolon between two URLs, or behind the last. Separate them by "
                "spaces: file:./outputs slack://C0123ABCD. A comma inside a URL is written %2C"
            )
    return value


PAGE_ROLES = ("viewer", "maker", "operator")
"""Roles of the page's users. Each may do what the ones before it may."""


def check_api_tokens(given: object) -> dict[str, Secret]:
    """Check the names of callers, and that their secrets are long and all different."""
    value = read_secrets(given)
    secrets = [secret.text for secret in value.values()]
    for number, (name, secret) in enumerate(zip(value, secrets, strict=True), start=1):
        if not _CALLER.match(name):
            raise ValueError(f"the name of entry {number} is not made of a-z, 0-9, - and _")
        if not _API_SECRET.match(secret):
            raise ValueError(f"the secret of entry {number} does not have 16 to 200 letters, digits or -._~+/=")
    if len(set(secrets)) < len(secrets):
        raise ValueError("two names have the same secret")
    return value


def check_page_users(given: object) -> dict[str, Secret]:
    """Check that each user of the page has a role and a secret, as `ROLE:SECRET`."""
    value, secrets = read_secrets(given), {}
    for number, (name, text) in enumerate(value.items(), start=1):
        role, mark, secret = text.text.partition(":")
        if not mark or role not in PAGE_ROLES:
            raise ValueError(f"entry {number} is not NAME:ROLE:SECRET with a role of {', '.join(PAGE_ROLES)}")
        secrets[name] = Secret(secret)
    check_api_tokens(secrets)
    return value


def check_folder(value: Path) -> Path:
    """Expand `~` in a path, because a variable from a file never passed a shell."""
    return value.expanduser() if str(value).startswith("~") else value


def check_media(value: object) -> str:
    """Check a folder, or a bucket's URL without a secret in it. The media store checks the bucket when it opens."""
    value = read_text(value)
    scheme, found, rest = value.partition("://")
    if value.lower().startswith("file:"):
        raise ValueError("a folder is written as its path alone, without file:")
    if not found:
        return str(check_folder(Path(value)))
    if scheme.lower() not in _BUCKETS:
        raise ValueError("it is neither a folder nor a URL that begins with s3://, gs:// or az://")
    if "@" in rest.partition("/")[0]:
        raise ValueError("it holds a user name or a secret, which belong into the environment")
    return value


def _split(url: str) -> tuple[str, str, str] | None:
    """Return scheme, host with port, and path, or None without a host or with a port that is no number."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return (parts.scheme, host if port is None else f"{host}:{port}", parts.path) if host else None


def show_url(url: str) -> str:
    """Mask what may be secret in a URL: userinfo, query, and the path where paths hold tokens (chats, webhooks)."""
    scheme, _, rest = url.partition(":")
    if scheme in _OPEN_SCHEMES:
        place = re.sub(r"^//[^/]*@", f"//{MASK}@", rest)
        return f"{scheme}:{re.sub(r'[?].*', f'?{MASK}', place)}"
    parts = _split(url)
    if scheme not in {"http", "https"} or parts is None:
        return f"{scheme}:{MASK}"
    return f"{scheme}://{parts[1]}" + (f"/{MASK}" if parts[2].strip("/") else "")


def show_base_url(url: str) -> str:
    """Mask the userinfo of a base URL. Its path names a route and is no token."""
    return re.sub(r"//[^/]*@", f"//{MASK}@", url)


def show_keep(age: float) -> str:
    """Return a length of time that may be `forever`."""
    return show_seconds(age) if age else "forever"


TEXT = Kind(read_text)
FLAG = Kind(read_flag, "true or false", lambda flag: str(flag).lower())
WORDS = Kind(read_words, "words separated by spaces, or a list", " ".join)
TABLE = Kind(read_table, "a table of names and values")
KEEP = Kind(parse_keep, "for instance 12h or 90d, or forever (0 means that too)", show_keep)
SIZE = Kind(read_size, "bytes as a number, or for instance 256MiB", show_size)
FOLDER = Kind(read_folder, "a folder this user may write")
SECRET = Kind(
    read_secret,
    "the key as you were given it",
    lambda secret: f"set, {len(secret.text)} characters",  # enough to notice a copy that was cut off
)
TOKEN = replace(SECRET, read=read_token, write="a secret; make one with: openssl rand -hex 32")
SECRETS = Kind(
    lambda value: tuple(map(read_secret, _listed(value))),
    "keys of at least 32 bytes, newest last, separated by spaces; make one with: openssl rand -hex 32",
    lambda secrets: f"set, {len(secrets)} key{'s' if len(secrets) != 1 else ''}",
)
API_TOKENS = Kind(
    check_api_tokens,
    "NAME:SECRET for each caller, separated by spaces; make a secret with: openssl rand -hex 32",
    lambda table: ", ".join(f"{name}: {MASK}" for name in table),
)
PAGE_USERS = Kind(
    check_page_users,
    "NAME:ROLE:SECRET for each user, separated by spaces, with a role of viewer, maker or operator",
    lambda table: ", ".join(f"{name}: {text.text.partition(':')[0]}" for name, text in table.items()),
)
HOSTS = Kind(check_hosts, "host names or exact origins, for instance: cdn.example.com http://127.0.0.1:9000", " ".join)
URLS = Kind(
    read_urls,
    "URLs separated by spaces, for instance file:./outputs",
    lambda text: " ".join(map(show_url, text.split())),
)

DatabaseKind = Literal["sqlite", "postgres", "bucket", "none"]
_DRIVER = re.compile(r"(?<=^postgres)\+\w+\Z|(?<=^postgresql)\+\w+\Z")
"""The driver that SQLAlchemy names in a scheme: `postgresql+asyncpg://`."""
_DATABASES: dict[str, DatabaseKind] = {"sqlite": "sqlite", "postgres": "postgres", "postgresql": "postgres"}


def database_kind(value: str) -> DatabaseKind:
    """Return the kind of journal that a database URL names. Raise ValueError if the scheme is not known."""
    if value.lower() == "none":
        return "none"
    scheme, colon, _ = value.lower().partition(":")
    scheme = _DRIVER.sub("", scheme)
    kind = "bucket" if scheme in _BUCKETS else _DATABASES.get(scheme)
    if kind is None or not colon:
        pasted = re.search(r"postgres(?:ql)?://", value)
        take = ". Leave out all before postgresql:// and quotes at the end" if pasted else ""
        raise ValueError(f"it does not begin with sqlite:, postgresql://, s3://, gs:// or az://{take}")
    return kind


def check_database(value: object) -> str:
    """Check that the value names a database for a journal."""
    value = read_text(value)
    kind = database_kind(value)
    if kind == "sqlite":
        sqlite_path(value)
    if kind not in {"postgres", "bucket"}:
        return value
    try:
        parts = urlsplit(value)
        if "," not in parts.netloc:  # several hosts, one of which is the primary
            _ = parts.port
    except ValueError:
        raise ValueError("it is no URL. In a password write @ : / ? # [ ] as %40 %3A %2F %3F %23 %5B %5D") from None
    if not value.partition(":")[2].startswith("//") or len(value) <= len(f"{parts.scheme}://"):
        needs = "a user, a host and a database" if kind == "postgres" else "a bucket"
        raise ValueError(f"it needs // and {needs} after it")
    if kind == "bucket" and not parts.hostname:
        raise ValueError("it names no bucket")
    return value


def sqlite_path(value: str) -> Path:
    """Return the path in `sqlite:PATH` or `sqlite:///PATH`, or raise ValueError.

    With three slashes PATH is relative and a fourth makes it absolute, as in the `DATABASE_URL`s people have.
    """
    scheme, _, rest = value.partition(":")
    if scheme.lower() != "sqlite":
        raise ValueError("it does not begin with sqlite:")
    path = rest.removeprefix("///")
    if not path or path.startswith(("//", ":memory:")) or "?" in path or "\0" in path:
        raise ValueError("it has no usable path after sqlite:")
    return check_folder(Path(path))


def without_passwords(url: str) -> str:
    """Mask the passwords of a URL."""
    shown = _PASSWORD.sub(rf"\1:{MASK}@", url)
    return re.sub(_HIDDEN, rf"\1{MASK}", shown, flags=re.IGNORECASE)


def url_secrets(url: str) -> list[str]:
    """Return the secrets of a URL of ours, both decoded and as written: its password, and secret parts of its query.

    A password that is a common word of ours, or repeats another part of the URL, is left out: it protects nothing, and
    masking it would hide the subject of log lines.
    """
    try:
        parts = urlsplit(url)
        password = _PASSWORD.match(url)
        written = [password[2] if password else "", *(match[2] for match in re.finditer(_HIDDEN, url, re.IGNORECASE))]
        words = {"receiver", parts.scheme, parts.username, parts.hostname, parts.path.strip("/")}
    except ValueError:
        return []
    if parts.scheme in {"http", "https"} and parts.username and not parts.password:
        written.append(parts.username)  # a token alone, as GitHub and others take it
        words.discard(parts.username)
    return [text for item in written if item not in {"", *words} for text in dict.fromkeys((item, unquote(item)))]


def destination_secrets(url: str) -> list[str]:
    """Return the secrets of a destination's URL. Where a path or query may be one, these and their parts.

    Parts that are plain words are left out, because they would hide the same words elsewhere.
    """
    scheme, _, rest = url.partition(":")
    found = url_secrets(url)
    if scheme not in _PUBLIC_SCHEMES:
        host, slash, path = rest.removeprefix("//").partition("/")
        whole = [f"{slash}{path}"] if scheme in {"http", "https"} else [rest.removeprefix("//"), f"{slash}{path}"]
        pieces = re.split(r"[/?&=#:@,]", path if scheme in {"http", "https"} else f"{host}/{path}")
        secrets = [*(text for text in whole if len(text) >= _LONG), *(text for text in pieces if _is_token(text))]
        found += [text for item in secrets for text in dict.fromkeys((item, unquote(item)))]
    return found


def _is_token(text: str) -> bool:
    return len(text) >= _SHORTEST_TOKEN and not _WORDS.match(text)
