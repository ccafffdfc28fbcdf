"""The provider over HTTP: one pooled client for submits and for questions about tasks (PROTOCOL.md §1, §2).

Relays lack some of the routes for questions. They answer them like any unknown path: 404, a redirect, or a web page
with 200 (§1).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import httpcore
import msgspec

from receiver import metrics
from receiver.bodies import Body, certificates, connection_reason
from receiver.clock import Clock
from receiver.errors import Ambiguous, InputError, NotATask, ProviderError, SettingsError, Unreachable, Unreadable
from receiver.provider.answers import OUTCOMES, TAKEN, Accepted, Answer, one_line, read_answer, read_submit
from receiver.requests import KINDS, check_speed, check_task_id, one_of
from receiver.tasks import Task, integral, read_task
from receiver.telemetry import learn, redact
from receiver.version import __version__

BATCH = 50
"""Ids in one list-by-condition."""

LIST_PAUSE = 3600.0
"""Seconds until a relay without list-by-condition is asked for it again."""

_UNSENT = (
    httpcore.ConnectError,
    httpcore.ConnectTimeout,
    httpcore.ConnectionNotAvailable,
    httpcore.PoolTimeout,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
_NETWORK = (*_UNSENT, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, TimeoutError, OSError)
_QUESTIONS = {"fetch": "fetch", "list-by-condition": "list", "image-seed": "seed", "cancel": "cancel"}
"""End of a path → its label in `metrics.REQUESTS`. Other requests submit something."""
_SEED = re.compile(r"[0-9]{1,20}\Z")

MAX_ANSWER = 4 * 1024 * 1024
"""Bytes read of one answer; a list of 50 tasks with all the upstream's fields is about 300 KB."""

_LONGEST_STAGE = 10.0
_IN_PATH = "/%:@!$&'()*+,;=~"
"""Characters that stay as they are in the path of the address."""


class UnreadError(Exception):
    """The answer was not read to its end. The text holds the reason. It never leaves this package."""


class Reply(NamedTuple):
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def _address(url: str) -> str:
    """Return a base URL without a slash at its end, its host and path in ASCII."""
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname or ""
        host = host if host.isascii() else host.encode("idna").decode()
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        host = ""
    if (
        not host
        or "%" in host
        or parts.scheme not in ("http", "https")
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
        or not url.strip().isprintable()
    ):
        raise SettingsError(
            "RECEIVER_PROVIDER_URL is no usable address; write it like https://api.cometapi.com, without user or query."
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{port}{quote(parts.path, safe=_IN_PATH)}".rstrip("/")


def _proxy(url: str) -> httpcore.Proxy:
    """Return a proxy with the user and password of its URL."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    place = f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
    auth = (unquote(parts.username or "").encode(), unquote(parts.password or "").encode())
    return httpcore.Proxy(place, auth=auth if parts.username else None)


class Provider:
    """Client of the provider at one address with one key.

    Args:
        base_url: `https://host[/prefix]`, with or without a trailing slash and `/mj`.
        key: sent as `Authorization: Bearer`, unless it is empty. It never reaches an error or a repr.
        proxy: URL of an HTTP proxy on the way there.
        submit_timeout: seconds for a whole submit. It exceeds the relay's own 60 (PROTOCOL.md §1), so that the
            relay's answer comes first.
        seed_timeout: seconds for an image seed, which takes the provider up to 60 (PROTOCOL.md §2).

    Raises:
        SettingsError: the address or the key cannot be used.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: str,
        clock: Clock,
        pool: httpcore.AsyncConnectionPool | None = None,
        proxy: str | None = None,
        submit_timeout: float = 75.0,
        ask_timeout: float = 20.0,
        seed_timeout: float = 75.0,
    ) -> None:
        self._base = _address(base_url).removesuffix("/mj").rstrip("/")
        key = key.strip()
        if not (key.isascii() and key.isprintable()):
            raise SettingsError("COMETAPI_KEY holds characters that no header can carry; copy it again.")
        self._headers: dict[bytes | str, bytes | str] = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # and what comes compressed all the same is unpacked under our cap
            "User-Agent": f"imagine-receiver/{__version__}",
            **({"Authorization": f"Bearer {key}"} if key else {}),
        }
        learn([key])  # some relays repeat it
        # Where it goes, for errors. The URL of the proxy may hold a password.
        self._way = self._base if proxy is None else f"{self._base} through the proxy {urlsplit(proxy).hostname}"
        # Servers commonly close idle connections after 5 s. A submit written just then gets no answer and stays
        # ambiguous for ever. Connections are therefore reused only well before that.
        self._pool = pool or httpcore.AsyncConnectionPool(
            ssl_context=certificates() if self._base.startswith("https:") else None,
            proxy=None if proxy is None else _proxy(proxy),
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=2.0,
        )
        self._closed = False
        self._clock = clock
        self._submit_timeout = submit_timeout
        self._ask_timeout = ask_timeout
        self._seed_timeout = seed_timeout
        self._no_list_until = 0.0
        self._list_failed = False

    def __repr__(self) -> str:
        return f"Provider(base_url={self._base!r}, key='***')"

    async def submit(self, kind: str, body: Mapping[str, Any], *, speed: str | None) -> Accepted:
        """Send a request that makes a task, once. The speed is a prefix of the path (PROTOCOL.md §1).

        Raises:
            InputError: `kind`, `speed` or `body` cannot be sent, and nothing was.
            Refused, Unreachable: no task was made.
            Ambiguous: everything else. A task may have been made.
        """
        path = KINDS[one_of("a kind of request", kind, KINDS)].path
        prefix = f"/mj-{speed}" if check_speed(speed) else ""
        content = _encode(body)
        try:
            reply = await self._exchange("POST", f"{prefix}/mj/{path}", content, self._submit_timeout)
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
            _redact(exc)
            raise

    async def fetch(self, task_id: str) -> Task | None:
        """Ask for one task. Return None if the provider does not know it.

        Raises:
            Refused: the provider answers no questions now. `outcome` names the reason (key, rate, address).
            Unreachable: there was no answer.
            Unreadable: the answer makes no sense, or is another task's object.
        """
        if not task_id.strip("."):
            return None  # "." and ".." would change the path; no provider has these ids
        answer = await self._ask("GET", _task_path(task_id, "fetch"))
        if _is_unknown(answer):
            return None
        if answer.ok and "id" in answer.envelope.fields:
            try:
                task = read_task(answer.envelope.value)
            except NotATask as exc:
                raise Unreadable(f"The provider's answer is no task: {exc}") from exc
            if task.id != task_id:
                raise Unreadable(f"Asked for task {one_line(task_id)}, the provider answered with another one.")
            if self._list_failed:
                # A relay in trouble fails on every path alike. Only a fetch that works shows that the list is missing.
                self._no_list_until = self._clock.now() + LIST_PAUSE
                self._list_failed = False
            return task
        if answer.outcome.name == "not_found":
            return None
        raise self._failure(answer, "a task")

    async def list_tasks(self, ids: Sequence[str]) -> dict[str, Task] | None:
        """Ask for many tasks by list-by-condition, 50 at a time. Return None if a relay lacks it.

        The result has only ids that were asked for. Tasks that are unknown or unreadable are absent.

        Raises:
            Refused, Unreachable, Unreadable: as `fetch`.
        """
        found: dict[str, Task] = {}
        wanted = list(dict.fromkeys(ids))
        for start in range(0, len(wanted), BATCH):
            # The upper bound ends the pause when the clock was set back.
            if 0 < self._no_list_until - self._clock.now() <= LIST_PAUSE:
                return None
            listed = await self._list(wanted[start : start + BATCH])
            if listed is None:
                return None
            found |= listed
        return found

    def image_url(self, task_id: str) -> str:
        """Return the address under which the provider relays a task's picture (PROTOCOL.md §13.5)."""
        return f"{self._base}/mj/image/{quote(task_id, safe='', errors='replace')}"

    async def image_seed(self, task_id: str) -> str:
        """Ask for the seed of a finished task's picture: a number of up to ten digits, as text. May take a minute.

        Raises:
            InputError: no task can have that id.
            Refused: `not_found`, `not_ready` (ask again later), `unsupported` (a relay lacks the route), or as `fetch`.
            Unreachable, Unreadable: as `fetch`.
        """
        answer = await self._ask("GET", _task_path(check_task_id(task_id), "image-seed"), limit=self._seed_timeout)
        value = answer.envelope.fields.get("result")
        number = integral(value)
        whole = str(number) if number is not None and 0 <= number < 10**20 else ""
        seed = value.strip() if isinstance(value, str) else whole
        if answer.ok and answer.envelope.code in TAKEN and _SEED.match(seed):
            return seed
        raise self._refusal(answer, "an image seed")

    async def cancel(self, task_id: str) -> None:
        """Ask the provider to stop a task. Only a fetch shows the effect: a cancelled task becomes a FAILURE.

        The answer for a task that is unknown, finished or another user's may be the same as for one that was stopped.
        It raises as `image_seed`. After Unreachable and Unreadable the task may have been stopped.
        """
        answer = await self._ask("POST", _task_path(check_task_id(task_id), "cancel"))
        envelope = answer.envelope
        done = envelope.form in ("empty", "null") or envelope.code in TAKEN
        if not (answer.ok and (done or (envelope.code is None and "id" in envelope.fields))):
            raise self._refusal(answer, "the answer to a cancel")

    async def aclose(self) -> None:
        """Close all connections."""
        self._closed = True
        await self._pool.aclose()

    async def _exchange(self, method: str, path: str, content: bytes | None, limit: float) -> Reply:
        """Send one request under a total deadline of `limit` seconds. httpcore counts its time-outs per operation.

        Waiting for the pool, TCP and TLS get a quarter each. A connection that fails then shows as that, and not as the
        deadline. Raises TimeoutError, an error of httpcore, and UnreadError for an answer that is too long or packed in
        another way than gzip and deflate.
        """
        if self._closed:  # a pool would open new connections, which nothing closes
            raise RuntimeError("This client of the provider has been closed.")
        question = _QUESTIONS.get(path.rpartition("/")[2], "submit")
        stage = min(_LONGEST_STAGE, limit / 4)
        headers = self._headers.copy()
        if content is not None:
            headers["Content-Type"] = "application/json"
        limits = {"timeout": {"connect": stage, "pool": stage, "read": limit, "write": limit}}
        if method == "POST":
            content = content or b""  # a POST without a body has a length, too
        answer, began = "broken", time.perf_counter()
        try:
            async with (
                asyncio.timeout(limit),
                self._pool.stream(
                    method, self._base + path, headers=headers, content=content, extensions=limits
                ) as response,
            ):
                found = {name.decode("latin-1").lower(): text.decode("latin-1") for name, text in response.headers}
                body = Body(found.get("content-encoding", ""), MAX_ANSWER + 1)
                async for chunk in response.aiter_stream():
                    if not body.add(chunk):
                        break
                if body.problem is not None:
                    raise UnreadError(one_line(body.problem))
                if len(body.data) > MAX_ANSWER:
                    raise UnreadError(f"it is longer than {MAX_ANSWER} bytes once unpacked")
                if not body.complete:
                    raise UnreadError("its compressed content is cut short")
                answer = f"{response.status // 100}xx"
                return Reply(response.status, found, bytes(body.data))
        except (TimeoutError, httpcore.TimeoutException):
            answer = "timeout"
            raise
        finally:
            metrics.REQUESTS.add(question, answer)
            metrics.REQUEST_SECONDS.observe(time.perf_counter() - began, question)

    async def _list(self, batch: list[str]) -> dict[str, Task] | None:
        """Return the tasks of one batch, or None if the relay lacks the route."""
        answer = await self._ask("POST", "/mj/task/list-by-condition", _encode({"ids": batch}))
        items = answer.envelope.value
        if answer.ok and isinstance(items, list):
            self._list_failed = False
            found: dict[str, Task] = {}
            for item in items:
                try:
                    task = read_task(item)
                except NotATask:
                    continue
                if task.id in batch:
                    found[task.id] = task
            return found
        if answer.ok and answer.outcome.name == "ambiguous" and answer.envelope.code is None:
            lacking = answer.envelope.form != "unreadable"
        else:
            lacking = answer.outcome.name in ("wrong_address", "validation", "not_found")
        if not lacking:
            raise self._failure(answer, "a list of tasks")
        self._list_failed = True
        return None

    async def _ask(self, method: str, path: str, content: bytes | None = None, *, limit: float | None = None) -> Answer:
        try:
            reply = await self._exchange(method, path, content, limit or self._ask_timeout)
            return read_answer(*reply, now=self._clock.now())
        except UnreadError as exc:
            raise Unreadable(f"The provider's answer was not read: {exc}.") from exc
        except (httpcore.RemoteProtocolError, httpcore.ReadError) as exc:
            raise Unreadable(f"The provider's answer could not be read ({_reason(exc)}).") from exc
        except _NETWORK as exc:
            raise self._unreachable(exc) from exc

    def _refusal(self, answer: Answer, wanted: str) -> ProviderError:
        """Return the error for a question that not every provider takes.

        An upstream keeps cancel to its administrators by 400 or 403 and a bare sentence (PROTOCOL.md §2).
        """
        envelope, name = answer.envelope, answer.outcome.name
        bare = envelope.code is None and envelope.form in ("html", "unreadable", "other")
        page = answer.ok and envelope.form == "html"
        if name == "wrong_address" or (bare and (answer.http_status in (400, 403) or page)):
            name = "unsupported"
        elif _is_unknown(answer):
            name = "not_found"
        return self._failure(msgspec.structs.replace(answer, outcome=OUTCOMES[name]), wanted)

    def _failure(self, answer: Answer, wanted: str) -> ProviderError:
        """Return the error for an answer that is not `wanted`."""
        if answer.outcome.task == "none":
            error = answer.error()
        else:
            said = f': "{answer.envelope.said[:200]}"' if answer.envelope.said else ""
            evidence = f"HTTP {answer.http_status}, {answer.envelope.form}"
            error = Unreadable(f"The provider's answer makes no sense as {wanted} ({evidence}){said}; ask again later.")
        _redact(error)
        return error

    def _unreachable(self, exc: Exception) -> Unreachable:
        return Unreachable(
            f"The provider at {self._way} cannot be reached ({_reason(exc)}); "
            "check the network and RECEIVER_PROVIDER_URL."
        )


def _redact(error: ProviderError) -> None:
    error.args = tuple(redact(str(arg)) for arg in error.args)


def _is_unknown(answer: Answer) -> bool:
    """Return True for "unknown task" besides code 4 (PROTOCOL.md §2): 2xx with nothing or null, 404 with JSON."""
    if answer.http_status == 404:
        return answer.envelope.form in ("null", "object", "other")
    return answer.ok and answer.envelope.form in ("empty", "null")


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
    return connection_reason(exc) or one_line(str(exc))[:200] or type(exc).__name__
