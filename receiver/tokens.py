"""The two signed tokens a submission carries: one in the callback URL's path, one in `state`.

Both hold only the submission id, each under its own salt, so that neither can stand in for the other. Where there is
no journal, `state` holds more behind the id (see `receiver.tags`).
A token proves that *we* issued it, not that the provider is calling: both travel in clear to the relay, and
the upstream echoes the hook in its bodies (PROTOCOL.md §7). Token strings are malleable; key nothing on them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

import itsdangerous

from receiver.clock import Clock
from receiver.errors import SettingsError, TokenError
from receiver.tags import Tag, read_tag

MIN_KEY_BYTES = 32
MAX_STATE = 128
"""Characters; the upstream refuses a `state` above 255 (PROTOCOL.md §2)."""
MAX_TAGGED_STATE = 255
"""Characters of one that carries a tag."""
MAX_CALLBACK_URL = 512
FUTURE_TOLERANCE = 60.0
"""Seconds a token may come from the future: itsdangerous allows none, and a clock 5 s behind would refuse all."""

_REMEMBERED = 4096
"""Verified tokens kept of each kind: a task calls back about ten times, and looking costs a thirtieth of verifying."""
_ALPHABET = re.compile(r"[A-Za-z0-9._~-]{1,255}\Z")


class _Signer(itsdangerous.TimestampSigner):
    def __init__(self, keys: Sequence[str], salt: str, clock: Clock) -> None:
        super().__init__(list(keys), salt=salt.encode(), digest_method=hashlib.sha256, key_derivation="hmac")
        self._clock = clock

    def get_timestamp(self) -> int:
        return int(self._clock.now())

    def read(self, token: str) -> tuple[str, float]:
        """What was signed, and when in epoch seconds, whatever its age. Raises TokenError."""
        if not _ALPHABET.match(token):
            raise TokenError("malformed")
        try:
            value, signed_at = self.unsign(token, return_timestamp=True)
        except itsdangerous.BadData as exc:
            raise TokenError("signature") from exc
        return value.decode(), signed_at.timestamp()

    def read_id(self, token: str) -> tuple[str, float]:
        """As `read`, without what stands behind the submission id."""
        text, signed_at = self.read(token)
        return text.partition(".")[0], signed_at


_Read = Callable[[str], tuple[str, float]]


class Tokens:
    """Mints and verifies both tokens. `keys` is newest last: the last signs, all verify.

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
        # Good ones only: what raises is not remembered, and nobody without a key can fill this.
        self._verified_url: _Read = lru_cache(_REMEMBERED)(self._url.read)
        self._verified_state: _Read = lru_cache(_REMEMBERED)(self._state.read_id)
        self._max_age = max_age
        self._clock = clock

    def url_token(self, submission_id: str) -> str:
        """The token for the callback URL's path."""
        return self._url.sign(submission_id).decode()

    def state_token(self, text: str) -> str:
        """The token sent as `state`: of a submission id at most 128 characters, of a tag at most 255."""
        return self._state.sign(text).decode()

    def read_url_token(self, token: str) -> str:
        """The submission id in a URL token. Raises TokenError."""
        return self._fresh(*self._verified_url(token))

    def read_state_token(self, token: str) -> str:
        """The submission id in a state token. Raises TokenError."""
        return self._fresh(*self._verified_state(token))

    def read_tag(self, token: str) -> Tag:
        """All that a state token carries. Raises TokenError."""
        text, signed_at = self._state.read(token)
        try:
            return read_tag(self._fresh(text, signed_at))
        except ValueError as exc:
            raise TokenError("malformed") from exc

    def _fresh(self, text: str, signed_at: float) -> str:
        age = self._clock.now() - signed_at
        if age > self._max_age:
            raise TokenError("expired")
        if age < -FUTURE_TOLERANCE:
            raise TokenError("future")
        return text
