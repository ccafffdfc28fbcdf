"""What `RECEIVER_DATABASE` names: a file of SQLite, PostgreSQL, a bucket, or none.

Nothing here puts a password into an error or onto a screen.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from receiver.settings.kinds import MASK, check_folder

DatabaseKind = Literal["sqlite", "postgres", "bucket", "none"]

_HIDDEN = r"([?&][^=&#]*(?:pass|secret|key|token)[^=&#]*=)([^&#]*)"
_KINDS: dict[str, DatabaseKind] = {
    "sqlite": "sqlite",
    "postgres": "postgres",
    "postgresql": "postgres",
    "s3": "bucket",
    "gs": "bucket",
    "az": "bucket",
}


def database_kind(value: str) -> DatabaseKind:
    """Which kind of journal it names.

    Raises:
        ValueError: none we know.
    """
    if value.lower() == "none":
        return "none"
    kind = _KINDS.get(value.partition(":")[0].lower())
    if kind is None or ":" not in value:
        raise ValueError("it does not begin with sqlite:, postgresql://, s3://, gs:// or az://")
    return kind


def check_database(value: str) -> str:
    """A database we can keep a journal in.

    Raises:
        ValueError: it is none, or lacks what it needs.
    """
    kind = database_kind(value)
    if kind == "sqlite":
        sqlite_path(value)
    elif kind == "postgres":
        _check_url(value, needs="a user, a host and a database after it")
    elif kind == "bucket" and not _check_url(value, needs="a bucket after it"):
        raise ValueError("it names no bucket")
    return value


def _check_url(value: str, *, needs: str) -> str:
    """The URL's host, which a socket of PostgreSQL does without."""
    try:
        parts = urlsplit(value)
        if "," not in parts.netloc:  # several hosts, one of which is the primary
            _ = parts.port
    except ValueError:
        raise ValueError("it is no URL") from None
    if not value.partition(":")[2].startswith("//") or len(value) <= len(f"{parts.scheme}://"):
        raise ValueError(f"it needs // and {needs}")
    return parts.hostname or ""


def sqlite_path(value: str) -> Path:
    """The path in `sqlite:PATH` or `sqlite:///PATH`.

    With three slashes PATH is relative and a fourth makes it absolute, as in the `DATABASE_URL`s people have.

    Raises:
        ValueError: another database, or no usable path.
    """
    scheme, _, rest = value.partition(":")
    if scheme.lower() != "sqlite":
        raise ValueError("it does not begin with sqlite:")
    path = rest.removeprefix("///") if rest.startswith("///") else rest
    if not path or path.startswith(("//", ":memory:")) or "?" in path or "\0" in path:
        raise ValueError("it has no usable path after sqlite:")
    return check_folder(Path(path))


def show_database(value: str) -> str:
    """As it was given, without passwords, be they in front of the host or in the query."""
    if database_kind(value) in {"sqlite", "none"}:
        return value
    return without_passwords(value)


def without_passwords(url: str) -> str:
    """A URL as it was given, but for passwords."""
    shown = re.sub(r"^(\w+://[^/?#@:]*):[^/]+@", rf"\1:{MASK}@", url)
    return re.sub(_HIDDEN, rf"\1{MASK}", shown, flags=re.IGNORECASE)


def database_secrets(value: str) -> list[str]:
    """What of it must never be shown, as it is and as it is written. A password that is a word of ours, or the user's
    name over again, keeps nobody out, and to leave it out of every line would hide what the line is about."""
    if database_kind(value) in {"sqlite", "none"}:
        return []
    parts = urlsplit(value)
    written = [parts.password or "", *(match[2] for match in re.finditer(_HIDDEN, value, re.IGNORECASE))]
    words = {"receiver", parts.scheme, parts.username, parts.hostname, parts.path.strip("/")}
    return [text for item in written if item not in {"", *words} for text in dict.fromkeys((item, unquote(item)))]
