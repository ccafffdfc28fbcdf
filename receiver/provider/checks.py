"""Values of requests, checked before anything goes out: each comes back as it is sent, or as an InputError."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from receiver.errors import InputError
from receiver.tasks import MAX_TASK_ID

BOT_TYPES = ("MID_JOURNEY", "NIJI_JOURNEY")
MODES = ("RELAX", "FAST", "TURBO")
SPEEDS = ("fast", "turbo", "relax")
MAX_PROMPT = 6000
"""Characters."""
MAX_LINK = 2048
"""Characters."""
MAX_CUSTOM_ID = 1000
"""Characters; Discord's own end at 100, but relays make up others."""

_FILTER_TEXTS = ("instanceId", "remark")
_FILTER_FLAGS = ("remix", "nijiRemix", "remixAutoConsidered")
_FILTER_KEYS = ("instanceId", "modes", *_FILTER_FLAGS, "remark")
_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")
_LINK = re.compile(r"https?://", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8}){0,2}\Z")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}\Z")

T = TypeVar("T")


def check_prompt(prompt: str) -> str:
    """The prompt, stripped.

    Raises:
        InputError: empty, too long, or with characters that cannot be sent.
    """
    text = sendable("The prompt", prompt).strip()
    if not text:
        raise InputError("The prompt is empty; say what the picture should show.")
    if len(text) > MAX_PROMPT:
        raise InputError(f"The prompt has {len(text)} characters; shorten it to {MAX_PROMPT}.")
    return text


def check_speed(speed: str | None) -> str | None:
    """`fast`, `turbo`, `relax`, or None for the provider's default.

    Raises:
        InputError: anything else.
    """
    return None if speed is None else one_of("speed", speed, SPEEDS)


def check_task_id(task_id: str) -> str:
    """A task's id, stripped: opaque, 1–64 printable characters (PROTOCOL.md §3).

    Raises:
        InputError: it can be no provider's, or would change the path it stands in.
    """
    text = sendable("The task id", task_id).strip()
    if not text.strip("."):
        raise InputError("The task id is empty; name the task to go on with.")
    if len(text) > MAX_TASK_ID:
        raise InputError(f"The task id has {len(text)} characters; no provider's has more than {MAX_TASK_ID}.")
    if not text.isprintable() or re.search(r"[\s,]", text):
        raise InputError(f"{text[:40]!r} is no task id; name one, without spaces or commas.")
    return text


def check_custom_id(custom_id: str) -> str:
    """What a button sends.

    Raises:
        InputError: empty, too long, or with characters no button has.
    """
    text = sendable("The customId", custom_id).strip()
    if not text or len(text) > MAX_CUSTOM_ID or not text.isprintable():
        raise InputError(f"The customId must have 1 to {MAX_CUSTOM_ID} printable characters; take it from the task.")
    return text


def check_bot_type(bot_type: str) -> str:
    """MID_JOURNEY or NIJI_JOURNEY.

    Raises:
        InputError: anything else.
    """
    return one_of("botType", bot_type, BOT_TYPES)


def check_language(language: str) -> str:
    """A language's code, like `en` or `zh-CN`.

    Raises:
        InputError: anything else.
    """
    if not _LANGUAGE.match(sendable("The language", language)):
        raise InputError(f"{language[:40]!r} is no language; write it like en or zh-CN.")
    return language


def check_word(what: str, value: str) -> str:
    """A single word, where the protocol gives examples and no list.

    Raises:
        InputError: anything else.
    """
    if not _WORD.match(sendable(what, value)):
        raise InputError(f"{value[:40]!r} cannot be {what}; it is a single word, like extend.")
    return value


def check_account_filter(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """`accountFilter` without what is unset; None when nothing is left.

    Raises:
        InputError: an unknown key, or a value of another kind.
    """
    if not isinstance(given, Mapping):
        raise InputError("accountFilter must be an object, like {'modes': ['FAST']}.")
    for key in given:
        one_of("a key of accountFilter", key, _FILTER_KEYS)
    return {key: _filter_value(key, value) for key, value in given.items() if value is not None} or None


def is_link(source: str) -> bool:
    """Whether a picture is named by an http or https address."""
    return _LINK.match(source) is not None


def check_link(link: str) -> str:
    """An http or https address with a host.

    Raises:
        InputError: anything else.
    """
    text = sendable("The link", link).strip()
    if len(text) > MAX_LINK:
        raise InputError(f"The link has {len(text)} characters; shorten it to {MAX_LINK}.")
    try:
        usable = is_link(text) and text.isprintable() and " " not in text and bool(urlsplit(text).hostname)
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"{text[:80]!r} is no http or https link.")
    return text


def check_source(what: str, source: str) -> str:
    """A picture as a path, a data URI or an http(s) link; whether the file is there is not looked at.

    Raises:
        InputError: no text, empty, or an address of another kind.
    """
    text = sendable(what, source)
    if not text.strip():
        raise InputError(f"{what} is empty; give a path, a data URI or a link.")
    return check_link(text) if _URL.match(text.strip()) else text


def check_flag(what: str, value: bool) -> bool:
    """True or false, and nothing that only counts as it.

    Raises:
        InputError: anything else.
    """
    if not isinstance(value, bool):
        raise InputError(f"{what} must be true or false.")
    return value


def check_number(what: str, value: int, allowed: Sequence[int]) -> int:
    """One of a few integers.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value in allowed:
        return value
    raise InputError(f"{what} must be one of {', '.join(map(str, allowed))}.")


def one_of(what: str, value: Any, allowed: Iterable[str]) -> str:
    """One of a few words.

    Raises:
        InputError: anything else.
    """
    text = sendable(what, value)
    if text in allowed:
        return text
    raise InputError(f"{text[:40]!r} cannot be {what}; use one of {', '.join(allowed)}.")


def sendable(what: str, value: Any) -> str:
    """Text that JSON can carry and databases can store.

    Raises:
        InputError: no text, or with a NUL or half a character in it.
    """
    if not isinstance(value, str):
        raise InputError(f"{what} must be text.")
    if _UNSENDABLE.search(value):
        raise InputError(f"{what} holds a NUL or half a character, which cannot be sent; remove it.")
    return value


def optional(check: Callable[[Any], T], value: Any) -> T | None:
    """`check(value)`, or None for a value that was not given."""
    return None if value is None else check(value)


def _filter_value(key: str, value: Any) -> Any:
    if key in _FILTER_TEXTS:
        return sendable(f"accountFilter.{key}", value)
    return _modes(value) if key == "modes" else check_flag(f"accountFilter.{key}", value)


def _modes(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise InputError(f"accountFilter.modes must be a list of {', '.join(MODES)}.")
    return [one_of("a mode of accountFilter", mode, MODES) for mode in value]
