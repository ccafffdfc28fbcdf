"""The only outbound fetcher for links from payloads.

Such a link may lead anywhere (RELIABILITY: request forgery, endless bodies, compressed bombs). So the scheme is https,
the host is on a list, and every address of the host is public. The connection goes to one of the checked addresses, and
each redirect is checked again. There is no proxy, there are no credentials, and time and bytes are limited. An exact
origin that the operator names is trusted: http and private addresses are allowed there.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Any, cast

import httpcore

from receiver.errors import MediaError, SettingsError
from receiver.events import Media
from receiver.media.files import too_large
from receiver.media.links import Link, Origin, Resolve, is_public, read_link, resolve
from receiver.media.store import Store

SETTING = "RECEIVER_MEDIA_HOSTS"
USER_AGENT = "imagine-receiver"
MAX_REDIRECTS = 3
CONNECT_SECONDS = 10.0
"""Limit for one address, so that a broken IPv6 route leaves time for IPv4."""
MAX_CONNECTIONS = 32
KEEP_ALIVE_SECONDS = 15.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({403, 404, 410})


class Fetcher:
    """Downloads pictures and videos from links in payloads into a media store.

    Args:
        hosts: exact host names that may be fetched from, over https, at public addresses.
        origins: exact origins such as `http://127.0.0.1:8801` that the operator trusts. There, http and any address
            are allowed. A SettingsError names one that is not an origin.
        timeout: seconds for one file in all, but for what the store does afterwards.
        resolve: (host, port) → addresses (the seam for tests).
    """

    def __init__(
        self,
        *,
        hosts: Sequence[str],
        origins: Sequence[str],
        max_bytes: int,
        timeout: float,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = frozenset(host.strip().lower().removesuffix(".") for host in hosts)
        self._origins = frozenset(map(_read_origin, origins))
        self._max_bytes = max_bytes
        self._timeout = timeout
        # httpcore closes a connection whose TLS handshake fails, also by this limit, but not one that is cancelled.
        self._limits = {"timeout": {"connect": min(CONNECT_SECONDS, timeout)}}
        tls = tls or httpcore.default_ssl_context()  # made once: it takes 20 ms
        # Two pools, so that a connection to a trusted origin never serves a checked host.
        self._checked, self._trusted = (
            httpcore.AsyncConnectionPool(
                ssl_context=tls,
                max_connections=MAX_CONNECTIONS,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
                network_backend=_Network(resolve, public_only=public_only),
            )
            for public_only in (True, False)
        )

    async def fetch_all(self, urls: Sequence[str], store: Store) -> tuple[Media, ...]:
        """Download all files of one result, in order. Raise MediaError if one fails, or there is none."""
        if not urls:
            raise MediaError("The result has no link to a file.", permanent=True)
        return tuple([await self.fetch(url, store, index=index) for index, url in enumerate(urls)])

    async def fetch(self, url: str, store: Store, *, index: int = 0) -> Media:
        """Download `url` into `store`. A MediaError is `permanent` if the link is forbidden or the file too large."""
        link = self._allowed(read_link(url))
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await self._follow(link, url, store, index, limit)
        except (TimeoutError, httpcore.ConnectTimeout) as exc:
            seconds = self._limits["timeout"]["connect"] if isinstance(exc, httpcore.ConnectTimeout) else self._timeout
            raise MediaError(f"{link.place} did not answer in full within {seconds:g} s.") from exc
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as exc:
            raise MediaError(f"{link.place} cannot be reached ({_cause(exc)}).") from exc
        except httpcore.ProtocolError as exc:
            raise MediaError(f"{link.place} gave a broken or cut-off answer.") from exc

    async def aclose(self) -> None:
        """Close every connection."""
        await self._checked.aclose()
        await self._trusted.aclose()

    def _allowed(self, link: Link) -> Link:
        if link.origin in self._origins:
            return link
        if link.scheme != "https":
            remedy = f"it is not https. If it is yours, add {link.scheme}://{link.authority} to {SETTING}."
        elif link.host not in self._hosts:
            remedy = f"{link.host} is not on the list of hosts. If you trust it, add {link.host} to {SETTING}."
        else:
            return link
        raise MediaError(f"{link.place} is not fetched: {remedy}", permanent=True)

    async def _follow(self, link: Link, url: str, store: Store, index: int, limit: asyncio.Timeout) -> Media:
        for _ in range(MAX_REDIRECTS + 1):
            pool = self._trusted if link.origin in self._origins else self._checked
            request = httpcore.URL(scheme=link.scheme, host=link.host, port=link.port, target=link.request)
            headers = (
                ("Host", link.authority),
                ("User-Agent", USER_AGENT),
                ("Accept", "image/*, video/*;q=0.9, */*;q=0.1"),
                # 317 bytes of brotli can become 200 MB: ask for plain bytes and accept nothing else.
                ("Accept-Encoding", "identity"),
            )
            async with pool.stream("GET", request, headers=headers, extensions=self._limits) as response:
                if response.status not in _REDIRECTS:
                    self._check(link, response)

                    async def whole(body: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
                        async for chunk in body:
                            yield chunk
                        limit.reschedule(None)  # the sender is not to blame for a slow store

                    async with aclosing(whole(response.aiter_stream())) as body:
                        return await store.put(body, url=url, index=index, max_bytes=self._max_bytes)
                link = self._allowed(link.follow(_header(response, b"location")))
        raise MediaError(f"{link.place} is not fetched: more than {MAX_REDIRECTS} redirects led there.")

    def _check(self, link: Link, response: httpcore.Response) -> None:
        if response.status in _GONE:
            raise MediaError(
                f"{link.place} answered {response.status}. Provider links expire within a day; this one may have."
            )
        if response.status != 200:
            raise MediaError(f"{link.place} answered {response.status} instead of the picture.")
        if _header(response, b"content-encoding").strip().lower() not in ("", "identity"):
            raise MediaError(f"{link.place} sent a compressed body, which we did not ask for and do not unpack.")
        length = _header(response, b"content-length")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:
            raise too_large(link.place, self._max_bytes)


class _Network(httpcore.AsyncNetworkBackend):
    """Connects to an address that it has checked. It resolves a name once, so that a second answer cannot differ.

    TLS is unaffected: httpcore verifies the certificate against the host name of the link.
    """

    def __init__(self, resolve: Resolve, *, public_only: bool) -> None:
        self._resolve = resolve
        self._public_only = public_only
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolve(host, port)
        except OSError as exc:
            raise MediaError(f"The host {host} cannot be found ({exc.strerror or exc}).") from exc
        if not addresses:
            raise MediaError(f"The host {host} has no address.")
        # All of them, not only the first: a name with one public and one private address is a trap.
        if self._public_only and not all(map(is_public, addresses)):
            raise MediaError(
                f"{host} is not fetched from: it leads to an address that is not public. "
                f"If it is yours, add its exact origin (scheme, host and port) to {SETTING}.",
                permanent=True,
            )
        for address in addresses[:-1]:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return cast(
                    httpcore.AsyncNetworkStream,
                    _Stream(await self._network.connect_tcp(address, port, CONNECT_SECONDS)),
                )
        return cast(
            httpcore.AsyncNetworkStream, _Stream(await self._network.connect_tcp(addresses[-1], port, CONNECT_SECONDS))
        )


class _Stream:
    """A TCP stream that also closes when its TLS handshake is cancelled. httpcore 1.0 closes it on errors only."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def start_tls(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(*args, **options)
        except BaseException:
            await self._stream.aclose()
            raise


def _read_origin(text: str) -> Origin:
    try:
        link = read_link(text)
    except MediaError as exc:
        raise SettingsError(f"{SETTING}: {text!r} is no origin such as http://127.0.0.1:8801.") from exc
    if link.request != "/":
        raise SettingsError(f"{SETTING}: {text!r} is more than an origin; leave out everything after the port.")
    return link.origin


def _header(response: httpcore.Response, name: bytes) -> str:
    """Return a header's values, joined by RFC 9110 §5.3, or "" without one. Names keep the sender's spelling."""
    return b", ".join(value for key, value in response.headers if key.lower() == name).decode("utf-8", "replace")


def _cause(exc: BaseException) -> str:
    """Return the operating system's own words, which anyio and httpcore wrap (the latter `from None`)."""
    while (inner := exc.__cause__ or exc.__context__) is not None:
        exc = inner
    if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError) and exc.errno:
        return os.strerror(exc.errno)  # asyncio puts "Connect call failed" and the address into the text
    return str(exc) or type(exc).__name__
