"""Every error Receiver raises on purpose.

ReceiverError
├── SettingsError            a setting is missing, wrong or unsafe; the start stops
├── TokenError               a URL token or state token is not ours, too old, or from the future
├── PayloadError             bytes that are not what the protocol says
│   ├── NotJSON                  cannot be read as JSON
│   └── NotATask                 JSON, but not a task object
├── InputError               what the caller asked for cannot be sent; nothing was sent
│   └── Conflict                 its name (an idempotency key) was given to another request before
├── ProviderError            the provider said no, or nothing we understand
│   ├── Refused                  no task was made; `outcome` says why, `retry` whether to send again
│   ├── Ambiguous                the task may exist and be charged; never sent again
│   ├── Unreachable              the request never arrived; nothing was made
│   └── Unreadable               an answer to a question (fetch, list) that makes no sense; ask again later
├── NoResult                 a task has ended without a result, or waits; `event` says why
│   ├── TaskFailed               the provider says it failed
│   ├── TaskLost                 it has no end within our deadline
│   └── InputRequired            it waits for a person's words or mask
├── NotDelivered             a destination did not take a sample, or what a callback without a journal brought
├── EngineStopped            this process's engine has ended or hangs
├── NotStarted               a Receiver is used before its start or after its end
├── MediaError               a picture could not be fetched or stored
├── JournalError             the journal cannot be read or written
│   ├── JournalLocked            another process holds it for too long
│   └── EngineRunning            another process is the engine of this journal
└── NotFound                 no submission, event or delivery with that id
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.events import Event  # evidence only: nothing here calls anything above


class ReceiverError(Exception):
    """Base of all. Its text is one or more sentences for a person: what happened, where, what to do."""


class SettingsError(ReceiverError):
    """A setting is missing, wrong or unsafe. The text names the setting and the remedy."""


class TokenError(ReceiverError):
    """A token was not signed by our keys, is too old, or comes from the future.

    `cause` is one of `malformed`, `signature`, `expired`, `future`, or `no_state`, `bad_state` where a callback has no
    URL token either; it is for logs and counters, and never reaches whoever sent the token.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(f"the token is not valid ({cause})")
        self.cause = cause


class PayloadError(ReceiverError):
    """Bytes that are not what the protocol says."""


class NotJSON(PayloadError):
    """The bytes cannot be read as JSON (RFC 8259)."""


class NotATask(PayloadError):
    """JSON, but no task object (PROTOCOL.md §5): not an object, or without a usable id."""


class InputError(ReceiverError):
    """What the caller asked for cannot be sent. Raised before anything goes out."""


class Conflict(InputError):
    """The name a request shall exist once under was given to another request before."""


class ProviderError(ReceiverError):
    """The provider said no, or said something we do not understand."""


class Refused(ProviderError):
    """No task was made (PROTOCOL.md §4).

    Attributes:
        outcome: a name from `provider.OUTCOMES`, e.g. `banned_word`, `queue_full`, `quota`.
        retry: whether the same request may be sent again later.
        retry_after: seconds the provider asked us to wait, if it did.
    """

    def __init__(self, text: str, *, outcome: str, retry: bool, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.retry = retry
        self.retry_after = retry_after


class Ambiguous(ProviderError):
    """The request may have made a task and may be charged (PROTOCOL.md §10.5). It is never sent again."""


class Unreachable(ProviderError):
    """No connection came about, so the request never arrived and nothing was made."""


class Unreadable(ProviderError):
    """An answer to a fetch or list that makes no sense: HTML, cut short, too large, another task's object."""


class NoResult(ReceiverError):
    """A task has ended without a result, or does not go on by itself. `event` is the journalled fact behind it."""

    def __init__(self, text: str, event: Event) -> None:
        super().__init__(text)
        self.event = event


class TaskFailed(NoResult):
    """The provider says that the task failed. A success may still come within minutes, because a FAILURE can be false
    (PROTOCOL.md §6): asking for the result again then gives it."""


class TaskLost(NoResult):
    """The task had no end within our deadline."""


class InputRequired(NoResult):
    """The task waits for a person: answer with a prompt or a mask, and it goes on."""


class NotDelivered(ReceiverError):
    """A destination did not take a sample that was sent to try it, or a result that no journal keeps; the text says
    what its handler said. Or such a result was not confirmed."""


class NotStarted(ReceiverError):
    """A Receiver is used before its start or after its end."""


class MediaError(ReceiverError):
    """A picture could not be fetched or stored.

    Attributes:
        permanent: asking again cannot help (a forbidden address, a host outside the allow-list).
        away: a store elsewhere is out of reach or out of order; nobody here has to mend anything.
    """

    def __init__(self, text: str, *, permanent: bool = False, away: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent
        self.away = away


class JournalError(ReceiverError):
    """The journal cannot be read or written. Nothing of the failed call was kept.

    `fault` names why where that is known, for those who must not learn the path in the text (`web.health`) and for
    those who wait (`runtime.patience`); else "".
    """

    def __init__(self, text: str, *, fault: str = "") -> None:
        super().__init__(text)
        self.fault = fault


class JournalLocked(JournalError):
    """Another process holds the journal's write lock for longer than we wait."""

    def __init__(self, text: str) -> None:
        super().__init__(text, fault="locked")


class EngineRunning(JournalError):
    """Another process is the engine of this journal. `holder` is what that process calls itself."""

    def __init__(self, text: str, *, holder: str) -> None:
        super().__init__(text)
        self.holder = holder


class EngineStopped(ReceiverError):
    """The engine of this process does not turn any more; the process must be started again."""


class NotFound(ReceiverError):
    """No submission, event or delivery with that id."""


def require(module: str, *, extra: str, why: str) -> None:
    """Check that an optional extra is installed.

    Args:
        module: a module of the extra, for instance `PIL`.
        extra: its name in `imagine-receiver[…]`.
        why: the feature that needs it, as the beginning of a sentence, for instance `The option tiles`.

    Raises:
        SettingsError: it is missing. The text says how to get it.
    """
    if find_spec(module) is None:
        raise SettingsError(f'{why} needs more than the core: pip install "imagine-receiver[{extra}]"')
