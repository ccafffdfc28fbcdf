"""Commands that keep running: `serve`, `worker` and `simulate`."""

from __future__ import annotations

import shlex
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from receiver.app import Runtime, open_runtime
from receiver.cli.output import say
from receiver.cli.process import address, bind, run, server, settings_for, stop_signal, until_stopped
from receiver.disk import return_large_blocks
from receiver.errors import EngineRunning, InputError, SettingsError

ENGINES = frozenset({"serve", "worker"})
"""Roles that hold the engine for long. One that finds another of them refuses to start."""
LOOK_SECONDS = 10.0
"""Interval between a worker's checks of its own engine."""
_UNSHARED = (
    "Without the engine inside (--no-engine, RECEIVER_ENGINE), `receiver serve` needs a journal that several processes "
    "share: two that write one SQLite file hold each other up. Leave the engine inside, or set RECEIVER_DATABASE to "
    "postgresql://…"
)


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [env: RECEIVER_HOST]", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 takes a free one.  [env: RECEIVER_PORT, PORT]", show_default=False),
    ] = None,
    engine: Annotated[
        bool | None,
        typer.Option(
            "--engine/--no-engine",
            help="Poll and deliver as well, or leave that to `receiver worker` (on PostgreSQL).  "
            "[env: RECEIVER_ENGINE]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Receive callbacks, and be the engine: poll and deliver."""
    return_large_blocks()
    settings = settings_for(host=host, port=port, engine=engine)
    calls = "; RECEIVER_PUBLIC_URL is not set, so nothing calls back and results are polled"
    if settings.public_url:
        calls = f"; callbacks come to {settings.public_url}"

    async def main() -> None:
        with stop_signal() as stop:
            async with open_runtime(settings, exit_on_stall=True) as receiver:
                with bind(settings.bind_host, settings.port) as listener:
                    starting = None
                    if settings.engine:
                        starting = await _start_engine(receiver, "serve")
                    elif receiver.journal.shared:
                        await receiver.check_media_to_start()
                    else:
                        raise SettingsError(_UNSHARED)
                    say(f"Receiver listens on {address(listener)}{calls}")
                    web = server(receiver.app, max_connections=settings.max_connections)
                    await until_stopped(stop, (web, listener), beside=starting, ending=receiver.stop_engine)

    run(main())


def worker() -> None:
    """Be the engine alone, without listening for callbacks."""
    return_large_blocks()
    settings = settings_for()

    async def main() -> None:
        with stop_signal() as stop:
            async with open_runtime(settings, exit_on_stall=True) as receiver:
                starting = await _start_engine(receiver, "worker")
                await until_stopped(stop, beside=check_engine(receiver, starting))

    run(main())


async def check_engine(receiver: Runtime, starting: Coroutine[Any, Any, None] | None) -> None:
    """Wait for the engine's start, then check it forever: a worker has no health check, so it must end by itself.

    Raises:
        EngineStopped: the engine has stopped.
    """
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

    async def main() -> None:
        with stop_signal() as stop, bind(host, port) as listener:
            url = address(listener)
            say(f"The simulator plays CometAPI on {url}. Use it from another shell with:")
            say(f"  export RECEIVER_PROVIDER_URL={url} COMETAPI_KEY={shlex.quote(key or 'simulator')}")
            await until_stopped(stop, (server(simulator.app), listener))

    run(main())
