"""Answers to requests (PROTOCOL.md §4): their envelope, and the outcome it stands for. Pure.

Known envelopes are the submit answer and the relay's error `{code, description, …}` (§2, §4), the routing error
`{"error": {code, message, type}}`, the picture route's `{"error": "…"}`, and `{success: false, code: -1, message}`.

Free text decides nothing, with two exceptions: the relay's own identifiers in `description` ("quota_not_enough"), and
"(distributor)", which its router writes into the message of a 503.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec

from receiver.backoff import retry_after
from receiver.errors import Ambiguous, NotJSON, ProviderError, Refused
from receiver.requests import KINDS
from receiver.tasks import MAX_TASK_ID, MAX_URL, decode_json, integral, unwrapped

MAX_WORDS = 200
"""Characters of the provider's own words that an error repeats."""
MAX_SAID = 2000
"""Characters of the provider's own words that are looked at."""
MAX_RESULTS = 50
"""Task ids or links of one answer. An answer with more has none that counts."""
TAKEN = frozenset({1, 21, 22})
"""Codes of success."""

_INTEGER = re.compile(r"-?[0-9]{1,9}\Z")
_LINK = re.compile(r"https?://[^\s/]", re.IGNORECASE)

# --- outcomes -----------------------------------------------------------------------------------------------------


class Outcome(msgspec.Struct, frozen=True):
    """Outcome of a request (PROTOCOL.md §4)."""

    name: str  # its name in events, logs and `inspect`
    task: Literal["made", "none", "unknown"]  # `made` or `none`, or `unknown` where a task may exist
    retry: bool  # True if the same request may be sent again: certainly no task was made, and time can help
    meaning: str  # first half of a sentence: the event
    remedy: str  # second half: the next step


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
    Outcome(
        "turned_away",
        "none",
        False,
        "A gateway turned the request away before it reached the provider",
        "ask who runs the address in RECEIVER_PROVIDER_URL",
    ),
    Outcome("not_found", "none", False, "The provider does not know the task named", "check the task's id"),
    Outcome("not_ready", "none", True, "The task this builds on has not succeeded yet", "try again later"),
    # Code 9 also covers the provider's own system errors, which may hide a task. It is never sent again.
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
"""Every outcome by name. Nothing else decides about sending a request again."""

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
"""Code 4: the relay's identifier at the start of `description`."""

_BY_STATUS: dict[int, str] = {
    # The statuses of a gateway that sends nothing on. 408, 409, 424 and 499 can come after the request went upstream.
    **dict.fromkeys((406, 407, 410, 412, 416, 417, 418, 421, 423, 425, 426, 428, 431, 451), "turned_away"),
    **dict.fromkeys((404, 405, 501), "wrong_address"),
    **dict.fromkeys((411, 413, 414, 415, 422), "validation"),
    402: "quota",
}

_KEY_NAMES = frozenset({"token_check", "token_invalid", "invalid_token", "token_expired", "invalid_api_key"})
"""Names that gateways give to a key that is missing, wrong or expired (PROTOCOL.md §13.7)."""

# --- envelopes ----------------------------------------------------------------------------------------------------


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Body of an answer, read tolerantly. Only the form `object` can hold more. `other` is any further JSON."""

    form: Literal["empty", "html", "unreadable", "null", "object", "other"]
    value: Any = None  # the decoded JSON, None where there is none
    code: int | None = None  # the protocol's number, also from `"1"` and `1.0`
    name: str = ""  # `error.code`, or a `code` that is no number, in lower case
    type: str = ""  # `error.type` in lower case
    said: str = ""  # the provider's own words, on one line. They are for people and decide nothing
    task_ids: tuple[str, ...] = ()  # the ids in `result`, a comma-joined string split (§2)
    links: tuple[str, ...] = ()  # the links in `result` (§2, upload)
    properties: dict[str, Any] = {}  # the object of that name, else {}

    @property
    def fields(self) -> dict[str, Any]:
        """The object itself, {} for every other form."""
        return self.value if isinstance(self.value, dict) else {}


def read_envelope(body: bytes) -> Envelope:
    """Read any bytes. Never raises. A gateway's envelope around the provider's answer is taken off."""
    text = body.strip().removeprefix(b"\xef\xbb\xbf").strip()
    if not text:
        return Envelope(form="empty")
    if text.startswith(b"<"):
        return Envelope(form="html")
    try:
        value = unwrapped(decode_json(text))
    except NotJSON:
        return Envelope(form="unreadable")
    if not isinstance(value, dict):
        return Envelope(form="null") if value is None else Envelope(form="other", value=value)
    error = value.get("error")
    inner = error if isinstance(error, dict) else {}
    code, properties = value.get("code"), value.get("properties")
    words = (value.get("description"), value.get("message"), inner.get("message"), error)
    return Envelope(
        form="object",
        value=value,
        code=int(code) if isinstance(code, str) and _INTEGER.match(code) else integral(code),
        name=_name(inner.get("code")) or _name(code),
        type=_name(inner.get("type")),
        said=next((line for word in words if isinstance(word, str) and (line := one_line(word))), ""),
        task_ids=_task_ids(value.get("result")),
        links=_links(value.get("result")),
        properties=properties if isinstance(properties, dict) else {},
    )


def one_line(text: str) -> str:
    """Return the start of `text` on one line, without control characters and other text unfit for a terminal or a
    database."""
    return " ".join("".join(char if char.isprintable() else " " for char in text[:MAX_SAID]).split())


def _name(value: Any) -> str:
    return one_line(value).lower() if isinstance(value, str) and not _INTEGER.match(value) else ""


def _task_ids(result: Any) -> tuple[str, ...]:
    """Return the task ids of a `result`: string, number, comma-joined string or list of them (PROTOCOL.md §2).
    Empty if one of them can be no task id, or there are too many: half of a list would hide tasks."""
    found: dict[str, None] = {}
    items = result if isinstance(result, list) else [result]
    if len(items) > MAX_RESULTS or any(isinstance(item, str) and item.count(",") >= MAX_RESULTS for item in items):
        return ()
    for item in items:
        number = integral(item)
        text = item if isinstance(item, str) else str(number) if number is not None and number > 0 else ""
        found |= dict.fromkeys(part for part in map(str.strip, text.split(",")) if part)
    usable = all(len(id) <= MAX_TASK_ID and id.isprintable() and not _LINK.match(id) for id in found)
    return tuple(found) if usable else ()


def _links(result: Any) -> tuple[str, ...]:
    """Return the links of a `result`: a list of them, or one alone (PROTOCOL.md §2, upload). Empty
    when one of them is no link: each stands for a picture, in their order."""
    items = result if isinstance(result, list) else [result]
    found = tuple(item.strip() for item in items if isinstance(item, str))
    usable = all(
        len(link) <= MAX_URL and link.isprintable() and " " not in link and _LINK.match(link) for link in found
    )
    return found if usable and len(found) == len(items) <= MAX_RESULTS else ()


# --- answers ------------------------------------------------------------------------------------------------------


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A request the provider took. A task that existed already is `accepted`, and a `modal` one waits for input."""

    task_ids: tuple[str, ...]  # one, several where the provider made several (PROTOCOL.md §2), or none of an upload
    outcome: Literal["accepted", "queued", "modal"]
    urls: tuple[str, ...] = ()  # links of an upload, one for each picture, in their order

    @property
    def task_id(self) -> str:
        """The task to follow, the first of them, or "" after an upload."""
        return next(iter(self.task_ids), "")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer and its outcome."""

    outcome: Outcome
    http_status: int
    envelope: Envelope
    retry_after: float | None = None

    @property
    def ok(self) -> bool:
        """True if the HTTP status is 2xx."""
        return 200 <= self.http_status < 300

    @property
    def sentence(self) -> str:
        """One sentence: the event, the provider's words, the next step."""
        envelope, meaning = self.envelope, self.outcome.meaning
        word = envelope.properties.get("bannedWord")
        if self.outcome.name == "banned_word" and isinstance(word, str) and word.strip():
            meaning = f'The provider refuses the word "{_cut(word)}" in the prompt'
        evidence = [f"HTTP {self.http_status}"]
        if envelope.code is not None and abs(envelope.code) < 1000:
            evidence.append(f"code {envelope.code}")
        if envelope.said:
            evidence.append(f'"{_cut(envelope.said)}"')
        elif envelope.form in _FORMS:
            evidence.append(_FORMS[envelope.form])
        return f"{meaning} ({', '.join(evidence)}); {self.outcome.remedy}."

    def error(self) -> ProviderError:
        """Return the error for an outcome that made no task, or may have made one unseen."""
        if self.outcome.task == "none":
            name, retry = self.outcome.name, self.outcome.retry
            return Refused(self.sentence, outcome=name, retry=retry, retry_after=self.retry_after)
        return Ambiguous(self.sentence)


_FORMS: dict[str, str] = {
    "empty": "an empty answer",
    "html": "HTML instead of JSON",
    "null": "null instead of an answer",
    "other": "JSON without an answer in it",
    "unreadable": "no readable JSON",
}


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= MAX_WORDS else f"{line[: MAX_WORDS - 1]}…"


def read_submit(
    http_status: int, headers: Mapping[str, str], body: bytes, *, kind: str = "imagine", now: float | None = None
) -> Accepted:
    """Read the answer to a submit.

    Args:
        kind: kind of the request. It decides between task ids and links, and about a path that is missing.
        now: epoch seconds, to measure a Retry-After date by.

    Raises:
        Refused: no task was made. `outcome` and `retry` are as `OUTCOMES` says.
        Ambiguous: a task may have been made.
    """
    answer = read_answer(http_status, headers, body, kind=kind, now=now)
    if answer.outcome.task != "made":
        raise answer.error()
    outcome = cast(Literal["accepted", "queued", "modal"], answer.outcome.name)
    return Accepted(task_ids=answer.envelope.task_ids, urls=answer.envelope.links, outcome=outcome)


def read_answer(
    http_status: int, headers: Mapping[str, str], body: bytes, *, kind: str | None = None, now: float | None = None
) -> Answer:
    """Judge any answer. Never raises. Without a `kind`, task ids and links both count as a result."""
    envelope = read_envelope(body)
    outcome = OUTCOMES[_judge(http_status, envelope, kind)]
    return Answer(outcome=outcome, http_status=http_status, envelope=envelope, retry_after=retry_after(headers, now))


def _judge(status: int, envelope: Envelope, kind: str | None) -> str:
    """Return the outcome's name. Success needs HTTP 2xx, code 1, 21 or 22, and a result (PROTOCOL.md §4)."""
    if kind is None:
        result = envelope.task_ids or envelope.links
    else:
        result = envelope.links if KINDS[kind].answered_by_links else envelope.task_ids
    if 200 <= status < 300 and envelope.code in TAKEN and result:
        if envelope.code == 22:
            return "queued"
        existing = envelope.properties.get("status") or envelope.properties.get("imageUrl")
        return "modal" if envelope.code == 21 and not existing else "accepted"
    name = by_status_alone(status) or _by_code(status, envelope) or _by_status(status, envelope)
    # Every provider serves imagine. Where another path is missing, the address is right and the offer is smaller.
    return "unsupported" if name == "wrong_address" and kind not in (None, "imagine") else name


def by_status_alone(status: int) -> str | None:
    """Return the outcome's name where the HTTP status decides for any body."""
    if status == 429:
        return "rate_limited"
    if status == 401:
        return "unauthorized"
    return "wrong_address" if 300 <= status < 400 else None


def _by_code(status: int, envelope: Envelope) -> str | None:
    """Judge by the protocol's own number. It counts with any HTTP status, because no gateway invents one."""
    if envelope.code == 3:
        return "not_found" if status == 404 else "no_account"
    if envelope.code == 4:
        identifier = envelope.said.partition(" ")[0].rstrip(":,")
        return _BY_IDENTIFIER.get(identifier, "validation")
    if envelope.code == -1 and envelope.fields.get("success") is False and status < 500:
        return "validation"  # with 500 the upstream crashed, at an unknown time
    return _BY_CODE.get(envelope.code) if envelope.code is not None else None


def _by_status(status: int, envelope: Envelope) -> str:
    """Judge by identifiers of the routing layer, which answers before anything is sent on, then by the HTTP status."""
    if name := _by_name(status, envelope):
        return name
    if status == 403:  # the C# upstream's rate limit has no body (PROTOCOL.md §4)
        return "rate_limited" if envelope.form == "empty" else "unauthorized"
    # A relay answers 400 also when its upstream timed out, so a 400 cut short could be that.
    if status == 400 and envelope.form in ("object", "html") and envelope.code is None:
        return "validation"
    return _BY_STATUS.get(status, "ambiguous")


def _by_name(status: int, envelope: Envelope) -> str | None:
    names = (envelope.name, envelope.type)
    if any("quota" in name for name in names):
        return "quota"
    if "model_not_found" in names or (status == 503 and "(distributor)" in envelope.said):
        return "no_channel"
    if 400 <= status < 500 and _KEY_NAMES.intersection(names):
        return "unauthorized"
    return "validation" if "invalid_request" in names else None
