"""The shape most senders give a task, decoded at once: a callback is read in a third of the time `read_task` takes.

Whatever differs in the least is left to `read_task`, so that both give the same task for the same body. Keys that
nobody reads are passed over: they only have to be JSON, however deep it is.
"""

from __future__ import annotations

import re

import msgspec

from receiver.tasks.task import RANKS, Button, Task


class _Link(msgspec.Struct, gc=False):
    url: str | None = None


class _Properties(msgspec.Struct, gc=False, rename="camel"):
    final_prompt: str | None = None


class _Usual(msgspec.Struct, rename="camel"):
    id: str
    status: str | None = None
    progress: str | None = None
    action: str | None = None
    prompt: str | None = None
    prompt_en: str | None = None
    description: str | None = None
    state: str | None = None
    submit_time: int | None = None
    start_time: int | None = None
    finish_time: int | None = None
    image_url: str | None = None
    image_urls: list[_Link] | None = None
    snake_image_urls: None = msgspec.field(default=None, name="image_urls")
    video_url: str | None = None
    video_urls: list[_Link] | None = None
    fail_reason: str | None = None
    buttons: tuple[Button, ...] | None = None
    properties: _Properties | None = None
    seed: str | None = None


_decode = msgspec.json.Decoder(_Usual).decode
_PERCENTS = {f"{number}%": number for number in range(101)} | {"": None, None: None}
_STATUSES = {status: status for status in RANKS} | {"": "", None: ""}
_LATEST = 2**53
_DIGIT = re.compile(rb"[0-9]")
_MANY_DIGITS = 4300
"""The longest integer that Python reads; a longer one covers one of every so many bytes."""


def read_usual(body: bytes) -> Task | None:
    """The task in a body of the usual shape; None where `read_task` has to look."""
    if (b"\\" in body and b"\\u0000" in body) or _DIGIT.search(body[_MANY_DIGITS::_MANY_DIGITS]):
        return None
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look at text that it passes over
        return _task(_decode(body))
    except (msgspec.MsgspecError, ValueError, LookupError, RecursionError):
        return None


def _task(seen: _Usual) -> Task:
    """Raises LookupError for a status or progress of another form, ValueError for an id or a time."""
    if not 0 < len(seen.id.strip()) <= len(seen.id) <= 64:
        raise ValueError(seen.id)
    return Task(
        id=seen.id,
        status=_STATUSES[seen.status],
        progress=_PERCENTS[seen.progress],
        action=seen.action or "",
        prompt=seen.prompt or "",
        prompt_en=seen.prompt_en or "",
        final_prompt=(seen.properties.final_prompt or "") if seen.properties else "",
        description=seen.description or "",
        state=seen.state or "",
        submit_ms=_time(seen.submit_time),
        start_ms=_time(seen.start_time),
        finish_ms=_time(seen.finish_time),
        image_url=seen.image_url or "",
        image_urls=_links(seen.image_urls),
        video_url=seen.video_url or "",
        video_urls=_links(seen.video_urls),
        fail_reason=seen.fail_reason or "",
        buttons=_buttons(seen.buttons),
        seed=seen.seed or "",
    )


def _buttons(buttons: tuple[Button, ...] | None) -> tuple[Button, ...]:
    return tuple(button for button in buttons if button.custom_id) if buttons else ()


def _time(value: int | None) -> int | None:
    if not value:
        return None
    if not 0 < value < _LATEST:
        raise ValueError(value)
    return value


def _links(links: list[_Link] | None) -> tuple[str, ...]:
    return tuple(link.url for link in links if link.url) if links else ()
