"""Logs: one line per fact, without secrets. Traces, in a program that collects them.

Every module takes its logger with `log = Log("receiver.…")` at its top and writes fixed names,
`log.info("delivery.succeeded", delivery_id=…)`: a noun, a verb in the past, ids as fields, no sentences.
Our programs call `configure` once. In a program that embeds Receiver, the lines are records of `logging`. structlog is
imported with the first line, because most commands write none.

Redaction is by key (the name of a field) and by value (known secrets, and shapes of secrets in any text, tracebacks
included), because either alone misses some. Words from outside that we keep, such as a prompt, lose only known secrets
and our own tokens (`redact_known`), because a prompt may have the shape of a secret.
"""

from __future__ import annotations

import html
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, TextIO
from urllib.parse import quote

import msgspec

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"
LogFormat = Literal["auto", "json", "console"]

_SECRET_KEYS = ("token", "secret", "password", "passwd", "authorization", "apikey", "notifyhook", "cookie")
_SECRET_NAMES = frozenset({"key", "keys", "state", "user_state", "webhook_url", "reply_to"})
_PLAIN_KEYS = frozenset({"idempotency_key", "object_key"})
"""Names that end in `_key` and hold an id, which a line needs."""
_TEXT_END = r"[^\s'\"<>()\[\]{},\\]+"
_SHAPES = re.compile(
    # Each alternative keeps its one group and loses the rest.
    rf"((?:/|%2F)callbacks(?:/|%2F)){_TEXT_END}(?:\[redacted\])?"  # our URL token, as a path or inside another URL
    rf"|((?:Bearer|Basic)\s+){_TEXT_END}"
    rf"|(hooks\.slack(?:-gov)?\.com/){_TEXT_END}"
    r"|(discord(?:app)?\.com/api/(?:v\d+/)?webhooks/)[\w/-]+"
    r"|()\bxox[a-z]-[\w-]+"  # Slack's tokens
    r"|()\bxapp-[\w-]+"
    r"|()\bsk-[\w-]{16,}"  # the provider's keys
    r"|(://)[^\s/@'\"•]+(?=@)",  # userinfo in a URL
    re.IGNORECASE,
)
_SIGNS = ("callbacks", "bearer", "basic", "hooks.slack", "webhooks/", "xox", "xapp-", "sk-", "@")
"""Each shape holds one of these signs, and the search for them costs a tenth of the search for shapes."""
_SIGNED = re.compile(r"\.[\w-]{6}\.[\w-]{43}(?![\w-])", re.ASCII)
"""Time and signature of either of our tokens."""
_SIGNED_BYTES = re.compile(_SIGNED.pattern.encode())
_REDACTED_SIGNATURE = f".{REDACTED}".encode()
_UNESCAPED = re.compile(r"[\w.~-]+", re.ASCII)
"""Characters that every spelling of a secret leaves as they are."""
_SHORTEST_SECRET = 6
"""A shorter "secret" would redact half of every line."""
_MAX_DEPTH = 8
_SIMPLE = frozenset({str, int, float, bool, type(None)})
STEERING = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Characters beside the ASCII controls that can end a line, turn its direction, or steer a terminal."""
_UNPRINTABLE = re.compile(f"[\x00-\x1f{STEERING}]")
_UNPRINTABLE_IN_LINES = re.compile(f"[\x00-\x08\x0b-\x1f{STEERING}]")
_MAX_VALUE = 4000
"""Characters of a text in a line. A traceback may have four times as many."""
_MAX_LINE = 64_000


_SCHEME = re.compile(r"(?:basic|bearer|token)\s+", re.IGNORECASE)
"""Beginning of an Authorization header, whose credentials are secret without it, too."""


class _Known:
    """Secrets of this process, in every spelling that may come back."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self.spellings: tuple[str, ...] = ()
        self.cores: tuple[str, ...] = ()
        """Part of each secret that all its spellings share, so that one search stands for all of theirs."""
        self.encoded_cores: tuple[bytes, ...] = ()

    def forget(self) -> None:
        self._secrets.clear()
        self.learn(())

    def learn(self, secrets: Iterable[str]) -> None:
        for secret in secrets:
            self._secrets |= {secret, _SCHEME.sub("", secret)}
        long = [secret for secret in self._secrets if len(secret) >= _SHORTEST_SECRET]
        spellings = {
            text
            for secret in long
            for text in (
                *(secret, quote(secret, safe=""), quote(secret), html.escape(secret), secret.replace("/", "\\/")),
                json.dumps(secret)[1:-1],
            )
        }
        # Longest first, so that a secret that begins with another one is replaced as a whole.
        self.spellings = tuple(sorted(spellings, key=len, reverse=True))
        self.cores = tuple({max(_UNESCAPED.findall(secret), key=len, default="") for secret in long})
        self.encoded_cores = tuple([core.encode() for core in self.cores])


class _Output:
    """Stream of log lines, which fails no work that is being logged."""

    def __init__(self) -> None:
        self.stream: TextIO | None = None

    def write(self, text: str) -> int:
        """Write, if possible: a closed pipe or a full disk must not fail the work that is being logged."""
        stream = self.stream or sys.stderr
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            return stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):
            return 0

    def flush(self) -> None:
        try:
            (self.stream or sys.stderr).flush()
        except (OSError, ValueError):
            return


class Log:
    """Logger of a module. `logging` holds its level, also in a program that embeds Receiver."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._config: dict[str, Any] = {}
        self._lines: Any = None
        """The logger of structlog for that configuration. Binding one for each line would take half its time."""

    def debug(self, event: str, **fields: Any) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Write a line, with the traceback of an exception given as `exc_info`."""
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            import structlog  # noqa: PLC0415 - takes a third of the start of a command

            if (config := structlog.get_config()) != self._config:
                self._lines = structlog.get_logger(self._logger.name).bind()
                self._config = config
            self._lines.log(level, event, **fields)


_known = _Known()
_output = _Output()


def configure(
    *,
    level: str = "info",
    format: LogFormat = "auto",
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Set up all logging of this process, including uvicorn, httpx and asyncio.

    `auto` is `console` on a terminal and `json` elsewhere. `secrets` are never written. Lines go to standard error
    unless a stream is given.
    """
    import structlog  # noqa: PLC0415 - see above

    silence(secrets)
    _output.stream = stream
    terminal = (stream or sys.stderr).isatty()
    readable = format == "console" or (format == "auto" and terminal)
    number = logging.getLevelNamesMapping()[level.upper()]
    # Exceptions become text before redaction, so that tracebacks are redacted as well. Our own fields come after it.
    ending: list[Processor] = [
        structlog.processors.format_exc_info,
        redact_fields,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if readable else "iso", utc=not readable),
        partial(_as_text, terminal) if readable else _as_json,
    ]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(_output),  # type: ignore[arg-type] # it needs write and flush only
    )
    handler = logging.StreamHandler(_output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.contextvars.merge_contextvars, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # At info, httpx logs every URL it calls and uvicorn every URL it serves, with tokens in them.
    # The rest of uvicorn's lines at info repeat our own lines on start and stop.
    for name in ("httpx", "httpcore", "uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def silence(secrets: Iterable[str]) -> None:
    """Log nothing, for a command that says in a sentence what went wrong. `secrets` are never shown."""
    _known.forget()
    learn(secrets)
    logging.getLogger().setLevel(logging.CRITICAL)


def use_logging() -> None:
    """Send our lines, redacted, to the loggers `receiver.…` of `logging`, for a program that embeds Receiver.

    A program that has configured structlog itself keeps its own configuration.
    """
    import structlog  # noqa: PLC0415 - see above

    for name in ("httpx", "uvicorn.access"):
        logging.getLogger(name).addFilter(_without_secrets)
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.format_exc_info,
                redact_fields,
                structlog.processors.LogfmtRenderer(key_order=["event"]),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )


def _without_secrets(record: logging.LogRecord) -> bool:
    """Redact a line of httpx or uvicorn. They log URLs that are secrets: of a chat's webhook, of a callback.

    Each argument stays one, because uvicorn's own formatter reads them one by one.
    """
    record.msg = redact(str(record.msg))
    if isinstance(record.args, tuple):
        record.args = tuple(item if isinstance(item, int) else redact(str(item)) for item in record.args)
    return True


def learn(secrets: Iterable[str]) -> None:
    """Redact these values too from now on: secrets made after `configure`."""
    _known.learn(secrets)


def redact(text: str) -> str:
    """Return the text without secrets, for errors shown to people."""
    return text if _is_plain(text) else _SHAPES.sub(_keep_group, redact_known(text))


def _is_plain(text: str) -> bool:
    """Return True if no part of the text is redacted."""
    lowered = text.lower()
    for sign in _SIGNS:
        if sign in lowered:
            return False
    for core in _known.cores:
        if core in text:
            return False
    return "." not in text or _SIGNED.search(text) is None


def redact_known(text: str) -> str:
    """Return the text without known secrets and our tokens, for words from outside that are kept or shown."""
    for core in _known.cores:  # a search for all at once, by a pattern, takes 20 times as long
        if core in text:
            for secret in _known.spellings:
                text = text.replace(secret, REDACTED)
            break
    return _SIGNED.sub(f".{REDACTED}", text)


def redact_body(body: bytes, token: bytes) -> tuple[bytes, bool]:
    """Return UTF-8 from outside as `redact_known` does, and True if it held nothing to redact but `token`, once.

    `token` is ours, or empty.
    """
    for core in _known.encoded_cores:
        if core in body:
            return redact_known(body.decode()).encode(), False
    if token:
        body = body.replace(token, token.rsplit(b".", 2)[0] + _REDACTED_SIGNATURE, 1)
    body, others = _SIGNED_BYTES.subn(_REDACTED_SIGNATURE, body)
    return body, bool(token) and not others


def redact_fields(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Redact a whole line by key and by value, nested values too, and cut what is too long. A structlog processor."""
    if _SIMPLE.issuperset(map(type, event.values())) and not any(map(_is_secret_name, event)):
        texts = "\n".join([value for value in event.values() if type(value) is str])
        if len(texts) <= _MAX_VALUE and _is_plain(texts):
            return event  # nearly every line: one search stands for those of all its fields
    line = {}
    for name, value in event.items():
        shown = line[name] = _redacted(name, value, _MAX_DEPTH)
        if isinstance(shown, str) and len(shown) > _MAX_VALUE:
            line[name] = cut(shown, 4 * _MAX_VALUE if name == "exception" else _MAX_VALUE)
    return line


def _keep_group(match: re.Match[str]) -> str:
    return match[match.lastindex or 0] + REDACTED


def _redacted(name: object, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(name, str) and _is_secret_name(name):
        return REDACTED
    return redact(value) if isinstance(value, str) else _redacted_value(value, depth)


def _redacted_value(value: Any, depth: int) -> Any:
    if isinstance(value, int | float):
        return value
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(key, inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(None, inner, depth - 1) for inner in value]
    try:
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    except Exception as exc:  # an object whose repr fails must not fail the line
        text = f"<{type(value).__name__}: {type(exc).__name__}>"
    return redact(text)


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    lowered = name.lower().replace("-", "_")
    if lowered in _PLAIN_KEYS:
        return False
    joined = lowered.replace("_", "")
    if any(word in joined for word in _SECRET_KEYS):
        return True
    return lowered in _SECRET_NAMES or lowered.endswith(("_key", "_keys", "_state"))


def _as_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """Return the line, which redaction has reduced to plain values. json.dumps takes five times as long."""
    try:
        line = msgspec.json.encode(event).decode()
    except (UnicodeEncodeError, TypeError, msgspec.MsgspecError):
        line = json.dumps(event)  # a lone surrogate
    if len(line) > _MAX_LINE:
        short = {name: cut(value, 200) for name, value in event.items()}
        ours = {name: short[name] for name in ("event", "level", "timestamp") if name in short}
        line = msgspec.json.encode(dict(list(short.items())[:50]) | ours).decode()
    return escape_lines(line)


def escape_lines(text: str) -> str:
    """Return lines, or JSON, with every character that could forge a line or steer a terminal as `\\uXXXX`."""
    return text if text.isascii() and text.isprintable() else _UNPRINTABLE_IN_LINES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def cut(value: Any, most: int) -> Any:
    """Return the beginning of a text that is too long. Of a table or list that is too long, only that it was cut."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    if len(text) <= most:
        return value
    return f"{text[:most]}… ({len(text)} characters)"


def _as_text(colors: bool, logger: WrappedLogger, method: str, event: EventDict) -> str:
    """Return the line for people: local time, a level above info, name, and the fields that say something.

    Of our ids it has the last characters, which every command takes. An event's id only repeats the submission.
    """
    time, level, name = (event.pop(key, "") for key in ("timestamp", "level", "event"))
    traceback = event.pop("exception", "")
    fields = {
        _clean(key): _clean(_OUR_ID.sub(_ID_END, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
        for key, value in event.items()
        if value not in (None, "", [], {}) and not (key == "event_id" and "submission" in event)
    }
    dim, strong, end = ("\x1b[2m", "\x1b[1m", "\x1b[0m") if colors else ("", "", "")
    mark = f"{_LEVELS[level] if colors else ''}{level}{end} " if level in _LEVELS else ""
    words = [f"{dim}{key}{end} {text}" for key, text in fields.items()]
    line = "  ".join([f"{dim}{time}{end}", f"{mark}{strong}{_clean(str(name))}{end}", *words])
    return f"{line}\n{_UNPRINTABLE_IN_LINES.sub(_escape, traceback)}" if traceback else line


_LEVELS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_OUR_ID = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{20}([0-9A-HJKMNP-TV-Z]{6})\b")
_ID_END = r"\1"


def _clean(text: str) -> str:
    """Escape characters that could forge a line or control the terminal."""
    return _UNPRINTABLE.sub(_escape, text)


# Traces


_NO_SPAN = nullcontext()


def span(name: str, *, link: str | None = None, **attributes: str) -> AbstractContextManager[None]:
    """Run the block in a span of OpenTelemetry, linked to another one by its `traceparent`.

    There is none unless this program has set up OpenTelemetry, and has imported it for that.
    """
    return _span(name, link, attributes) if "opentelemetry.trace" in sys.modules else _NO_SPAN


@contextmanager
def _span(name: str, link: str | None, attributes: dict[str, str]) -> Iterator[None]:
    from opentelemetry import trace  # noqa: PLC0415 - an extra
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    linked = TraceContextTextMapPropagator().extract({"traceparent": link or ""})
    found = trace.get_current_span(linked).get_span_context()
    with trace.get_tracer("receiver").start_as_current_span(
        name,
        links=[trace.Link(found)] if found.is_valid else [],
        attributes={f"receiver.{key}": value for key, value in attributes.items()},
        record_exception=False,  # its text may hold secrets, or have none
        set_status_on_exception=False,
    ) as current:
        try:
            yield
        except Exception as exc:
            current.set_status(trace.Status(trace.StatusCode.ERROR, type(exc).__name__))
            raise


def trace_headers() -> dict[str, str]:
    """Return the headers that pass the current span on with a request. None are needed without a span."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        TraceContextTextMapPropagator().inject(headers)
    return headers
