"""Health of what the engine depends on: faults in the journal, the provider's answers, and the arrival of callbacks."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from receiver.backoff import PROVIDER, wait_forever
from receiver.clock import Clock
from receiver.errors import PayloadError, ProviderError, Refused
from receiver.journal import Journal, Trouble
from receiver.tasks import decode_task
from receiver.telemetry import Log

provider_log = Log("receiver.provider")
callback_log = Log("receiver.callbacks")

PROVIDER_TROUBLE = "provider"
IN_VAIN = 3
"""Rounds without a known task before that is logged. A relay may lag by one."""

SAMPLE = 20
ENOUGH = 10
"""Submissions called back without their result before that is no chance."""
SETTLED_SECONDS = 300.0
"""Age of a submission from which on a missing callback counts."""
EVERY_SECONDS = 60.0
LOOKED_AT = 20
"""Callbacks of one submission that are searched for its result, the last ones."""

Verdict = Literal["missing", "unfinished", "well"]


class Troubles:
    """Faults outside, each logged once at its beginning and once at its end.

    The journal keeps them, so other processes can show them and a restart knows what has ended. Only the engine writes.
    """

    def __init__(self, *, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._known: dict[str, Trouble] | None = None
        self._told: set[str] = set()

    async def begin(self, name: str, text: str) -> bool:
        """Note a fault that begins or goes on. Return True the first time, when this process must log it."""
        known = await self._load()
        news = name not in self._told
        self._told.add(name)
        old = known.get(name)
        if old is None or old.text != text:
            trouble = Trouble(name=name, since_ms=old.since_ms if old else self._clock.now_ms(), text=text)
            await self._journal.note(trouble)
            known[name] = trouble
        return news

    async def end(self, name: str) -> Trouble | None:
        """Return the fault that is over and must be logged, or None if there was none."""
        known = await self._load()
        old = known.get(name)
        if old is not None:
            await self._journal.clear(name)
            del known[name]
        self._told.discard(name)
        return old

    async def _load(self) -> dict[str, Trouble]:
        if self._known is None:
            self._known = {trouble.name: trouble for trouble in await self._journal.troubles()}
        return self._known


class ProviderHealth:
    """Backoff of the whole account after failed rounds: 5, 10, 20, 40, then 60 s, or as the provider asks."""

    def __init__(self, *, troubles: Troubles, clock: Clock) -> None:
        self._troubles = troubles
        self._clock = clock
        self._failures = 0
        self._not_before_ms = 0
        self._pause_ms = 0
        self._unknown = 0

    @property
    def paused(self) -> bool:
        """True while the account backs off. The upper bound ends the pause if the clock was set back."""
        return 0 < self._not_before_ms - self._clock.now_ms() <= self._pause_ms

    async def failed(self, error: ProviderError) -> None:
        """Note a round of questions that failed."""
        self._failures += 1
        asked = (error.retry_after or 0) if isinstance(error, Refused) else 0
        seconds = max(wait_forever(PROVIDER, self._failures), asked)
        self._pause_ms = int(seconds * 1000)
        self._not_before_ms = self._clock.now_ms() + self._pause_ms
        text = f"{error} It is asked again by itself; nothing is lost meanwhile."
        level = provider_log.warning if await self._troubles.begin(PROVIDER_TROUBLE, text) else provider_log.debug
        level("provider.unavailable", problem=str(error), again_in=round(seconds))

    async def answered(self) -> None:
        """Note a round that was answered to its end."""
        self._failures = 0
        self._not_before_ms = 0
        if over := await self._troubles.end(PROVIDER_TROUBLE):
            seconds = round((self._clock.now_ms() - over.since_ms) / 1000)
            provider_log.info("provider.recovered", after=seconds)

    def heard(self, tasks: int, known: int, problem: str) -> None:
        """Note how many tasks a round asked about, and how many of them the provider knew.

        It changes no pace, because a task that the provider has forgotten must not hold up another.
        """
        if known:
            if self._unknown >= IN_VAIN:
                provider_log.info("provider.knows_again", tasks=known)
            self._unknown = 0
        elif tasks:
            self._unknown += 1
            if self._unknown == IN_VAIN:
                provider_log.warning("provider.knows_nothing", tasks=tasks, problem=problem)


class CallbackHealth:
    """Check of callbacks, once a minute, from the journal, so that a restart forgets nothing.

    It looks at the last 20 submissions with a callback URL that the provider has ended and that are old enough for
    their callbacks. Submissions without a URL, refused, lost or under way say nothing.

        fewer than 20                          no verdict yet
        none was called back                   the relay strips the URL, or it leads nowhere: a fault
        10 or more were, none with a result    the last callback never comes: a fault
        one was called back with its result    no fault, and the end of an earlier one is logged

    Polling needs no change meanwhile: a callback only postpones the next question, so a task without callbacks is asked
    about at the pace of a task without a callback URL.
    """

    def __init__(
        self, *, journal: Journal, troubles: Troubles, clock: Clock, public_url: str | None, poll_seconds: float
    ) -> None:
        self._journal = journal
        self._troubles = troubles
        self._clock = clock
        self._public_url = public_url
        self._poll_seconds = poll_seconds
        self._next = 0.0

    async def check_once(self) -> int:
        """Take the engine's step. Return 0, because it moves nothing."""
        wait = self._next - self._clock.now()
        if 0 < wait <= EVERY_SECONDS:  # the upper bound ends the wait if the clock was set back
            return 0
        self._next = self._clock.now() + EVERY_SECONDS
        if self._public_url is None:
            await self._well("RECEIVER_PUBLIC_URL is not set any more, so no callback is expected")
        elif (verdict := await self._verdict()) == "well":
            await self._well("callbacks come, with the result")
        elif verdict is not None:
            await self._troubles.end("callbacks unfinished" if verdict == "missing" else "callbacks missing")
            meanwhile = f"No result is lost by it: each task is asked about at least every {self._poll_seconds:g} s."
            if verdict == "missing":
                text = (
                    f"None of the last {SAMPLE} submissions that took a callback URL along was called back. Either the "
                    f"relay strips the URL, as many do, or {self._public_url} cannot be reached from outside, or what "
                    f"listens there has other RECEIVER_KEYS and accepts none. {meanwhile} Open "
                    f"{self._public_url}/livez from another network; if it answers and all processes have the same "
                    "keys, ask the provider to pass `notifyHook` on, or unset RECEIVER_PUBLIC_URL."
                )
            else:
                text = (
                    f"Of the last {SAMPLE} submissions some were called back, but none with its result: the last "
                    f"callback never comes. {meanwhile} Tell the provider, and see what came with: receiver tasks list"
                )
            if await self._troubles.begin(f"callbacks {verdict}", text):
                callback_log.warning(f"callbacks.{verdict}", problem=text)
        return 0

    async def _verdict(self) -> Verdict | None:
        """Return the verdict, or None if there is none yet."""
        before_ms = self._clock.now_ms() - int(SETTLED_SECONDS * 1000)
        rows = await self._journal.called_back(limit=SAMPLE, created_before_ms=before_ms)
        if len(rows) < SAMPLE:
            return None
        called = [row.id for row in rows if row.callbacks]
        if not called:
            return "missing"
        without = 0
        for id in called:
            kept = await self._journal.callbacks(id, limit=LOOKED_AT)
            for callback in kept:
                with suppress(PayloadError):
                    if decode_task(callback.body).terminal:
                        return "well"
            without += bool(kept)  # callbacks are not kept for ever: none is no evidence
        return "unfinished" if without >= ENOUGH else None

    async def _well(self, reason: str) -> None:
        over = [await self._troubles.end(f"callbacks {verdict}") for verdict in ("missing", "unfinished")]
        if any(over):
            callback_log.info("callbacks.returned", reason=reason)
