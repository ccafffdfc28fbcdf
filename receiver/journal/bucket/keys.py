"""Keys of the journal's objects. Keys sort as their times do, or against them, because a store lists forward only."""

from __future__ import annotations

import re
from hashlib import sha256

DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Of our ids, in order."""
_TURNED = str.maketrans(DIGITS, DIGITS[::-1])
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,80}\Z")
_ESCAPED = re.compile(r"=([0-9a-f]{2})")

SUBMISSIONS = "submissions"
DUE = "due"
ROWS = "due/rows"
"""Due index of submissions."""
TO = "due/to"
"""Due index of deliveries, below their destination."""
DEAD = "dead"
VALUES = "values"
_SUFFIX = ".json.gz"


def escaped(text: str) -> str:
    """Return a segment of a key for any text. It can be read back unless it is too long."""
    if _PLAIN.match(text):
        return text
    spelled = "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"={byte:02x}" for byte in text.encode(errors="replace")
    )
    return spelled if 0 < len(spelled) <= 240 else "=_" + sha256(text.encode(errors="replace")).hexdigest()


def unescaped(segment: str) -> str:
    """Return the text of a segment that `escaped` made."""
    plain = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), segment)
    return plain.encode("latin-1").decode(errors="replace") if plain != segment else segment


def submission(id: str) -> str:
    """Return the key of a submission. The newest sorts first: each digit of the id is mirrored."""
    return f"{SUBMISSIONS}/{_turned(id)}{_SUFFIX}"


def _turned(id: str) -> str:
    return escaped(id.translate(_TURNED))


def submission_id(key: str) -> str:
    """Return the id for a key of `submission`."""
    return unescaped(last(key).removesuffix(_SUFFIX)).translate(_TURNED)


def before(id: str) -> str:
    """Return the offset behind which submissions older than an id are listed."""
    return f"{SUBMISSIONS}/{_turned(id)}~"


def last(key: str) -> str:
    """Return the last segment of a key."""
    return key.rpartition("/")[2]


def entry(place: str, due_ms: int, id: str, version: int, nonce: str) -> str:
    """Return the key of an index entry at `place`, made by that version of a submission. It is never used again."""
    return f"{place}/{max(due_ms, 0):015d}.{escaped(id)}.{version}-{nonce}"


def until(place: str, due_ms: int) -> str:
    """Return a key that sorts behind every entry that is due then."""
    return f"{place}/{max(due_ms, 0) + 1:015d}"


def read_entry(key: str) -> tuple[int, str, int]:
    """Return (due time, submission id, version) of an index entry."""
    due, _, rest = last(key).partition(".")
    id, _, version = rest.rpartition(".")
    return int(due), unescaped(id), int(version.partition("-")[0])


def destination(name: str) -> str:
    """Return the place of a destination's open deliveries in the due index."""
    return f"{TO}/{escaped(name)}"


def dead(name: str) -> str:
    """Return the place of a destination's dead deliveries."""
    return f"{DEAD}/{escaped(name)}"


def task(task_id: str, id: str = "") -> str:
    """Return the key that leads from a task to its submission."""
    return f"tasks/{escaped(task_id)}/{escaped(id)}" if id else f"tasks/{escaped(task_id)}"


def child(parent_id: str, id: str = "") -> str:
    """Return the key that leads from a submission to a follow-up."""
    return f"children/{escaped(parent_id)}/{escaped(id)}" if id else f"children/{escaped(parent_id)}"


def once(name: str) -> str:
    """Return the key of a unique name."""
    return f"once/{sha256(name.encode(errors='replace')).hexdigest()}"


def file(digest: str, id: str = "") -> str:
    """Return the key that leads from a file of the media store to a submission that needs it."""
    return f"files/{escaped(digest)}/{escaped(id)}" if id else f"files/{escaped(digest)}"


def leftover(digest: str) -> str:
    """Return the key of a file that no submission needs any more."""
    return f"leftovers/{escaped(digest)}"


def callback(id: str, number: int) -> str:
    """Return the key of a callback's body that is too large for its submission's object."""
    return f"callbacks/{escaped(id)}/{number}"
