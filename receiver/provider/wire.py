"""One HTTP exchange with the provider: address, key, pool, total deadline, size cap, no redirects, no proxies."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import NamedTuple

import httpx

from receiver.errors import SettingsError

MAX_ANSWER = 4 * 1024 * 1024
"""Bytes read of one answer; a list of 50 tasks with all the upstream's fields is about 300 KB."""

_LONGEST_STAGE = 10.0

# Servers commonly close idle connections after 5 s. A submit written just then gets no answer and stays ambiguous
# for ever. Connections are therefore reused only well before that.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)


class UnreadError(Exception):
    """The answer was not read to its end. The text holds the reason. It never leaves this package."""


class Reply(NamedTuple):
    """A complete answer."""

    status: int
    headers: httpx.Headers
    body: bytes


class Wire:
    """A pooled client for one address with one key.

    Attributes:
        base: the address without trailing slash and `/mj`.

    Raises:
        SettingsError: the address or the key cannot be used.
    """

    def __init__(self, base_url: str, key: str, transport: httpx.AsyncBaseTransport | None) -> None:
        self.base = _checked_base(base_url)
        self._key = key.strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise SettingsError("COMETAPI_KEY holds characters that no header can carry; copy it again.")
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # a few hundred compressed bytes can become gigabytes
            "User-Agent": f"imagine-receiver/{version('imagine-receiver')}",
            **({"Authorization": f"Bearer {self._key}"} if self._key else {}),
        }
        self._client = httpx.AsyncClient(
            transport=transport, trust_env=False, follow_redirects=False, limits=_LIMITS, headers=headers
        )

    async def exchange(self, method: str, path: str, content: bytes | None, limit: float) -> Reply:
        """Send one request under a total deadline of `limit` seconds. httpx counts its time-outs per operation.

        Waiting for the pool, TCP and TLS get a quarter each. A connection that fails then shows as that, and not as
        the deadline.

        Raises:
            TimeoutError: the deadline passed.
            UnreadError: the answer is too long, or compressed.
            httpx.HTTPError: the network failed.
        """
        stage = min(_LONGEST_STAGE, limit / 4)
        headers = {"Content-Type": "application/json"} if content is not None else None
        timeout = httpx.Timeout(limit, connect=stage, pool=stage)
        url = self.base + path
        async with (
            asyncio.timeout(limit),
            self._client.stream(method, url, content=content, headers=headers, timeout=timeout) as response,
        ):
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise UnreadError("it is compressed, which was not asked for")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise UnreadError(f"it is longer than {MAX_ANSWER} bytes")
            return Reply(response.status_code, response.headers, bytes(body))

    def mask(self, text: str) -> str:
        """Return `text` without the key, which some relays repeat.

        Keys shorter than 8 characters are not masked. They are no real ones, and could be part of any word.
        """
        return text.replace(self._key, "***") if len(self._key) >= 8 else text

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


def _checked_base(base_url: str) -> str:
    try:
        url = httpx.URL(base_url.strip())
    except httpx.InvalidURL:
        url = httpx.URL("")
    usable = url.scheme in ("http", "https") and url.host and "%" not in url.host and (url.port or 1) < 65536
    if not usable or url.userinfo or url.query or url.fragment:
        raise SettingsError(
            "RECEIVER_PROVIDER_URL is no usable address; write it like https://api.cometapi.com, without user or query."
        )
    return str(url).rstrip("/").removesuffix("/mj").rstrip("/")
