"""The only outbound fetcher for links from payloads.

Such a link may lead anywhere (RELIABILITY: request forgery, endless bodies, compressed bombs). So the scheme is https,
the host is on a list, and every address of the host is public. The connection goes to one of the checked addresses, and
each redirect is checked again. There are no credentials, and time and bytes are limited. An exact origin that the
operator names is trusted: http and private addresses are allowed there. A proxy is used only if the operator says so.
Then the checks are made here all the same, and the proxy is asked for a checked address, not for a name.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Any, cast
from urllib.parse import SplitResult, unquote, urlsplit

import httpcore

from receiver.bodies import certificates, connection_reason
from receiver.errors import MediaError, SettingsError
from receiver.events import Media
from receiver.media.files import too_large
from receiver.media.links import Link, Origin, Resolve, is_public, read_link, resolve
from receiver.media.store import Store

SETTING = "RECEIVER_MEDIA_HOSTS"
_ADDS = "; it adds to the built-in hosts."
"""End of an advice."""
USER_AGENT = "imagine-receiver"
MAX_REDIRECTS = 3
CONNECT_SECONDS = 10.0
"""Limit for one address, so that a broken IPv6 route leaves time for IPv4."""
MAX_CONNECTIONS = 64
KEEP_ALIVE_SECONDS = 15.0
_MAX_HEAD = 65536
"""Bytes of a proxy's answer to CONNECT."""
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
        proxy_for: URL → that of the HTTP proxy on the way there, or None.
    """

    def __init__(
        self,
        *,
        hosts: Sequence[str],
        origins: Sequence[str],
        max_bytes: int,
        timeout: float,
        resolve: Resolve = resolve,
        proxy_for: Callable[[str], str | None] = lambda url: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = frozenset(host.strip().lower().removesuffix(".") for host in hosts)
        self._origins = frozenset(map(_read_origin, origins))
        self.max_bytes = max_bytes
        self.timeout = timeout
        # httpcore closes a connection whose TLS handshake fails, also by this limit, but not one that is cancelled.
        self._limits = {"timeout": {"connect": min(CONNECT_SECONDS, timeout)}}
        self._tls, self._resolve, self._proxy_for = tls, resolve, proxy_for
        self._pools: dict[tuple[bool, str | None], httpcore.AsyncConnectionPool] = {}

    async def fetch(self, url: str, store: Store, *, max_bytes: int | None = None) -> Media:
        """Download `url` into `store`. A MediaError is `permanent` if the link is forbidden or the file too large."""
        link = self._allowed(read_link(url))
        max_bytes = self.max_bytes if max_bytes is None else max_bytes
        try:
            async with asyncio.timeout(self.timeout) as limit:
                return await self._follow(link, url, store, max_bytes, limit)
        except (TimeoutError, httpcore.ConnectTimeout) as exc:
            seconds = self._limits["timeout"]["connect"] if isinstance(exc, httpcore.ConnectTimeout) else self.timeout
            raise MediaError(f"{link.place} did not answer in full within {seconds:g} s.") from exc
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as exc:
            reason = connection_reason(exc) or str(exc) or type(exc).__name__
            raise MediaError(f"{link.place} cannot be reached ({reason}).") from exc
        except httpcore.ProtocolError as exc:
            raise MediaError(f"{link.place} gave a broken or cut-off answer.") from exc

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()

    def _pool(self, link: Link) -> httpcore.AsyncConnectionPool:
        """Return a pool of its own for trusted origins, so that their connections never serve a checked host."""
        public_only = link.origin not in self._origins
        proxy = self._proxy_for(f"{link.scheme}://{link.authority}")
        if (public_only, proxy) not in self._pools:
            tls = self._tls or certificates()
            self._pools[public_only, proxy] = httpcore.AsyncConnectionPool(
                ssl_context=tls,
                max_connections=MAX_CONNECTIONS,
                keepalive_expiry=KEEP_ALIVE_SECONDS,
                network_backend=_Network(self._resolve, public_only=public_only, proxy=proxy, tls=tls),
            )
        return self._pools[public_only, proxy]

    def _allowed(self, link: Link) -> Link:
        if link.origin in self._origins:
            return link
        if link.scheme != "https":
            remedy = f"it is not https. If it is yours, set {SETTING}={link.scheme}://{link.authority}{_ADDS}"
        elif link.host not in self._hosts:
            remedy = f"{link.host} is not on the list of hosts. If you trust it, set {SETTING}={link.host}{_ADDS}"
        else:
            return link
        raise MediaError(f"{link.place} is not fetched: {remedy}", permanent=True)

    async def _follow(self, link: Link, url: str, store: Store, max_bytes: int, limit: asyncio.Timeout) -> Media:
        for _ in range(MAX_REDIRECTS + 1):
            pool = self._pool(link)
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
                    self._check(link, response, max_bytes)

                    async def whole(body: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
                        async for chunk in body:
                            yield chunk
                        limit.reschedule(None)  # the sender is not to blame for a slow store

                    async with aclosing(whole(response.aiter_stream())) as body:
                        return await store.put(body, url=url, index=0, max_bytes=max_bytes)
                link = self._allowed(link.follow(_header(response, b"location")))
        raise MediaError(f"{link.place} is not fetched: more than {MAX_REDIRECTS} redirects led there.")

    def _check(self, link: Link, response: httpcore.Response, max_bytes: int) -> None:
        if response.status in _GONE:
            raise MediaError(
                f"{link.place} answered {response.status}. Provider links expire within a day; this one may have."
            )
        if response.status != 200:
            raise MediaError(f"{link.place} answered {response.status} instead of the picture.")
        if _header(response, b"content-encoding").strip().lower() not in ("", "identity"):
            raise MediaError(f"{link.place} sent a compressed body, which we did not ask for and do not unpack.")
        length = _header(response, b"content-length")
        if length.isdecimal() and int(length[:20]) > max_bytes:
            raise too_large(link.place, max_bytes)


class _Network(httpcore.AsyncNetworkBackend):
    """Connects to an address that it has checked. It resolves a name once, so that a second answer cannot differ.

    TLS is unaffected: httpcore verifies the certificate against the host name of the link.
    """

    def __init__(self, resolve: Resolve, *, public_only: bool, proxy: str | None, tls: ssl.SSLContext) -> None:
        self._resolve = resolve
        self._public_only = public_only
        self._proxy = None if proxy is None else urlsplit(proxy)
        self._tls = tls
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if self._proxy is not None and not self._public_only:
            return await self._tunnel(self._proxy, host, port)  # the proxy may know names that this machine does not
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
                f"If it is yours, set {SETTING} to its exact origin (scheme, host and port){_ADDS}",
                permanent=True,
            )
        for address in addresses[:-1]:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._connect(address, port)
        return await self._connect(addresses[-1], port)

    async def _connect(self, address: str, port: int) -> httpcore.AsyncNetworkStream:
        if self._proxy is not None:
            return await self._tunnel(self._proxy, address, port)
        stream = await self._network.connect_tcp(address, port, CONNECT_SECONDS)
        return cast(httpcore.AsyncNetworkStream, _Stream(stream))

    async def _tunnel(self, proxy: SplitResult, host: str, port: int) -> httpcore.AsyncNetworkStream:
        """Return a connection through the proxy (RFC 9110 §9.3.6). httpcore's own would ask for the link's name."""
        at = proxy.port or (443 if proxy.scheme == "https" else 80)
        stream = await self._network.connect_tcp(proxy.hostname or "", at, CONNECT_SECONDS)
        try:
            if proxy.scheme == "https":
                stream = await stream.start_tls(self._tls, proxy.hostname, CONNECT_SECONDS)
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
            if proxy.username is not None:
                pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
                head += f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}\r\n"
            await stream.write(f"{head}\r\n".encode(), CONNECT_SECONDS)
            answer = b""
            while b"\r\n\r\n" not in answer:
                chunk = await stream.read(4096, CONNECT_SECONDS)
                answer += chunk
                if not chunk or len(answer) > _MAX_HEAD:
                    raise httpcore.ConnectError(f"the proxy {proxy.hostname} gave a broken answer")
            status = answer.split(b" ", 2)[1][:3].decode("latin-1")
            if not status.startswith("2"):
                raise httpcore.ConnectError(f"the proxy {proxy.hostname} answered {status}")
        except BaseException:
            await stream.aclose()
            raise
        return cast(httpcore.AsyncNetworkStream, _Stream(stream))


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
