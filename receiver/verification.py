"""Whose callback it is, and whether it is believed: the one place that weighs both tokens. Pure.

    URL token bad                                            nothing is believed: TokenError
    URL token good, `state` missing, mangled or another's    its submission's, but the provider is asked: a cause
    no URL token, `state` good                               the same
    both good                                                believed: no cause

A task id other than the one bound is found later, inside the journal's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from receiver.errors import TokenError
from receiver.tasks import Task, decode_task
from receiver.tokens import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwrapped:
    """A callback whose origin is settled.

    Attributes:
        submission_id: the submission it belongs to.
        task: what it says.
        cause: why it is not believed without asking the provider: `no_url_token`, `no_state`, `bad_state`,
            `other_state`; None when both tokens agree.
    """

    submission_id: str
    task: Task
    cause: str | None

    @property
    def trusted(self) -> bool:
        """Whether both tokens agree. They prove that we made the address, not that the provider is calling, so a
        result is confirmed with the provider all the same."""
        return self.cause is None


def unwrap(tokens: Tokens, body: bytes, url_token: str | None) -> Unwrapped:
    """Verify a callback as it came.

    Args:
        tokens: what the tokens were signed with.
        body: the request's body.
        url_token: the last part of the URL's path; None where the URL has none.

    Raises:
        TokenError: no token of it is ours.
        NotJSON, NotATask: the body is no task object.
    """
    url_id = None if url_token is None else tokens.read_url_token(url_token)
    task = decode_task(body)
    submission_id, cause = trust(tokens, url_id, task.state)
    return Unwrapped(submission_id=submission_id, task=task, cause=cause)


def trust(tokens: Tokens, url_id: str | None, state: str) -> tuple[str, str | None]:
    """Whose callback it is, and why it is not believed (None: it is).

    Args:
        tokens: what `state` was signed with.
        url_id: the submission id in a good URL token; None where the URL has no token.
        state: the body's.

    Raises:
        TokenError: there is no URL token, and `state` is not ours either.
    """
    state_id, fault = None, "no_state"
    if state:
        try:
            state_id = tokens.read_state_token(state)
        except TokenError:
            fault = "bad_state"
    if url_id is None:
        if state_id is None:
            raise TokenError(fault)
        return state_id, "no_url_token"
    if state_id is None:
        return url_id, fault
    return url_id, None if state_id == url_id else "other_state"
