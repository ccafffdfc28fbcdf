"""What the provider's answer to a request can come to, and whether the request may be sent again: one table."""

from __future__ import annotations

from typing import Literal

import msgspec


class Outcome(msgspec.Struct, frozen=True):
    """One row of the table (PROTOCOL.md §4).

    Attributes:
        name: what events, logs and `inspect` call it.
        task: whether a task came of the request: `made`, `none`, or `unknown`.
        retry: whether the same request may be sent again. Only where certainly no task was made, and time can help.
        meaning: what happened, the first half of a sentence.
        remedy: what to do about it, the second half.
    """

    name: str
    task: Literal["made", "none", "unknown"]
    retry: bool
    meaning: str
    remedy: str


_ROWS = (
    Outcome("accepted", "made", False, "The provider took the request", "wait for the task's result"),
    Outcome("queued", "made", False, "The provider took the request; other tasks come first", "wait for its result"),
    Outcome("modal", "made", False, "The provider opened a task that waits for more input", "send the modal's answer"),
    Outcome("queue_full", "none", True, "The provider's queue is full", "try again later"),
    Outcome("banned_word", "none", False, "The provider refuses a word of the prompt", "change the prompt"),
    Outcome("no_account", "none", True, "The provider has no account free for this request", "try again later"),
    Outcome("validation", "none", False, "The provider calls the request wrong", "check the prompt and its parameters"),
    Outcome("quota", "none", False, "The provider's quota for this key is used up", "top up at the provider"),
    Outcome("rate_limited", "none", True, "The provider takes no more requests for now", "try again later"),
    Outcome("no_channel", "none", True, "The provider has no channel for this model now", "try again later"),
    Outcome("unauthorized", "none", False, "The provider does not accept the key", "check COMETAPI_KEY"),
    Outcome("not_found", "none", False, "The provider does not know the task named", "check the task's id"),
    Outcome("not_ready", "none", True, "The task this builds on has not succeeded yet", "try again later"),
    # Code 9 also covers the provider's own system errors, which may hide a task: so never sent again.
    Outcome("failed", "none", False, "The provider failed at the request", "look there before you submit it anew"),
    Outcome("unsupported", "none", False, "The provider does not offer this", "do without it, or ask the provider"),
    Outcome("wrong_address", "none", False, "The provider is not at this address", "check RECEIVER_PROVIDER_URL"),
    Outcome(
        "ambiguous",
        "unknown",
        False,
        "The provider's answer does not say whether a task was made",
        "it may exist and be charged, so the request is not sent again",
    ),
)

OUTCOMES: dict[str, Outcome] = {row.name: row for row in _ROWS}
"""Every outcome by name. Nothing else decides whether a request is sent again."""
