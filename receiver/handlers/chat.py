"""Chat handler: any chat or mail service of Apprise (https://appriseit.com), by one URL. Needs the extra `chat`.

Apprise blocks, so it runs in threads of its own with a time limit. It answers yes or no. Its warnings become the reason
of a failure, without the parts of the URL that may be secret.

At least once: neither mail nor chats have a key that would identify a repeated post.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr

from receiver.deliveries import Receipt
from receiver.errors import SettingsError
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions
from receiver.handlers.posts import Mood, cut, file_name, post_of
from receiver.handlers.result_files import SIDECAR_EVENTS
from receiver.telemetry import REDACTED, redact

SPARE_SECONDS = 2.0
"""Part of the attempt's time that is kept for the report of its outcome."""
_KINDS: dict[Mood, str] = {"waiting": "info", "asking": "warning", "good": "success", "bad": "failure"}
_MENTIONS = re.compile(r"([@<])")
_SEPARATORS = re.compile(r"[/:@?&=#,\s]+")
_SHORTEST = 6
"""Characters of a part of a URL that may be a secret."""
_THREADS = 64
"""As many as a destination may have deliveries at once."""


class ChatOptions(HandlerOptions):
    """Options of a `chat` destination."""

    url: SecretStr = Field(
        description="The place as an Apprise URL: `mailto://…`, `matrixs://…`, `ntfy://…`. Each service has a page on "
        "its URL's form: https://appriseit.com/services."
    )
    attach: bool = Field(True, description="Attach the picture, if the place takes attachments.")


class ChatHandler:
    """Posts results by Apprise."""

    name = "chat"
    summary = "Any other chat, or mail, by one Apprise URL, with the picture attached."
    schemes = ("chat", "mailto", "mailtos", "matrix", "matrixs", "tgram")
    guarantee: ClassVar[Guarantee] = "at least once"
    Options = ChatOptions

    def __init__(self, options: ChatOptions) -> None:
        self._options = options
        self._url = options.url.get_secret_value()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Apprise's modules for other services
            place = _place(self._url)
        self._service = str(getattr(place, "service_name", None) or "the place")
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="chat")
        self._own = threading.local()

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Return Apprise's own URL, without the `chat:` in front of a scheme that is not listed."""
        return {"url": url.removeprefix("chat:")}

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Post an end, or that a task asks for input. Raise ConnectionError with Apprise's warnings if that failed."""
        if attempt.event.type not in SIDECAR_EVENTS:
            return Receipt()
        attempt.wait_for_media()
        # A cancelled attempt does not wait for its thread, which ends by Apprise's own time-outs.
        call = asyncio.get_running_loop().run_in_executor(self._threads, partial(self._notify, attempt))
        done, said = await call
        if not done:
            raise ConnectionError(f"{self._service} could not be reached by Apprise. {said or 'It gave no reason.'}")
        return Receipt()

    async def aclose(self) -> None:
        """Start nothing new. Running posts end by their own time-outs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _notify(self, attempt: Attempt) -> tuple[bool, str]:
        """Return Apprise's success and its warnings. Blocking."""
        post = post_of(attempt)
        subject = f"{post.title}: {post.prompt}" if post.prompt else post.title
        attached = None
        if self._options.attach and attempt.media:
            from apprise import AppriseAttachment  # noqa: PLC0415 - an extra
            from apprise.attachment.file import AttachFile  # noqa: PLC0415 - an extra

            attached = AppriseAttachment()
            for item in attempt.media:  # under readable names, never by URL
                file = AttachFile(str(item.path), name=file_name(attempt, item), mimetype=item.media.type)  # type: ignore[no-untyped-call]
                attached.add(file)
        if not hasattr(self._own, "apprise"):  # one for each thread: places keep sessions, which threads may not share
            from apprise import Apprise  # noqa: PLC0415 - an extra

            self._own.apprise = Apprise()
            self._own.apprise.add(_place(self._url))
        result = self._own.apprise.notify(
            title=harmless(cut(" ".join(subject.split()), 120)),
            body=harmless(post.body),
            body_format="text",
            notify_type=_KINDS[post.mood],
            attach=attached,
            timeout=max(attempt.deadline - SPARE_SECONDS, 1.0),
        )
        text = " ".join(entry.message for entry in result.logs())
        # Every part of the URL may be a secret, but for the host of one with a user name.
        host = (urlsplit(self._url).hostname or "") if "@" in self._url.partition("?")[0] else ""
        parts = {unquote(part) for part in _SEPARATORS.split(self._url.partition("://")[2])}
        for part in sorted(parts, key=len, reverse=True):
            if len(part) >= _SHORTEST and part.lower() != host:
                text = text.replace(part, REDACTED)
        return bool(result), redact(" ".join(text.split()))[:400]


def harmless(text: str) -> str:
    """Return a text from outside with a zero-width space after each @ and <, so that no chat sees a mention."""
    return _MENTIONS.sub("\\1\u200b", text)


def _place(url: str) -> Any:
    """Return Apprise's object for one place, or raise SettingsError."""
    try:
        from apprise import Apprise, AppriseAsset, PersistentStoreMode  # noqa: PLC0415 - an extra

        # Its warnings come back with the result. In the log they would not be redacted.
        logging.getLogger("apprise").propagate = False
        asset = AppriseAsset(async_mode=False, storage_mode=PersistentStoreMode.MEMORY, app_id="Receiver")
        found = Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    except ImportError as exc:
        raise SettingsError(
            f'The handler chat needs more than the core ({exc.name}): pip install "imagine-receiver[chat]"'
        ) from None
    if found is None:
        raise SettingsError(
            "The option url is none that Apprise understands. Each service has a page with its URL's form: "
            "https://appriseit.com/services"
        )
    return found
