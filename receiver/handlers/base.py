"""The handler contract: one verb, one frozen argument."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from receiver.deliveries import Receipt
from receiver.events import Event, Media
from receiver.retry_after import retry_after

Guarantee = Literal["once", "at least once"]
"""What a place allows when an attempt is made again: nothing more is made, or perhaps once more (a chat post, which has
no key of its own). A handler's class declares it as `guarantee`; `once` if it says nothing, and `check_handler` of
`receiver.testing` holds it to its word."""


class RetryLater(Exception):
    """Raised by a handler that wants the same delivery again after `after` seconds. Uses up no attempt.

    `pause` holds back everything for this destination until then: a rate limit is rarely about one delivery.
    """

    def __init__(self, after: float, reason: str = "", *, pause: bool = False) -> None:
        super().__init__(reason or f"the destination asked to wait {after:g} s")
        self.after = after
        self.pause = pause

    @classmethod
    def from_headers(
        cls, headers: Mapping[str, str], *, otherwise: float, reason: str = "", pause: bool = True
    ) -> RetryLater:
        """As an HTTP answer asks with `Retry-After` (RFC 9110 §10.2.3): seconds or a date, an hour at most.

        Example::

            if response.status_code in (429, 503):
                raise RetryLater.from_headers(response.headers, otherwise=60, reason="the webhook is busy")

        Args:
            headers: of the answer, in any case.
            otherwise: seconds, where the header is missing or nonsense.
        """
        seconds = retry_after(headers, time.time())
        return cls(otherwise if seconds is None else seconds, reason, pause=pause)


class Rejected(Exception):
    """Raised by a handler when trying again cannot help: the delivery is `dead` now, the text says why to a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMedia:
    """An archived file a handler may read: what the journal knows of it, and where it lies.

    Attributes:
        tile: 1 to 4 for a picture cut from a grid (U1 top left, U2 top right, U3 bottom left, U4 bottom right); else 0.
    """

    media: Media
    path: Path
    tile: int = 0


async def no_tiles() -> tuple[StoredMedia, ...]:
    """What is cut from a result that is no grid."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Everything a handler gets. Frozen and keyword-only, so that a new field breaks nobody.

    Attributes:
        event: what happened.
        destination: the name of the configured destination.
        number: 1 for the first attempt of this delivery.
        idempotency_key: the same over all retries of this delivery.
        deadline: seconds this attempt may take in all; the dispatcher ends it after that.
        media: the archived files of the result, in order; empty when the event has none or they could not be fetched.
        media_problem: why `media` is empty although the event has a picture; None otherwise.
        media_pending: whether the download is still being tried.
        previous: the last receipt of this submission at this destination (what a chat edits).
        parent: the parent submission's last receipt at this destination (what a reply threads under).
        receipts: the last receipts of this submission at other destinations, by name.
        tiles: `await attempt.tiles()` gives the four pictures of a grid, U1 to U4, cut once for all destinations; none
            for anything else. It needs the extra `images` (see `require` in `extras`), and raises MediaError: permanent
            where the grid cannot be cut, which is no reason to keep back the rest.
    """

    event: Event
    destination: str
    number: int
    idempotency_key: str
    deadline: float
    media: tuple[StoredMedia, ...] = ()
    media_problem: str | None = None
    media_pending: bool = False
    previous: Receipt | None = None
    parent: Receipt | None = None
    receipts: Mapping[str, Receipt]
    tiles: Callable[[], Awaitable[tuple[StoredMedia, ...]]] = no_tiles


class Handler(Protocol):
    """Plug-in code that brings an event to a place.

    `deliver` returns a Receipt (succeeded), raises `RetryLater` or `Rejected`, or fails with anything else
    (retried by policy). It may be called again with the same `idempotency_key`: make the effect the same.
    `receiver.testing.check_handler` checks what that means.
    """

    async def deliver(self, attempt: Attempt) -> Receipt: ...

    async def aclose(self) -> None: ...


class HandlerOptions(BaseModel):
    """Base of a handler's typed options. Each field's description is its help everywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HandlerBase:
    """What most handlers of one's own would write the same way; a class needs no more than `name` and `deliver` then.

    Nothing asks for it: a class that has everything a handler has is one.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    schemes: ClassVar[tuple[str, ...]] = ()
    guarantee: ClassVar[Guarantee] = "at least once"
    Options: ClassVar[type[HandlerOptions]] = HandlerOptions

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    def options_from_url(cls, url: str) -> dict[str, Any]:
        """For a handler that has no short form."""
        raise ValueError(f'a {cls.name} destination has no URL; write handler = "{cls.name}" and its options')

    async def deliver(self, attempt: Attempt) -> Receipt:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing to close."""
