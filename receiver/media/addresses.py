"""Which IP addresses are public, and how a name becomes addresses.

A link in a payload is somebody else's word. Whatever a host is called (`127.1`, `0x7f000001` and `2130706433` are
loopback and no IP literals), what counts is the address it resolves to, and that address is the one connected to.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → every address of that host, as text."""

# The registries of special-purpose addresses (RFC 6890, IANA), spelt out: `ip_address.is_global` differs between
# Python releases, and lets pass multicast, 6to4, NAT64 and more.
_NOT_PUBLIC_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this network"; connecting to 0.0.0.0 reaches the own machine
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service is 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own services inside each virtual machine
        "169.254.0.0/16",  # link-local; 169.254.169.254 is the metadata service of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # IETF; Oracle's metadata service is 192.0.0.192
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Only 2000::/3 is handed out as global unicast (RFC 4291 §2.4). That leaves out ::1, mapped and compatible IPv4,
# NAT64 (64:ff9b::/96, 64:ff9b:1::/48), fc00::/7, fe80::/10, fec0::/10, ff00::/8 and what nobody has assigned.
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


def is_public(address: str) -> bool:
    """Whether `address` is an IP address of the public Internet. False for anything that is no IP address."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        return _is_public_6(ip)
    return not any(ip in network for network in _NOT_PUBLIC_4)


def _is_public_6(ip: IPv6Address) -> bool:
    if ip.scope_id is not None or ip not in _GLOBAL_UNICAST:
        return False
    if (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    return not any(ip in network for network in _NOT_PUBLIC_6)


async def resolve(host: str, port: int) -> list[str]:
    """Every address of `host` by the system's resolver, in its order, each once.

    Raises:
        OSError: the name cannot be resolved.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as exc:  # the idna codec, for labels longer than 63 characters
        raise OSError("the name is not valid") from exc
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
