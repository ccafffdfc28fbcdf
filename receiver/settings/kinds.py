"""Kinds of values: how times, sizes, addresses, databases and secrets are read, checked and shown."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Meta

from receiver.settings.options import MASK, Kind, Secret, expanded, split_words

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)\Z")
_YEAR = 366 * 86400.0
_LARGEST = 10**18
"""Limit of whole numbers, because TOML has some that no float can hold."""
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")
_BARE_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\Z")
_JOINED = re.compile(r"[,;](?:\Z|[A-Za-z][A-Za-z0-9+.-]*://|(?:file|command):)")
_OPEN_SCHEMES = frozenset({"file", "s3", "gs", "az"})
"""Schemes whose URLs name a place and carry no secret outside userinfo and query."""
_PASSWORD = re.compile(r"\A([\w+.-]+://[^/?#@:]*):((?:(?!\?\w+=).)+)@")
"""Name and password of a URL. The password may hold signs that should be escaped, but it ends before a parameter."""
_PUBLIC_SCHEMES = _OPEN_SCHEMES | {"command", "slack"}
"""Schemes whose URLs hold a secret in userinfo or query only."""
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
    """Return bytes, at least one, from a number or a text like `256MiB`."""
    size = _amount(value, _BYTES, "a size")
    if not 1 <= size < math.inf:  # written so that NaN is refused too
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


def join_words(value: object) -> object:
    """Return a list of texts as one text. Other values stay as they are."""
    if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
        return " ".join(value)
    return value


def split_named(value: object) -> object:
    """Return a table from a text or list of `name:secret` pairs. Other values stay as they are."""
    words = split_words(value) if isinstance(value, str) else value
    if not isinstance(words, list):
        return words
    if not all(isinstance(word, str) and ":" in word for word in words):
        raise ValueError("an entry of it has no colon")
    pairs = [word.split(":", 1) for word in words]
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is in it twice")
    return dict(pairs)


def check_token(secret: Secret) -> Secret:
    """Return a secret that is long enough to be one."""
    if len(secret.text) < _SHORTEST_API_SECRET:
        raise ValueError(f"it has less than {_SHORTEST_API_SECRET} characters")
    return secret


def check_key(secret: Secret) -> Secret:
    """Return a key without the `Bearer` of a header that it was copied from."""
    return Secret(re.sub(r"^Bearer\s+", "", secret.text, flags=re.IGNORECASE))


def check_origin_url(value: str) -> str:
    """Check a base URL: http(s), a host, no query. Return it without its last slash."""
    parts = _split(value)
    if parts is None or parts[0] not in {"http", "https"} or any(char.isspace() for char in value):
        raise ValueError("it is not an http:// or https:// URL with a host")
    if "?" in value or "#" in value:
        raise ValueError("it must not have a query or a fragment")
    if len(value) > 400:  # a callback URL below it has at most 512
        raise ValueError("it is longer than 400 characters")
    return value.rstrip("/")


def check_proxy(value: str) -> str | None:
    """Check the URL of an HTTP proxy. Return it with its scheme, or None for `none`."""
    if value.lower() == "none":
        return None
    url = value if "://" in value else f"http://{value}"
    parts = _split(url)
    if parts is None or parts[0] not in {"http", "https"} or parts[2].strip("/"):
        raise ValueError("it is no http:// or https:// URL of a proxy. RECEIVER_PROXY=none goes without one")
    return url.rstrip("/")


def check_hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check host names, or exact origins such as `http://127.0.0.1:8000`. Return them in lower case."""
    hosts = tuple(value.lower() for value in values)
    for number, host in enumerate(hosts, start=1):
        parts = _split(host)
        is_origin = parts is not None and parts[0] in {"http", "https"} and host == f"{parts[0]}://{parts[1]}"
        if "*" in host:
            raise ValueError(f"entry {number} of it has a *, and each host is named in full")
        if not (_HOST.match(host) or is_origin):
            raise ValueError(f"entry {number} of it is neither a host name nor an origin")
    return hosts


def check_urls(value: str) -> str:
    """Check destination URLs separated by whitespace: each needs a scheme."""
    for number, word in enumerate(value.split(), start=1):
        if not _SCHEME.match(word):
            place = "names no place behind its scheme" if _BARE_SCHEME.match(word) else "is not a URL with a scheme"
            raise ValueError(f"entry {number} of it {place}")
        if _JOINED.search(word):
            raise ValueError(
                f"entry {number} of it has a comma or semicolon between two URLs, or behind the last. Separate them by "
                "spaces: file:./outputs slack://C0123ABCD. A comma inside a URL is written %2C"
            )
    return value


PAGE_ROLES = ("viewer", "maker", "operator")
"""Roles of the page's users. Each may do what the ones before it may."""


def check_api_tokens(value: dict[str, Secret]) -> dict[str, Secret]:
    """Check the names of callers, and that their secrets are long and all different."""
    secrets = [secret.text for secret in value.values()]
    for number, (name, secret) in enumerate(zip(value, secrets, strict=True), start=1):
        if not _CALLER.match(name):
            raise ValueError(f"the name of entry {number} is not made of a-z, 0-9, - and _")
        if not _API_SECRET.match(secret):
            raise ValueError(f"the secret of entry {number} does not have 16 to 200 letters, digits or -._~+/=")
    if len(set(secrets)) < len(secrets):
        raise ValueError("two names have the same secret")
    return value


def check_page_users(value: dict[str, Secret]) -> dict[str, Secret]:
    """Check that each user of the page has a role and a secret, as `ROLE:SECRET`."""
    secrets = {}
    for number, (name, text) in enumerate(value.items(), start=1):
        role, mark, secret = text.text.partition(":")
        if not mark or role not in PAGE_ROLES:
            raise ValueError(f"entry {number} is not NAME:ROLE:SECRET with a role of {', '.join(PAGE_ROLES)}")
        secrets[name] = Secret(secret)
    check_api_tokens(secrets)
    return value


def check_media(value: str) -> str:
    """Check a folder, or a bucket's URL without a secret in it. The media store checks the bucket when it opens."""
    scheme, found, rest = value.partition("://")
    if value.lower().startswith("file:"):
        raise ValueError("a folder is written as its path alone, without file:")
    if not found:
        return str(expanded(value))
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


def show_length(secret: Secret) -> str:
    """Return the length of a secret, enough to notice a copy that was cut off."""
    return f"set, {len(secret.text)} characters"


Seconds = Annotated[
    float,
    Kind(parse_seconds, write="seconds above 0, or a time such as 30s, 15m or 72h", show=show_seconds),
    Meta(gt=0),
]
Keep = Annotated[
    float,
    Kind(
        parse_keep,
        write="for instance 12h or 90d, or forever (0 means that too)",
        show=lambda age: show_seconds(age) if age else "forever",
    ),
]
Size = Annotated[int, Kind(parse_size, write="bytes as a number, or for instance 256MiB", show=show_size)]
Folder = Annotated[Path, Kind(write="a folder this user may write")]
OriginURL = Annotated[
    str, Kind(check=check_origin_url, write="a URL, for instance https://receiver.example.com", show=show_base_url)
]
Key = Annotated[Secret, Kind(check=check_key, write="the key as you were given it", show=show_length)]
Hosts = Annotated[
    tuple[str, ...],
    Kind(check=check_hosts, write="host names or exact origins, for instance: cdn.example.com http://127.0.0.1:9000"),
]

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


def check_database(value: str) -> str:
    """Check that the value names a database for a journal."""
    kind = database_kind(value)
    if kind == "sqlite":
        sqlite_path(value)
    if kind not in {"postgres", "bucket"}:
        return value
    try:
        parts = urlsplit(value)
        if "," not in parts.netloc:  # several hosts, one of which is the primary
            _ = parts.port
        ended = parts.netloc.count("@") > 1 or "@" in parts.query.partition("=")[0] or parts.fragment
        if kind == "postgres" and ended:
            raise ValueError(value)  # the password ended too early, and the host would be a part of it
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
    return expanded(path)


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
        tokens = [text for text in pieces if len(text) >= _SHORTEST_TOKEN and not _WORDS.match(text)]
        secrets = [*(text for text in whole if len(text) >= _LONG), *tokens]
        found += [text for item in secrets for text in dict.fromkeys((item, unquote(item)))]
    return found
