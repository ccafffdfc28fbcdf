"""Callers with a bearer token (RFC 6750): of the API, of `/metrics` and of `/tick`."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from starlette.datastructures import Headers

from receiver.web.problems import Problem


class Callers:
    """The callers of an address.

    Args:
        tokens: name of a caller → its token.
        setting: the setting that has the tokens, for sentences.
    """

    def __init__(self, tokens: Mapping[str, str], setting: str) -> None:
        self._digests = {name: _digest(token) for name, token in tokens.items()}
        self._setting = setting

    def named(self, headers: Headers) -> str:
        """Return the name of the caller, or raise Problem (401), with the same answer for every wrong token."""
        given = headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token.strip():
            detail = f"Send `Authorization: Bearer` with a token. Valid ones are set in {self._setting}."
            raise Problem(401, detail, {"WWW-Authenticate": "Bearer"})
        digest = _digest(token.strip())
        # Compare with every token, so that the time taken reveals nothing.
        matches = [name for name, known in self._digests.items() if hmac.compare_digest(known, digest)]
        if not matches:
            detail = f"This token is not valid. Valid tokens are set in {self._setting}."
            raise Problem(401, detail, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return matches[-1]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
