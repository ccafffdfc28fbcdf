"""The Retry-After header (RFC 9110 §10.2.3), for the provider's answers and for those of destinations.

CometAPI documents none (PROTOCOL.md §4), but gateways send it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST = 3600.0
"""Seconds; whoever asks for more is asked again after an hour."""

_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?\Z")


def retry_after(headers: Mapping[str, str], now: float | None) -> float | None:
    """Seconds to wait, 0–3600; None if the header is missing or nonsense.

    Args:
        headers: of the answer, in any case.
        now: epoch seconds. A date is measured against the answer's own `Date` first, so that a wrong clock
            does not matter; without either it is ignored.
    """
    found = {name.lower(): value for name, value in headers.items()}
    text = found.get("retry-after", "").strip()
    if _SECONDS.match(text):
        return min(float(text), LONGEST)
    until = _epoch(text)
    since = _epoch(found.get("date", "")) or now
    if until is None or since is None:
        return None
    return min(max(until - since, 0.0), LONGEST)


def _epoch(text: str) -> float | None:
    """A date in any of HTTP's three forms (RFC 9110 §5.6.7); all mean GMT, also the one that does not say so."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None
