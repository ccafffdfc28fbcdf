"""Verification of a callback by its two tokens."""

from __future__ import annotations

import json

import pytest
from engine import KEYS

from receiver.clock import Clock
from receiver.errors import NotATask, NotJSON, TokenError
from receiver.tokens import Tokens
from receiver.verification import unwrap

OURS, OTHER = "01JD7K0000000000000000000A", "01JD7K0000000000000000000B"
TOKENS = Tokens(KEYS, max_age=72 * 3600, clock=Clock())
STATES = {
    "good": TOKENS.state_token(OURS),
    "other": TOKENS.state_token(OTHER),
    "url": TOKENS.url_token(OURS),
    "mangled": TOKENS.state_token(OURS)[:40],
    "none": "",
}


def body(state: str) -> bytes:
    return json.dumps({"id": "17", "status": "SUBMITTED", "state": STATES[state]}).encode()


@pytest.mark.parametrize(
    ("token", "state", "cause"),
    [
        ("url", "good", None),
        ("url", "other", "other_state"),
        ("url", "url", "bad_state"),
        ("url", "mangled", "bad_state"),
        ("url", "none", "no_state"),
        (None, "good", "no_url_token"),
    ],
)
def test_one_good_token_finds_the_submission_and_two_are_accepted(
    token: str | None, state: str, cause: str | None
) -> None:
    """The URL token wins over `state`. The cause names what is wrong."""
    callback = unwrap(TOKENS, body(state), None if token is None else STATES[token])
    assert (callback.submission_id, callback.cause, callback.trusted) == (OURS, cause, cause is None)
    assert callback.task.id == "17"


@pytest.mark.parametrize(
    ("token", "state", "cause"),
    [
        ("none", "good", "malformed"),
        ("mangled", "good", "signature"),
        ("good", "good", "signature"),
        (None, "none", "no_state"),
        (None, "url", "bad_state"),
        (None, "mangled", "bad_state"),
    ],
)
def test_a_bad_url_token_or_none_at_all_is_refused(token: str | None, state: str, cause: str) -> None:
    """A good `state` does not make up for a bad URL token. Each token counts only in its own place."""
    with pytest.raises(TokenError) as refused:
        unwrap(TOKENS, body(state), None if token is None else STATES[token])
    assert refused.value.cause == cause


def test_a_bad_token_is_refused_before_the_body_is_read() -> None:
    """An unsigned body is not parsed."""
    with pytest.raises(TokenError):
        unwrap(TOKENS, b"{", "mangled")
    with pytest.raises(NotJSON):
        unwrap(TOKENS, b"{", TOKENS.url_token(OURS))
    with pytest.raises(NotATask):
        unwrap(TOKENS, b"{}", TOKENS.url_token(OURS))
