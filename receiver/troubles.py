"""What does not work outside (the provider, its callbacks), told once when it begins and once when it is over.

It stands in the journal too, so that other processes can show it and a restart knows what is over.
"""

from __future__ import annotations

from receiver.clock import Clock
from receiver.journal import Journal, Trouble


class Troubles:
    """The engine's side of it: only the engine knows what works, so only the engine writes here."""

    def __init__(self, *, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._known: dict[str, Trouble] | None = None
        self._told: set[str] = set()

    async def begin(self, name: str, text: str) -> bool:
        """Something does not work, or still does not. Returns whether this process has to tell it; it does that once.

        Raises:
            JournalError: it could not be written down.
        """
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
        """It works. Returns what is over, to be told; None if nothing was wrong. Reads and writes nothing then.

        Raises:
            JournalError: it could not be written down.
        """
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
