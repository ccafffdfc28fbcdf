"""What an HTTP answer to a request comes to (PROTOCOL.md §4): an `Accepted`, or a typed error. Pure; no network.

The free text is never branched on. Exceptions are the relay's own identifiers that arrive in `description`
("quota_not_enough"), and "(distributor)", which its router puts into the message of a 503.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec

from receiver.backoff import retry_after
from receiver.errors import Ambiguous, ProviderError, Refused
from receiver.provider.envelope import Envelope, integral, one_line, read_envelope
from receiver.provider.outcomes import OUTCOMES, Outcome
from receiver.provider.requests import ANSWERED_BY_LINKS
from receiver.tasks import clean_text

__all__ = ["OUTCOMES", "Accepted", "Answer", "Outcome", "read_answer", "read_submit"]

MAX_WORDS = 200
"""Characters of the provider's own words that an error repeats."""

Taken = Literal["accepted", "queued", "modal"]

_TAKEN = frozenset({1, 21, 22})

_BY_CODE: dict[int, str] = {
    1: "ambiguous",  # taken, but without a task id or with an HTTP error
    5: "ambiguous",  # the relay lost its upstream's answer
    9: "failed",
    21: "ambiguous",
    22: "ambiguous",
    23: "queue_full",
    24: "banned_word",
    30: "rate_limited",
}

_BY_IDENTIFIER: dict[str, str] = {
    "quota_not_enough": "quota",
    "task_no_found": "not_found",
    "task_not_found": "not_found",
    "task_status_not_success": "not_ready",
}
"""Code 4: what the relay puts first in `description`."""

_FORMS: dict[str, str] = {
    "empty": "an empty answer",
    "html": "HTML instead of JSON",
    "null": "null instead of an answer",
    "other": "JSON without an answer in it",
    "unreadable": "no readable JSON",
}


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A request the provider took.

    Attributes:
        task_ids: at least one, several where the provider made several (PROTOCOL.md §2, comma-joined); none after
            an upload.
        urls: what an upload gives in their place: one link for each picture, in their order.
        outcome: `accepted`, also for a task that existed already; `queued`; `modal` waits for input.
        queue: how many tasks come first (`numberOfQueues`), if told.
        properties: as sent, every text storable.
    """

    task_ids: tuple[str, ...]
    outcome: Taken
    urls: tuple[str, ...] = ()
    queue: int | None = None
    final_prompt: str = ""
    description: str = ""
    properties: dict[str, Any] = {}

    @property
    def task_id(self) -> str:
        """The task to follow, the first of them; "" after an upload."""
        return next(iter(self.task_ids), "")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer, judged: what it comes to, and what it held."""

    outcome: Outcome
    http_status: int
    envelope: Envelope
    retry_after: float | None = None

    @property
    def sentence(self) -> str:
        """One sentence: what happened, in whose words, what to do."""
        return f"{self._meaning} ({self._evidence}); {self.outcome.remedy}."

    @property
    def _meaning(self) -> str:
        word = self.envelope.properties.get("bannedWord")
        if self.outcome.name == "banned_word" and isinstance(word, str) and word.strip():
            return f'The provider refuses the word "{_cut(word)}" in the prompt'
        return self.outcome.meaning

    @property
    def _evidence(self) -> str:
        parts = [f"HTTP {self.http_status}"]
        if self.envelope.code is not None and abs(self.envelope.code) < 1000:
            parts.append(f"code {self.envelope.code}")
        if self.envelope.said:
            parts.append(f'"{_cut(self.envelope.said)}"')
        elif self.envelope.form in _FORMS:
            parts.append(_FORMS[self.envelope.form])
        return ", ".join(parts)

    def error(self) -> ProviderError:
        """The error for an outcome that made no task, or may have made one unseen."""
        if self.outcome.task == "none":
            name, retry = self.outcome.name, self.outcome.retry
            return Refused(self.sentence, outcome=name, retry=retry, retry_after=self.retry_after)
        return Ambiguous(self.sentence)


def read_submit(
    http_status: int, headers: Mapping[str, str], body: bytes, *, kind: str = "imagine", now: float | None = None
) -> Accepted:
    """Read the answer to a submit.

    Args:
        http_status: as received; redirects are not followed.
        headers: for Retry-After.
        body: the whole of it.
        kind: what was asked for: it decides whether task ids or links are wanted, and whose fault a missing path is.
        now: epoch seconds, to measure a Retry-After date by.

    Raises:
        Refused: no task was made; `outcome` and `retry` as `OUTCOMES` says.
        Ambiguous: a task may have been made.
    """
    answer = read_answer(http_status, headers, body, kind=kind, now=now)
    envelope = answer.envelope
    if answer.outcome.task != "made":
        raise answer.error()
    return Accepted(
        task_ids=envelope.task_ids,
        urls=envelope.links,
        outcome=cast(Taken, answer.outcome.name),
        queue=_queue(envelope.properties.get("numberOfQueues")),
        final_prompt=_text(envelope.properties.get("finalPrompt")),
        description=_text(envelope.fields.get("description")),
        properties=envelope.properties,
    )


def read_answer(
    http_status: int, headers: Mapping[str, str], body: bytes, *, kind: str | None = None, now: float | None = None
) -> Answer:
    """Judge any answer; never raises. Without a `kind` task ids and links are both taken for a result."""
    envelope = read_envelope(body)
    outcome = OUTCOMES[_judge(http_status, envelope, kind)]
    after = retry_after(headers, now)
    return Answer(outcome=outcome, http_status=http_status, envelope=envelope, retry_after=after)


def _judge(status: int, envelope: Envelope, kind: str | None) -> str:
    """Success needs all three: HTTP 2xx, code 1, 21 or 22, and a result (PROTOCOL.md §4)."""
    if 200 <= status < 300 and envelope.code in _TAKEN and _has_result(envelope, kind):
        return _taken(envelope)
    name = (
        by_status_alone(status)
        or _by_code(status, envelope)
        or _by_name(status, envelope)
        or _by_status(status, envelope)
    )
    # Every provider serves imagine; where another path is missing, the address is right and the offer is smaller.
    return "unsupported" if name == "wrong_address" and kind not in (None, "imagine") else name


def _has_result(envelope: Envelope, kind: str | None) -> bool:
    if kind is None:
        return bool(envelope.task_ids or envelope.links)
    return bool(envelope.links if kind in ANSWERED_BY_LINKS else envelope.task_ids)


def _taken(envelope: Envelope) -> str:
    if envelope.code == 22:
        return "queued"
    existing = envelope.properties.get("status") or envelope.properties.get("imageUrl")
    return "modal" if envelope.code == 21 and not existing else "accepted"


def by_status_alone(status: int) -> str | None:
    """Where the HTTP status decides, whatever the body says."""
    if status == 429:
        return "rate_limited"
    if status == 401:
        return "unauthorized"
    return "wrong_address" if 300 <= status < 400 else None


def _by_code(status: int, envelope: Envelope) -> str | None:
    """The protocol's own number, trusted with any HTTP status: no gateway makes one up."""
    if envelope.code == 3:
        return "not_found" if status == 404 else "no_account"
    if envelope.code == 4:
        identifier = envelope.said.partition(" ")[0].rstrip(":,")
        return _BY_IDENTIFIER.get(identifier, "validation")
    if envelope.code == -1 and envelope.fields.get("success") is False and status < 500:
        return "validation"  # with 500 the upstream crashed, who knows when
    return _BY_CODE.get(envelope.code) if envelope.code is not None else None


def _by_name(status: int, envelope: Envelope) -> str | None:
    """Identifiers of the routing layer, which answers before anything is sent on."""
    names = (envelope.name, envelope.type)
    if any("quota" in name for name in names):
        return "quota"
    if "model_not_found" in names or (status == 503 and "(distributor)" in envelope.said):
        return "no_channel"
    return "validation" if "invalid_request" in names else None


def _by_status(status: int, envelope: Envelope) -> str:
    if status == 403:  # the C# upstream's rate limit has no body (PROTOCOL.md §4)
        return "rate_limited" if envelope.form == "empty" else "unauthorized"
    if status == 402:
        return "quota"
    if status in (404, 405, 501):
        return "wrong_address"
    if status in (413, 414, 415, 422):
        return "validation"
    # A relay answers 400 also when its upstream timed out, so a 400 cut short could be that.
    understood = envelope.form in ("object", "html") and envelope.code is None
    return "validation" if status == 400 and understood else "ambiguous"


def _queue(value: Any) -> int | None:
    number = value if isinstance(value, int) and not isinstance(value, bool) else integral(value)
    return number if number is not None and number >= 0 else None


def _text(value: Any) -> str:
    return clean_text(value) if isinstance(value, str) else ""


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= MAX_WORDS else f"{line[: MAX_WORDS - 1]}…"
