"""What is asked of the journal's writer, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from receiver.events import Callback, Submission
from receiver.journal import Decide
from receiver.journal.postgres.seen import Known


@dataclass(frozen=True, slots=True)
class Add:
    submission: Submission


@dataclass(frozen=True, slots=True)
class Alter:
    submission_id: str
    decide: Decide
    callback: Callback | None


@dataclass(frozen=True, slots=True)
class Keep:
    """A callback that was verified, and whose decision failed."""

    callback: Callback
    problem: Exception


Operation = Add | Alter | Keep
Operations = Sequence[Operation]


def changed_id(operation: Alter | Keep) -> str:
    """The id of the submission it changes."""
    return operation.submission_id if isinstance(operation, Alter) else operation.callback.submission_id


def submission_of(operation: Operation) -> str:
    """The id of the submission it is about."""
    return operation.submission.id if isinstance(operation, Add) else changed_id(operation)


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a batch.

    Attributes:
        results: of its operations, in order. A decision that raised is the result of its operation; nothing of that
            one was written.
        news: whether something is due now that was not.
        known: submissions that were changed, or looked at; true once the transaction is committed.
        added: those that are new.
    """

    results: list[Any]
    news: bool
    known: Mapping[str, Known]
    added: Mapping[str, Known]


class Stale(Exception):
    """What was decided without a lock cannot be written so: a row was changed meanwhile, or is not known, or the change
    needs more than one statement. Nothing was written."""
