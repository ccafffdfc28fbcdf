"""Who may call: bearer tokens (RFC 6750), each with the name of its caller."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from starlette.datastructures import Headers

from receiver.web.problems import Problem


class Access:
    """Knows callers by their secrets.

    Args:
        secrets: name → secret.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._digests = {name: _digest(secret) for name, secret in secrets.items()}

    def __repr__(self) -> str:
        return f"Access(callers={sorted(self._digests)})"

    def caller(self, headers: Headers) -> str:
        """The name of whoever calls.

        Raises:
            Problem: 401; the answer is the same for every wrong token.
        """
        given = headers.getlist("authorization")
        scheme, _, secret = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Problem(401, "Send `Authorization: Bearer` with a token.", {"WWW-Authenticate": "Bearer"})
        name = self._find(_digest(secret.strip()))
        if name is None:
            detail = "There is no such token; RECEIVER_API_TOKENS names those there are."
            raise Problem(401, detail, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return name

    def _find(self, given: bytes) -> str | None:
        """Compared with every digest, so that the time taken tells nothing."""
        found = None
        for name, digest in self._digests.items():
            if hmac.compare_digest(digest, given):
                found = name
        return found


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
