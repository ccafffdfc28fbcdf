"""The Retry-After header (RFC 9110 §10.2.3). The provider documents none (PROTOCOL.md §4), but gateways send it."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError, IndexError, OSError):
        return None
