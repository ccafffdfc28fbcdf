"""Back up an installation into a folder, and restore it from there: journal, signing keys, archived files, settings."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import msgspec

from receiver.app.container import store_of
from receiver.app.journals import journal_of
from receiver.clock import Clock
from receiver.disk import in_thread, sync_folder
from receiver.errors import InputError, JournalError, MediaError
from receiver.media import MediaStore
from receiver.media.files import BLOCK, HEAD, Draft, path_in, sniff, write
from receiver.settings import Settings, ensure_keys
from receiver.settings.load import FILE
from receiver.version import __version__

MANIFEST, JOURNAL, KEYS, MEDIA = "backup.json", "journal.db", "keys", "media"
"""Names in a backup, beside the file of settings."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a complete backup, written last.

    Attributes:
        made_ms: epoch milliseconds.
        public_url: the address that callbacks of open tasks come to.
        digests: SHA-256 of each file by name. Archived files are named for theirs.
        files, bytes: number and size of archived files.
        missing: archived files that the journal needs and the media store did not have.
        journal_elsewhere: how to copy the journal, if its database has its own tools for that.
    """

    version: str = __version__
    made_ms: int
    public_url: str | None
    digests: dict[str, str]
    files: int = 0
    bytes: int = 0
    missing: tuple[str, ...] = ()
    journal_elsewhere: str | None = None


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """Report of `restore`.

    Attributes:
        submissions: number in the journal.
        keys: True if the keys are in the file `<data>/keys`, or among those of the setting.
    """

    manifest: Manifest
    submissions: int
    keys: bool


async def back_up(settings: Settings, target: Path, *, media: bool) -> Manifest:
    """Copy everything into a new folder that only its owner may read. Works beside a running server.

    The folder gets its name when it is complete.

    Raises:
        InputError: there is something in the folder, or it cannot be made.
        JournalError: the journal cannot be read, or the copy cannot be written.
        MediaError: the media store cannot be used.
    """
    in_file, elsewhere, size, missing = settings.database_kind == "sqlite", None, 0, list[str]()
    with _private(target), _new_folder(target) as part:
        async with journal_of(settings, existing=True) as journal:
            needed = set(await journal.needed_files())  # before and after: some come or go while the copy is made
            try:
                await journal.store.back_up(part / JOURNAL if in_file else target.with_name(f"{target.name}.dump"))
            except InputError as exc:
                if in_file:
                    raise
                elsewhere = str(exc)
            needed |= set(await journal.needed_files())
        write(part, part / KEYS, "".join(f"{key}\n" for key in ensure_keys(settings)).encode())
        for file in settings.files:
            _copy(Path(file), part / FILE)
        digests = {name: _digest(part / name) for name in sorted(os.listdir(part))}
        async with aclosing(store_of(settings)) as store:
            for digest in sorted(needed) if media else ():
                try:
                    data = await store.read(digest)  # which compares the digest
                except MediaError as exc:
                    if not exc.permanent:
                        raise
                    missing.append(digest)
                    continue
                _, extension = sniff(data[:HEAD]) or ("", ".png")
                await in_thread(write, part / MEDIA, path_in(part / MEDIA, digest, extension), data)
                size += len(data)
        manifest = Manifest(
            made_ms=Clock().now_ms(),
            public_url=settings.public_url,
            digests=digests,
            files=len(needed) - len(missing) if media else 0,
            bytes=size,
            missing=tuple(missing),
            journal_elsewhere=elsewhere,
        )
        write(part, part / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


async def restore(settings: Settings, folder: Path, *, settings_to: Path | None) -> Restored:
    """Put a backup back in its place, the journal last. Nothing that is there is replaced.

    After an interruption it can be started again. `settings_to` is the new file for the settings.

    Raises:
        InputError: the folder is no complete backup, or there is a journal, or there are other keys.
        JournalError: a file cannot be read or written.
        MediaError: the media store cannot be used.
    """
    manifest = _checked(folder)
    with_journal = JOURNAL in manifest.digests
    if with_journal:
        _check_place(settings)
    theirs = (folder / KEYS).read_text().split()
    mine, keys = [key.text for key in settings.keys], settings.data / KEYS
    if not mine and keys.exists() and keys.read_text().split() != theirs:
        raise InputError(f"{keys} has other keys than the backup. Move that file away first.", page="backup")
    with _private(settings.data):
        source = MediaStore(folder / MEDIA)
        async with aclosing(store_of(settings)) as store:
            for digest in await store.missing(_files(folder)):
                await store.put_bytes(await source.read(digest), url="")
        if not mine:
            _copy(folder / KEYS, keys)
        if settings_to is not None and FILE in manifest.digests:
            _copy(folder / FILE, settings_to)
        if with_journal:
            await in_thread(_copy, folder / JOURNAL, settings.database_path)
    submissions = 0
    if with_journal:
        async with journal_of(settings, existing=True) as journal:
            submissions = sum((await journal.counts(submissions=True)).submissions.values())
    return Restored(manifest=manifest, submissions=submissions, keys=not mine or {*theirs} <= {*mine})


def _checked(folder: Path) -> Manifest:
    """Return the description of a backup whose files are all there. Raise InputError for anything else."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as exc:
        raise InputError(
            f"{folder} is no complete backup: no {MANIFEST} in it can be read. Name a folder that `receiver backup` "
            "has made.",
            page="backup",
        ) from exc
    found = len(_files(folder))
    damaged = [
        name for name, digest in manifest.digests.items()
        if not (folder / name).is_file() or _digest(folder / name) != digest
    ]  # fmt: skip
    if found != manifest.files:
        damaged.append(f"{MEDIA} ({found:,} files in place of {manifest.files:,})")
    if damaged:
        raise InputError(
            f"The backup {folder} is damaged or not complete: {', '.join(damaged)}. Take another one.", page="backup"
        )
    return manifest


def _files(folder: Path) -> set[str]:
    """Return the digests of the archived files in a backup."""
    return {path.name.partition(".")[0] for path in (folder / MEDIA).glob("??/*")}


def _check_place(settings: Settings) -> None:
    """Raise InputError unless the journal is a file that is not there yet."""
    if settings.database_kind != "sqlite":
        raise InputError(
            f"The backup has its journal in a file, and RECEIVER_DATABASE names {settings.database_shown}. Restore it "
            "with RECEIVER_DATABASE=sqlite:PATH, and then copy it (receiver journal copy).",
            page="backup",
        )
    path = settings.database_path
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if name.exists():
            raise InputError(
                f"{name} is there already, and nothing is replaced. Stop Receiver and move {path.name}* away, or "
                "name another folder with RECEIVER_DATA.",
                page="backup",
            )


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder that gets this name at the end of the block, or is removed. Raise InputError if it is taken."""
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise InputError(f"{target} is there already, and a backup replaces nothing. Name a new folder.", page="backup")
    parent = target.absolute().parent
    if not parent.is_dir():
        raise InputError(f"There is no folder {parent}. Make it first.", page="backup")
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=parent))
    try:
        yield part
        part.rename(target)
        sync_folder(parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as data, Draft(target.parent) as draft:
        draft.add(b"")  # makes the file, also of an empty one
        while block := data.read(BLOCK):
            draft.add(block)
        draft.keep_as(target)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _private(place: Path) -> Iterator[None]:
    """Make files for their owner alone in this block, and say what cannot be read or written."""
    before = os.umask(0o077)
    try:
        yield
    except OSError as exc:
        raise JournalError(f"{exc.filename or place} cannot be used: {exc.strerror}.") from exc
    finally:
        os.umask(before)
