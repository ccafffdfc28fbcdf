"""File handler: every result as a picture in a folder, with a `.json` sidecar beside it.

Names are `<UTC day>_<slug>_<submission id>.png`, so a retry writes the same file again (`result_files`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from operator import methodcaller
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar
from urllib.parse import unquote

from receiver.deliveries import Receipt
from receiver.disk import in_thread, make_folder, own_draft, sync_folder
from receiver.errors import SettingsError, require
from receiver.handlers import result_files
from receiver.handlers.base import Attempt, Guarantee, HandlerBase, HandlerOptions, Rejected, RetryLater

BUSY_SECONDS = 5.0
"""Seconds to wait for another attempt at the same delivery, which an engine had counted as gone."""

_REMEDIES = {
    errno.ENOSPC: "Free space on its disk.",
    errno.EDQUOT: "Free space or raise the quota.",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Give this process write access, or choose another folder."),
    errno.EROFS: "Its disk is read-only: choose another folder.",
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "A file stands in its place: choose another folder."),
}


class FileHandler(HandlerBase):
    """Writes results into a folder: `task.succeeded` as picture and JSON, other ends and questions as JSON.

    Each file is complete and on disk under its name, or not there. The JSON comes last.
    """

    name = "file"
    summary = "Pictures in a folder, each with a .json that says what it is."
    schemes = ("file",)
    guarantee: ClassVar[Guarantee] = "once"

    class Options(HandlerOptions):
        """Options of a `file` destination."""

        path: Annotated[Path, "Folder for the pictures. It is made if it is missing."] = Path("outputs")
        tiles: Annotated[
            bool,
            "Also write a grid's four pictures, as `…_u1.png` (top left) to `…_u4.png`. Needs the extra `images`.",
        ] = False
        embed: Annotated[bool, "Write prompt, parameters and task id into PNGs, as iTXt chunks."] = False
        link: Annotated[
            bool,
            "Hard-link pictures from the archive on the same disk, so that they take no space of their own. "
            "A program that edits one in place changes the archive, too.",
        ] = False

    def __init__(self, options: Options) -> None:
        if options.tiles:
            require("PIL", extra="images", why="The option tiles")
        self.folder = options.path.absolute()
        self._tiles = options.tiles
        self._embed = options.embed
        self._link = options.link

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Return options from `file:./outputs`, `file:/abs`, `file:///abs` (RFC 8089) or `file:~/x`."""
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
        """Write the files of an event, if it is one of `SIDECAR_EVENTS`.

        Raise Rejected if there will be no picture (the JSON is written and says why), or OSError with a remedy.
        """
        event = attempt.event
        if event.type not in result_files.SIDECAR_EVENTS:
            return Receipt()
        succeeded = event.type == "task.succeeded"
        found = result_files.ResultFiles()
        if succeeded:
            found = await result_files.gather(attempt, tiles=self._tiles, embed=self._embed)
        files = await in_thread(self._write, attempt, found)
        if attempt.without_files:
            raise Rejected(f"Only {files[-1]} was written, without the picture. {attempt.media_problem}")
        return Receipt(ref=files[0], data={"files": files})

    def _write(self, attempt: Attempt, found: result_files.ResultFiles) -> list[str]:
        """Write the pictures first and the JSON last, so that the JSON never lacks them. Return every path in order."""
        stem = result_files.file_stem(attempt.event)
        named = [
            (f"{stem}{f'_{file.mark}' if file.mark else ''}{file.stored.media.extension}", file) for file in found.files
        ]
        pages = {f"{stem}.txt": "".join(f"{text}\n" for text in result_files.texts(attempt.event)).encode()}
        pages = {name: data for name, data in pages.items() if data}
        pages[f"{stem}.json"] = result_files.sidecar(attempt, named, found.problem)
        # One name per delivery, the same over retries: what a killed process left is overwritten.
        draft = self.folder / f".{attempt.idempotency_key}.part"
        try:
            make_folder(self.folder)
            for name, file in named:
                path = self.folder / name
                if not (self._link and not file.insert and _linked(file, path, draft.with_suffix(".link"))):
                    _write_once(path, draft, file.digest, file.size, file.write)
            for name, data in pages.items():
                digest = hashlib.sha256(data).hexdigest()
                _write_once(self.folder / name, draft, digest, len(data), methodcaller("write", data))
            sync_folder(self.folder)
        except result_files.ArchiveError:
            raise
        except BlockingIOError as exc:
            raise RetryLater(BUSY_SECONDS, "another attempt at this delivery is still writing") from exc
        except OSError as exc:
            remedy = _REMEDIES.get(exc.errno or 0, "Check its disk, or choose another folder.")
            raise OSError(f"The folder {self.folder} cannot be written ({exc.strerror or exc}). {remedy}") from exc
        return [str(self.folder / name) for name in [*(name for name, _ in named), *pages]]


def _write_once(path: Path, draft: Path, digest: str, size: int, write: Callable[[BinaryIO], object]) -> None:
    """Put what `write` writes on disk under `path`, by way of `draft`, unless that content is there already."""
    with suppress(FileNotFoundError):
        found = path.lstat()  # a symlink is replaced, never followed
        if stat.S_ISREG(found.st_mode) and found.st_size == size:
            with path.open("rb") as present:
                if hashlib.file_digest(present, "sha256").hexdigest() == digest:
                    return
    with own_draft(draft) as file:
        write(file)  # a result's file: ArchiveError if the digest is another one
        file.flush()
        os.fsync(file.fileno())
        os.replace(draft, path)


def _linked(file: result_files.ResultFile, path: Path, draft: Path) -> bool:
    """Put a hard link to the archived file under `path`. False: another disk, or one without links."""
    try:
        draft.unlink(missing_ok=True)  # of an attempt that was killed
        os.link(file.stored.path, draft)
        file.check(draft)
        os.replace(draft, path)
    except result_files.ArchiveError:
        raise
    except OSError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True
