"""Signing keys and the provider's key: what must be there before anything is signed or sent."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from receiver.errors import SettingsError
from receiver.settings.model import Settings
from receiver.settings.platform import ephemeral_platform, keys_problem

MIN_KEY_BYTES = 32
_MAKE = "Make one with: openssl rand -hex 32"


def require_provider_key(settings: Settings) -> str:
    """The provider's API key.

    Raises:
        SettingsError: none is set.
    """
    if settings.provider_key is None:
        raise SettingsError(
            "COMETAPI_KEY is not set, so nothing can be sent to the provider. "
            "Get a key at https://api.cometapi.com/console/token and set COMETAPI_KEY to it."
        )
    return settings.provider_key.get_secret_value()


def ensure_keys(settings: Settings) -> tuple[str, ...]:
    """The signing keys, newest last: those set, else those in `<data>/keys`, made on first start.

    Raises:
        SettingsError: a key is too short, the file is unreadable, or the disk here does not last.
    """
    if settings.keys:
        keys = tuple(key.get_secret_value() for key in settings.keys)
        return _checked(keys, settings.sources["keys"].removeprefix("environment "), _MAKE)
    path = settings.data / "keys"
    platform = ephemeral_platform(settings)
    if platform is not None:
        raise SettingsError(keys_problem(settings, platform))
    if settings.database_kind != "sqlite":
        raise SettingsError(_shared_problem(settings, path))
    try:
        return _read(path) if path.exists() else _make(path)
    except OSError as exc:
        raise SettingsError(
            f"The signing key in {path} cannot be read or made: {exc.strerror}. "
            "Set RECEIVER_DATA to a folder this user may write, or set RECEIVER_KEYS."
        ) from exc


def _shared_problem(settings: Settings, path: Path) -> str:
    """That no key is made up where others must have the same one."""
    database = settings.sources["database"].removeprefix("environment ")
    told = (
        f"RECEIVER_KEYS is not set. All processes on the database that {database} names sign and verify with the same "
        "keys, on whatever machine, so none is made here. "
    )
    if path.exists():
        return f'{told}Those that were used so far lie in {path}: set RECEIVER_KEYS="$(cat {path})" for all of them.'
    return (
        f"{told}{_MAKE}, once, and set RECEIVER_KEYS to it for all of them. "
        "For a journal in a file of this machine set RECEIVER_DATABASE=sqlite:.receiver/journal.db"
    )


def _checked(keys: tuple[str, ...], written: str, remedy: str) -> tuple[str, ...]:
    for number, key in enumerate(keys, start=1):
        size = len(key.encode())
        if size < MIN_KEY_BYTES:
            raise SettingsError(f"Key {number} in {written} has {size} bytes and needs {MIN_KEY_BYTES}. {remedy}")
    return keys


def _read(path: Path) -> tuple[str, ...]:
    remedy = f"Put one key per line, or delete {path} to have one made; callback URLs made so far then stop working."
    try:
        keys = tuple(path.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{path} is not text. {remedy}") from exc
    if not keys:
        raise SettingsError(f"{path} holds no key. {remedy}")
    return _checked(keys, str(path), remedy)


def _make(path: Path) -> tuple[str, ...]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(path.parent) as folder:
        # Two processes may start at once: the second finds what the first has made.
        if not path.exists():
            _write(path, secrets.token_hex(32) + "\n")
            os.fsync(folder)
    return _read(path)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the folder's lock, which a crash lets go; yields its descriptor."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader sees all of it or nothing. `mkstemp` makes files with mode 0600."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
