"""The webhook handler: each event as a CloudEvent by POST, signed per Standard Webhooks.

| the answer | then |
|---|---|
| 2xx | succeeded; what else it says is not read |
| 410 | the destination is paused, and says so: whoever answers that wants no more |
| 429 or 503 with `Retry-After` | the destination waits as asked; no attempt is used up |
| everything else, redirects included | failed: tried again by schedule |
| none: refused, cut off, not in time, TLS that cannot be trusted | failed: tried again by schedule |
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn
from urllib.parse import urldefrag, urlsplit

import httpx
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from receiver.deliveries import Receipt
from receiver.disk import in_thread
from receiver.errors import SettingsError
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions, RetryLater, StoredMedia
from receiver.handlers.cloudevents import SOURCE, cloud_event, encode
from receiver.handlers.signing import check_secret, signed_headers
from receiver.telemetry import learn, redact

GONE_SECONDS = 36_000.0
"""How long a place that is gone is left alone, unless a person ends the pause."""
PENDING_SECONDS = 15.0
"""How long to wait for a picture that is still being downloaded."""
CONNECT_SECONDS = 10.0
MAX_ANSWER = 64 * 1024
"""Bytes of an answer that are read."""
REST_SECONDS = 0.5
"""How long the rest of an answer may take: the connection is kept if it ends, and given up if not."""
SHOWN = 200
"""Characters of an answer that are shown."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(r"[\x20-\x7e\t]*\Z")
_OURS = re.compile(r"webhook-.*|content-.*|host|connection|transfer-encoding", re.IGNORECASE)


class WebhookFailed(Exception):
    """The event was not taken; the text says what the place answered. It never holds the URL's path."""


def _words(value: object) -> object:
    return value.split() if isinstance(value, str) else value


def _check_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme.lower() not in ("https", "http") or not parts.hostname:
        raise ValueError("it is no http or https URL")
    if parts.fragment:
        raise ValueError("it holds a #; percent-encode it, or write it as %23")
    if parts.username is not None:
        raise ValueError('it holds a user name; write that as headers = { Authorization = "Basic …" }')
    return value


def _check_secrets(values: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for value in values:
        check_secret(value.get_secret_value())
    return values


def _check_headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not _HEADER.match(name) or _OURS.match(name):
            raise ValueError(f"a further header cannot be called {name[:40]!r}")
        if not _VALUE.match(value.get_secret_value()):
            raise ValueError(f"the value of the header {name} holds a line end, or what is not ASCII")
    return headers


class WebhookHandler:
    """Posts each event. It counts once where the receiver drops a `webhook-id` it had: all retries have the same."""

    name = "webhook"
    summary = "Each event by POST to your own server, n8n, Make, …: a CloudEvent, signed per Standard Webhooks."
    schemes = ("https", "http")
    guarantee: ClassVar[Guarantee] = "once"

    class Options(HandlerOptions):
        """Options of a `webhook` destination."""

        url: Annotated[SecretStr, AfterValidator(_check_url)] = Field(
            description="Where to, an http or https URL. It is kept as a secret."
        )
        secret: Annotated[
            tuple[SecretStr, ...], BeforeValidator(_words), Field(min_length=1), AfterValidator(_check_secrets)
        ] = Field(
            description="What signs: `whsec_` and 24 to 64 bytes in Base64. Several while they are rotated: each signs."
        )
        content_type: Literal["application/cloudevents+json", "application/json"] = Field(
            "application/cloudevents+json",
            description="What the body calls itself; the plain one for places that know only that.",
        )
        picture: Literal["link", "inline"] = Field(
            "link", description="`inline` sends the files themselves along, as `data.media[].base64`."
        )
        inline_max: int = Field(
            8 * 2**20, gt=0, description="Bytes that the files of one event may have together to go along."
        )
        source: str = Field(SOURCE, min_length=1, max_length=200, description="The CloudEvent's `source`.")
        headers: Annotated[dict[str, SecretStr], AfterValidator(_check_headers)] = Field(
            {}, description="Further headers, for instance `Authorization`."
        )
        ca: Path | None = Field(None, description="A file of certificates to trust beside the system's.")

    def __init__(self, options: Options) -> None:
        self._options = options
        self._url = options.url.get_secret_value()
        self._secrets = [secret.get_secret_value() for secret in options.secret]
        self._headers = {name.lower(): value.get_secret_value() for name, value in options.headers.items()}
        self._place = urlsplit(self._url).netloc
        learn([*self._secrets, *self._headers.values()])
        self._client = httpx.AsyncClient(
            verify=_trust(options.ca),
            trust_env=False,  # a proxy or a .netrc of the surroundings is not what the operator wrote here
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # the whole attempt has a deadline of its own
        )

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Options from `https://host/path#whsec_…`. What stands behind the # is never sent."""
        address, secret = urldefrag(url)
        return {"url": address, "secret": secret} if secret else {"url": address}

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Post the event once.

        Raises:
            RetryLater: the picture is still being downloaded; the place asks to wait, or is gone.
            WebhookFailed: no 2xx.
        """
        if not attempt.media and attempt.media_pending:
            raise RetryLater(PENDING_SECONDS, "the picture is still being downloaded")
        inline = self._fits(attempt.media)
        body, headers = await in_thread(self._write, attempt, inline) if inline else self._write(attempt, inline)
        try:
            async with (
                asyncio.timeout(_own_deadline(attempt)),
                self._client.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                return await self._outcome(answer, attempt)
        except httpx.HTTPError as exc:
            raise WebhookFailed(f"{self._place} could not be reached, or broke off: {_reason(exc)}") from exc
        except TimeoutError as exc:
            raise WebhookFailed(f"{self._place} did not answer within {_own_deadline(attempt):g} s") from exc

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _fits(self, media: tuple[StoredMedia, ...]) -> bool:
        """Whether the files go along."""
        total = sum(item.media.size for item in media)
        return self._options.picture == "inline" and 0 < total <= self._options.inline_max

    def _write(self, attempt: Attempt, inline: bool) -> tuple[bytes, dict[str, str]]:
        """Body and headers. With files it takes long enough to be a thread's work."""
        files = [{"base64": _base64_of(item.path)} for item in attempt.media] if inline else []
        body = encode(cloud_event(attempt, source=self._options.source, files=files))
        return body, {
            "user-agent": SOURCE,
            "accept-encoding": "identity",
            **self._headers,
            "content-type": self._options.content_type,
            **signed_headers(self._secrets, attempt.idempotency_key, body, int(time.time())),
        }

    async def _outcome(self, response: httpx.Response, attempt: Attempt) -> Receipt:
        said = await _read(response)
        if not response.is_success:
            self._refuse(response, said, attempt)
        return Receipt(ref=attempt.idempotency_key, data={"status": response.status_code})

    def _refuse(self, response: httpx.Response, said: str, attempt: Attempt) -> NoReturn:
        status, headers = response.status_code, response.headers
        answered = f"{self._place} answered {status}"
        told = f"{answered}: {said}" if said else answered
        if status == 410:
            raise RetryLater(GONE_SECONDS, _gone(attempt, answered, said), pause=True)
        if status in (429, 503) and "retry-after" in headers:
            raise RetryLater.from_headers(headers, otherwise=60, reason=told)
        if response.has_redirect_location:
            remedy = "Redirects are not followed: put the final address into the option url"
            raise WebhookFailed(f"{answered} and points {_target(headers)}. {remedy}")
        raise WebhookFailed(told)


def _own_deadline(attempt: Attempt) -> float:
    """A little before the dispatcher's, so that the reason is told by who knows it."""
    return max(attempt.deadline - 0.5, attempt.deadline * 0.8)


def _base64_of(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _gone(attempt: Attempt, answered: str, said: str) -> str:
    """The remedy before what a stranger says: a reason is cut at its end."""
    return (
        f"{answered}: nobody wants these events any more, so the destination is paused. Correct its url or take it "
        f"out; if it was a mistake, end the pause with: receiver destinations resume {attempt.destination}"
        + (f". It said: {said}" if said else "")
    )


async def _read(response: httpx.Response) -> str:
    """The beginning of an answer, for people. Length and pace are the other side's, so both are bounded."""
    data = b""
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(REST_SECONDS):
            async for chunk in response.aiter_raw():
                data += chunk[: MAX_ANSWER - len(data)]
                if len(data) >= MAX_ANSWER:
                    break
    text = " ".join(redact(data[: 4 * SHOWN].decode("utf-8", "replace")).split())
    return "".join(char if char.isprintable() else "�" for char in text)[:SHOWN]


def _target(headers: Mapping[str, str]) -> str:
    """Where a redirect leads, without its path, which may be a secret."""
    try:
        host = urlsplit(headers.get("location", "")).hostname
    except ValueError:
        host = None
    return f"to {host[:100]}" if host and host.isprintable() else "elsewhere"


def _reason(exc: httpx.HTTPError) -> str:
    """What the system says, which is under several layers of what libraries say."""
    if isinstance(exc, httpx.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return cause.strerror or "TLS failed"
        if isinstance(cause, OSError) and cause.errno:
            # asyncio puts words of its own in the place of the system's; a resolver's number is no errno.
            return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return redact(str(exc)) or type(exc).__name__


def _trust(ca: Path | None) -> ssl.SSLContext:
    """The system's certificates, and those of the file."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as exc:
            raise SettingsError(
                f"the option ca is wrong: certificates cannot be read from {ca} ({exc.strerror or exc})."
            ) from exc
    return context
