"""The provider over HTTP: one pooled client for submits and for the questions afterwards (PROTOCOL.md §1, §2)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from receiver.clock import Clock
from receiver.errors import (
    Ambiguous,
    InputError,
    NotATask,
    ProviderError,
    Unreachable,
    Unreadable,
)
from receiver.provider.answers import Accepted, read_answer, read_submit
from receiver.provider.envelope import Envelope, one_line, read_envelope
from receiver.provider.requests import check_speed
from receiver.provider.wire import Reply, UnreadError, Wire
from receiver.tasks import Task, read_task

BATCH = 50
"""Ids in one list-by-condition."""

LIST_PAUSE = 3600.0
"""Seconds for which a relay without list-by-condition is not asked for it again."""

_CONCURRENT_FETCHES = 8
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_NETWORK = (httpx.HTTPError, TimeoutError, OSError)


class Provider:
    """The outside service, at one address with one key.

    Args:
        base_url: `https://host[/prefix]`; a trailing slash or `/mj` does not matter.
        key: sent as `Authorization: Bearer`; nothing is sent when it is empty. It never reaches an error or a repr.
        clock: measures Retry-After dates and how long a missing list route is remembered.
        transport: in place of the network.
        submit_timeout: seconds for a whole submit; longer than the relay's own 60 (PROTOCOL.md §1), so that
            its word comes first.
        ask_timeout: seconds for a whole fetch or list.

    Raises:
        SettingsError: the address or the key cannot be used.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: str,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
        submit_timeout: float = 75.0,
        ask_timeout: float = 20.0,
    ) -> None:
        self._wire = Wire(base_url, key, transport)
        self._clock = clock
        self._submit_timeout = submit_timeout
        self._ask_timeout = ask_timeout
        self._no_list_until = 0.0

    def __repr__(self) -> str:
        return f"Provider(base_url={self._wire.base!r}, key='***')"

    async def submit(self, path: str, body: Mapping[str, Any], *, speed: str | None) -> Accepted:
        """Send a request that makes a task, once.

        Args:
            path: after `submit/`, e.g. `imagine`.
            body: the whole request.
            speed: `fast`, `turbo` or `relax` as prefix of the path (PROTOCOL.md §1); None for the provider's default.

        Raises:
            InputError: `speed` or `body` cannot be sent; nothing was.
            Refused: no task was made.
            Unreachable: no connection came about; nothing was sent.
            Ambiguous: everything else; a task may have been made.
        """
        prefix = f"/mj-{speed}" if check_speed(speed) else ""
        content = _encode(body)
        try:
            reply = await self._wire.exchange("POST", f"{prefix}/mj/submit/{path}", content, self._submit_timeout)
            return read_submit(*reply, now=self._clock.now())
        except _UNSENT as exc:
            raise self._unreachable(exc) from exc
        except UnreadError as exc:
            raise Ambiguous(_unclear(f"the answer was not read: {exc}")) from exc
        except TimeoutError as exc:
            raise Ambiguous(_unclear(f"the provider did not answer within {self._submit_timeout:g} s")) from exc
        except _NETWORK as exc:
            raise Ambiguous(_unclear(f"the connection broke ({_reason(exc)})")) from exc
        except ProviderError as exc:
            self._mask(exc)
            raise

    async def fetch(self, task_id: str) -> Task | None:
        """Ask for one task. None: the provider does not know it.

        Raises:
            Refused: the provider answers no questions now (key, rate, address); `outcome` says which.
            Unreachable: no answer came.
            Unreadable: an answer that makes no sense, or another task's object.
        """
        if not task_id.strip("."):
            return None  # "." and ".." would change the path; no provider has such ids
        reply = await self._ask("GET", f"/mj/task/{quote(task_id, safe='', errors='replace')}/fetch")
        envelope = read_envelope(reply.body)
        if _unknown(reply, envelope):
            return None
        if reply.ok and "id" in envelope.fields:
            return _the_task(envelope, task_id)
        answer = read_answer(*reply, now=self._clock.now())
        if answer.outcome.name == "not_found":
            return None
        raise self._failure(reply)

    async def list_tasks(self, ids: Sequence[str]) -> dict[str, Task]:
        """Ask for many tasks by list-by-condition, 50 at a time; by single fetches where a relay lacks that route.

        Only ids asked for are in the result; what the provider does not know, or what cannot be read, is absent.

        Raises:
            Refused, Unreachable, Unreadable: as `fetch`.
        """
        found: dict[str, Task] = {}
        wanted = list(dict.fromkeys(ids))
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            listed = await self._list(batch) if self._may_list() else None
            found |= await self._fetch_each(batch) if listed is None else listed
        return found

    async def aclose(self) -> None:
        """Close all connections."""
        await self._wire.aclose()

    def _may_list(self) -> bool:
        # The upper bound frees us when the clock was set back.
        return not 0 < self._no_list_until - self._clock.now() <= LIST_PAUSE

    async def _list(self, batch: list[str]) -> dict[str, Task] | None:
        """The tasks of one batch, or None where the relay has no such route."""
        reply = await self._ask("POST", "/mj/task/list-by-condition", _encode({"ids": batch}))
        envelope = read_envelope(reply.body)
        if reply.ok and isinstance(envelope.value, list):
            return {task.id: task for task in _readable(envelope.value) if task.id in batch}
        if not self._lacks_route(reply, envelope):
            raise self._failure(reply)
        self._no_list_until = self._clock.now() + LIST_PAUSE
        return None

    def _lacks_route(self, reply: Reply, envelope: Envelope) -> bool:
        """Also a web page with 200: relays serve theirs for every path they do not know (PROTOCOL.md §1)."""
        outcome = read_answer(*reply).outcome.name
        if reply.ok and outcome == "ambiguous" and envelope.code is None:
            return envelope.form != "unreadable"
        return reply.status == 501 or outcome in ("wrong_address", "validation", "not_found")

    async def _fetch_each(self, batch: list[str]) -> dict[str, Task]:
        """Fetch side by side. One unreadable task does not keep the others back; any other trouble ends it."""
        found: dict[str, Task] = {}
        unreadable: list[Unreadable] = []
        gate = asyncio.Semaphore(_CONCURRENT_FETCHES)

        async def one(task_id: str) -> None:
            async with gate:
                try:
                    task = await self.fetch(task_id)
                except Unreadable as exc:
                    unreadable.append(exc)
                    return
            if task is not None:
                found[task_id] = task

        try:
            async with asyncio.TaskGroup() as group:
                for task_id in batch:
                    group.create_task(one(task_id))
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        if unreadable and not found:
            raise unreadable[0]
        return found

    async def _ask(self, method: str, path: str, content: bytes | None = None) -> Reply:
        try:
            return await self._wire.exchange(method, path, content, self._ask_timeout)
        except UnreadError as exc:
            raise Unreadable(f"The provider's answer was not read: {exc}.") from exc
        except (httpx.RemoteProtocolError, httpx.ReadError) as exc:
            raise Unreadable(f"The provider's answer was cut short ({_reason(exc)}).") from exc
        except _NETWORK as exc:
            raise self._unreachable(exc) from exc

    def _failure(self, reply: Reply) -> ProviderError:
        """The error for an answer to a question that is no answer."""
        answer = read_answer(*reply, now=self._clock.now())
        error = answer.error() if answer.outcome.task == "none" else Unreadable(_senseless(answer.envelope, reply))
        self._mask(error)
        return error

    def _unreachable(self, exc: Exception) -> Unreachable:
        return Unreachable(f"The provider at {self._wire.base} cannot be reached ({_reason(exc)}); check the network.")

    def _mask(self, error: ProviderError) -> None:
        error.args = tuple(self._wire.mask(str(arg)) for arg in error.args)


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InputError("The request holds a value that JSON cannot carry; nothing was sent.") from exc


def _unknown(reply: Reply, envelope: Envelope) -> bool:
    """How providers say "no such task" besides code 4 (PROTOCOL.md §2): 2xx with nothing or null, 404 with JSON."""
    if reply.status == 404:
        return envelope.form in ("null", "object", "other")
    return reply.ok and envelope.form in ("empty", "null")


def _the_task(envelope: Envelope, task_id: str) -> Task:
    try:
        task = read_task(envelope.value)
    except NotATask as exc:
        raise Unreadable(f"The provider's answer is no task: {exc}") from exc
    if task.id != task_id:
        raise Unreadable(f"Asked for task {one_line(task_id)}, the provider answered with another one.")
    return task


def _readable(items: Iterable[Any]) -> Iterable[Task]:
    for item in items:
        try:
            yield read_task(item)
        except NotATask:
            continue


def _senseless(envelope: Envelope, reply: Reply) -> str:
    said = f': "{envelope.said[:200]}"' if envelope.said else ""
    return (
        f"The provider's answer makes no sense as a task (HTTP {reply.status}, {envelope.form}){said}; ask again later."
    )


def _unclear(what: str) -> str:
    return f"The request went out, but {what}; a task may exist and be charged, so it is not sent again."


def _reason(exc: Exception) -> str:
    return one_line(str(exc))[:200] or type(exc).__name__
