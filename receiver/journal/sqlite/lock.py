"""One engine per SQLite file: an advisory lock on a file beside it, which the system drops when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from receiver.errors import EngineRunning, JournalError
from receiver.journal import EngineRecord


class EngineLock:
    """`<journal>.engine`, locked while an engine runs; its text says who holds it."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name(journal.name + ".engine")
        self._file: int | None = None

    def acquire(self, role: str, *, owner: str = "", store: str = "") -> None:
        """Raises EngineRunning with the holder's role."""
        if self._file is not None:
            return
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise JournalError(f"The engine's lock file {self._path} cannot be opened: {exc.strerror}.") from exc
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(file)
            os.close(file)
            raise _running(self._path, holder) from None
        except OSError as exc:
            os.close(file)
            raise JournalError(f"The engine's lock file {self._path} cannot be locked: {exc.strerror}.") from exc
        os.ftruncate(file, 0)
        holder = {"role": role, "pid": os.getpid(), "host": platform.node(), "owner": owner, "store": store}
        os.pwrite(file, json.dumps({**holder, "version": version("imagine-receiver")}).encode(), 0)
        self._file = file

    def held(self) -> bool:
        """Whether some process is the engine now. It is tried out: whoever wants the lock in that moment misses it."""
        if self._file is not None:
            return True
        try:
            self.acquire("journal check")
        except EngineRunning:
            return True
        self.release()
        return False

    def holder(self) -> EngineRecord | None:
        """Who is the engine now, by what it wrote into the lock's file."""
        if not self.held():
            return None
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        known = found if isinstance(found, dict) else {}
        texts = {name: str(known.get(name) or "") for name in ("owner", "host", "version", "store")}
        return EngineRecord(**texts, role=str(known.get("role") or "another process"), seconds=0.0, leads=True)

    def release(self) -> None:
        """Idempotent."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None


def _read_holder(file: int) -> dict[str, object]:
    try:
        holder = json.loads(os.pread(file, 4000, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _running(path: Path, holder: dict[str, object]) -> EngineRunning:
    role = str(holder.get("role") or "another process")
    pid = f", process {holder['pid']}" if "pid" in holder else ""
    host = holder.get("host", platform.node())
    where = "" if host == platform.node() else f" on {host}"
    return EngineRunning(
        f"`receiver {role}`{pid}{where} already is the engine of {path.with_suffix('')}. "
        "Stop it first, or give this one a database of its own with RECEIVER_DATABASE.",
        holder=role,
    )


class OneEngine:
    """The part about engines of a journal that one alone may run on: it leads, and nobody takes it for dead."""

    shared: ClassVar[bool] = False
    _lock: EngineLock

    async def become_engine(self, role: str, owner: str, *, store: str) -> None:
        self._lock.acquire(role, owner=owner, store=store)

    async def beat(self, owner: str) -> bool:
        return True

    async def lead(self, owner: str) -> bool:
        return True

    async def resign(self, owner: str) -> None:
        self._lock.release()

    async def engines(self) -> list[EngineRecord]:
        holder = self._lock.holder()
        return [] if holder is None else [holder]

    def listen(self, woken: Callable[[], None]) -> None:
        """Other processes that write the file tell nobody."""
