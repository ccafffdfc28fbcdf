"""Links from payloads and the addresses that they lead to.

One strict parser reads a link, so that what is checked is what is connected to. Names of hosts prove nothing (`127.1`,
`0x7f000001` and `2130706433` are loopback and no IP literals): the address counts to which a name resolves.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, urljoin, urlsplit

from receiver.errors import MediaError

Origin = tuple[str, str, int]
"""(scheme, host, port), RFC 6454: lower case, without a trailing dot, the port always given."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → every address of that host, as text."""

MAX_LENGTH = 8192
_PORTS = {"https": 443, "http": 80}
_HOST = re.compile(r"[a-z0-9._:-]{1,253}\Z")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\\]")
"""Control characters and the backslash: parsers disagree about their meaning (urlsplit drops tabs and newlines)."""
_PATH = "%/:@!$&'()*+,;=~-._"
_SHOWN = 200

# The registries of special-purpose addresses (RFC 6890, IANA), spelt out: `ip_address.is_global` differs between
# Python releases, and lets pass multicast, 6to4, NAT64 and more.
_NOT_PUBLIC_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this network"; connecting to 0.0.0.0 reaches the own machine
        *("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service is 100.100.100.200
        "168.63.129.16/32",  # Azure's own services inside each virtual machine
        "169.254.0.0/16",  # link-local; 169.254.169.254 is the metadata service of most clouds
        "192.0.0.0/24",  # IETF; Oracle's metadata service is 192.0.0.192
        "192.88.99.0/24",  # 6to4 relays
        *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
# Only 2000::/3 is handed out as global unicast (RFC 4291 §2.4). That leaves out ::1, mapped and compatible IPv4,
# NAT64 (64:ff9b::/96, 64:ff9b:1::/48), fc00::/7, fe80::/10, fec0::/10, ff00::/8 and unassigned addresses.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # IETF: Teredo, ORCHID, benchmarking …
        "2001:db8::/32",
        "2002::/16",  # 6to4: any IPv4 address inside
        "2620:4f:8000::/48",
        "3ffe::/16",  # the former 6bone
        "3fff::/20",
    )
)
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
"""Interface ids of RFC 5214: the last 32 bits are an IPv4 address to tunnel to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link taken apart. `request` is path and query, percent-encoded ASCII."""

    scheme: str
    host: str
    port: int
    request: str

    @property
    def origin(self) -> Origin:
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host and port as in a Host header (RFC 9110 §7.2): no default port, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def place(self) -> str:
        """Host and path for people. Never the query: it may hold a signature that opens the file."""
        path = self.request.partition("?")[0]
        return self.authority + (path if len(path) <= _SHOWN else path[:_SHOWN] + "…")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.request}"

    def follow(self, location: str) -> Link:
        """Return the link that a redirect leads to (RFC 9110 §10.2.2)."""
        try:
            return read_link(urljoin(str(self), location))
        except ValueError as exc:
            raise _unusable("the redirect leads nowhere") from exc


def read_link(url: str) -> Link:
    """Take `url` apart. Strict where parsers differ: everything doubtful raises a permanent MediaError."""
    url = url.strip(" ")
    if len(url) > MAX_LENGTH or _UNUSABLE.search(url):
        raise _unusable("too long, or with characters that no link has")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise _unusable("its host or port cannot be read") from exc
    if parts.scheme not in _PORTS:
        raise _unusable("it is not https")
    if "@" in parts.netloc:
        raise _unusable("it holds a user name")
    host = (parts.hostname or "").removesuffix(".")
    if not _HOST.match(host) or port == 0:
        raise _unusable("it names no usable host")
    path, query = quote(parts.path, safe=_PATH) or "/", quote(parts.query, safe=f"{_PATH}?")
    request = f"{path}?{query}" if query else path
    return Link(scheme=parts.scheme, host=host, port=port or _PORTS[parts.scheme], request=request)


def _unusable(reason: str) -> MediaError:
    return MediaError(f"The link to the picture cannot be used: {reason}.", permanent=True)


def place_of(url: str) -> str:
    """Return host and path of `url`, fit for the text of an error."""
    try:
        return read_link(url).place
    except MediaError:
        return "the given file"


def is_public(address: str) -> bool:
    """Return True for an IP address of the public Internet, False for any other text."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if not isinstance(ip, IPv6Address):
        return not any(ip in network for network in _NOT_PUBLIC_4)
    if ip.scope_id is not None or ip not in _GLOBAL_UNICAST or (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    return not any(ip in network for network in _NOT_PUBLIC_6)


async def resolve(host: str, port: int) -> list[str]:
    """Return every address of `host` by the system's resolver, in its order, each once, or raise OSError."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:  # the idna codec, for labels longer than 63 characters
        raise OSError("the name is not valid") from exc
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
