"""`serve`, `worker` and `simulate`: the commands that keep running."""

from __future__ import annotations

import shlex
from collections.abc import Coroutine
from typing import Annotated, Any

import typer
from starlette.types import ASGIApp

from receiver.cli.output import say
from receiver.cli.running import address, bind, run, server, settings_for, stop_signal, until_stopped
from receiver.disk import return_large_blocks
from receiver.errors import EngineRunning, InputError, SettingsError
from receiver.runtime import Runtime, open_runtime
from receiver.settings import Settings

ENGINES = frozenset({"serve", "worker"})
"""Roles that hold the engine for long; one that finds another of them refuses to start."""

LOOK_SECONDS = 10.0
"""Between a worker's looks at its own engine."""

Host = Annotated[str | None, typer.Option(help="Address to listen on.  [env: RECEIVER_HOST]", show_default=False)]
Port = Annotated[
    int | None,
    typer.Option(help="Port to listen on; 0 takes a free one.  [env: RECEIVER_PORT, PORT]", show_default=False),
]


Engine = Annotated[
    bool | None,
    typer.Option(
        "--engine/--no-engine",
        help="Poll and deliver as well, or leave that to `receiver worker` (on PostgreSQL).  [env: RECEIVER_ENGINE]",
        show_default=False,
    ),
]


def serve(host: Host = None, port: Port = None, engine: Engine = None) -> None:
    """Receive callbacks, and be the engine: poll and deliver."""
    return_large_blocks()
    run(_serve(settings_for(host=host, port=port, engine=engine)))


async def _serve(settings: Settings) -> None:
    with stop_signal() as stop:
        async with open_runtime(settings, exit_on_stall=True) as receiver:
            with bind(settings.bind_host, settings.port) as listener:
                rest = await (_start_engine(receiver, "serve") if settings.engine else _leave_engine(receiver))
                say(f"Receiver listens on {address(listener)}{_callbacks_note(settings)}")
                web = server(receiver.app, max_connections=settings.max_connections)
                await until_stopped(stop, (web, listener), beside=rest, ending=receiver.stop_engine)


def _callbacks_note(settings: Settings) -> str:
    if settings.public_url:
        return f"; callbacks come to {settings.public_url}"
    return "; RECEIVER_PUBLIC_URL is not set, so nothing calls back and results are polled"


def worker() -> None:
    """Be the engine alone, without listening for callbacks."""
    return_large_blocks()
    run(_worker(settings_for()))


async def _worker(settings: Settings) -> None:
    with stop_signal() as stop:
        async with open_runtime(settings, exit_on_stall=True) as receiver:
            await until_stopped(stop, beside=turning(receiver, await _start_engine(receiver, "worker")))


async def turning(receiver: Runtime, starting: Coroutine[Any, Any, None] | None) -> None:
    """As long as the engine turns. Nobody can ask a worker for its health, so it ends, for somebody to start it again.

    Raises:
        EngineStopped: it turns no more.
    """
    if starting is not None:
        await starting
    while True:
        await receiver.clock.sleep(LOOK_SECONDS)
        await receiver.engine.check()


async def _start_engine(receiver: Runtime, role: str) -> Coroutine[Any, Any, None] | None:
    """Become the engine, and only then say that we are there. If a waiting `submit` is it, what becomes it later."""
    try:
        await receiver.start_engine(role)
    except EngineRunning as exc:
        if exc.holder in ENGINES:
            raise
        return receiver.start_engine_when_free(role, unless=ENGINES)
    return None


async def _leave_engine(receiver: Runtime) -> None:
    """Serve beside engines of other processes."""
    if not receiver.journal.shared:
        raise SettingsError(
            "Without the engine inside (--no-engine, RECEIVER_ENGINE), `receiver serve` needs a journal that several "
            "processes share: two that write one SQLite file hold each other up. Leave the engine inside, or set "
            "RECEIVER_DATABASE to postgresql://…"
        )
    await receiver.check_media_to_start()


def simulate(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8001,
    profile: Annotated[str, typer.Option(help="Whose quirks to show; `list` names them.")] = "default",
    faults: Annotated[str, typer.Option(help="Faults to make, separated by commas; `list` names them.")] = "",
    speed: Annotated[float, typer.Option(help="How many times as fast as the real provider.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same run.")] = 0,
    key: Annotated[str | None, typer.Option(help="The only API key to accept; any if not given.")] = None,
) -> None:
    """Play the provider on this machine, with its faults."""
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
        raise InputError(str(exc)) from exc
    run(_simulate(simulator.app, host, port, key or "simulator"))


async def _simulate(app: ASGIApp, host: str, port: int, key: str) -> None:
    with stop_signal() as stop, bind(host, port) as listener:
        url = address(listener)
        say(f"The simulator plays CometAPI on {url}. Use it from another shell with:")
        say(f"  export RECEIVER_PROVIDER_URL={url} COMETAPI_KEY={shlex.quote(key)}")
        await until_stopped(stop, (server(app), listener))
