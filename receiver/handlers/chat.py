"""Chat handler: any chat or mail service of Apprise (https://appriseit.com), by one URL. Needs the extra `chat`.

Apprise blocks, so it runs in threads of its own with a time limit. It answers yes or no. Its warnings become the reason
of a failure, without the parts of the URL that may be secret.

A place that refuses a file still gets the words: with smaller pictures, then without any.

At least once: neither mail nor chats have a key that would identify a repeated post.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from receiver.deliveries import Receipt
from receiver.disk import in_thread
from receiver.errors import require
from receiver.handlers import posts
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions, Secret
from receiver.handlers.result_files import SIDECAR_EVENTS

if TYPE_CHECKING:
    from receiver.handlers.place import File, Outcome

SPARE_SECONDS = 2.0
"""Part of the attempt's time that is kept for the report of its outcome."""
SMALLER = 1_000_000
"""Bytes of a picture for a place that refused the original."""
_KINDS: dict[posts.Mood, str] = {"waiting": "info", "asking": "warning", "good": "success", "bad": "failure"}
_MENTIONS = re.compile(r"([@<])")
_THREADS = 64
"""Most deliveries that a destination may have at once."""


class ChatOptions(HandlerOptions):
    """Options of a `chat` destination."""

    url: Annotated[
        Secret,
        "The place as an Apprise URL: `mailto://…`, `matrixs://…`, `ntfy://…`. Each service has a page on its URL's "
        "form: https://appriseit.com/services.",
    ]
    attach: Annotated[bool, "Attach the picture, if the place takes attachments."] = True


class ChatHandler:
    """Posts results by Apprise."""

    name = "chat"
    summary = "Any other chat, or mail, by one Apprise URL, with the picture attached."
    schemes = ("chat", "mailto", "mailtos", "matrix", "matrixs", "tgram")
    guarantee: ClassVar[Guarantee] = "at least once"
    Options = ChatOptions

    def __init__(self, options: ChatOptions) -> None:
        require("apprise", extra="chat", why="The handler chat")
        from receiver.handlers.place import Place  # noqa: PLC0415 - an optional extra

        self._options = options
        self._place = Place(options.url.text)
        self._late: dict[str, int] = {}  # attempts that took too long, by delivery
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="chat")

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Return Apprise's own URL, without the `chat:` in front of a scheme that is not listed."""
        return {"url": url.removeprefix("chat:")}

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Post an end, or that a task asks for input. Raise ConnectionError with Apprise's warnings if that failed."""
        if attempt.event.type not in SIDECAR_EVENTS:
            return Receipt()
        loop = asyncio.get_running_loop()
        ends = loop.time() + attempt.deadline - SPARE_SECONDS
        reason = ""
        late = self._late.get(attempt.idempotency_key, 0)
        skipped = max(late - 1, 0)  # files that were too slow twice are not tried a third time
        async with aclosing(self._steps(attempt)) as steps:
            async for files, remark in steps:
                if reason and loop.time() > ends - 1:
                    break
                if files and skipped > 0:
                    skipped, reason = skipped - 1, "It took too long."
                    continue
                # A cancelled attempt does not wait for its thread, which ends by Apprise's own time-outs.
                said = f"{remark} {posts.cut(posts.clean(reason), 160)}".strip()
                call = partial(self._notify, attempt, files, said, ends - loop.time())
                outcome = await loop.run_in_executor(self._threads, call)
                if outcome.done:
                    self._late.pop(attempt.idempotency_key, None)
                    return Receipt(data={"files": [item.media.digest for item in attempt.media]})
                reason = outcome.reason or "It gave no reason."
                if outcome.late:
                    posts.remember(self._late, attempt, late + 1)
                    break
        raise ConnectionError(f"{self._place.service} could not be reached by Apprise. {reason}")

    async def aclose(self) -> None:
        """Start nothing new. Running posts end by their own time-outs."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _steps(self, attempt: Attempt) -> AsyncGenerator[tuple[list[File], str]]:
        """Yield the files to attach and a remark on what is missing, from all of them to none."""
        service = self._place.service
        before = attempt.previous.data.get("files", ()) if attempt.event.further and attempt.previous else ()
        media = [item for item in attempt.media if item.media.digest not in before]
        if not self._options.attach or not media:
            yield [], ""
            return
        if not self._place.takes_files:
            yield [], f"{service} takes no files, so the post is without the picture."
            return
        files = [(item.path, posts.file_name(attempt, item), item.media.type) for item in media]
        yield files, ""
        with tempfile.TemporaryDirectory() as folder:
            images = [item for item in media if item.media.type.startswith("image/")]
            copies = await posts.smaller([item.path for item in images if item.media.size > SMALLER], SMALLER)
            smaller: list[File] = []
            for (path, name, type), item in zip(files, media, strict=True):
                if not type.startswith("image/"):
                    continue
                if item.media.size <= SMALLER:
                    smaller.append((path, name, type))
                elif (data := copies.get(path)) is not None:
                    copy = Path(folder, name).with_suffix(".jpg")
                    await in_thread(copy.write_bytes, data)
                    smaller.append((copy, copy.name, "image/jpeg"))
            if smaller and smaller != files:
                yield smaller, f"{service} did not take the files as they are, so they are smaller or missing here."
        yield [], f"{service} did not take the picture, so the post is without it."

    def _notify(self, attempt: Attempt, files: list[File], remark: str, seconds: float) -> Outcome:
        """Post once. Blocking."""
        post = posts.post_of(attempt, remark=remark)
        return self._place.post(
            post.title, post.prompt, harmless(post.body), kind=_KINDS[post.mood], files=files, seconds=seconds
        )


def harmless(text: str) -> str:
    """Return a text from outside with a zero-width space after each @ and <, so that no chat sees a mention."""
    return _MENTIONS.sub("\\1\u200b", text)
