"""What clients send: bodies, keys, speed prefixes (PROTOCOL.md §1, §2, §12)."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

_SPEEDS = ("", "/mj-fast", "/mj-turbo", "/mj-relax")

PREFIXES = tuple(dict.fromkeys(f"{a}{speed}/mj{b}" for a in ("", "/mj") for speed in _SPEEDS for b in ("", "/mj")))
"""Every way to the same paths: a speed prefix or none, and base addresses that already end in /mj."""

_SPEED_PREFIX = re.compile(r"/mj-(fast|turbo|relax)/")


class AccountFilter(msgspec.Struct, rename="camel"):
    """Which accounts may do the work; only the speed matters here."""

    modes: list[str] | None = None


class Imagine(msgspec.Struct, rename="camel"):
    """The body of submit/imagine; unknown keys are ignored, anything may be null."""

    prompt: str | None = None
    bot_type: str | None = None
    base64_array: list[str] | None = None
    account_filter: AccountFilter | None = None
    state: str | None = None
    notify_hook: str | None = None

    @property
    def modes(self) -> tuple[str, ...]:
        """accountFilter.modes, empty when not given."""
        return tuple(self.account_filter.modes or ()) if self.account_filter else ()


def json_object(content: bytes) -> dict[str, Any] | None:
    """The body as a JSON object, or None when it is anything else."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return body if isinstance(body, dict) else None


def imagine(body: Mapping[str, Any], *, coerces: bool) -> Imagine | None:
    """The body read strictly, None when a type is wrong; ``coerces`` reads numbers as text, like Java."""
    fields = {key: str(value) if coerces and _is_number(value) else value for key, value in body.items()}
    try:
        return msgspec.convert(fields, Imagine)
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
