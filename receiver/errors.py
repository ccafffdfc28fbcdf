"""Errors that Receiver raises on purpose, and the check of an optional extra.

ReceiverError
├── SettingsError            a setting is missing, wrong or unsafe
├── TokenError               a URL token or state token is not ours, too old, or from the future
├── PayloadError             bytes that break the protocol
│   ├── NotJSON                  cannot be read as JSON
│   └── NotATask                 JSON, but not a task object
├── InputError               the request cannot be sent, and nothing was
│   └── Conflict                 its name (an idempotency key) belongs to another request
├── ProviderError            the provider refused, or its answer cannot be read
│   ├── Refused                  no task was made
│   ├── Ambiguous                the task may exist and be charged
│   ├── Unreachable              the request never arrived
│   └── Unreadable               the answer to a fetch or list cannot be read
├── NoResult                 a task has ended without a result, or waits
│   ├── TaskFailed               the provider says it failed
│   ├── TaskLost                 it has no end within our deadline
│   └── InputRequired            it waits for a person's words or mask
├── NotDelivered             a destination did not take a sample or a result
├── EngineStopped            this process's engine has ended or hangs
├── NotStarted               a Receiver is used before its start or after its end
├── MediaError               a picture could not be fetched or stored
├── JournalError             the journal cannot be read or written
│   ├── JournalLocked            another process holds it for too long
│   └── EngineRunning            another process is the engine of this journal
├── NotFound                 no submission, event or delivery with that id
└── TooManyCallbacks         a submission has had its share of callbacks
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from receiver.extras import install

if TYPE_CHECKING:
    from receiver.events import Event  # evidence only: nothing here calls anything above


class ReceiverError(Exception):
    """Base of all. Its text is one or more sentences for a person: what happened, where, what to do.

    `page` is the page of the handbook that helps, or "".
    """

    page = ""

    def __init__(self, *text: object, page: str = "") -> None:
        super().__init__(*text)
        if page:
            self.page = page

    @property
    def help(self) -> str:
        """The command that shows the page, or ""."""
        return f"receiver help {self.page}" if self.page else ""

    @property
    def with_page(self) -> str:
        """The text, ending with the command that shows the page."""
        return f"{self} ({self.help})" if self.help else str(self)


class SettingsError(ReceiverError):
    """A setting is missing, wrong or unsafe. The text names the setting and the remedy."""

    page = "settings"


class TokenError(ReceiverError):
    """A token was not signed by our keys, is too old, or comes from the future.

    `cause` is one of `malformed`, `signature`, `expired`, `future`, or `no_state`, `bad_state` if a callback has no URL
    token either. It is for logs and counters, and never in an answer.
    """

    page = "callbacks"

    def __init__(self, cause: str) -> None:
        super().__init__(f"the token is not valid ({cause})")
        self.cause = cause


class PayloadError(ReceiverError):
    """Bytes break the protocol."""


class NotJSON(PayloadError):
    """The bytes cannot be read as JSON (RFC 8259)."""


class NotATask(PayloadError):
    """The JSON is not a task object (PROTOCOL.md §5): not an object, or without a usable id."""


class InputError(ReceiverError):
    """The request cannot be sent. Raised before anything goes out."""

    page = "submit"


class Conflict(InputError):
    """The name of a request (its idempotency key) belongs to another request."""

    page = "http"


class ProviderError(ReceiverError):
    """The provider refused, or its answer cannot be read."""


class Refused(ProviderError):
    """No task was made (PROTOCOL.md §4). `outcome` is a name from `provider.OUTCOMES`, e.g. `banned_word`, `quota`.

    With `retry`, the same request may be sent again later, after `retry_after` seconds if the provider named them.
    """

    def __init__(self, text: str, *, outcome: str, retry: bool, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.retry = retry
        self.retry_after = retry_after


class Ambiguous(ProviderError):
    """The request may have made a task and may be charged (PROTOCOL.md §10.5). It is never sent again."""


class Unreachable(ProviderError):
    """There was no connection, so the request never arrived and made no task."""


class Unreadable(ProviderError):
    """The answer to a fetch or list cannot be read: HTML, cut short, too large, another task's object."""


class NoResult(ReceiverError):
    """A task has ended without a result, or does not go on by itself. `event` is its journalled event."""

    def __init__(self, text: str, event: Event) -> None:
        super().__init__(text)
        self.event = event


class TaskFailed(NoResult):
    """The provider says that the task failed.

    A FAILURE can be false (PROTOCOL.md §6). A success may still come within minutes, and is the result then.
    """


class TaskLost(NoResult):
    """The task had no end within our deadline."""


class InputRequired(NoResult):
    """The task waits for a person. It goes on after an answer with a prompt or a mask."""


class NotDelivered(ReceiverError):
    """A destination did not take a sample, or a result that no journal keeps, or the result was not confirmed."""

    page = "destinations"


class NotStarted(ReceiverError):
    """A Receiver is used before its start or after its end."""

    page = "python"


class MediaError(ReceiverError):
    """A picture could not be fetched or stored.

    If `permanent`, another attempt cannot help (a forbidden address, a host outside the allow-list). If `away`, a
    remote store is out of reach or out of order, and nothing needs mending here.
    """

    page = "bucket"

    def __init__(self, text: str, *, permanent: bool = False, away: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent
        self.away = away


class JournalError(ReceiverError):
    """The journal cannot be read or written. Nothing of the failed call was kept.

    `fault` names the cause, or is "" if it is unknown. It is for callers that must not show the path in the text.
    """

    page = "server"

    def __init__(self, text: str, *, fault: str = "", page: str = "") -> None:
        super().__init__(text, page=page)
        self.fault = fault


class JournalLocked(JournalError):
    """Another process holds the journal's write lock for longer than we wait."""

    def __init__(self, text: str) -> None:
        super().__init__(text, fault="locked")


class EngineRunning(JournalError):
    """Another process is the engine of this journal. `holder` is the name of that process."""

    def __init__(self, text: str, *, holder: str) -> None:
        super().__init__(text)
        self.holder = holder


class EngineStopped(ReceiverError):
    """The engine of this process has ended or hangs. The process must be started again."""


class NotFound(ReceiverError):
    """No submission, event or delivery with that id."""


class TooManyCallbacks(ReceiverError):
    """A submission has had as many callbacks as are kept of one. Nothing of this one was kept."""


def require(module: str, *, extra: str, why: str, page: str = "") -> None:
    """Raise SettingsError, with the remedy, if the module of an optional extra is not installed.

    `why` names the feature that needs it, as the beginning of a sentence, for instance `The option tiles`.
    """
    if find_spec(module) is None:
        raise SettingsError(f"{why} needs more than the core: {install(extra)}", page=page)
