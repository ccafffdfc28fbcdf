"""Webhook handler: each event as a CloudEvent by POST, signed per Standard Webhooks (https://www.standardwebhooks.com).

| answer | outcome |
|---|---|
| 2xx | succeeded, whatever its body |
| 410, but for a page of HTML | the destination is paused and says so, because its receiver wants no more |
| 429 or 503 with `Retry-After` | the destination waits as asked, without using up an attempt |
| 404, 410 at the URL that a submission named | dead: that URL is no more |
| any other, redirects included | failed: retried by schedule |
| none: refused, cut off, not in time, TLS that cannot be trusted | failed: retried by schedule |
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn
from urllib.parse import urldefrag, urlsplit

import httpcore
import httpx
import msgspec
from msgspec import Meta
from standardwebhooks import Webhook, WebhookVerificationError

from receiver.bodies import Body, connection_reason
from receiver.deliveries import Receipt
from receiver.disk import in_thread
from receiver.errors import SettingsError
from receiver.events import is_at
from receiver.handlers.answers import about_event, by_proxy, read_into
from receiver.handlers.base import Attempt, Guarantee, HandlerOptions, Kind, Rejected, RetryLater, Secret
from receiver.handlers.cloudevents import SOURCE, cloud_event
from receiver.settings.kinds import Hosts, Size, destination_secrets
from receiver.telemetry import REDACTED, redact, trace_headers

PREFIX = "whsec_"
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
FEWEST_BYTES, MOST_BYTES = 24, 64
"""Size of a secret, by the standard."""
GONE_SECONDS = 36_000.0
"""Pause of a destination that answered 410, unless a person ends it."""
CONNECT_SECONDS = 10.0
KEEP_SECONDS = 5.0
"""Time for which an idle connection is kept. Many servers close theirs then."""
MAX_ANSWER = 64 * 1024
"""Bytes of an answer that are read."""
REST_SECONDS = 0.5
"""Time limit for the rest of an answer. The connection is kept if the answer ends, else closed."""
SHOWN = 200
"""Characters of an answer that are shown."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(r"[\x20-\x7e\t]*\Z")
_OURS = re.compile(r"webhook-.*|content-.*|host|connection|transfer-encoding", re.IGNORECASE)


class WebhookFailed(Exception):
    """The event was not taken. The text holds the answer, and never the URL's path."""

    about_event = False


def new_secret() -> str:
    """Return a secret of 32 random bytes."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> str:
    """Return the secret if it is `whsec_` and 24–64 bytes in Base64. A ValueError leaves out the secret."""
    remedy = 'make one with: echo "whsec_$(openssl rand -base64 32)"'
    if not secret.startswith(PREFIX):
        raise ValueError(f"a secret begins with {PREFIX}; {remedy}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"after {PREFIX} a secret is Base64; {remedy}") from None
    if not FEWEST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"a secret has {FEWEST_BYTES} to {MOST_BYTES} bytes, not {len(key)}; {remedy}")
    return secret


def _check_secrets(values: tuple[Secret, ...]) -> tuple[Secret, ...]:
    for value in values:
        check_secret(value.text)
    return values


_OTHERS = (
    (re.compile(r"discord(?:app)?\.com\Z"), 'Discord. Write discord:https://…, or handler = "discord" and webhook_url'),
    (re.compile(r"hooks\.slack(?:-gov)?\.com\Z"), 'Slack. Write handler = "slack", webhook_url and link'),
    (
        re.compile(r"webhook\.office\.com\Z|chat\.googleapis\.com\Z|ntfy\.sh\Z|api\.telegram\.org\Z"),
        'a chat. Write handler = "chat", and the URL for it of https://appriseit.com/services',
    ),
    (
        re.compile(r"s3[.-](?:[a-z0-9-]{1,30}\.){0,2}amazonaws\.com\Z|r2\.cloudflarestorage\.com\Z"),
        "an object store. Write s3://BUCKET/FOLDER",
    ),
)
"""Ends of hosts that do not take CloudEvents, and what to write for them."""


def _check_service(url: str) -> None:
    host = urlsplit(url).hostname or ""
    for pattern, service in _OTHERS:
        found = pattern.search(host)
        if found is not None and host[: found.start()][-1:] in ("", "."):
            raise ValueError(f"it is an address of {service}")


def _check_url(url: Secret) -> Secret:
    _check_service(url.text)
    parts = urlsplit(url.text)
    if parts.scheme.lower() not in ("https", "http") or not parts.hostname:
        raise ValueError("it is no http or https URL")
    if parts.fragment:
        raise ValueError("it holds a #; percent-encode it, or write it as %23")
    if parts.username is not None:
        raise ValueError('it holds a user name; write that as headers = { Authorization = "Basic …" }')
    return url


def _check_headers(headers: dict[str, Secret]) -> dict[str, Secret]:
    for name, value in headers.items():
        if not _HEADER.match(name) or _OURS.match(name):
            raise ValueError(f"a further header cannot be called {name[:40]!r}")
        if not _VALUE.match(value.text):
            raise ValueError(f"the value of the header {name} holds a line end, or what is not ASCII")
    return headers


def signed_headers(keys: Sequence[str], id: str, body: bytes, now_s: int) -> dict[str, str]:
    """Return the three headers of one attempt at `id`. Each secret signs, so that secrets can be rotated."""
    now = datetime.fromtimestamp(now_s, UTC)
    signatures = [Webhook(key).sign(id, now, body.decode()) for key in keys]
    return {ID: id, TIMESTAMP: str(now_s), SIGNATURE: " ".join(signatures)}


def verify(keys: Iterable[str], headers: Mapping[str, str], body: bytes) -> str | None:
    """Return the fault of an incoming signature as a phrase, or None if one of the secrets made it within 5 minutes."""
    problem = "there is no secret to verify it with"
    for key in keys:
        try:
            Webhook(key).verify(body, dict(headers), json_parse=False)
        except WebhookVerificationError as exc:
            problem = str(exc)
        except ValueError:  # the library splits and decodes any header
            problem = "The headers cannot be read"
        else:
            return None
    return problem[:1].lower() + problem[1:]


class WebhookHandler:
    """Posts each event. All retries have the same `webhook-id`, by which the receiving server drops repeats."""

    name = "webhook"
    summary = "Each event by POST to your own server, n8n, Make, …: a CloudEvent, signed per Standard Webhooks."
    schemes = ("https", "http")
    guarantee: ClassVar[Guarantee] = "once"

    class Options(HandlerOptions):
        """Options of a `webhook` destination."""

        url: Annotated[
            Secret | None, Kind(check=_check_url), "Destination, an http or https URL. It is kept as a secret."
        ] = None
        hosts: Annotated[
            Hosts,
            "In place of `url`: hosts, or exact origins, of the URLs that submissions may name (`reply_to`). "
            "It gets these submissions only.",
        ] = ()
        secret: Annotated[
            tuple[Secret, ...],
            Meta(min_length=1),
            Kind(check=_check_secrets, write="a secret text, or a list of them"),
            "Signing secret: `whsec_` and 24 to 64 bytes in Base64, in `RECEIVER_TO` after the URL and a #. Several "
            "during a rotation: each signs.",
        ]
        content_type: Annotated[
            Literal["application/cloudevents+json", "application/json"],
            "Content type of the body. The plain one is for servers that know only that.",
        ] = "application/cloudevents+json"
        picture: Annotated[
            Literal["link", "inline"], "`inline` sends the files themselves, as `data.media[].base64`."
        ] = "link"
        inline_max: Annotated[Size, "Limit in bytes of all inline files of one event."] = 8 * 2**20
        source: Annotated[
            str,
            Meta(min_length=1, max_length=200),
            Kind(write="a text of 1 to 200 characters"),
            "The CloudEvent's `source`.",
        ] = SOURCE
        headers: Annotated[
            dict[str, Secret], Kind(check=_check_headers), "Further headers, for instance `Authorization`."
        ] = {}
        ca: Annotated[Path | None, "A file of certificates to trust beside the system's."] = None

        def check_together(self) -> None:
            if (self.url is None) != bool(self.hosts):
                raise ValueError("give either the option url, or hosts for the URLs that submissions name")

    def __init__(self, options: Options) -> None:
        self._options = options
        self._url = None if options.url is None else options.url.text
        origins = [host if "://" in host else f"https://{host}" for host in options.hosts]
        self.reply_origins = frozenset(str(httpx.URL(origin)) for origin in origins)  # without the port of the scheme
        self._secrets = [secret.text for secret in options.secret]
        self._headers = {name.lower(): value.text for name, value in options.headers.items()}
        self._trusted = ssl.create_default_context()
        try:
            if options.ca is not None:
                self._trusted.load_verify_locations(options.ca)
        except OSError as exc:
            problem = f"certificates cannot be read from {options.ca} ({exc.strerror or exc})."
            raise SettingsError(f"the option ca is wrong: {problem}") from exc
        self._connections: set[httpcore.AsyncHTTPConnection] = set()
        self._idle: dict[str, list[httpcore.AsyncHTTPConnection]] = {}
        """The connections without a request, by origin."""

    @staticmethod
    def options_from_url(url: str) -> dict[str, Any]:
        """Return options from `https://host/path#whsec_…`. The part behind the # is never sent."""
        _check_service(url)
        address, secret = urldefrag(url)
        return {"url": address, "secret": secret} if secret else {"url": address}

    async def deliver(self, attempt: Attempt) -> Receipt:
        """Post the event once. Raise RetryLater if the place asks to wait or is gone, WebhookFailed if it is no 2xx.

        Raise Rejected if the URL that the submission named is gone, is not allowed, or was not given.
        """
        url = self._url_for(attempt)
        place = urlsplit(url).netloc
        total = sum(item.media.size for item in attempt.media)
        inline = self._options.picture == "inline" and 0 < total <= self._options.inline_max
        # A little before the dispatcher's, so that the reason names the place.
        seconds = max(attempt.deadline - 0.5, attempt.deadline * 0.8)
        body, headers = await in_thread(self._write, attempt, inline) if inline else self._write(attempt, inline)
        target, host = _target(url)
        headers = {"host": host, "content-length": str(len(body))} | headers | trace_headers()
        timeouts = {"timeout": {"connect": CONNECT_SECONDS}}
        request = httpcore.Request("POST", target, headers=[*headers.items()], content=body, extensions=timeouts)
        idle = self._idle.setdefault(str(target.origin), [])
        connection = await self._connection(idle, target.origin)
        try:
            async with asyncio.timeout(seconds), aclosing(await connection.handle_async_request(request)) as answer:
                fields = httpx.Headers(answer.headers)
                said = await _read(answer, fields)
                if not 200 <= answer.status < 300:
                    self._refuse(answer.status, fields, said, attempt, url)
                return Receipt(ref=attempt.idempotency_key, data={"status": answer.status})
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as exc:
            raise WebhookFailed(f"{place} could not be reached, or broke off: {_reason(exc)}") from exc
        except TimeoutError as exc:
            raise WebhookFailed(f"{place} did not answer within {seconds:g} s") from exc
        finally:
            if connection.is_available():
                idle.append(connection)
            elif connection.is_closed():
                self._connections.discard(connection)

    async def aclose(self) -> None:
        """Close the connections."""
        for connection in [*self._connections]:
            await connection.aclose()

    async def _connection(
        self, idle: list[httpcore.AsyncHTTPConnection], origin: httpcore.Origin
    ) -> httpcore.AsyncHTTPConnection:
        """Return a connection for one request. A pool looks at all its connections for each, which costs more than the
        request.

        Without a client around it nothing follows redirects, keeps cookies, or asks for proxies of the environment.
        """
        while idle:
            connection = idle.pop()
            if not connection.has_expired():
                return connection
            self._connections.discard(connection)
            await connection.aclose()
        connection = httpcore.AsyncHTTPConnection(origin, ssl_context=self._trusted, keepalive_expiry=KEEP_SECONDS)
        self._connections.add(connection)
        return connection

    def _write(self, attempt: Attempt, inline: bool) -> tuple[bytes, dict[str, str]]:
        """Return body and headers. With files it takes long enough to need a thread."""
        media = attempt.media if inline else ()
        files = [{"base64": base64.b64encode(item.path.read_bytes()).decode()} for item in media]
        body = msgspec.json.encode(cloud_event(attempt, source=self._options.source, files=files))
        return body, {
            "user-agent": SOURCE,
            "accept-encoding": "identity",
            **self._headers,
            "content-type": self._options.content_type,
            **signed_headers(self._secrets, attempt.idempotency_key, body, int(time.time())),
        }

    def _url_for(self, attempt: Attempt) -> str:
        if self._url is not None:
            return self._url
        if attempt.reply_to is None:
            raise Rejected("This submission names no URL. Give one with --reply-to, or reply_to in Python and HTTP.")
        if not is_at(attempt.reply_to, self.reply_origins):  # the option was changed, or this is a replay
            host = urlsplit(attempt.reply_to).netloc
            raise Rejected(f"{host}, which the submission names in reply_to, is not in the option hosts.")
        return attempt.reply_to

    def _refuse(self, status: int, headers: httpx.Headers, body: bytes, attempt: Attempt, url: str) -> NoReturn:
        said = _shown(body, destination_secrets(url))
        answered = f"{urlsplit(url).netloc} answered {status}"
        reason = f"{answered}: {said}" if said else answered
        if status in (404, 410) and self._url is None and not by_proxy("any", body):
            raise Rejected(f"{reason}. The URL that the submission named is no more")
        if status == 410 and not by_proxy("any", body):
            # The remedy before the answer's text, because a reason is cut at its end.
            remedy = (
                f"{answered}: it wants no more events, so the destination is paused. Correct its url or take it out; "
                f"if it was a mistake, end the pause with: receiver destinations resume {attempt.destination}"
            )
            raise RetryLater(GONE_SECONDS, f"{remedy}. It said: {said}" if said else remedy, pause=True)
        if status in (429, 503) and "retry-after" in headers:
            raise RetryLater.from_headers(headers, otherwise=60, reason=reason)
        if 300 <= status < 400 and "location" in headers:
            host = None
            with suppress(ValueError):  # of a wrong port, too: then the host may be a secret, as the path may be
                location = urlsplit(headers["location"])
                _, host = location.port, location.hostname
            target = f"to {host[:100]}" if host and host.isprintable() else "elsewhere"
            remedy = "Redirects are not followed: put the final address into the option url"
            raise WebhookFailed(f"{answered} and points {target}. {remedy}")
        failed = WebhookFailed(reason)
        failed.about_event = about_event(status) and not by_proxy("any", body)
        raise failed


@lru_cache(maxsize=64)
def _target(url: str) -> tuple[httpcore.URL, str]:
    """Return a URL as a connection takes it, and its Host header."""
    parts = httpx.URL(url)
    target = httpcore.URL(scheme=parts.raw_scheme, host=parts.raw_host, port=parts.port, target=parts.raw_path)
    return target, parts.netloc.decode()


async def _read(answer: httpcore.Response, headers: httpx.Headers) -> bytes:
    """Return the beginning of an answer, for people. Its length and pace are bounded."""
    body = Body(headers.get("content-encoding", ""), MAX_ANSWER)
    with suppress(TimeoutError, httpcore.NetworkError, httpcore.ProtocolError):
        async with asyncio.timeout(REST_SECONDS):
            await read_into(body, answer.aiter_stream())
    return bytes(body.data) if body.readable else b""


def _shown(body: bytes, hidden: Iterable[str]) -> str:
    """Return the beginning of an answer without `hidden`, parts of a URL that a submission may have named."""
    said = body[: 4 * SHOWN].decode("utf-8", "replace")
    for secret in hidden:
        said = said.replace(secret, REDACTED)
    text = " ".join(redact(said).split())
    return "".join(char if char.isprintable() else "�" for char in text)[:SHOWN]


def _reason(exc: Exception) -> str:
    if isinstance(exc, httpcore.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    return connection_reason(exc) or redact(str(exc)) or type(exc).__name__
