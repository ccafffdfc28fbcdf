"""Verification of a callback by its two tokens. Pure.

    URL token bad                                            refused: TokenError
    URL token good, `state` missing, mangled or another's    bound to the URL's submission, with a cause to ask
    no URL token, `state` good                               bound to its submission, with a cause to ask
    both good                                                trusted: no cause

A task id other than the bound one is found later, in the journal's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from receiver.errors import TokenError
from receiver.tasks import Task, decode_task
from receiver.tokens import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """Verified callback. `cause` is that of `trust`."""

    submission_id: str
    task: Task
    cause: str | None

    @property
    def trusted(self) -> bool:
        """True if both tokens agree. That proves that we made the URL, not that the provider calls, so a result is
        confirmed all the same."""
        return self.cause is None


def unwrap(tokens: Tokens, body: bytes, url_token: str | None) -> Unwrapped:
    """Verify a callback by its body and the last part of its URL's path, or None.

    Raises:
        TokenError: no token of it is ours.
        NotJSON, NotATask: the body is no task object.
    """
    url_id = None if url_token is None else tokens.read_url_token(url_token)
    task = decode_task(body)
    submission_id, cause = trust(tokens, url_id, task.state)
    return Unwrapped(submission_id=submission_id, task=task, cause=cause)


def trust(tokens: Tokens, url_id: str | None, state: str) -> tuple[str, str | None]:
    """Return the submission id of a callback, and the cause to ask the provider first.

    `url_id` is the submission id in a good URL token, or None. The cause is `no_url_token`, `no_state`, `bad_state`,
    `other_state`, or None if both tokens agree.

    Raises:
        TokenError: there is no URL token, and `state` is not ours either.
    """
    fault = "bad_state" if state else "no_state"
    try:
        state_id = tokens.read_state_token(state)
    except TokenError as exc:
        if url_id is None:
            raise TokenError(fault) from exc
        return url_id, fault
    if url_id is None:
        return state_id, "no_url_token"
    return url_id, None if state_id == url_id else "other_state"
