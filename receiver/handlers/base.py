"""Handler contract: one verb with one frozen argument."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from receiver.backoff import retry_after
from receiver.deliveries import Receipt
from receiver.events import Event
from receiver.events import StoredMedia as StoredMedia  # noqa: PLC0414 - part of the contract
from receiver.settings.options import Kind as Kind  # noqa: PLC0414 - part of the contract
from receiver.settings.options import Options
from receiver.settings.options import Secret as Secret  # noqa: PLC0414 - part of the contract

Guarantee = Literal["once", "at least once"]
"""Effect of an attempt that is made again: nothing more, or perhaps a second time (a chat post, which has no key).

A handler's class declares it as `guarantee`. Without one it is `once`. `receiver.testing.check_handler` checks it.
"""


class RetryLater(Exception):
    """Raised by a handler that wants the same delivery again after `after` seconds. Uses up no attempt.

    With `pause` the whole destination waits until then, because a rate limit is rarely about one delivery.
    """

    def __init__(self, after: float, reason: str = "", *, pause: bool = False) -> None:
        super().__init__(reason or f"the destination asked to wait {after:g} s")
        self.after = after
        self.pause = pause

    @classmethod
    def from_headers(
        cls, headers: Mapping[str, str], *, otherwise: float, reason: str = "", pause: bool = True
    ) -> RetryLater:
        """Return the error for an answer with `Retry-After` (RFC 9110 §10.2.3): seconds or a date, an hour at most.

        `otherwise` are the seconds if the header is missing or cannot be read. Example::

            if response.status_code in (429, 503):
                raise RetryLater.from_headers(response.headers, otherwise=60, reason="the webhook is busy")
        """
        seconds = retry_after(headers, time.time())
        return cls(otherwise if seconds is None else seconds, reason, pause=pause)


class Rejected(Exception):
    """Raised by a handler when trying again cannot help. The delivery is `dead` now. The text says why."""


async def no_tiles() -> tuple[StoredMedia, ...]:
    """Return no tiles: the result is not a grid."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Argument of `Handler.deliver`. Frozen and keyword-only, so that a new field breaks no handler.

    Attributes:
        number: 1 for the first attempt of this delivery.
        idempotency_key: the same over all retries of this delivery.
        deadline: seconds this attempt may take in all. The dispatcher ends it after that.
        media: the files of the result that are here, in order. `media.index` is the position among all of them.
            `event.files` are the same.
        media_problem: a sentence on the files that are missing. None if none is.
        media_expected: the number of files that the result has, missing ones included.
        media_pending: True if missing files are still tried for. A further event (`event.further`) brings them.
        previous: the last receipt of this submission at this destination. A chat edits its post.
        parent: the parent submission's last receipt at this destination. A chat replies in its thread.
        receipts: the last receipts of this submission at other destinations, by name.
        tiles: `await attempt.tiles()` gives the four pictures of a grid, U1 to U4, or nothing for any other result.
            They are cut once for all destinations. It needs the extra `images` (`receiver.errors.require`) and raises
            MediaError, a permanent one if the grid cannot be cut: deliver the rest then.
        reply_to: the URL that the submission itself named. It is secret.
    """

    event: Event
    destination: str
    number: int
    idempotency_key: str
    deadline: float
    media: tuple[StoredMedia, ...] = ()
    media_problem: str | None = None
    media_expected: int = 0
    media_pending: bool = False
    previous: Receipt | None = None
    parent: Receipt | None = None
    receipts: Mapping[str, Receipt]
    tiles: Callable[[], Awaitable[tuple[StoredMedia, ...]]] = no_tiles
    reply_to: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "event", self.event.with_files(self.media))

    @property
    def numbered(self) -> bool:
        """True if the result has several files, so that their names have numbers."""
        return max(self.media_expected, len(self.media)) > 1

    @property
    def without_files(self) -> bool:
        """True if a result has files, and none of them is here or can still come."""
        return bool(self.media_problem) and not self.media and not self.media_pending


class Handler(Protocol):
    """Plug-in code that brings an event to a place.

    `deliver` returns a Receipt (succeeded), raises `RetryLater` or `Rejected`, or fails with any other exception
    (retried by policy). An exception whose attribute `about_event` is True refuses this event alone, and does not count
    towards a pause of the destination.

    It may be called again with the same `idempotency_key` and must have the same effect then.
    `receiver.testing.check_handler` checks the contract.
    """

    async def deliver(self, attempt: Attempt) -> Receipt: ...

    async def aclose(self) -> None: ...


class HandlerOptions(Options):
    """Base of a handler's typed options. A field has a type, bounds, a help and a default::

        class Options(HandlerOptions):
            token: Annotated[Secret, "The key of the account."]
            copies: Annotated[int, Meta(ge=1, le=9), "Copies of each picture."] = 1
            size: Annotated[Literal["small", "large"], "Size of the copies."] = "small"

    Bounds are msgspec's `Meta`, a `Secret` is masked wherever it is printed, and `Kind(check=…)` takes a function of
    your own. Override `check_together` for a rule over several options.
    """


class HandlerBase:
    """Optional base of a plug-in, which then needs only `name` and `deliver`."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    schemes: ClassVar[tuple[str, ...]] = ()
    guarantee: ClassVar[Guarantee] = "at least once"
    Options: ClassVar[type[HandlerOptions]] = HandlerOptions

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    def options_from_url(cls, url: str) -> dict[str, Any]:
        """Raise ValueError: a handler has no short form unless it overrides this."""
        raise ValueError(f'a {cls.name} destination has no URL; write handler = "{cls.name}" and its options')

    async def deliver(self, attempt: Attempt) -> Receipt:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close nothing."""
