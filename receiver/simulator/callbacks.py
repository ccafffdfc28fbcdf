"""Sending callbacks: one POST each, never repeated, answers only noted (PROTOCOL.md §7)."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import httpx

from receiver.simulator.clock import Clock
from receiver.simulator.course import Call
from receiver.simulator.faults import Faults
from receiver.simulator.profiles import Profile
from receiver.simulator.tasks import Task, View

_TIMEOUT = httpx.Timeout(10.0, connect=2.0)
"""Real seconds. The real senders wait far longer (§7); nobody wants to sit through that in a test."""


@dataclass(frozen=True, slots=True)
class SentCallback:
    """One callback that was tried: the HTTP status it was answered with, or why there is none."""

    task_id: str
    status: str
    progress: str | None
    http_status: int | None
    error: str | None


class CallbackSender:
    """Posts each task's callbacks in the background.

    Those of one task go out one after the other: with a speeded-up clock they would else overtake each
    other by chance, and the same seed would not give the same run.
    """

    def __init__(self, profile: Profile, faults: Faults, clock: Clock, client: httpx.AsyncClient | None) -> None:
        self.sent: list[SentCallback] = []
        self._profile = profile
        self._faults = faults
        self._clock = clock
        self._own_client = client is None
        # trust_env: a proxy in the environment must not swallow calls to a loopback address.
        self._client = client or httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False)
        self._running: dict[str, asyncio.Task[None]] = {}

    def start(self, task: Task, hook: str, state: str | None, calls: Iterable[Call]) -> None:
        """Send these callbacks when their time comes, and none of those that were still to come of the task."""
        if earlier := self._running.get(task.id):
            earlier.cancel()
        running = asyncio.create_task(self._send_all(replace(task, state=state, hook=hook), list(calls)))
        self._running[task.id] = running
        running.add_done_callback(partial(self._forget, task.id))

    def _forget(self, task_id: str, done: asyncio.Task[None]) -> None:
        if self._running.get(task_id) is done:
            del self._running[task_id]

    async def _send_all(self, task: Task, calls: list[Call]) -> None:
        for call in calls:
            await self._clock.until(task.submitted + call.after)
            await self._send(self._profile.view(task, call.step, task.origin, task.submitted + call.after))

    async def _send(self, view: View) -> None:
        http_status, error = None, None
        try:
            response = await self._client.send(self._request(view), follow_redirects=False)
            http_status = response.status_code
        # InvalidURL and ValueError: the hook is whatever somebody typed.
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
            error = f"{type(exc).__name__}: {exc}"
        self.sent.append(SentCallback(view.task.id, view.step.status, view.step.progress, http_status, error))

    def _request(self, view: View) -> httpx.Request:
        caller = self._profile.caller
        content = caller.encode(self._faults.told(caller.shape(view)))
        address, headers = caller.address(view.task.hook or ""), dict(caller.headers)
        request = self._client.build_request("POST", address, content=content, headers=headers, timeout=_TIMEOUT)
        # httpx names itself unless stopped; the C# sender names nobody.
        for name in ("User-Agent", "Accept", "Accept-Encoding"):
            if name not in caller.headers:
                request.headers.pop(name, None)
        return request

    async def aclose(self) -> None:
        """Drop what has not been sent."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._own_client:
            await self._client.aclose()
