"""Bodies of requests, built and checked before anything goes out (PROTOCOL.md §2).

`state` and `notifyHook` are added by whoever submits, because they hold the submission's tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from receiver.errors import InputError

BOT_TYPES = ("MID_JOURNEY", "NIJI_JOURNEY")
MODES = ("RELAX", "FAST", "TURBO")
SPEEDS = ("fast", "turbo", "relax")
MAX_PROMPT = 6000
"""Characters."""

_TEXTS = ("instanceId", "remark")
_FLAGS = ("remix", "nijiRemix", "remixAutoConsidered")
_FILTER_KEYS = ("instanceId", "modes", *_FLAGS, "remark")
_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")


def imagine_body(
    prompt: str,
    *,
    bot_type: str | None = None,
    base64_array: Sequence[str] = (),
    account_filter: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of POST submit/imagine; what is unset is left out.

    Args:
        prompt: 1–6000 characters after stripping; parameters such as `--ar 3:2` stand in it.
        bot_type: MID_JOURNEY or NIJI_JOURNEY; None is the provider's default.
        base64_array: reference pictures as data URIs, already checked.
        account_filter: `instanceId`, `modes`, `remix`, `nijiRemix`, `remixAutoConsidered`, `remark`.

    Raises:
        InputError: a value the provider could not take.
    """
    body: dict[str, Any] = {"prompt": check_prompt(prompt)}
    if bot_type is not None:
        body["botType"] = _one_of("botType", bot_type, BOT_TYPES)
    if base64_array:
        body["base64Array"] = list(base64_array)
    if account_filter and (checked := _account_filter(account_filter)):
        body["accountFilter"] = checked
    return body


def check_prompt(prompt: str) -> str:
    """The prompt, stripped.

    Raises:
        InputError: empty, too long, or with characters that cannot be sent.
    """
    text = _sendable("The prompt", prompt).strip()
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
    return None if speed is None else _one_of("speed", speed, SPEEDS)


def _account_filter(given: Mapping[str, Any]) -> dict[str, Any]:
    for key in given:
        _one_of("a key of accountFilter", key, _FILTER_KEYS)
    checked: dict[str, Any] = {}
    for key, value in given.items():
        if value is not None:
            checked[key] = _filter_value(key, value)
    return checked


def _filter_value(key: str, value: Any) -> Any:
    if key in _FLAGS and not isinstance(value, bool):
        raise InputError(f"accountFilter.{key} must be true or false.")
    if key in _TEXTS:
        return _sendable(f"accountFilter.{key}", value)
    if key == "modes":
        return _modes(value)
    return value


def _modes(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise InputError(f"accountFilter.modes must be a list of {', '.join(MODES)}.")
    return [_one_of("a mode of accountFilter", mode, MODES) for mode in value]


def _one_of(what: str, value: Any, allowed: Iterable[str]) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    raise InputError(f"{str(value)[:40]!r} cannot be {what}; use one of {', '.join(allowed)}.")


def _sendable(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} must be text.")
    if _UNSENDABLE.search(value):
        raise InputError(f"{what} holds a NUL or half a character, which cannot be sent; remove it.")
    return value
