"""Links from payloads, read by one strict parser, so that what is checked is what is connected to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from receiver.errors import MediaError

Origin = tuple[str, str, int]
"""(scheme, host, port), RFC 6454: lower case, without a trailing dot, the port always given."""

MAX_LENGTH = 8192
_PORTS = {"https": 443, "http": 80}
_HOST = re.compile(r"[a-z0-9._:-]{1,253}\Z")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\\]")
"""Control characters and the backslash: parsers disagree about what they mean (urlsplit drops tabs and newlines)."""
_PLAIN = "%/:@!$&'()*+,;=~-._?"
_SHOWN = 200


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
        """The link a redirect leads to (RFC 9110 §10.2.2)."""
        try:
            return read_link(urljoin(str(self), location))
        except ValueError as exc:
            raise _unusable("the redirect leads nowhere") from exc


def read_link(url: str) -> Link:
    """Take `url` apart; strict where parsers differ.

    Raises:
        MediaError: permanent; not http(s), no usable host or port, a user name inside, too long, control characters.
    """
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
    return Link(scheme=parts.scheme, host=host, port=port or _PORTS[parts.scheme], request=_request(parts))


def _request(parts: SplitResult) -> str:
    path = quote(parts.path, safe=_PLAIN.replace("?", "")) or "/"
    return f"{path}?{quote(parts.query, safe=_PLAIN)}" if parts.query else path


def _unusable(why: str) -> MediaError:
    return MediaError(f"The link to the picture cannot be used: {why}.", permanent=True)


def place(url: str) -> str:
    """Where `url` points, as host and path, fit for an error's text."""
    try:
        return read_link(url).place
    except MediaError:
        return "the given file"
