"""`listen`: a small server of one's own that prints and verifies what a webhook destination sends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from receiver.cli.output import note, one_line, print_json, say
from receiver.cli.running import address, bind, run, server, settings_for, stop_signal, until_stopped
from receiver.errors import InputError
from receiver.web.admission import BodyLimits
from receiver.web.problems import Problem, problem

BODIES = BodyLimits(name="Webhooks", limit=64 * 2**20, seconds=60.0)
REMEMBERED = 10_000
"""Ids of webhooks that are known again."""

Verify = Callable[[dict[str, str], bytes], str | None]


def listen(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 9000,
    secret: Annotated[
        list[str] | None,
        typer.Option(help="What the destination signs with; a new one if not given. Repeatable.", show_default=False),
    ] = None,
    answer: Annotated[int, typer.Option(help="HTTP status to answer what is verified with.", min=200, max=599)] = 204,
    retry_after: Annotated[int | None, typer.Option(help="Seconds to put into Retry-After.", min=0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as JSON.")] = False,
) -> None:
    """Print and verify what a webhook destination sends."""
    try:
        from receiver.handlers.signing import check_secret, new_secret, verify  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise InputError('`receiver listen` needs: pip install "imagine-receiver[webhook]"') from exc
    try:
        secrets = [check_secret(item) for item in secret or [new_secret()]]
    except ValueError as exc:
        raise InputError(f"--secret is wrong: {exc}") from exc
    settings_for(quiet=True)
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    show = _show_json if as_json else _show
    app = Listener(lambda given, body: verify(secrets, given, body), Response(None, answer, headers), show)
    run(_listen(app, host, port, None if secret or as_json else secrets[0]))


async def _listen(app: Listener, host: str, port: int, secret: str | None) -> None:
    with stop_signal() as stop, bind(host, port) as listener:
        url = address(listener)
        if secret is not None:
            say(f"A destination that posts here, for receiver.toml:\n\n{_table(url, secret)}\n")
            say("Try it with: receiver destinations test listen\n")
        (say if app.show is _show else note)(f"Listening on {url}")
        await until_stopped(stop, (server(app), listener))


def _table(url: str, secret: str) -> str:
    return f'    [destinations.listen]\n    url = "{url}/"\n    secret = "{secret}"'


class Listener:
    """An ASGI app that takes webhooks at any path.

    Args:
        verify: what is wrong with a signature, given headers and body; None if nothing is.
        answer: to what is verified; the rest gets 401.
        show: called with the webhook's id, whether it came before, what is wrong with it, and the event.
    """

    def __init__(self, verify: Verify, answer: Response, show: Callable[[str, bool, str | None, Any], None]) -> None:
        self._verify = verify
        self._answer = answer
        self.show = show
        self._seen: dict[str, None] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            response = await self._take(scope, receive)
        except Problem as exc:
            response = problem(exc)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _take(self, scope: Scope, receive: Receive) -> Response:
        raw = dict(scope["headers"])
        if scope["method"] != "POST":
            raise Problem(405, "Webhooks come by POST.", {"Allow": "POST"})
        await BODIES.check_length(raw, receive)
        BODIES.check_type(raw)
        body = await BODIES.read(receive)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw.items()}
        wrong = _utf8(body) or self._verify(headers, body)
        id = headers.get("webhook-id", "")
        self.show(id, self._again(id) if wrong is None else False, wrong, None if wrong else json.loads(body))
        return self._answer if wrong is None else problem(Problem(401, "The signature is not good."))

    def _again(self, id: str) -> bool:
        known = id in self._seen
        self._seen[id] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return known


def _utf8(body: bytes) -> str | None:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return "the body is not JSON"
    return None


def _show(id: str, again: bool, wrong: str | None, event: Any) -> None:
    at = time.strftime("%H:%M:%S")
    if wrong is not None:
        say(f"{at}  REFUSED   {one_line(wrong)}")
        return
    event = event if isinstance(event, dict) else {}
    data = event.get("data") if isinstance(event.get("data"), dict) else {}
    said = data.get("reason") or data.get("prompt") or ""
    word = "again   " if again else "verified"
    say(one_line(f"{at}  {word}  {event.get('type')}  {event.get('subject')}  {said}"))
    for item in data.get("media") or ():
        inline = "inline" if "base64" in item else item.get("link")
        say(one_line(f"          {item.get('type')}, {item.get('size')} bytes  {inline}"))
    if again:
        say(f"          {one_line(id)} came before: a receiver drops it")


def _show_json(id: str, again: bool, wrong: str | None, event: Any) -> None:
    print_json({"webhook_id": id, "again": again, "problem": wrong, "event": event})
