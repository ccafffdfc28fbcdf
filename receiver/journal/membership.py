"""The engines of one journal: which are members, which one leads, which have expired.

Where several engines may run, each member has a record with a counter that it increases every few seconds. Each
observer notes, on its own monotonic clock, when it last saw a counter change. A record that has not changed for
`EXPIRE_SECONDS` expires: any member deletes it, by compare-and-swap, so that a late heartbeat and the deletion cannot
both succeed. The leader is a member whose name is in the value `leader`. It leads until its record is gone.

No clock is compared with another machine's. After the leader's end, its deliveries may take 30 s to be free.
A SQLite file has one engine, which locks a file instead.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import platform
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from receiver.errors import EngineRunning, JournalError
from receiver.journal.store import SharedValue, Store
from receiver.version import __version__

LASTING_ROLES = frozenset({"serve", "worker", "python", "function"})
"""Roles of engines that run beside others. An engine with another role starts only where no other runs."""
HEARTBEAT_SECONDS = 4.0
EXPIRE_SECONDS = 15.0
"""An engine without a heartbeat for so long has expired, and its running deliveries are freed."""
_MEMBERS = "members/"
_LEADER = "leader"


class _Engine(msgspec.Struct, frozen=True, kw_only=True):
    owner: str
    role: str
    host: str
    version: str
    store: str


class EngineRecord(_Engine, frozen=True, kw_only=True):
    """An engine.

    Attributes:
        owner: signs its claims.
        role: its command: `serve`, `worker`, `submit --wait` …
        host: the machine.
        version: of Receiver.
        store: identity of its media store. "" for a copy, which runs alone.
        seconds: since its last heartbeat by its own clock. 0 for an engine with a lock.
        leads: True if it alone sends, reconciles and archives.
    """

    seconds: float
    leads: bool


class Member(_Engine, frozen=True, kw_only=True):
    """The shared record of an engine. `at_ms` is a hint for people: nothing expires by it."""

    counter: int = 0
    at_ms: int = 0


class SharedMembership:
    """Membership on shared values, for a store on which several engines may run.

    Args:
        store: where the records are.
        monotonic: the observer's clock, in seconds.
    """

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self.heartbeat_seconds, self.expire_seconds = HEARTBEAT_SECONDS, EXPIRE_SECONDS
        self._mine: dict[str, tuple[Member, str]] = {}
        self._seen: dict[str, tuple[str, float]] = {}
        """The version of each record, and the monotonic second at which we first saw it."""
        self._observed_at: float | None = None

    async def join(self, role: str, owner: str, *, store: str) -> None:
        """Become a member.

        Args:
            role: one that is not in `LASTING_ROLES` joins only if no other engine runs.
            owner: signs this engine's claims, new for each start.
            store: identity of its media store.

        Raises:
            EngineRunning: another engine runs, and excludes this one.
            JournalError: an engine with another media store runs, so neither would find the other's pictures.
        """
        member = Member(owner=owner, role=role, host=platform.node(), version=__version__, store=store)
        # Write our record before listing others, so that two starters always see each other.
        await self._write(member, None)
        try:
            await self._wait_for_expired(member)
        except BaseException:
            await self.leave(owner)
            raise

    async def _wait_for_expired(self, member: Member) -> None:
        """Return as soon as no engine excludes us. Wait for one without heartbeats until it has expired."""
        while True:
            await self._observe()
            others = [item for item, _ in (await self._members()).values() if item.owner not in self._mine]
            problems = [(item, problem) for item in others if (problem := self._conflict(member, item)) is not None]
            if not problems:
                return
            for item, problem in problems:
                if self._fresh(item):
                    raise problem
            await self.heartbeat(member.owner)
            await self.expire(member.owner)
            await asyncio.sleep(self.heartbeat_seconds / 4)

    def _conflict(self, mine: Member, other: Member) -> Exception | None:
        alone = other.role not in LASTING_ROLES and not other.store
        if mine.role not in LASTING_ROLES or alone:
            return EngineRunning(
                f"`receiver {other.role}` on {other.host} already is an engine of {self._store.place}. "
                "Stop it first, or leave the work to it.",
                holder=other.role,
            )
        if other.store != mine.store:
            return JournalError(
                f"`receiver {other.role}` on {other.host} is an engine of {self._store.place} with another media store "
                f"({other.store}, ours is {mine.store}): neither would find the other's pictures. Set the same "
                "RECEIVER_MEDIA for both."
            )
        return None

    async def heartbeat(self, owner: str) -> bool:
        """Increase our counter. False: our record has expired, and our running deliveries belong to others."""
        found = self._mine.get(owner)
        if found is None:
            return False
        member, version = found
        if await self._write(msgspec.structs.replace(member, counter=member.counter + 1), version):
            return True
        del self._mine[owner]
        return False

    async def _write(self, member: Member, version: str | None) -> bool:
        member = msgspec.structs.replace(member, at_ms=int(time.time() * 1000))
        written = await self._store.swap(_key(member.owner), msgspec.json.encode(member), version)
        if written is None:
            return False
        self._mine[member.owner] = member, written
        return True

    async def lead(self, owner: str) -> bool:
        """Lead if no other member does. True: `owner` leads until its own record expires."""
        leader = (await self._store.values(_LEADER)).get(_LEADER)
        holder = leader.data.decode() if leader is not None else ""
        if holder == owner:
            return True
        if holder and _key(holder) in await self._store.values(_MEMBERS):
            return False
        return await self._store.swap(_LEADER, owner.encode(), leader.version if leader else None) is not None

    async def leave(self, owner: str) -> None:
        """End the membership, and stop leading. Idempotent."""
        mine = self._mine.pop(owner, None)
        if mine is not None:
            await self._store.swap(_key(owner), None, mine[1])

    async def expire(self, owner: str) -> list[str]:
        """Observe the others, and delete records that have not changed for `expire_seconds`. Return their owners."""
        await self._observe()
        now, gone = self._monotonic(), []
        for key, (version, since) in list(self._seen.items()):
            name = key.removeprefix(_MEMBERS)
            if name != owner and now - since >= self.expire_seconds:
                if await self._store.swap(key, None, version) is not None:
                    gone.append(name)
                self._seen.pop(key, None)
        return gone

    async def _observe(self) -> None:
        now = self._monotonic()
        if self._observed_at is None or now - self._observed_at > self.expire_seconds / 2:
            # We were away, or the store was: then no other could show a heartbeat either. Start counting again.
            self._seen.clear()
        self._observed_at = now
        found = await self._store.values(_MEMBERS)
        for key, item in found.items():
            if key not in self._seen or self._seen[key][0] != item.version:
                self._seen[key] = item.version, now
        for key in self._seen.keys() - found.keys():
            del self._seen[key]

    async def _members(self) -> dict[str, tuple[Member, SharedValue]]:
        found = await self._store.values(_MEMBERS)
        return {key: (msgspec.json.decode(item.data, type=Member), item) for key, item in found.items()}

    async def owners(self) -> frozenset[str]:
        """Return the owners whose records have not been deleted."""
        return frozenset(key.removeprefix(_MEMBERS) for key in await self._store.values(_MEMBERS))

    async def engines(self) -> list[EngineRecord]:
        """Return the engines that have shown a heartbeat lately, the leader first."""
        leader = (await self._store.values(_LEADER)).get(_LEADER)
        holder = leader.data.decode() if leader is not None else ""
        now_ms = time.time() * 1000
        records = [
            EngineRecord(
                owner=item.owner, role=item.role, host=item.host, version=item.version, store=item.store,
                seconds=max(0.0, (now_ms - item.at_ms) / 1000), leads=item.owner == holder,
            )
            for item, _ in (await self._members()).values()
            if self._fresh(item)
        ]  # fmt: skip
        return sorted(records, key=lambda item: (not item.leads, item.seconds, item.owner))

    def _fresh(self, member: Member) -> bool:
        """Return True if a record's own time is recent. Only a hint: clocks may differ."""
        return abs(time.time() * 1000 - member.at_ms) < self.expire_seconds * 1000


_BYTE = 2**62
"""Place of the byte that is locked. SQLite locks bytes at 2**30."""


class SingleMembership:
    """Membership of a file: its one engine leads and never expires. It locks `<journal>.engine`, whose text names it,
    and a byte far behind the journal's end.

    The second lock holds where the first was removed, or where the journal has another name. The system unlocks both
    at a crash.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._path = journal.with_name(journal.name + ".engine")
        self._file: int | None = None
        self._byte: int | None = None

    async def join(self, role: str, owner: str, *, store: str) -> None:
        """Take the lock. Raise EngineRunning with the holder's role if another process has it."""
        self._lock({"role": role, "owner": owner, "store": store, "version": __version__})

    def _lock(self, text: dict[str, str]) -> None:
        if self._file is not None:
            return
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock_byte(fcntl.F_WRLCK)
            except OSError:
                os.close(file)
                raise
        except BlockingIOError:
            holder = self._read()
            pid = f", process {holder['pid']}" if "pid" in holder else ""
            where = "" if holder["host"] in ("", platform.node()) else f" on {holder['host']}"
            raise EngineRunning(
                f"`receiver {holder['role']}`{pid}{where} already is the engine of {self._journal}. "
                "Stop it first, or give this one a database of its own with RECEIVER_DATABASE.",
                holder=holder["role"],
            ) from None
        except OSError as exc:
            raise JournalError(f"The engine's lock file {self._path} cannot be locked: {exc.strerror}.") from exc
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({**text, "pid": os.getpid(), "host": platform.node()}).encode(), 0)
        self._file = file

    def _read(self) -> dict[str, str]:
        found: object = None
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_text(encoding="utf-8"))
        known = {name: str(value) for name, value in found.items() if value} if isinstance(found, dict) else {}
        return {"role": "another process", **dict.fromkeys(("owner", "host", "version", "store"), ""), **known}

    def release(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._lock_byte(fcntl.F_UNLCK)
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None

    def close(self) -> None:
        """Release it, and close the journal's file. SQLite must have closed it before (see `_lock_byte`)."""
        self.release()
        if self._byte is not None:
            os.close(self._byte)
            self._byte = None

    def _lock_byte(self, kind: int) -> None:
        """Lock or unlock the byte, where the system has such locks (Linux). Raise OSError if another engine has it.

        The file stays open: closing it would drop SQLite's own locks in this process (fcntl(2)).
        """
        if (command := getattr(fcntl, "F_OFD_SETLK", None)) is not None:
            if self._byte is None:
                self._byte = os.open(self._journal, os.O_RDWR | os.O_CLOEXEC)
            fcntl.fcntl(self._byte, command, struct.pack("hhqqi", kind, os.SEEK_SET, _BYTE, 1, 0))

    async def leave(self, owner: str) -> None:
        self.release()

    async def heartbeat(self, owner: str) -> bool:
        return True

    async def lead(self, owner: str) -> bool:
        return True

    async def expire(self, owner: str) -> list[str]:
        return []

    async def owners(self) -> frozenset[str]:
        return frozenset(item.owner for item in await self.engines())

    async def engines(self) -> list[EngineRecord]:
        """Return the engine that runs now. This tries the lock: a process that wants it then is refused."""
        if self._file is None:
            try:
                self._lock({"role": "journal check"})
            except EngineRunning:
                pass  # that engine's own record is read below
            else:
                self.release()
                return []
        return [msgspec.convert({**self._read(), "seconds": 0.0, "leads": True}, EngineRecord)]


Membership = SharedMembership | SingleMembership


def membership_of(store: Store) -> Membership:
    """Return the membership that suits a store: its own, or one on shared values."""
    own: SingleMembership | None = getattr(store, "membership", None)
    return own or SharedMembership(store)


def _key(owner: str) -> str:
    return f"{_MEMBERS}{owner}"
