"""One place of Apprise (extra `chat`). Only this module imports Apprise, and requests, by which Apprise speaks HTTP."""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from email.charset import BASE64, Charset
from email.header import Header
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests.sessions
from apprise import Apprise, AppriseAsset, AppriseAttachment, AppriseResultStatus, PersistentStoreMode
from apprise.attachment.file import AttachFile
from apprise.conversion import text_to_markdown
from requests.adapters import HTTPAdapter

from receiver.bodies import Body
from receiver.errors import SettingsError
from receiver.handlers.answers import MAX_ANSWER
from receiver.handlers.posts import clean, cut
from receiver.telemetry import REDACTED, redact

LONGEST_REASON = 400
"""Characters."""
LONGEST_SUBJECT = 900
"""Bytes of an encoded subject, which Apprise writes as one line. Servers refuse lines above 998 (RFC 5322)."""
_MAIL = "E-Mail"
_MARKDOWN = frozenset(
    {"Discord", "Guilded", "Mattermost", "Zulip", "Revolt", "Fluxer", "Nextcloud Talk", "Ryver", "HumHub", "Misskey"}
    | {"Notifiarr", "Stackfield"}
)
"""Services that render Markdown in what Apprise calls their plain text."""
_DETAILS = ("Socket Exception", "Response Details")
"""Beginnings of Apprise's debug messages that hold a server's own words."""
_SEPARATORS = re.compile(r"[/:@?&=#,\s]+")
_SHORTEST = 6
"""Characters of a part of a URL that may be a secret."""


File = tuple[Path, str, str]
"""File to attach: its path, a readable name, and its type."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one post. `reason` is what Apprise and the server said if it failed, without parts of the URL."""

    done: bool
    late: bool = False  # True if it ended because its time was up
    reason: str = ""


class Place:
    """A chat or mailbox by its Apprise URL.

    Attributes:
        service: its name, for people.
        takes_files: True if it takes attachments.

    Raises:
        SettingsError: Apprise does not understand the URL.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Apprise's modules for other services
            self._example = _open(url)
        self.service = str(self._example.service_name or "The place")
        self.takes_files = bool(self._example.attachment_support)
        self._own = threading.local()

    def post(self, title: str, prompt: str, body: str, *, kind: str, files: Sequence[File], seconds: float) -> Outcome:
        """Post once, within so many seconds. Blocking.

        Only a mail has the prompt in its subject. Other services may render a title as markup.
        """
        if self.service == _MAIL:
            most = LONGEST_SUBJECT if self._example.overflow_mode == "upstream" else self._example.title_maxlen
            title = subject(f"{title}: {prompt}" if prompt else title, most)
        attached = AppriseAttachment() if files else None
        for path, name, type in files:  # never by URL
            attached.add(AttachFile(str(path), name=name, mimetype=type))  # type: ignore[no-untyped-call, union-attr]
        if not hasattr(self._own, "apprise"):  # one for each thread: places keep sessions, which threads may not share
            self._own.apprise = Apprise()
            self._own.apprise.add(_open(self._url))
        room, form = max(self._example.body_maxlen - len(title) - 20, 100), "text"
        body = cut(body, room)
        if self.service in _MARKDOWN or self._example.resolve_format("text") == "markdown":
            escaped, form = _escaped(body), "markdown"
            body = escaped if len(escaped) <= room else _escaped(cut(body, room // 2))  # it doubles at most
        result = self._own.apprise.notify(
            title=title,
            body=body,
            body_format=form,
            notify_type=kind,
            attach=attached,
            timeout=max(seconds, 1.0),
            log_level=logging.DEBUG,
        )
        reason = "" if result else self._redacted(" ".join(_words(entry.message) for entry in result.logs()))
        late = any(service.status == AppriseResultStatus.TIMEOUT for service in result)
        return Outcome(bool(result), late, reason)

    def _redacted(self, text: str) -> str:
        """Return a text without the parts of the URL, but for the host of one with a user name."""
        host = (urlsplit(self._url).hostname or "") if "@" in self._url.partition("?")[0] else ""
        parts = {unquote(part) for part in _SEPARATORS.split(self._url.partition("://")[2])}
        for part in sorted(parts, key=len, reverse=True):
            if len(part) >= _SHORTEST and part.lower() not in host:
                text = text.replace(part, REDACTED)
        return redact(" ".join(text.split()))[:LONGEST_REASON]


def _escaped(text: str) -> str:
    return str(text_to_markdown(text))  # type: ignore[no-untyped-call]


def subject(text: str, most: int) -> str:
    """Return a mail's subject in ASCII, in encoded words of at most 75 characters (RFC 2047), and cut to `most` bytes.

    Apprise itself makes one word of it, which strict servers refuse as too long a line.
    """
    text = cut(" ".join(clean(text).split()), 120)
    while len(encoded := _encoded(text)) > most:
        text = cut(text, len(text) - 5)
    return encoded


def _encoded(text: str) -> str:
    if text.isascii() and text.isprintable() and "=?" not in text:
        return text
    charset = Charset("utf-8")
    charset.header_encoding = BASE64
    return " ".join(Header(text, charset, maxlinelen=75, header_name="Subject").encode(linesep="\n").split())


def _open(url: str) -> Any:
    """Return Apprise's object for one place, or raise SettingsError."""
    logger = logging.getLogger("apprise")
    # Its messages come back with the result, whatever our own log level. In the log they would not be redacted.
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addFilter(_says_why)
    # requests has no setting for it, and Apprise makes a session for each call.
    requests.sessions.HTTPAdapter = _CappedAdapter  # type: ignore[attr-defined]
    asset = AppriseAsset(async_mode=False, storage_mode=PersistentStoreMode.MEMORY, app_id="Receiver")
    found: Any = Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    if found is None:
        raise SettingsError(
            "the option url is none that Apprise understands. Each service has a page with its URL's form: "
            "https://appriseit.com/services"
        )
    if found.service_name == _MAIL:
        found.request_rate_per_sec = 0  # a mail server needs no pause of 5.5 s between two mails
    return found


def _words(message: str) -> str:
    """Return a message of Apprise's without its label, cut long before anything slow is done with it."""
    for label in _DETAILS:
        message = message.removeprefix(f"{label}:")
    return message[: 5 * LONGEST_REASON]


def _says_why(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or str(record.msg).startswith(_DETAILS)


class _CappedAdapter(HTTPAdapter):
    """Transport of requests that reads and unpacks no more of an answer than its cap."""

    def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        response = super().send(request, *arguments, **options)
        body = Body(response.headers.get("content-encoding", ""), MAX_ANSWER)
        for chunk in response.raw.stream(65536, decode_content=False):
            if not body.add(chunk):
                break
        response.raw.close()
        response.raw = io.BytesIO(body.data)
        return response
