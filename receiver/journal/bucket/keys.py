"""Keys of the journal's objects. Keys sort as their times do, or against them, because a store lists forward only."""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import quote, unquote

DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Digits of our ids, in order."""
_MIRRORED = str.maketrans(DIGITS, DIGITS[::-1])

SUBMISSIONS = "submissions"
DUE = "due"
ROWS = "due/rows"
"""Due index of submissions."""
TO = "due/to"
"""Due index of deliveries, below their destination."""
DEAD = "dead"
TASKS = "tasks"
CHILDREN = "children"
FILES = "files"
LEFTOVERS = "leftovers"
VALUES = "values"
_SUFFIX = ".json.gz"


def path(folder: str, *segments: str | int) -> str:
    """Return a key or a folder below `folder`."""
    return "/".join((folder, *(escaped(str(segment)) for segment in segments)))


def segments(key: str, folder: str) -> list[str]:
    """Return the segments of a key that `path` made."""
    return [unescaped(segment) for segment in key.removeprefix(f"{folder}/").split("/")]


def escaped(text: str) -> str:
    """Return a segment of a key for any text. It can be read back unless it is too long."""
    spelled = quote(text, safe="", errors="replace").replace(".", "%2E").replace("~", "%7E").replace("%", "=")
    return spelled if 0 < len(spelled) <= 240 else "=_" + sha256(text.encode(errors="replace")).hexdigest()


def unescaped(segment: str) -> str:
    """Return the text of a segment that `escaped` made."""
    return unquote(segment.replace("=", "%"))


def submission(id: str) -> str:
    """Return the key of a submission. The newest sorts first: each digit of the id is mirrored."""
    return path(SUBMISSIONS, id.translate(_MIRRORED)) + _SUFFIX


def submission_id(key: str) -> str:
    """Return the id for a key of `submission`."""
    return segments(key, SUBMISSIONS)[0].removesuffix(_SUFFIX).translate(_MIRRORED)


def before(id: str) -> str:
    """Return the offset behind which submissions older than an id are listed."""
    return submission(id).removesuffix(_SUFFIX) + "~"


def once(name: str) -> str:
    """Return the key of a unique name."""
    return f"once/{sha256(name.encode(errors='replace')).hexdigest()}"


def entry(place: str, due_ms: int, id: str, version: int, nonce: str, *, failed: bool = False) -> str:
    """Return the key of an index entry at `place` for one version of a submission. It is never used again.

    `failed`: all open deliveries of the submission to the destination have failed.
    """
    return f"{place}/{max(due_ms, 0):015d}.{escaped(id)}.{version}-{nonce}{'-failed' if failed else ''}"


def has_failed(key: str) -> bool:
    """Return True for an entry made with `failed`."""
    return key.endswith("-failed")


def place(key: str) -> str:
    """Return the place of an index entry."""
    return key.rpartition("/")[0]


def until(place: str, due_ms: int) -> str:
    """Return a key that sorts behind every entry that is due then."""
    return f"{place}/{max(due_ms, 0) + 1:015d}"


def read_entry(key: str) -> tuple[int, str, int]:
    """Return (due time, submission id, version) of an index entry."""
    due, _, rest = key.rpartition("/")[2].partition(".")
    id, _, version = rest.rpartition(".")
    return int(due), unescaped(id), int(version.partition("-")[0])
