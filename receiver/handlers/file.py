"""The file handler: every result as a picture in a folder, with a `.json` beside it that says what it is.

Names are `<UTC day>_<slug>_<submission id>.png`, made only of our own id and a slug of the prompt: the same over
retries, so a repeat writes the same file again, and never under anybody else's control.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

from pydantic import Field
from ulid import ULID

from receiver.deliveries import Receipt
from receiver.disk import in_thread, make_folder, own_draft, sync_folder
from receiver.errors import SettingsError
from receiver.events import Event, Media
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions, Rejected, RetryLater, StoredMedia
from receiver.tasks import Task

SLUG_LENGTH = 40
PENDING_SECONDS = 15.0
"""How long to wait for a picture that is still being downloaded."""
BUSY_SECONDS = 5.0
"""How long to wait for another attempt at the same delivery: one that an engine thought gone."""
BLOCK = 1024 * 1024

_WRITTEN = frozenset({"task.input_required", "task.succeeded", "task.failed", "task.lost"})
_LINKS = re.compile(r"\S*://\S*")
# Midjourney reads flags at the end of a prompt only; phones turn "--" into a dash.
_FIRST_FLAG = re.compile(r"(?:^|\s)(?:--|—)(?=[A-Za-z])")
_STOP_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "in", "into", "is", "it", "its"}
    | {"of", "on", "or", "that", "the", "their", "then", "this", "to", "was", "were", "with"}
)
_REMEDIES = {
    errno.ENOSPC: "Free space on its disk.",
    errno.EDQUOT: "Free space or raise the quota.",
    errno.EACCES: "Give this process write access, or choose another folder.",
    errno.EPERM: "Give this process write access, or choose another folder.",
    errno.EROFS: "Its disk is read-only: choose another folder.",
    errno.ENOTDIR: "A file stands in its place: choose another folder.",
    errno.EEXIST: "A file stands in its place: choose another folder.",
}


class FileHandler:
    """Writes results into a folder: `task.succeeded` as picture and JSON, what failed or asks for input as JSON.

    Each file is complete and on disk under its name, or not there; the JSON comes last.
    """

    name = "file"
    summary = "Pictures in a folder, each with a .json that says what it is."
    schemes = ("file",)
    guarantee: ClassVar[Guarantee] = "once"

    class Options(HandlerOptions):
        """Options of a `file` destination."""

        path: Path = Field(Path("outputs"), description="Folder for the pictures; it is made if it is missing.")

    def __init__(self, options: Options) -> None:
        self.folder = options.path.expanduser().absolute()

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Options from `file:./outputs`, `file:/abs`, `file:///abs` (RFC 8089) or `file:~/x`.

        Raises:
            SettingsError: the URL names another machine, or no path a system could have.
        """
        path = url.partition(":")[2]
        if path.startswith("//"):
            host, slash, rest = path[2:].partition("/")
            if host not in ("", "localhost"):
                raise SettingsError(f"{url!r} names the machine {host!r}. For a folder here, write file:./{host}.")
            path = slash + rest
        path = unquote(path)
        if "\0" in path:
            raise SettingsError("A file: destination has a NUL in its path.")
        return {"path": path} if path else {}

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Write what the event is worth.

        Raises:
            RetryLater: the picture is still being downloaded, or another attempt writes the same files.
            Rejected: there will be no picture; the JSON is written and says why.
            OSError: the folder cannot be written; the text names the reason and the remedy.
        """
        event = attempt.event
        if event.type not in _WRITTEN:
            return Receipt()
        succeeded = event.type == "task.succeeded"
        if succeeded and not attempt.media and attempt.media_pending:
            raise RetryLater(PENDING_SECONDS, "the picture is still being downloaded")
        files = await in_thread(self._write, attempt, attempt.media if succeeded else ())
        if succeeded and not attempt.media and attempt.media_problem:
            raise Rejected(f"Only {files[-1]} was written, without the picture. {attempt.media_problem}")
        return Receipt(ref=files[0], data={"files": files})

    async def aclose(self) -> None:
        """Nothing stays open between deliveries."""

    def _write(self, attempt: Attempt, media: Sequence[StoredMedia]) -> list[str]:
        """Pictures first, the JSON last: who sees the JSON finds the pictures. Returns every path, in that order."""
        stem = file_stem(attempt.event)
        names = [f"{stem}{_number(at, len(media))}{stored.media.extension}" for at, stored in enumerate(media, 1)]
        record = _record(attempt, list(zip(names, (stored.media for stored in media), strict=True)))
        texts = _texts(attempt.event)
        pages = {f"{stem}.txt": "".join(f"{text}\n" for text in texts).encode()} if texts else {}
        pages[f"{stem}.json"] = _as_json(record)
        # One name per delivery, the same over retries: what a killed process left is overwritten, not piled up.
        draft = self.folder / f".{attempt.idempotency_key}.part"
        try:
            make_folder(self.folder)
            for name, stored in zip(names, media, strict=True):
                _write_once(self.folder / name, draft, stored.media.digest, stored.media.size, _content(stored))
            for name, data in pages.items():
                _write_once(self.folder / name, draft, hashlib.sha256(data).hexdigest(), len(data), iter([data]))
            sync_folder(self.folder)
        except BlockingIOError as exc:
            raise RetryLater(BUSY_SECONDS, "another attempt at this delivery is still writing") from exc
        except OSError as exc:
            raise _explained(exc, self.folder) from exc
        return [str(self.folder / name) for name in [*names, *pages]]


def file_stem(event: Event) -> str:
    """`<UTC day>_<slug>_<submission id>`, the day being the one in the id, which no retry changes."""
    submission = ULID.from_str(event.submission_id)  # a ValueError for what is no id of ours, so never a path
    parts = (f"{submission.datetime:%Y-%m-%d}", slug(event.prompt, event.button or ""), str(submission))
    return "_".join(part for part in parts if part)


def slug(prompt: str, button: str = "") -> str:
    """A prompt as at most 40 characters of `[a-z0-9-]`, cut at a word; "" when nothing is left. A button that was
    pressed stands at the end."""
    if end := slug(button)[:_LONGEST_END] if button else "":
        return f"{_cut(slug(prompt), SLUG_LENGTH - len(end) - 1)}-{end}".strip("-")
    words = _FIRST_FLAG.split(_LINKS.sub(" ", prompt), maxsplit=1)[0].replace("'", "").replace("’", "")
    folded = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode().lower()
    name = ""
    for word in re.findall("[a-z0-9]+", folded):
        if word in _STOP_WORDS:
            continue
        longer = f"{name}-{word}" if name else word[:SLUG_LENGTH]
        if len(longer) > SLUG_LENGTH:
            break
        name = longer
    return name


_LONGEST_END = 20


def _cut(name: str, length: int) -> str:
    """A slug shortened at a word."""
    return name if len(name) <= length else name[: length + 1].rpartition("-")[0]


def _texts(event: Event) -> tuple[str, ...]:
    return event.task.texts if event.task is not None and event.type == "task.succeeded" else ()


def parameters(prompt: str) -> dict[str, str | bool]:
    """The flags at the end of a prompt: `--v 6.1 --tile` is `{"v": "6.1", "tile": true}`. The last of a name counts."""
    found: dict[str, str | bool] = {}
    for flag in _FIRST_FLAG.split(prompt)[1:]:
        name, *value = flag.split(maxsplit=1)
        found[name.lower()] = value[0].strip() if value else True
    return found


def _record(attempt: Attempt, media: Iterable[tuple[str, Media]]) -> dict[str, Any]:
    """What the `.json` says. Only from the event and its files, so that a retry writes the same bytes."""
    event = attempt.event
    task = event.task
    record = {
        "prompt": event.prompt,
        "parameters": parameters(event.prompt),
        "kind": event.kind,
        "task": _task(event, task),
        "labels": dict(sorted(event.labels.items())),
        "state": event.state,
        "lineage": {"submission": event.submission_id, "parent": event.parent_id, "button": event.button},
        "times": _times(event, task),
        "texts": list(_texts(event)),
        "links": list(task.result_urls) if task else [],
        "media": [
            {"file": name, "sha256": item.digest, "type": item.type, "size": item.size, "link": item.url}
            for name, item in media
        ],
        "media_problem": attempt.media_problem,
        "event": {
            "id": event.id,
            "type": event.type,
            "confirmed": event.confirmed,
            "reason": event.reason,
            "supersedes": event.supersedes,
            "schema": event.schema,
        },
    }
    if attempt.media_problem is None:
        del record["media_problem"]
    return record


def _task(event: Event, task: Task | None) -> dict[str, Any]:
    """The task for people. Without its `state` and the echoed callback URL: those hold our tokens."""
    return {
        "id": event.task_id,
        "action": task.action if task else "",
        "status": event.status,
        "progress": event.progress,
        "seed": task.seed if task else "",
        "final_prompt": task.final_prompt if task else "",
        "description": task.description if task else "",
        "fail_reason": task.fail_reason if task else "",
        "buttons": [
            {"custom_id": button.custom_id, "label": button.label, "emoji": button.emoji}
            for button in (task.buttons if task else ())
        ],
    }


def _times(event: Event, task: Task | None) -> dict[str, str | None]:
    """ISO 8601 in UTC. `submitted` is ours when the provider gives none."""
    submitted = task.submit_ms if task else None
    return {
        "submitted": _iso(submitted or ULID.from_str(event.submission_id).milliseconds),
        "started": _iso(task.start_ms if task else None),
        "finished": _iso(task.finish_ms if task else None),
        "event": _iso(event.created_ms),
    }


def _iso(ms: int | None) -> str | None:
    if ms is None:
        return None
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):  # the provider's number, beyond the year 9999
        return None


def _as_json(record: dict[str, Any]) -> bytes:
    # A lone surrogate, which UTF-8 cannot say, becomes its JSON escape.
    return (json.dumps(record, ensure_ascii=False, indent=2) + "\n").encode("utf-8", "backslashreplace")


def _number(at: int, total: int) -> str:
    return f"_{at}" if total > 1 else ""


def _content(stored: StoredMedia) -> Iterator[bytes]:
    """The archived file in blocks. Copied, not linked: an edit in the folder must not change the archive."""
    try:
        with stored.path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block
    except OSError as exc:
        raise _ContentError(f"The archived file {stored.path} cannot be read ({exc.strerror or exc}).") from exc


class _ContentError(OSError):
    """An OSError that already says everything, and is not the output folder's fault."""


def _write_once(path: Path, draft: Path, digest: str, size: int, blocks: Iterator[bytes]) -> None:
    """`blocks` on disk under `path`, by way of `draft`; nothing to do when that very content is there already."""
    if _is_there(path, digest, size):
        return
    sha256 = hashlib.sha256()
    with own_draft(draft) as file:
        for block in blocks:
            file.write(block)
            sha256.update(block)
        file.flush()
        os.fsync(file.fileno())
        if sha256.hexdigest() != digest:
            raise _ContentError(f"The archived file for {path} is damaged; its SHA-256 should be {digest}.")
        os.replace(draft, path)


def _is_there(path: Path, digest: str, size: int) -> bool:
    """Whether `path` is a plain file with that content. A symlink is not: it is replaced, never followed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size != size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest


def _explained(exc: OSError, folder: Path) -> OSError:
    if isinstance(exc, _ContentError):
        return exc
    remedy = _REMEDIES.get(exc.errno or 0, "Check its disk, or choose another folder.")
    return OSError(f"The folder {folder} cannot be written ({exc.strerror or exc}). {remedy}")
