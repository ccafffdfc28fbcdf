"""Files of a result as a destination keeps them: names, the tiles of a grid, provenance inside each PNG, the sidecar.

Names are made of our own id and a slug of the prompt, so they are never a path, and a retry makes the same ones.
Provenance is written as iTXt chunks (PNG specification, 11.3.3.4) behind the header. No pixel is decoded.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from receiver.disk import copied, in_thread
from receiver.errors import MediaError
from receiver.events import ALERT_TYPES, Event, EventType, id_ms
from receiver.handlers.base import Attempt, StoredMedia
from receiver.handlers.cloudevents import iso_time
from receiver.tasks import Task

SLUG_LENGTH = 40
BLOCK = 128 * 1024
"""Bytes that are read at once. Memory for more goes back to the system each time, which costs more than the reads."""
HEADER = 33
"""Bytes of a PNG's signature and its IHDR chunk, which always comes first."""
SOFTWARE = "imagine-receiver"
SIDECAR_EVENTS: frozenset[EventType] = frozenset(
    {"task.input_required", "task.succeeded", "task.failed", "task.lost", *ALERT_TYPES}
)
"""Events after which nothing comes by itself, and alerts. A destination that keeps files writes a sidecar for each."""

# Midjourney reads flags at the end of a prompt only. Phones turn "--" into a dash.
_FIRST_FLAG = re.compile(r"(?:^|\s)(?:--|—)(?=[A-Za-z])")
_STOP_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "in", "into", "is", "it", "its"}
    | {"of", "on", "or", "that", "the", "their", "then", "this", "to", "was", "were", "with"}
)
_LONGEST_END = 20


class ArchiveError(OSError):
    """An archived file cannot be read or is damaged, which is not the destination's fault. The text is complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """One file for the destination."""

    stored: StoredMedia  # the archived file or tile that it is made of
    mark: str  # its suffix among the files of its result: "" for an only one, else `1`, `2` …, or `u1` to `u4`
    digest: str  # SHA-256 of its content, in hex. It differs from the archived file's if there is an `insert`
    size: int  # bytes
    insert: bytes = b""  # chunks that go in behind a PNG's header

    @property
    def made(self) -> bool:
        """True if we made it from the archived file, so that another version of us may make other bytes."""
        return bool(self.insert or self.stored.tile)

    def blocks(self) -> Iterator[bytes]:
        """Yield the content. Blocking. Raise ArchiveError, at the end too if the content has another digest."""
        sha256 = hashlib.sha256()
        for block in _blocks(self.stored, self.insert):
            sha256.update(block)
            yield block
        if sha256.hexdigest() != self.digest:
            raise _damaged(self.stored)

    def write(self, target: BinaryIO) -> None:
        """Write the content to an empty file. Blocking. A copy by the kernel is checked by its size alone. Raise as
        `blocks`."""
        if self.insert or not copied(self.stored.path, target, self.size):
            for block in self.blocks():
                target.write(block)

    def check(self, path: Path) -> None:
        """Raise ArchiveError unless a copy has the content. Blocking."""
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != self.digest:
                raise _damaged(self.stored)

    def read(self) -> bytearray:
        """Return the content, held in memory once. Blocking. Raise as `blocks`."""
        held, at = bytearray(self.size), 0
        for block in self.blocks():
            held[at : at + len(block)] = block
            at += len(block)
        return held


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFiles:
    """All files of a result. `problem` says why it has no tiles although they were asked for."""

    files: tuple[ResultFile, ...] = ()
    problem: str | None = None


async def gather(attempt: Attempt, *, tiles: bool, embed: bool) -> ResultFiles:
    """Return the files of a result in order: its own, then the tiles U1 to U4 of a grid.

    Raise MediaError if the tiles cannot be made now, or ArchiveError for a missing or damaged file.
    """
    cut: Sequence[StoredMedia] = ()
    problem = None
    if tiles:
        try:
            cut = await attempt.tiles()
        except MediaError as exc:
            if not exc.permanent:
                raise
            problem = str(exc)

    def made() -> tuple[ResultFile, ...]:
        own = [(stored, str(stored.media.index + 1) if attempt.numbered else "") for stored in attempt.media]
        marked = [*own, *((stored, f"u{stored.tile}") for stored in cut)]
        return tuple(_result_file(stored, mark, attempt.event, embed) for stored, mark in marked)

    return ResultFiles(files=await in_thread(made) if embed else made(), problem=problem)


def _result_file(stored: StoredMedia, mark: str, event: Event, embed: bool) -> ResultFile:
    insert = b""
    if embed and stored.media.type == "image/png" and takes_chunks(next(_blocks(stored), b"")):
        insert = provenance(event, stored.tile)
    if not insert:
        return ResultFile(stored=stored, mark=mark, digest=stored.media.digest, size=stored.media.size)
    archived, sha256 = hashlib.sha256(), hashlib.sha256()
    for at, block in enumerate(_blocks(stored, insert)):
        sha256.update(block)
        if at != 1:  # the second is the insert
            archived.update(block)
    if archived.hexdigest() != stored.media.digest:
        raise _damaged(stored)
    size = stored.media.size + len(insert)
    return ResultFile(stored=stored, mark=mark, digest=sha256.hexdigest(), size=size, insert=insert)


def _blocks(stored: StoredMedia, insert: bytes = b"") -> Iterator[bytes]:
    """Yield the archived file in blocks. With an insert, the header is the first one and the insert the second."""
    try:
        with stored.path.open("rb", buffering=0) as file:
            if insert:
                yield file.read(HEADER)
                yield insert
            while block := file.read(BLOCK):
                yield block
    except OSError as exc:
        raise ArchiveError(f"The archived file {stored.path} cannot be read ({exc.strerror or exc}).") from exc


def _damaged(stored: StoredMedia) -> ArchiveError:
    return ArchiveError(f"The archived file {stored.path} is damaged; its SHA-256 should be {stored.media.digest}.")


# Names


def file_stem(event: Event) -> str:
    """Return `<UTC day>_<slug>_<submission id>`. The day is that of the id, which no retry changes.

    A submission id that is not ours raises ValueError, so it never becomes a path.
    """
    day = datetime.fromtimestamp(id_ms(event.submission_id) / 1000, UTC).date()
    parts = (str(day), slug(event.prompt, event.button or ""), event.submission_id)
    return "_".join(part for part in parts if part)


def slug(prompt: str, button: str = "") -> str:
    """Return a prompt as at most 40 characters of `[a-z0-9-]`, cut at a word, with a pressed button at the end."""
    if end := slug(button)[:_LONGEST_END] if button else "":
        name, length = slug(prompt), SLUG_LENGTH - len(end) - 1
        if len(name) > length:
            name = name[: length + 1].rpartition("-")[0]
        return f"{name}-{end}".strip("-")
    text = " ".join(word for word in prompt.split() if "://" not in word)
    words = _FIRST_FLAG.split(text, maxsplit=1)[0].replace("'", "").replace("’", "")
    return joined(word for word in plain_words(words) if word not in _STOP_WORDS)


def plain_words(text: str) -> list[str]:
    """Return the words of a text in `[a-z0-9]`, without accents."""
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.findall("[a-z0-9]+", folded)


def joined(words: Iterable[str]) -> str:
    """Return words with hyphens between them, as many as fit into 40 characters."""
    name = ""
    for word in words:
        longer = f"{name}-{word}" if name else word[:SLUG_LENGTH]
        if len(longer) > SLUG_LENGTH:
            break
        name = longer
    return name


# Provenance


def parameters(prompt: str) -> dict[str, str | bool]:
    """Return the flags at the end of a prompt: `--v 6.1 --tile` is `{"v": "6.1", "tile": true}`. The last counts."""
    found: dict[str, str | bool] = {}
    for flag in _FIRST_FLAG.split(prompt)[1:]:
        name, *value = flag.split(maxsplit=1)
        found[name.lower()] = value[0].strip() if value else True
    return found


def provenance(event: Event, tile: int = 0) -> bytes:
    """Return iTXt chunks: `Description`, `Source` and `Software` for people, `Comment` as JSON for programs.

    They hold facts of the event only, so a retry writes the same bytes. State and callback URL, which hold our tokens,
    are left out.
    """
    task = event.task or Task(id="")
    comment = {
        "prompt": event.prompt,
        "parameters": parameters(event.prompt),
        "kind": event.kind,
        "button": event.button,
        "task": event.task_id,
        "seed": task.seed,
        "tile": f"U{tile}" if tile else None,
        "submission": event.submission_id,
    }
    texts = {
        "Description": event.prompt,
        "Source": f"Midjourney, task {event.task_id}",
        "Software": SOFTWARE,
        "Comment": json.dumps(comment, ensure_ascii=False),
    }
    # Keyword, not compressed, no language, no translated keyword.
    bodies = (
        keyword.encode("latin-1") + b"\0\0\0\0\0" + text.replace("\0", "\ufffd").encode("utf-8", "replace")
        for keyword, text in texts.items()
        if text
    )
    return b"".join(png_chunk(b"iTXt", body) for body in bodies)


def takes_chunks(head: bytes) -> bool:
    """Return True if a file with this beginning is a PNG with its header in the first place."""
    return head.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") and len(head) >= HEADER


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG (ISO/IEC 15948): length, kind, data, checksum."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


# The sidecar: the `.json` beside the files, which holds the event for people and programs


def texts(event: Event) -> tuple[str, ...]:
    """Return the prompts that a describe or shorten found."""
    return event.task.texts if event.task is not None and event.type == "task.succeeded" else ()


def sidecar(attempt: Attempt, named: Iterable[tuple[str, ResultFile]], problem: str | None = None) -> bytes:
    """Return the `.json` of an event and its named files in UTF-8, indented. A retry writes the same bytes.

    `problem` says why there are no tiles although they were asked for.
    """
    event = attempt.event
    task = event.task or Task(id="")
    said = {
        "prompt": event.prompt,
        "parameters": parameters(event.prompt),
        "kind": event.kind,
        "task": {  # without `state` and the echoed callback URL, which hold our tokens
            "id": event.task_id,
            "action": task.action,
            "status": event.status,
            "progress": event.progress,
            "seed": task.seed,
            "final_prompt": task.final_prompt,
            "description": task.description,
            "fail_reason": task.fail_reason,
            "buttons": [{name: getattr(one, name) for name in ("custom_id", "label", "emoji")} for one in task.buttons],
        },
        "labels": dict(sorted(event.labels.items())),
        "state": event.state,
        "lineage": {"submission": event.submission_id, "parent": event.parent_id, "button": event.button},
        "times": {
            # Our own time if the provider gives none.
            "submitted": iso_time(task.submit_ms or id_ms(event.submission_id)),
            "started": iso_time(task.start_ms),
            "finished": iso_time(task.finish_ms),
            "event": iso_time(event.created_ms),
        },
        "texts": list(texts(event)),
        "links": list(task.result_urls),
        "media": [
            {
                "file": name,
                "sha256": file.digest,
                "type": file.stored.media.type,
                "size": file.size,
                **({"tile": f"U{file.stored.tile}"} if file.stored.tile else {}),
                **({"original": file.stored.media.digest} if file.insert else {}),  # of the file it was made from
                "link": file.stored.media.url,
            }
            for name, file in named
        ],
        "media_problem": attempt.media_problem,
        "tiles_problem": problem,
        "event": {name: getattr(event, name) for name in ("id", "type", "confirmed", "reason", "supersedes", "schema")},
    }
    document = {name: value for name, value in said.items() if value is not None or not name.endswith("_problem")}
    try:
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    except UnicodeEncodeError:  # a lone surrogate becomes its JSON escape
        return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace")
