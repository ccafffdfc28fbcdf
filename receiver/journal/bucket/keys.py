"""What objects are called. Keys sort as their times do, or against them, because a store lists forward only."""

from __future__ import annotations

import re
from hashlib import sha256

DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Of our ids, in order."""
_TURNED = str.maketrans(DIGITS, DIGITS[::-1])
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,80}\Z")
_ESCAPED = re.compile(r"=([0-9a-f]{2})")

SUBMISSIONS = "submissions"
ROWS = "due/rows"
"""Marks of submissions that something is to be done about."""
ALONE = "due/alone"
"""Marks of deliveries that run alone."""
TO = "due/to"
"""Marks of deliveries, below their destination."""
DEAD = "dead"
_SUFFIX = ".json.gz"


def escaped(text: str) -> str:
    """A segment of a key for any text: it can be read back where it is not too long."""
    if _PLAIN.match(text):
        return text
    spelled = "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"={byte:02x}" for byte in text.encode(errors="replace")
    )
    return spelled if 0 < len(spelled) <= 240 else "=_" + sha256(text.encode(errors="replace")).hexdigest()


def unescaped(segment: str) -> str:
    """The text of a segment that `escaped` spelled out."""
    plain = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), segment)
    return plain.encode("latin-1").decode(errors="replace") if plain != segment else segment


def submission(id: str) -> str:
    """Where a submission lies. The newest sorts first: each digit of the id is turned over."""
    return f"{SUBMISSIONS}/{turned(id)}{_SUFFIX}"


def turned(id: str) -> str:
    """The segment of an id; also of the beginning of one."""
    return escaped(id.translate(_TURNED))


def submission_id(key: str) -> str:
    """Whose key `submission` gave."""
    return unescaped(last(key).removesuffix(_SUFFIX)).translate(_TURNED)


def before(id: str) -> str:
    """The offset behind which the submissions older than an id are listed."""
    return f"{SUBMISSIONS}/{turned(id)}~"


def last(key: str) -> str:
    """The last segment."""
    return key.rpartition("/")[2]


def mark(place: str, due_ms: int, id: str, version: int, nonce: str) -> str:
    """A mark: at `place`, in order of time, of the version of a submission that wrote it. It is never used again."""
    return f"{place}/{max(due_ms, 0):015d}.{escaped(id)}.{version}-{nonce}"


def until(place: str, due_ms: int) -> str:
    """What sorts behind every mark that is due then."""
    return f"{place}/{max(due_ms, 0) + 1:015d}"


def read_mark(key: str) -> tuple[int, str, int]:
    """(due, submission id, version) of a mark."""
    due, _, rest = last(key).partition(".")
    id, _, version = rest.rpartition(".")
    return int(due), unescaped(id), int(version.partition("-")[0])


def destination(name: str) -> str:
    """Where the marks of a destination's deliveries lie."""
    return f"{TO}/{escaped(name)}"


def dead(name: str) -> str:
    """Where the marks of a destination's dead deliveries lie."""
    return f"{DEAD}/{escaped(name)}"


def task(task_id: str, id: str = "") -> str:
    """Which submission has a task."""
    return f"tasks/{escaped(task_id)}/{escaped(id)}" if id else f"tasks/{escaped(task_id)}"


def child(parent_id: str, id: str = "") -> str:
    """Which submission follows another one up."""
    return f"children/{escaped(parent_id)}/{escaped(id)}" if id else f"children/{escaped(parent_id)}"


def once(name: str) -> str:
    """Who has a name."""
    return f"once/{sha256(name.encode(errors='replace')).hexdigest()}"


def file(digest: str, id: str = "") -> str:
    """Which submission needs a file of the media store."""
    return f"files/{escaped(digest)}/{escaped(id)}" if id else f"files/{escaped(digest)}"


def leftover(digest: str) -> str:
    """A file that no submission needs any more."""
    return f"leftovers/{escaped(digest)}"


def callback(id: str, number: int) -> str:
    """A callback that is too large for its submission's object."""
    return f"callbacks/{escaped(id)}/{number}"


def engine(owner: str) -> str:
    """The sign of life of an engine."""
    return f"engines/{escaped(owner)}"
