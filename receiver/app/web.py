"""The web application of one process: callbacks and health, the API where tokens are set, the page where users are."""

from __future__ import annotations

import shutil
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from receiver import metrics, page
from receiver.app.container import Runtime, retention_of
from receiver.app.doctor import examine
from receiver.app.test_delivery import find_destination, try_destination
from receiver.disk import in_thread
from receiver.errors import require
from receiver.maintenance.retention import Retention
from receiver.page.access import LOCAL, Access, Role, local_key
from receiver.settings import ensure_keys, show
from receiver.web.admission import Admission
from receiver.web.api import Api, Endpoints
from receiver.web.app import create_app
from receiver.web.callbacks import Callbacks
from receiver.web.health import Check, Readyz

if TYPE_CHECKING:
    from receiver.web.scrape import Scrape


def web_app(runtime: Runtime, *, local: bool = False) -> Starlette:
    """Return the application.

    Args:
        runtime: the objects of this process.
        local: True if only programs on this machine reach it. Then there is a page for who has the printed URL.
    """
    settings, journal = runtime.settings, runtime.journal
    media = {"media": runtime.check_media}
    checks: dict[str, Check] = {
        "journal": journal.check,
        "disk": partial(journal.store.check, space=True),
        **({} if runtime.store.remote else media),
        "engine": runtime.engine.check,  # without effect if other processes are the engines
    }
    notes = {
        **(media if runtime.store.remote else {}),  # callbacks are accepted without it, too
        **({"engines": runtime.check_engines} if journal.shared and not runtime.function else {}),
        # In a bucket, each look would cost several requests.
        **({} if runtime.function or settings.database_kind == "bucket" else {"troubles": runtime.check_troubles}),
    }
    retention = retention_of(settings, journal, runtime.clock, store=runtime.store)
    # In a function nothing may run after the answer, so there is no probe.
    runtime.admission = admission = Admission(None if runtime.function else journal.check)
    api = None
    if settings.api_tokens:
        endpoints = Endpoints(
            journal=journal,
            submissions=runtime.submissions,
            provider=runtime.provider,
            store=runtime.store,
            replays=runtime.replay,
            retention=retention,
            clock=runtime.clock,
            destinations=runtime.destinations.keys(),
            changes=runtime.watch,
        )
        tokens = {name: secret.text for name, secret in settings.api_tokens.items()}
        api = Api(endpoints, tokens=tokens, admission=admission, max_connections=settings.max_connections)
    return create_app(
        callbacks=Callbacks(intake=runtime.intake, tokens=runtime.tokens, admission=admission),
        readyz=Readyz(checks, notes=notes),
        api=api,
        page=_page_of(runtime, retention, local=local),
        metrics=scrape_of(runtime).route() if settings.metrics_token is not None and not runtime.function else None,
    )


def scrape_of(runtime: Runtime) -> Scrape:
    """Return the endpoint of the metrics, and begin to count. Raise SettingsError if the extra is missing."""
    require("prometheus_client", extra="metrics", why="`/metrics`", page="metrics")
    from receiver.web.scrape import Scrape  # noqa: PLC0415 - an extra

    metrics.switch_on()
    metrics.BUILD.replace({(version("imagine-receiver"),): 1})
    settings = runtime.settings
    folders = {"data": settings.data, **({} if runtime.store.remote else {"media": Path(settings.media_place)})}

    def measure() -> None:
        found = {}
        for name, folder in folders.items():
            with suppress(OSError):  # there is none yet
                found[name] = shutil.disk_usage(folder)
        metrics.DISK_FREE.replace({(name,): usage.free for name, usage in found.items()})
        metrics.DISK_SIZE.replace({(name,): usage.total for name, usage in found.items()})

    async def refresh() -> None:
        runtime.snapshot.refresh(leads=runtime.engine.leads)
        await in_thread(measure)

    token = settings.metrics_token
    return Scrape(token=token.text if token is not None else None, refresh=refresh)


def _page_of(runtime: Runtime, retention: Retention, *, local: bool) -> page.Page | None:
    settings, keys = runtime.settings, ensure_keys(runtime.settings)
    users: dict[str, tuple[Role, str]] = {name: (role, secret) for name, (role, secret) in settings.users.items()}  # type: ignore[misc]
    if local:
        users.setdefault(LOCAL, ("operator", local_key(keys)))
    if not users or not settings.page:
        return None

    async def sample(name: str) -> str:
        receipt = await try_destination(find_destination(settings, name), others=runtime.destinations)
        return f"{name} took the sample{f': {receipt.ref}' if receipt.ref else ''}."

    sources = page.Sources(
        journal=runtime.journal,
        store=runtime.store,
        thumbnails=runtime.thumbnails,
        submissions=runtime.submissions,
        provider=runtime.provider,
        replay=runtime.replay,
        retention=retention,
        clock=runtime.clock,
        destinations=runtime.destinations.keys(),
        version=version("imagine-receiver"),
        settings=lambda: show(settings),
        examine=lambda: examine(settings),
        sample=sample,
        stream=not runtime.function,
    )
    return page.Page(sources, Access(users, keys=keys, clock=runtime.clock, header=settings.page_user_header))
