"""Answers of a destination by HTTP: reading under a cap, and telling them from those of a proxy in front."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from receiver.bodies import Body, certificates, connection_reason

MAX_ANSWER = 4 * 2**20
"""Bytes of a chat's answer that are read. Slack's longest page of channels has about one million."""
Service = Literal["discord", "slack", "slack webhook", "any"]
_KEYS: Mapping[Service, frozenset[str]] = {"discord": frozenset({"code", "message"}), "slack": frozenset({"ok"})}
"""Keys of each refusal by a service."""
_WORD = re.compile(rb"[a-z][a-z0-9_]{1,60}\Z")
"""Body of a refusal by Slack's incoming webhooks, such as `no_service`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to one call, with as much of its body as the cap allows."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """True for any 2xx."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace").strip()

    @property
    def object(self) -> dict[str, Any] | None:
        """The JSON object in the body, or None."""
        return json_object(self.body)


def json_object(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a body, or None."""
    try:
        found = json.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def by_proxy(service: Service, body: bytes) -> bool:
    """Return True if a refusal came from a proxy, gateway or login page in front of the service.

    It is no word about the destination, so it is never final. A service speaks in its own form only. `any` stands for a
    server whose form is unknown: there only a page of HTML is by a proxy.
    """
    text = body.removeprefix(b"\xef\xbb\xbf").strip()
    if text.startswith(b"<"):
        return True
    if service == "slack webhook":
        return not _WORD.match(text)
    if service == "any":
        return False
    found = json_object(text)
    return found is None or not _KEYS[service] <= found.keys()


_ABOUT_PLACE = frozenset({401, 402, 403, 407, 408, 421, 423, 425, 429})
"""Statuses 4xx that name access, availability or a rate (RFC 9110 §15.5, RFC 6585)."""


def about_event(status: int) -> bool:
    """Return True if a status refuses one event, and says nothing about the place: any other 4xx."""
    return 400 <= status < 500 and status not in _ABOUT_PLACE


async def read(response: httpx.Response, limit: int = MAX_ANSWER) -> bytes:
    """Return the body of a streamed answer, unpacked, at most `limit` bytes. What cannot be unpacked is empty."""
    body = Body(response.headers.get("content-encoding", ""), limit)
    await read_into(body, response.aiter_raw())
    return bytes(body.data) if body.readable else b""


async def read_into(body: Body, chunks: AsyncIterable[bytes]) -> None:
    """Read an answer until its end or the cap. A caller that stops it keeps what was read."""
    async for chunk in chunks:
        if not body.add(chunk):
            return


def chat_client() -> httpx.AsyncClient:
    """Return a client for the API of a chat."""
    headers = {"User-Agent": "imagine-receiver", "Accept-Encoding": "identity"}
    return httpx.AsyncClient(verify=certificates(), timeout=httpx.Timeout(30.0), headers=headers)


async def call(client: httpx.AsyncClient, chat: str, verb: str, url: str, **request: Any) -> Answer:
    """Return a chat's answer. A ConnectionError leaves out the URL, because a webhook's URL is its secret."""
    try:
        async with client.stream(verb, url, **request) as response:
            return Answer(response.status_code, response.headers, await read(response))
    except httpx.HTTPError as exc:
        raise ConnectionError(f"{chat} could not be reached: {connection_reason(exc) or type(exc).__name__}.") from None
