"""Commands that keep running: `serve`, `worker`, `simulate` and `listen`."""

from __future__ import annotations

import json
import shlex
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from typing import Annotated, Any

import typer
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.app.container import Runtime
from receiver.app.factory import open_runtime
from receiver.app.web import scrape_of, web_app
from receiver.cli.options import optional
from receiver.cli.output import note, one_line, print_json, say
from receiver.cli.process import run, settings_for
from receiver.cli.servers import Server, address, bind, server, stop_signal, until_stopped
from receiver.cli.session import deliver_now
from receiver.disk import return_large_blocks
from receiver.errors import EngineRunning, InputError, SettingsError, require
from receiver.extras import install
from receiver.page.access import local_key
from receiver.settings import ensure_keys
from receiver.settings.kinds import show_base_url
from receiver.web.admission import BodyLimits
from receiver.web.problems import Problem, problem

ENGINES = frozenset({"serve", "worker"})
"""Roles that hold the engine for long. One that finds another of them refuses to start."""
LOOK_SECONDS = 10.0
"""Interval between a worker's checks of its own engine."""
BODIES = BodyLimits(name="Webhooks", limit=64 * 2**20, seconds=60.0)
_UNSHARED = (
    "Without the engine inside (--no-engine, RECEIVER_ENGINE), `receiver serve` needs a journal that several processes "
    "share: two that write one SQLite file hold each other up. Leave the engine inside, or set RECEIVER_DATABASE to "
    "postgresql://…"
)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]


def serve(
    host: Annotated[str | None, optional("Address to listen on.  [env: RECEIVER_HOST]")] = None,
    port: Annotated[int | None, optional("Port to listen on; 0 takes a free one.  [env: RECEIVER_PORT, PORT]")] = None,
    engine: Annotated[
        bool | None,
        optional(
            "Poll and deliver as well, or leave that to `receiver worker` (on PostgreSQL).  [env: RECEIVER_ENGINE]",
            "--engine/--no-engine",
        ),
    ] = None,
) -> None:
    """Receive callbacks, and be the engine: poll and deliver."""
    return_large_blocks()
    settings = settings_for(host=host, port=port, engine=engine)
    calls = "; RECEIVER_PUBLIC_URL is not set, so nothing calls back and results are polled"
    if settings.public_url:
        calls = f"; callbacks come to {show_base_url(settings.public_url)}"

    async def main() -> None:
        with stop_signal() as stop:
            async with open_runtime(settings, exit_on_stall=True) as receiver:
                with bind(settings.bind_host, settings.port) as listener, _metrics(receiver) as more:
                    starting = None
                    if settings.engine:
                        starting = await _start_engine(receiver, "serve")
                    elif receiver.journal.shared:
                        await receiver.check_media_to_start()
                    else:
                        raise SettingsError(_UNSHARED, page="postgres")
                    say(f"Receiver listens on {address(listener)}{calls}")
                    local = settings.page and ip_address(listener.getsockname()[0]).is_loopback
                    if local:
                        say(
                            f"Pictures and deliveries: {address(listener)}/login?key={local_key(ensure_keys(settings))}"
                        )
                    for _, place in more:
                        say(f"Metrics: {address(place)}/metrics")
                    web = server(web_app(receiver, local=local), max_connections=settings.max_connections)
                    await until_stopped(stop, (web, listener), *more, beside=starting, ending=receiver.stop_engine)

    run(main())


def worker(
    once: Annotated[bool, typer.Option("--once", help="Send, poll and deliver what is due now, then end.")] = False,
) -> None:
    """Be the engine alone, without listening for callbacks."""
    return_large_blocks()
    settings = settings_for()
    if once:
        if not deliver_now(settings, "worker --once"):
            note("Nothing was due.")
        return

    async def main() -> None:
        with stop_signal() as stop:
            async with open_runtime(settings, exit_on_stall=True) as receiver:
                with _metrics(receiver) as servers:
                    for _, place in servers:
                        say(f"Metrics: {address(place)}/metrics")
                    starting = await _start_engine(receiver, "worker")
                    await until_stopped(stop, *servers, beside=check_engine(receiver, starting))

    run(main())


@contextmanager
def _metrics(receiver: Runtime) -> Iterator[list[tuple[Server, socket.socket]]]:
    """Yield the server of the metrics, or nothing if they have no port of their own."""
    settings = receiver.settings
    if settings.metrics_port is None:
        yield []
        return
    with bind(settings.bind_host, settings.metrics_port) as listener:
        yield [(server(scrape_of(receiver).app()), listener)]


async def check_engine(receiver: Runtime, starting: Coroutine[Any, Any, None] | None) -> None:
    """Wait for the engine's start, then check it forever: a worker has no health check, so it must end by itself."""
    if starting is not None:
        await starting
    while True:
        await receiver.clock.sleep(LOOK_SECONDS)
        await receiver.engine.check()


async def _start_engine(receiver: Runtime, role: str) -> Coroutine[Any, Any, None] | None:
    """Become the engine. If a waiting `submit` is the engine now, return a coroutine that becomes it later."""
    try:
        await receiver.start_engine(role)
    except EngineRunning as exc:
        if exc.holder in ENGINES:
            raise
        return receiver.start_engine_when_free(role, unless=ENGINES)
    return None


def simulate(
    host: Host = "127.0.0.1",
    port: Port = 8001,
    profile: Annotated[str, typer.Option(help="Whose quirks to show; `list` names them.")] = "default",
    faults: Annotated[str, typer.Option(help="Faults to make, separated by commas; `list` names them.")] = "",
    speed: Annotated[float, typer.Option(help="How many times as fast as the real provider.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 0,
    key: Annotated[str | None, typer.Option(help="The only API key to accept; any if not given.")] = None,
) -> None:
    """Play the provider on this machine, with its faults."""
    require("PIL", extra="simulator", why="`receiver simulate`")
    from receiver.simulator import FAULTS, PROFILES, Simulator  # noqa: PLC0415 - an extra: it draws with Pillow

    if "list" in (profile, faults):
        for name, text in (PROFILES if profile == "list" else FAULTS).items():
            say(f"{name:18} {text}")
        return
    try:
        simulator = Simulator(
            profile=profile, speed=speed, seed=seed, key=key, faults=[name for name in faults.split(",") if name]
        )
    except ValueError as exc:
        raise InputError(str(exc), page="cli") from exc

    async def main() -> None:
        with stop_signal() as stop, bind(host, port) as listener:
            url = address(listener)
            say(f"The simulator plays CometAPI on {url}. Use it from another shell with:")
            say(f"  export RECEIVER_PROVIDER_URL={url} COMETAPI_KEY={shlex.quote(key or 'simulator')}")
            await until_stopped(stop, (server(simulator.app), listener))

    run(main())


def listen(
    host: Host = "127.0.0.1",
    port: Port = 9000,
    secret: Annotated[
        list[str] | None, optional("Signing secret of the destination; a new one if not given. Repeatable.")
    ] = None,
    answer: Annotated[int, typer.Option(help="HTTP status for verified webhooks.", min=200, max=599)] = 204,
    retry_after: Annotated[int | None, typer.Option(help="Seconds to put into Retry-After.", min=0)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as JSON.")] = False,
) -> None:
    """Print and verify what a webhook destination sends."""
    try:
        from receiver.handlers.webhook import check_secret, new_secret, verify  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise InputError(f"`receiver listen` needs: {install('webhook')}", page="webhook") from exc
    try:
        secrets = [check_secret(item) for item in secret or [new_secret()]]
    except ValueError as exc:
        raise InputError(f"--secret is wrong: {exc}", page="webhook") from exc
    settings_for(quiet=True)
    reply = Response(None, answer, {} if retry_after is None else {"Retry-After": str(retry_after)})
    app = webhook_app(partial(verify, secrets), reply, partial(_show, as_json=as_json))

    async def main() -> None:
        with stop_signal() as stop, bind(host, port) as listener:
            url = address(listener)
            if not (secret or as_json):
                table = f'    [destinations.listen]\n    url = "{url}/"\n    secret = "{secrets[0]}"'
                say(f"A destination that posts here, for receiver.toml:\n\n{table}\n")
                say("Try it with: receiver destinations test listen\n")
            (note if as_json else say)(f"Listening on {url}")
            await until_stopped(stop, (server(app), listener))

    run(main())


def webhook_app(
    verify: Callable[[dict[str, str], bytes], str | None], answer: Response, show: Callable[..., None]
) -> Starlette:
    """Return an app that takes webhooks at any path, and answers 401 to those without a good signature.

    `verify` returns what is wrong with headers and body, or None. `show` gets the webhook's id, True for a repeat, what
    is wrong with it, and the event.
    """
    seen = set[str]()

    async def take(request: Request) -> Response:
        raw = dict(request.headers.raw)
        await BODIES.check_length(raw, request.receive)
        BODIES.check_type(raw)
        body = await BODIES.read(request.receive)
        id, event = request.headers.get("webhook-id", ""), None
        try:
            event = json.loads(body)
            wrong = verify(dict(request.headers), body)
        except (ValueError, RecursionError):
            wrong = "the body is not JSON"
        if wrong is not None:
            show(id, False, wrong, None)
            return problem(Problem(401, "The signature is not good."))
        show(id, id in seen, None, event)
        seen.add(id)
        return answer

    def refuse(request: Request, exc: Exception) -> Response:
        return problem(exc) if isinstance(exc, Problem) else Response(None, 400)

    return Starlette(
        routes=[Route("/{path:path}", take, methods=["POST"])],
        exception_handlers={Problem: refuse, ClientDisconnect: refuse},
    )


def _show(id: str, again: bool, wrong: str | None, event: Any, as_json: bool) -> None:
    if as_json:
        print_json({"webhook_id": id, "again": again, "problem": wrong, "event": event})
        return
    at = time.strftime("%H:%M:%S")
    if wrong is not None:
        say(f"{at}  REFUSED   {one_line(wrong)}")
        return
    event = event if isinstance(event, dict) else {}
    data = event.get("data") if isinstance(event.get("data"), dict) else {}
    text = data.get("reason") or data.get("prompt") or ""
    word = "again   " if again else "verified"
    say(one_line(f"{at}  {word}  {event.get('type')}  {event.get('subject')}  {text}"))
    for item in data.get("media") or ():
        inline = "inline" if "base64" in item else item.get("link")
        say(one_line(f"          {item.get('type')}, {item.get('size')} bytes  {inline}"))
    if again:
        say(f"          {one_line(id)} came before: a receiver drops it")
