"""What clients send: bodies, keys, speed prefixes (PROTOCOL.md §1, §2, §12)."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

_SPEEDS = ("", "/mj-fast", "/mj-turbo", "/mj-relax")

PREFIXES = tuple(dict.fromkeys(f"{a}{speed}/mj{b}" for a in ("", "/mj") for speed in _SPEEDS for b in ("", "/mj")))
"""Every way to the same paths: a speed prefix or none, and base addresses that already end in /mj."""

_SPEED_PREFIX = re.compile(r"/mj-(fast|turbo|relax)/")


class AccountFilter(msgspec.Struct, rename="camel"):
    """Which accounts may do the work; only the speed matters here."""

    modes: list[str] | None = None


class Submit(msgspec.Struct, rename="camel"):
    """What every submit may carry; unknown keys are ignored, anything may be null."""

    bot_type: str | None = None
    account_filter: AccountFilter | None = None
    state: str | None = None
    notify_hook: str | None = None

    @property
    def modes(self) -> tuple[str, ...]:
        """accountFilter.modes, empty when not given."""
        return tuple(self.account_filter.modes or ()) if self.account_filter else ()


class Imagine(Submit):
    """The body of submit/imagine."""

    prompt: str | None = None
    base64_array: list[str] | None = None


class Action(Submit):
    """The body of submit/action."""

    task_id: str | int | None = None
    custom_id: str | None = None
    enable_remix: bool | None = None


class Modal(Submit):
    """The body of submit/modal."""

    task_id: str | int | None = None
    prompt: str | None = None
    mask_base64: str | None = None


class Blend(Submit):
    """The body of submit/blend."""

    base64_array: list[str] | None = None
    dimensions: str | None = None


class Describe(Submit):
    """The body of submit/describe."""

    base64: str | None = None
    link: str | None = None


class Shorten(Submit):
    """The body of submit/shorten."""

    prompt: str | None = None


class Change(Submit):
    """The body of submit/change."""

    task_id: str | int | None = None
    action: str | None = None
    index: int | None = None


class SimpleChange(Submit):
    """The body of submit/simple-change."""

    content: str | None = None


class Video(Submit):
    """The body of submit/video."""

    motion: str | None = None
    image: str | None = None
    prompt: str | None = None
    action: str | None = None
    index: int | None = None
    task_id: str | int | None = None
    end_image: str | None = None
    loop: bool | None = None
    video_type: str | None = None
    batch_size: int | None = None


class Edits(Submit):
    """The body of submit/edits."""

    prompt: str | None = None
    image: str | None = None
    mask_base64: str | None = None


class Swap(Submit):
    """The body of insight-face/swap."""

    source_base64: str | None = None
    target_base64: str | None = None
    source_url: str | None = None
    target_url: str | None = None


class Upload(Submit):
    """The body of submit/upload-discord-images."""

    base64_array: list[str] | None = None


Fields = TypeVar("Fields", bound=Submit)


def json_object(content: bytes) -> dict[str, Any] | None:
    """The body as a JSON object, or None when it is anything else."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return body if isinstance(body, dict) else None


def fields(body: Mapping[str, Any], kind: type[Fields], *, coerces: bool) -> Fields | None:
    """The body read strictly, None when a type is wrong; ``coerces`` reads numbers as text, like Java."""
    texts = {key: str(value) if coerces and _is_number(value) else value for key, value in body.items()}
    # Not strict: what was made text a moment ago is still a number where one belongs.
    try:
        return msgspec.convert(texts, kind, strict=not coerces)
    except msgspec.ValidationError:
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def ids(content: bytes) -> set[str]:
    """The ids of list-by-condition; some clients send numbers, some null."""
    found = (json_object(content) or {}).get("ids")
    return {str(item) for item in found} if isinstance(found, list) else set()


def key(headers: Mapping[str, str]) -> str:
    """The key, given as ``Bearer k``, bare, or as ``mj-api-secret``; "" for none."""
    authorization = headers.get("authorization", "").strip()
    if authorization[:7].lower() == "bearer ":
        authorization = authorization[7:].strip()
    return authorization or headers.get("mj-api-secret", "").strip()


def speed_prefix(path: str) -> str | None:
    """The speed named by the path, if one is."""
    found = _SPEED_PREFIX.search(path)
    return found[1] if found else None
