"""Signed tokens of a submission: one in the callback URL's path, one in `state`.

Both hold only the submission id, each with its own salt, so that neither can replace the other. Without a journal,
`state` holds more behind the id (`Tag`).
A token proves that *we* issued it, not that the provider is calling: both travel in clear to the relay, and the
upstream echoes the hook in its bodies (PROTOCOL.md §7). Token strings are malleable, so use none as a key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import itsdangerous

from receiver.clock import Clock
from receiver.errors import InputError, SettingsError, TokenError

MIN_KEY_BYTES = 32
MAX_STATE = 128
"""Characters of a `state` without a tag."""
MAX_TAGGED_STATE = 255
"""Characters of a `state` with a tag. The upstream refuses more (PROTOCOL.md §2)."""
MAX_TAG = 200
"""Characters of a tag. Its signature adds 51."""
MAX_CALLBACK_URL = 512
FUTURE_TOLERANCE = 60.0
"""Seconds a token may come from the future. itsdangerous allows none, and a clock 5 s behind would refuse all."""

_REMEMBERED = 4096
"""Cache size for verified tokens of each kind. A task calls back about ten times."""
_ALPHABET = re.compile(r"[A-Za-z0-9._~-]{1,255}\Z")
_SUBMISSION_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}\Z")
_ESCAPE = re.compile(r"~([0-9a-f]{2})")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """Content of a `state` where no journal keeps it: the submission's id, its destinations and its labels.

        01J…                                every destination, no labels: the content of any other `state`
        01J….album.team                     two destinations
        01J…..order.17                      every destination, the label order = 17
        01J….album..order.17.client.Pyle    both

    Any reader of the task can read it. Characters other than letters, digits, `-` and `_` are written as `~` and two
    hex digits for each byte in UTF-8, so that it consists of characters that survive (PROTOCOL.md §7).
    """

    submission_id: str
    destinations: tuple[str, ...] | None = None
    """None for all destinations of the process that reads it."""
    labels: Mapping[str, str] = field(default_factory=dict)


def write_tag(tag: Tag) -> str:
    """Return the tag as text.

    Raises:
        InputError: it has more than `MAX_TAG` characters.
    """
    labels = [part for pair in tag.labels.items() for part in pair]
    parts = [tag.submission_id, *(tag.destinations or ()), *(["", *labels] if labels else ())]
    text = ".".join(
        "".join(char if char in _PLAIN else "".join(f"~{byte:02x}" for byte in char.encode()) for char in part)
        for part in parts
    )
    if len(text) > MAX_TAG:
        raise InputError(
            f"Without a journal the names of destinations and the labels travel in `state`, and have {MAX_TAG - 26} "
            f"characters there; these take {len(text) - 26} (one for each separator, three for each byte that is no "
            "letter, digit, - or _). Shorten them, or keep a journal in a bucket.",
            page="functions",
        )
    return text


def read_tag(text: str) -> Tag:
    """Return the tag in a text that was signed. Raise ValueError if it is none."""
    raw = (_ESCAPE.sub(lambda match: chr(int(match[1], 16)), part) for part in text.split("."))
    submission_id, *rest = (part.encode("latin-1").decode() for part in raw)
    if not _SUBMISSION_ID.match(submission_id):
        raise ValueError("it does not begin with a submission's id")
    end = rest.index("") if "" in rest else len(rest)
    names, pairs = rest[:end], rest[end + 1 :]
    if len(pairs) % 2:
        raise ValueError("a label has no value")
    labels = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return Tag(submission_id=submission_id, destinations=tuple(names) or None, labels=labels)


class _Signer(itsdangerous.TimestampSigner):
    def __init__(self, keys: Sequence[str], salt: str, clock: Clock) -> None:
        super().__init__(list(keys), salt=salt.encode(), digest_method=hashlib.sha256, key_derivation="hmac")
        # Derived once here, instead of with each token.
        self.secret_keys, self.key_derivation = [self.derive_key(key) for key in self.secret_keys], "none"
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock.now())

    def read(self, token: str) -> tuple[str, float]:
        """Return the signed text and its time in epoch seconds, at any age. Raise TokenError."""
        if not _ALPHABET.match(token):
            raise TokenError("malformed")
        try:
            value, signed_at = self.unsign(token, return_timestamp=True)
        except itsdangerous.BadData as exc:
            raise TokenError("signature") from exc
        return value.decode(), signed_at.timestamp()


class Tokens:
    """Mints and verifies both tokens. `keys` has the newest last: the last one signs, all verify.

    Raises:
        SettingsError: no key, or one shorter than 32 bytes.
    """

    def __init__(self, keys: Sequence[str], *, max_age: float, clock: Clock) -> None:
        if not keys:
            raise SettingsError("No signing key is set. Set RECEIVER_KEYS to at least one key of 32 bytes.")
        if any(len(key.encode()) < MIN_KEY_BYTES for key in keys):
            raise SettingsError(
                f"A signing key in RECEIVER_KEYS is shorter than {MIN_KEY_BYTES} bytes. "
                "Make one with: openssl rand -hex 32"
            )
        self._url = _Signer(keys, "receiver.url", clock)
        self._state = _Signer(keys, "receiver.state", clock)
        # A token that raises is not kept, so only a holder of a key can fill the cache.
        self._read_url = lru_cache(_REMEMBERED)(self._url.read)
        self._read_state = lru_cache(_REMEMBERED)(self._state.read)
        self._max_age = max_age
        self._clock = clock

    def url_token(self, submission_id: str) -> str:
        """Return the token for the callback URL's path."""
        return self._url.sign(submission_id).decode()

    def state_token(self, text: str) -> str:
        """Return the token for `state`: at most 128 characters for a submission id, 255 for a tag."""
        return self._state.sign(text).decode()

    def read_url_token(self, token: str) -> str:
        """Return the submission id in a URL token. Raise TokenError."""
        return self._fresh(*self._read_url(token))

    def read_state_token(self, token: str) -> str:
        """Return the submission id in a state token. Raise TokenError."""
        return self._fresh(*self._read_state(token)).partition(".")[0]

    def read_tag(self, token: str) -> Tag:
        """Return the whole content of a state token. Raise TokenError."""
        text = self._fresh(*self._read_state(token))
        try:
            return read_tag(text)
        except ValueError as exc:
            raise TokenError("malformed") from exc

    def _fresh(self, text: str, signed_at: float) -> str:
        age = self._clock.now() - signed_at
        if age > self._max_age:
            raise TokenError("expired")
        if age < -FUTURE_TOLERANCE:
            raise TokenError("future")
        return text


def trust(tokens: Tokens, url_id: str | None, state: str, *, utf8: bool = True) -> tuple[str, str | None]:
    """Return the submission id of a callback, and the cause to ask the provider first.

    `url_id` is the submission id in a good URL token, or None. The cause is `no_url_token`, `no_state`, `bad_state`,
    `other_state`, or None if both tokens agree. It is `encoding` if they agree and the body is not UTF-8.

    Raises:
        TokenError: there is no URL token, and `state` is not ours either.
    """
    fault = "bad_state" if state else "no_state"
    try:
        state_id = tokens.read_state_token(state)
    except TokenError as exc:
        if url_id is None:
            raise TokenError(fault) from exc
        return url_id, fault
    if url_id is None:
        return state_id, "no_url_token"
    if state_id != url_id:
        return url_id, "other_state"
    return url_id, None if utf8 else "encoding"
