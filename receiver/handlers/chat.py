"""The chat handler: any chat or mail that Apprise speaks (https://appriseit.com), by one URL. Needs the extra `chat`.

Apprise blocks, so it runs in threads of its own, and is told how long it may take. It answers yes or no; what it warned
about on the way is kept as the reason of a failure, without the parts of the URL that may be secret.

At least once: neither mail nor chats have a key by which they would know a post again.
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
from receiver.handlers.file import file_stem
from receiver.handlers.posts import Mood, cut, post_of, wait_for_media
from receiver.telemetry import REDACTED, redact

SPARE_SECONDS = 2.0
"""Of the attempt's time kept for telling how it ended."""
_POSTED = frozenset({"task.input_required", "task.succeeded", "task.failed", "task.lost"})
_KINDS: dict[Mood, str] = {"waiting": "info", "asking": "warning", "good": "success", "bad": "failure"}
_CALLS = re.compile(r"([@<])")
_PIECES = re.compile(r"[/:@?&=#,\s]+")
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
    attach: bool = Field(True, description="Whether the picture is attached, where the place takes attachments.")


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
            warnings.simplefilter("ignore", DeprecationWarning)  # of modules it loads for places we do not use
            place = _place(self._url)
        self._service = str(getattr(place, "service_name", None) or "the place")
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="chat")
        self._own = threading.local()

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """The URL is Apprise's own; one of a scheme that is not listed is written after `chat:`."""
        return {"url": url.removeprefix("chat:")}

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Post an end, or that a task asks for input; what happens in between would only repeat itself.

        Raises:
            RetryLater: the picture is not there yet.
            ConnectionError: Apprise could not deliver; the text holds its warnings.
        """
        if attempt.event.type not in _POSTED:
            return Receipt()
        wait_for_media(attempt)
        # Not waited for when cancelled: Apprise's own time-outs end the thread.
        call = asyncio.get_running_loop().run_in_executor(self._threads, partial(self._notify, attempt))
        done, said = await call
        if not done:
            raise ConnectionError(f"{self._service} could not be reached by Apprise. {said or 'It gave no reason.'}")
        return Receipt()

    async def aclose(self) -> None:
        """Nothing new is begun; what runs ends by its own time-outs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _notify(self, attempt: Attempt) -> tuple[bool, str]:
        """Blocks. Whether it worked, and what Apprise warned about."""
        post = post_of(attempt)
        subject = f"{post.title}: {post.prompt}" if post.prompt else post.title
        result = self._apprise().notify(
            title=harmless(cut(" ".join(subject.split()), 120)),
            body=harmless(post.body),
            body_format="text",
            notify_type=_KINDS[post.mood],
            attach=self._attachments(attempt) if self._options.attach and attempt.media else None,
            timeout=max(attempt.deadline - SPARE_SECONDS, 1.0),
        )
        return bool(result), self._redacted(" ".join(entry.message for entry in result.logs()))

    def _apprise(self) -> Any:
        """This thread's own, because places keep sessions, and nothing says that threads may share them."""
        if not hasattr(self._own, "apprise"):
            from apprise import Apprise  # noqa: PLC0415 - an extra

            self._own.apprise = Apprise()
            self._own.apprise.add(_place(self._url))
        return self._own.apprise

    def _attachments(self, attempt: Attempt) -> Any:
        """The archived files under readable names, never by URL."""
        from apprise import AppriseAttachment  # noqa: PLC0415 - an extra
        from apprise.attachment.file import AttachFile  # noqa: PLC0415 - an extra

        attached = AppriseAttachment()
        for at, item in enumerate(attempt.media, 1):
            name = f"{file_stem(attempt.event)}{f'_{at}' if len(attempt.media) > 1 else ''}{item.media.extension}"
            attached.add(AttachFile(str(item.path), name=name, mimetype=item.media.type))  # type: ignore[no-untyped-call]
        return attached

    def _redacted(self, text: str) -> str:
        """Without whatever in the URL could be a secret: everything but the host of a URL that names a user."""
        host = (urlsplit(self._url).hostname or "") if "@" in self._url.partition("?")[0] else ""
        pieces = {unquote(piece) for piece in _PIECES.split(self._url.partition("://")[2])}
        for piece in sorted(pieces, key=len, reverse=True):
            if len(piece) >= _SHORTEST and piece.lower() != host:
                text = text.replace(piece, REDACTED)
        return redact(" ".join(text.split()))[:400]


def harmless(text: str) -> str:
    """Words of others, so that no chat takes them for a mention: a zero-width space after each @ and <."""
    return _CALLS.sub("\\1\u200b", text)


def _place(url: str) -> Any:
    """Apprise's object for one place.

    Raises:
        SettingsError: Apprise is not installed, or does not understand the URL.
    """
    try:
        found = _instantiated(url)
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


def _instantiated(url: str) -> Any:
    from apprise import Apprise, AppriseAsset, PersistentStoreMode  # noqa: PLC0415 - an extra

    # Its warnings come back with the result; in the log they would be told without redaction.
    logging.getLogger("apprise").propagate = False
    asset = AppriseAsset(async_mode=False, storage_mode=PersistentStoreMode.MEMORY, app_id="Receiver")
    return Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
