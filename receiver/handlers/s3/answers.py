"""What a store's refusal means to a delivery: postponed, dead, or again by the schedule."""

from __future__ import annotations

from receiver.buckets import Refusal
from receiver.handlers.base import Rejected, RetryLater

LATER_SECONDS = 15.0
"""How long to wait where a store is too busy; obstore does not tell what it asked for."""


class StoreError(Exception):
    """The store refused, or cannot be reached. The text says what to do."""


def raised(refusal: Refusal) -> Exception:
    """The error to raise in a handler."""
    if refusal.fate == "later":
        return RetryLater(LATER_SECONDS, refusal.text, pause=True)  # a busy store is busy for every delivery
    return Rejected(refusal.text) if refusal.fate == "never" else StoreError(refusal.text)
