"""Callbacks: one POST each, never repeated, whose answers are only recorded (PROTOCOL.md §7)."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace

import httpx

from receiver.simulator.faults import Faults
from receiver.simulator.profiles import Profile
from receiver.simulator.tasks import Task, View
from receiver.simulator.timeline import Call, Clock

_TIMEOUT = httpx.Timeout(10.0, connect=2.0)
"""Real seconds. The real senders wait far longer (§7), which is too long for a test."""


@dataclass(frozen=True, slots=True)
class SentCallback:
    """One callback that was tried: its HTTP status, or the error."""

    task_id: str
    status: str
    progress: str | None
    http_status: int | None
    error: str | None


class CallbackSender:
    """Posts each task's callbacks in the background.

    The callbacks of one task are sent one after the other. With a fast clock they would otherwise overtake each other
    by chance, and the same seed would not give the same run.
    """

    def __init__(self, profile: Profile, faults: Faults, clock: Clock, client: httpx.AsyncClient | None) -> None:
        self.sent: list[SentCallback] = []
        self._profile = profile
        self._faults = faults
        self._clock = clock
        self._own_client = client is None
        # trust_env: a proxy in the environment must not receive calls to a loopback address.
        self._client = client or httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False)
        self._running: dict[str, asyncio.Task[None]] = {}

    def start(self, task: Task, hook: str, state: str | None, calls: Iterable[Call]) -> None:
        """Send the calls at their time, and drop the task's earlier ones that are not sent yet."""
        if earlier := self._running.get(task.id):
            earlier.cancel()
        task, planned = replace(task, state=state, hook=hook), list(calls)

        async def send_all() -> None:
            for call in planned:
                await self._clock.until(task.submitted + call.after)
                await self._send(self._profile.view(task, call.step, task.origin, task.submitted + call.after))
            self._running.pop(task.id, None)

        self._running[task.id] = asyncio.create_task(send_all())

    async def _send(self, view: View) -> None:
        http_status, error, caller = None, None, self._profile.caller
        try:
            request = self._client.build_request(
                "POST",
                caller.address(view.task.hook or ""),
                content=caller.encode(self._faults.apply("callback", caller.shape(view))),
                headers=dict(caller.headers),
                timeout=_TIMEOUT,
            )
            # httpx adds headers of its own, but the C# sender has none of them.
            for name in {"User-Agent", "Accept", "Accept-Encoding"} - set(caller.headers):
                request.headers.pop(name, None)
            http_status = (await self._client.send(request, follow_redirects=False)).status_code
        # InvalidURL and ValueError: the hook may be any text.
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
            error = f"{type(exc).__name__}: {exc}"
        self.sent.append(SentCallback(view.task.id, view.step.status, view.step.progress, http_status, error))

    async def aclose(self) -> None:
        """Drop what has not been sent yet."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._own_client:
            await self._client.aclose()
