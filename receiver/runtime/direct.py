"""The runtime without a journal: a courier, and the web application around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette

from receiver.clock import Clock
from receiver.courier import BUDGET, Courier
from receiver.engine.attempts import OpenDestination
from receiver.errors import SettingsError
from receiver.provider import Provider
from receiver.runtime.opening import check_links, close_all, open_all
from receiver.runtime.wiring import fetcher_of, policy_of
from receiver.settings import Settings, require_provider_key
from receiver.telemetry import learn
from receiver.tokens import Tokens
from receiver.web.admission import Admission
from receiver.web.app import create_app
from receiver.web.callbacks import Callbacks
from receiver.web.health import Readyz

AT_ONCE = 64
"""Callbacks in one process: each holds its files on disk, and a request open, until it is delivered."""


@asynccontextmanager
async def open_courier(
    settings: Settings, *, budget: float = BUDGET, receives: bool = True, clock: Clock | None = None
) -> AsyncIterator[Courier]:
    """A Courier, closed at the end of the block.

    Args:
        settings: as loaded.
        budget: seconds for the download and the deliveries of one callback; confirming it comes before.
        receives: whether it takes callbacks; where it only submits, no destination is opened.
        clock: the time; a real one if None.

    Raises:
        SettingsError: a setting is missing, wrong, or asks for what needs a journal.
    """
    _check(settings, receives=receives)
    key, keys = require_provider_key(settings), tuple(key.get_secret_value() for key in settings.keys)
    learn([*settings.secret_values(), key])
    clock = clock or Clock()
    async with AsyncExitStack() as stack:
        destinations: dict[str, OpenDestination] = {}
        stack.push_async_callback(close_all, destinations)
        routes = open_all(destinations, settings) if receives else ()
        check_links(destinations)
        provider = Provider(
            base_url=settings.provider_url, key=key, clock=clock, submit_timeout=settings.submit_timeout
        )
        stack.push_async_callback(provider.aclose)
        fetcher = fetcher_of(settings)
        stack.push_async_callback(fetcher.aclose)
        yield Courier(
            provider=provider,
            fetcher=fetcher,
            tokens=Tokens(keys, max_age=settings.token_max_age, clock=clock),
            clock=clock,
            destinations=destinations,
            routes=routes,
            policy=policy_of(settings),
            public_url=settings.public_url,
            budget=budget,
        )


def courier_app(courier: Courier, *, seconds: float) -> Starlette:
    """Callbacks and health around a courier.

    Args:
        courier: takes the callbacks.
        seconds: how long one may take in all; then it is answered 503.
    """
    admission = Admission(None, most=AT_ONCE, patience=seconds, kept="It may have been delivered in part.")
    return create_app(
        callbacks=Callbacks(intake=courier, tokens=courier.tokens, admission=admission), readyz=Readyz({})
    )


def _check(settings: Settings, *, receives: bool) -> None:
    problems = []
    if not settings.keys:
        problems.append(
            "RECEIVER_KEYS is not set. Without a journal it is all that who submits and who receives share: make one "
            "with `openssl rand -hex 32`, and set it at both."
        )
    problems += [
        f"Destination {item.name}: progress needs a journal, which remembers what was shown before. Take it out, or "
        "keep a journal in a bucket."
        for item in (settings.resolved_destinations() if receives else ())
        if item.progress or {"task.accepted", "task.progressed"} & set(item.events)
    ]
    if problems:
        raise SettingsError("\n".join(problems))
