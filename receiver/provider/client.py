"""The provider over HTTP: one pooled client for submits and for the questions afterwards (PROTOCOL.md §1, §2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from receiver.clock import Clock
from receiver.errors import (
    Ambiguous,
    InputError,
    ProviderError,
    Unreachable,
    Unreadable,
)
from receiver.provider import questions
from receiver.provider.answers import Accepted, Answer, read_answer, read_submit
from receiver.provider.checks import check_speed, check_task_id, one_of
from receiver.provider.envelope import one_line
from receiver.provider.outcomes import OUTCOMES
from receiver.provider.requests import PATHS
from receiver.provider.wire import UnreadError, Wire
from receiver.tasks import Task

BATCH = 50
"""Ids in one list-by-condition."""

LIST_PAUSE = 3600.0
"""Seconds for which a relay without list-by-condition is not asked for it again."""

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
        ask_timeout: seconds for a whole fetch, list or cancel.
        seed_timeout: seconds for an image seed, for which the provider asks elsewhere for up to 60 (PROTOCOL.md §2).

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
        seed_timeout: float = 75.0,
    ) -> None:
        self._wire = Wire(base_url, key, transport)
        self._clock = clock
        self._submit_timeout = submit_timeout
        self._ask_timeout = ask_timeout
        self._seed_timeout = seed_timeout
        self._no_list_until = 0.0
        self._list_failed = False

    def __repr__(self) -> str:
        return f"Provider(base_url={self._wire.base!r}, key='***')"

    async def submit(self, kind: str, body: Mapping[str, Any], *, speed: str | None) -> Accepted:
        """Send a request that makes a task, once.

        Args:
            kind: a key of `PATHS`, e.g. `imagine`.
            body: the whole request, pictures, `state` and callback URL in it.
            speed: `fast`, `turbo` or `relax` as prefix of the path (PROTOCOL.md §1); None for the provider's default.

        Raises:
            InputError: `kind`, `speed` or `body` cannot be sent; nothing was.
            Refused: no task was made.
            Unreachable: no connection came about; nothing was sent.
            Ambiguous: everything else; a task may have been made.
        """
        path = PATHS[one_of("a kind of request", kind, PATHS)]
        prefix = f"/mj-{speed}" if check_speed(speed) else ""
        content = _encode(body)
        try:
            reply = await self._wire.exchange("POST", f"{prefix}/mj/{path}", content, self._submit_timeout)
            return read_submit(*reply, kind=kind, now=self._clock.now())
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
        answer = await self._ask("GET", _task_path(task_id, "fetch"))
        if questions.is_unknown(answer):
            return None
        if 200 <= answer.http_status < 300 and "id" in answer.envelope.fields:
            task = questions.the_task(answer.envelope, task_id)
            self._remember_lack()
            return task
        if answer.outcome.name == "not_found":
            return None
        raise self._failure(answer, "a task")

    async def list_tasks(self, ids: Sequence[str]) -> dict[str, Task] | None:
        """Ask for many tasks by list-by-condition, 50 at a time. None: a relay without that route; `fetch` each.

        Only ids asked for are in the result; what the provider does not know, or what cannot be read, is absent.

        Raises:
            Refused, Unreachable, Unreadable: as `fetch`.
        """
        found: dict[str, Task] = {}
        wanted = list(dict.fromkeys(ids))
        for start in range(0, len(wanted), BATCH):
            listed = await self._list(wanted[start : start + BATCH]) if self._may_list() else None
            if listed is None:
                return None
            found |= listed
        return found

    async def image_seed(self, task_id: str) -> str:
        """Ask for the seed of a finished task's picture: a number of up to ten digits, as text. May take a minute.

        Raises:
            InputError: that can be no task's id.
            Refused: `not_found`, `not_ready` (ask again later), `unsupported` where a relay lacks the route, or as
                `fetch`.
            Unreachable, Unreadable: as `fetch`.
        """
        answer = await self._ask("GET", _task_path(check_task_id(task_id), "image-seed"), limit=self._seed_timeout)
        seed = questions.image_seed(answer)
        if seed is None:
            raise self._refusal(answer, "an image seed")
        return seed

    async def cancel(self, task_id: str) -> None:
        """Ask the provider to stop a task. Whether it did, only a fetch tells: a cancelled task becomes a FAILURE, and
        a task that is unknown, finished or another's may be answered just like one that was stopped.

        Raises:
            InputError: that can be no task's id.
            Refused: `not_found`, `unsupported` where a relay lacks the route or keeps it from this key, or as `fetch`.
            Unreachable, Unreadable: as `fetch`; the task may have been stopped.
        """
        answer = await self._ask("POST", _task_path(check_task_id(task_id), "cancel"))
        if not questions.is_done(answer):
            raise self._refusal(answer, "the answer to a cancel")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._wire.aclose()

    def _may_list(self) -> bool:
        # The upper bound frees us when the clock was set back.
        return not 0 < self._no_list_until - self._clock.now() <= LIST_PAUSE

    async def _list(self, batch: list[str]) -> dict[str, Task] | None:
        """The tasks of one batch, or None where the relay has no such route."""
        answer = await self._ask("POST", "/mj/task/list-by-condition", _encode({"ids": batch}))
        items = answer.envelope.value
        if 200 <= answer.http_status < 300 and isinstance(items, list):
            self._list_failed = False
            return {task.id: task for task in questions.readable(items) if task.id in batch}
        if not questions.lacks_list(answer):
            raise self._failure(answer, "a list of tasks")
        self._list_failed = True
        return None

    def _remember_lack(self) -> None:
        """A relay in trouble answers every path like one it does not know. Only when a fetch works is it the list alone
        that is missing."""
        if self._list_failed:
            self._no_list_until = self._clock.now() + LIST_PAUSE
            self._list_failed = False

    async def _ask(self, method: str, path: str, content: bytes | None = None, *, limit: float | None = None) -> Answer:
        try:
            reply = await self._wire.exchange(method, path, content, limit or self._ask_timeout)
            return read_answer(*reply, now=self._clock.now())
        except UnreadError as exc:
            raise Unreadable(f"The provider's answer was not read: {exc}.") from exc
        except (httpx.RemoteProtocolError, httpx.ReadError) as exc:
            raise Unreadable(f"The provider's answer was cut short ({_reason(exc)}).") from exc
        except _NETWORK as exc:
            raise self._unreachable(exc) from exc

    def _refusal(self, answer: Answer, wanted: str) -> ProviderError:
        """The error for an answer to a question that not every provider takes."""
        name = answer.outcome.name
        if questions.lacks_route(answer):
            name = "unsupported"
        elif questions.is_unknown(answer):
            name = "not_found"
        return self._failure(msgspec.structs.replace(answer, outcome=OUTCOMES[name]), wanted)

    def _failure(self, answer: Answer, wanted: str) -> ProviderError:
        """The error for an answer to a question that is no answer."""
        error = answer.error() if answer.outcome.task == "none" else questions.senseless(answer, wanted)
        self._mask(error)
        return error

    def _unreachable(self, exc: Exception) -> Unreachable:
        return Unreachable(
            f"The provider at {self._wire.base} cannot be reached ({_reason(exc)}); "
            "check the network and RECEIVER_PROVIDER_URL."
        )

    def _mask(self, error: ProviderError) -> None:
        error.args = tuple(self._wire.mask(str(arg)) for arg in error.args)


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InputError("The request holds a value that JSON cannot carry; nothing was sent.") from exc


def _task_path(task_id: str, question: str) -> str:
    return f"/mj/task/{quote(task_id, safe='', errors='replace')}/{question}"


def _unclear(what: str) -> str:
    return f"The request went out, but {what}; a task may exist and be charged, so it is not sent again."


def _reason(exc: Exception) -> str:
    return one_line(str(exc))[:200] or type(exc).__name__
