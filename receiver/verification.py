"""Verification of a callback by its two tokens. Pure.

    URL token bad                                            refused: TokenError
    URL token good, `state` missing, mangled or another's    bound to the URL's submission, with a cause to ask
    no URL token, `state` good                               bound to its submission, with a cause to ask
    both good                                                trusted: no cause
    both good, but the body is no UTF-8                      bound, with a cause to ask

A task id other than the bound one is found later, in the journal's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from receiver.tasks import Task, decode_any_task
from receiver.tokens import Tokens, trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """Verified callback. `cause` is that of `trust`. `body` is its body as UTF-8."""

    submission_id: str
    task: Task
    cause: str | None
    body: bytes

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
    task, text = decode_any_task(body)
    submission_id, cause = trust(tokens, url_id, task.state, utf8=text is body)
    return Unwrapped(submission_id=submission_id, task=task, cause=cause, body=text)
