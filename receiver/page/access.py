"""Access to the page: users with a role each, a signed cookie, and the checks of a request that changes something."""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.requests import Request

from receiver.clock import Clock

Role = Literal["viewer", "maker", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
"""A viewer reads, a maker also spends, an operator also replays and erases."""

COOKIE = "receiver_page"
COOKIE_SECONDS = 12 * 3600
FAILURES, FAILURE_SECONDS = 5, 60.0
"""Failed logins of one address, and the seconds in which they count."""
MAX_ADDRESSES = 10_000
"""Addresses whose failed logins are remembered."""
LOCAL = "local"
"""Name of the user whose key is in the printed URL."""


@dataclass(frozen=True, slots=True)
class User:
    """A person at the page. Each action is journalled with the name."""

    name: str
    role: Role

    def may(self, role: Role) -> bool:
        """Return True if this user has the role, or one that includes it."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Access:
    """The users of a page.

    Args:
        users: name → (role, secret).
        keys: signing keys of the cookie, newest last.
        clock: the time.
        header: a request header with the user's name, set by a proxy that authenticates. None: no such proxy.
    """

    def __init__(
        self,
        users: Mapping[str, tuple[Role, str]],
        *,
        keys: Sequence[str],
        clock: Clock,
        header: str | None = None,
    ) -> None:
        self._users = {name: User(name, role) for name, (role, _) in users.items()}
        self._digests = {name: _digest(secret) for name, (_, secret) in users.items()}
        self._cookies = URLSafeSerializer(
            list(keys), salt="receiver.page.login", signer_kwargs={"digest_method": hashlib.sha256}
        )
        self._clock = clock
        self._header = header
        self._failures: dict[str, deque[float]] = {}

    def user(self, request: Request) -> User | None:
        """Return the user of a request, by the proxy's header or the cookie."""
        if self._header is not None and (named := self._users.get(request.headers.get(self._header, ""))):
            return named
        try:
            name, digest, issued = self._cookies.loads(request.cookies.get(COOKIE, ""))
            age = self._clock.now() - float(issued)
        except (BadSignature, ValueError, TypeError):
            return None
        # A changed secret ends the cookies that were made with the old one.
        known = self._digests.get(name, b"").hex()[:16]
        return self._users.get(name) if known and digest == known and -60 <= age < COOKIE_SECONDS else None

    def log_in(self, secret: str, address: str) -> User | None:
        """Return the user with this secret, or None. A failure counts against the address."""
        digest = _digest(secret)
        # Compare with every secret, so that the time taken reveals nothing.
        found = [name for name, known in self._digests.items() if hmac.compare_digest(known, digest)]
        if found:
            self._failures.pop(address, None)
            return self._users[found[-1]]
        if len(self._failures) >= MAX_ADDRESSES:
            self._failures.pop(next(iter(self._failures)))
        self._failures.setdefault(address, deque(maxlen=FAILURES)).append(self._clock.monotonic())
        return None

    def wait(self, address: str) -> float:
        """Return the seconds until this address may try to log in again."""
        failures = self._failures.get(address, deque[float]())
        return failures[0] + FAILURE_SECONDS - self._clock.monotonic() if len(failures) == FAILURES else 0.0

    def cookie(self, user: User) -> str:
        """Return the value of a user's cookie."""
        value = self._cookies.dumps([user.name, self._digests[user.name].hex()[:16], int(self._clock.now())])
        return str(value)


def local_key(keys: Sequence[str]) -> str:
    """Return the key in the URL that `receiver serve` prints on loopback. It lasts as long as the signing keys."""
    return hmac.new(keys[-1].encode(), b"receiver.page.local", hashlib.sha256).hexdigest()[:32]


def is_ours(request: Request) -> bool:
    """Return True if a request that changes something comes from one of our own pages.

    Browsers send `Sec-Fetch-Site` (W3C Fetch Metadata) or, if they are older, `Origin` (RFC 6454). Without both, a
    foreign page could have sent the request, so it is refused.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin", "")
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host", "")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
