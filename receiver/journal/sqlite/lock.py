"""One engine per SQLite file: an advisory lock on a file beside it, which the system drops when its holder ends."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

from receiver.errors import EngineRunning, JournalError
from receiver.journal.membership import EngineRecord


class EngineLock:
    """`<journal>.engine`, locked while an engine runs. Its text says which one."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name(journal.name + ".engine")
        self._file: int | None = None

    def acquire(self, role: str, *, owner: str = "", store: str = "") -> None:
        """Take the lock. Raise EngineRunning with the holder's role if another process has it."""
        if self._file is not None:
            return
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise JournalError(f"The engine's lock file {self._path} cannot be opened: {exc.strerror}.") from exc
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise self._running() from None
        except OSError as exc:
            os.close(file)
            raise JournalError(f"The engine's lock file {self._path} cannot be locked: {exc.strerror}.") from exc
        os.ftruncate(file, 0)
        holder = {"role": role, "pid": os.getpid(), "host": platform.node(), "owner": owner, "store": store}
        os.pwrite(file, json.dumps({**holder, "version": version("imagine-receiver")}).encode(), 0)
        self._file = file

    def held(self) -> bool:
        """Return True if a process is the engine now. This tries the lock: a process that wants it then is refused."""
        if self._file is not None:
            return True
        try:
            self.acquire("journal check")
        except EngineRunning:
            return True
        self.release()
        return False

    def holder(self) -> EngineRecord | None:
        """Return the engine that runs now, as it described itself in the lock file."""
        if not self.held():
            return None
        known = self._read()
        texts = {name: str(known.get(name) or "") for name in ("owner", "host", "version", "store")}
        return EngineRecord(**texts, role=str(known.get("role") or "another process"), seconds=0.0, leads=True)

    def release(self) -> None:
        """Idempotent."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _running(self) -> EngineRunning:
        holder = self._read()
        role = str(holder.get("role") or "another process")
        pid = f", process {holder['pid']}" if "pid" in holder else ""
        host = holder.get("host", platform.node())
        where = "" if host == platform.node() else f" on {host}"
        return EngineRunning(
            f"`receiver {role}`{pid}{where} already is the engine of {self._path.with_suffix('')}. "
            "Stop it first, or give this one a database of its own with RECEIVER_DATABASE.",
            holder=role,
        )
