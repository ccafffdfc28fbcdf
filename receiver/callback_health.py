"""Whether callbacks come at all, measured from the journal, so that a restart forgets nothing.

Looked at are the last 20 submissions that took a callback URL along, that the provider has ended, and that are old
enough for their callbacks to have come. Those sent without a URL, refused, lost or under way say nothing.

    fewer than 20                              nothing can be said yet
    not one was called back                    the relay strips the URL, or it leads nowhere: told
    ten or more were, none with its result     the last callback never comes: told
    one was called back with its result        all is well; if something was told before, this is told, too

Nothing has to be switched over meanwhile: a callback only puts the next question off, so a task that is not called back
is asked about at the pace of one that has no callback URL.
"""

from __future__ import annotations

from typing import Literal

import structlog

from receiver.clock import Clock
from receiver.errors import PayloadError
from receiver.journal import Journal
from receiver.tasks import decode_json, read_task
from receiver.health import Troubles

log = structlog.get_logger("receiver.callbacks")

SAMPLE = 20
ENOUGH = 10
"""Submissions called back without their result before that is no chance."""
SETTLED_SECONDS = 300.0
"""How old a submission is before a missing callback counts."""
EVERY_SECONDS = 60.0
LOOKED_AT = 20
"""Callbacks of one submission that are looked through for its result, the last ones."""

Verdict = Literal["missing", "unfinished", "well"]


class CallbackHealth:
    """Looks once a minute.

    Args:
        journal, troubles, clock: what it works with.
        public_url: where callbacks should come to; None: none are expected, and nothing is said.
        poll_seconds: how often a task is asked about meanwhile.
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
        """The engine's step. Moves nothing, so it returns 0."""
        wait = self._next - self._clock.now()
        if 0 < wait <= EVERY_SECONDS:  # the upper bound frees us when the clock was set back
            return 0
        self._next = self._clock.now() + EVERY_SECONDS
        if self._public_url is None:
            await self._well("RECEIVER_PUBLIC_URL is not set any more, so no callback is expected")
        elif (verdict := await self._verdict()) == "well":
            await self._well("callbacks come, with the result")
        elif verdict is not None:
            await self._ill(verdict)
        return 0

    async def _verdict(self) -> Verdict | None:
        """None: nothing can be said."""
        before_ms = self._clock.now_ms() - int(SETTLED_SECONDS * 1000)
        rows = await self._journal.called_back(limit=SAMPLE, created_before_ms=before_ms)
        if len(rows) < SAMPLE:
            return None
        called = [row.id for row in rows if row.callbacks]
        if not called:
            return "missing"
        without = 0
        for id in called:
            ends = await self._ends(id)
            if any(ends):
                return "well"
            without += bool(ends)
        return "unfinished" if without >= ENOUGH else None

    async def _ends(self, submission_id: str) -> list[bool]:
        """Of each callback kept, whether it told the end. They are not kept for ever: none is no evidence."""
        kept = await self._journal.callbacks(submission_id, limit=LOOKED_AT)
        return [_is_end(callback.body) for callback in kept]

    async def _ill(self, verdict: Literal["missing", "unfinished"]) -> None:
        other = "unfinished" if verdict == "missing" else "missing"
        await self._troubles.end(_name(other))
        text = self._text(verdict)
        if await self._troubles.begin(_name(verdict), text):
            log.warning(f"callbacks.{verdict}", problem=text)

    async def _well(self, reason: str) -> None:
        over = [await self._troubles.end(_name(verdict)) for verdict in ("missing", "unfinished")]
        if any(over):
            log.info("callbacks.returned", reason=reason)

    def _text(self, verdict: Literal["missing", "unfinished"]) -> str:
        meanwhile = f"No result is lost by it: each task is asked about every {self._poll_seconds:g} s."
        if verdict == "missing":
            return (
                f"None of the last {SAMPLE} submissions that took a callback URL along was called back. Either the "
                f"relay strips the URL, as many do, or {self._public_url} cannot be reached from outside, or what "
                f"listens there has other RECEIVER_KEYS and believes none. {meanwhile} Open {self._public_url}/livez "
                "from another network; if it answers and all processes have the same keys, ask the provider to pass "
                "`notifyHook` on, or unset RECEIVER_PUBLIC_URL."
            )
        return (
            f"Of the last {SAMPLE} submissions some were called back, but none with its result: the last callback "
            f"never comes. {meanwhile} Tell the provider, and see what came with: receiver tasks list"
        )


def _name(verdict: str) -> str:
    return f"callbacks {verdict}"


def _is_end(body: bytes) -> bool:
    try:
        return read_task(decode_json(body)).terminal
    except PayloadError:
        return False
