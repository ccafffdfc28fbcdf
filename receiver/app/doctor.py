"""Doctor: check each part that Receiver needs here: settings, provider, journal, engines, media store, destinations.

Nothing is submitted or delivered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Literal

import msgspec

from receiver.app.container import check_same_store, provider_of, store_of
from receiver.app.factory import check_link, close_all, open_all
from receiver.app.journals import journal_of
from receiver.app.setups import differing_destinations, differing_keys, kept_setup, setup_of
from receiver.clock import Clock
from receiver.engine.attempts import OpenDestination
from receiver.errors import MediaError, ReceiverError, SettingsError
from receiver.journal.troubles import find_troubles
from receiver.settings import Settings, check_platform, ensure_keys
from receiver.settings.kinds import show_base_url

Verdict = Literal["ok", "note", "problem"]

UNKNOWN_TASK = "receiver-doctor"
"""A task id that no provider has made. A fetch of it costs nothing and shows if the key is accepted."""


class Finding(msgspec.Struct, frozen=True):
    """The state of one part. A `note` is no fault. A `problem` has a text that says what to do."""

    name: str
    verdict: Verdict
    text: str


async def findings(settings: Settings) -> list[Finding]:
    """Return the findings of all parts."""
    return [item async for item in examine(settings)]


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Yield the findings of each part in turn. A part that fails does not hold up the others."""
    for check in (_platform, _keys, _provider, _journal, _media, _destinations):
        try:
            found = await check(settings)
        except ReceiverError as exc:
            found = [Finding(check.__name__.strip("_"), "problem", str(exc))]
        for item in found:
            yield item


async def _platform(settings: Settings) -> list[Finding]:
    check_platform(settings)
    if settings.public_url:
        text = f"their address is {show_base_url(settings.public_url)}, which is not tried from here"
        return [Finding("callbacks", "ok", text)]
    text = "RECEIVER_PUBLIC_URL is not set, so nothing calls back and results are polled"
    return [Finding("callbacks", "note", text)]


def _is_fresh(settings: Settings) -> bool:
    """Return True before the first start in a folder. Elsewhere a journal that is not there is a problem."""
    named = settings.database is not None or settings.keys or settings.sources["data"] != "default"
    return not named and not any(path.exists() for path in (settings.data / "keys", settings.database_path))


async def _keys(settings: Settings) -> list[Finding]:
    if settings.database_kind == "sqlite" and not settings.keys and not (settings.data / "keys").exists():
        return []  # the first start makes one
    ensure_keys(settings)
    return [Finding("keys", "ok", "they can be used; all processes on one journal need the same")]


async def _provider(settings: Settings) -> list[Finding]:
    async with aclosing(provider_of(settings, Clock())) as provider:
        await provider.fetch(UNKNOWN_TASK)
    return [Finding("provider", "ok", f"{show_base_url(settings.provider_url)} answers, and accepts the key")]


async def _journal(settings: Settings) -> list[Finding]:
    if _is_fresh(settings):
        path = settings.database_path
        return [Finding("journal", "note", f"there is none at {path} yet, and the first submission makes it")]
    async with journal_of(settings, existing=True) as journal:
        await journal.check()
        await journal.store.check(space=True)
        found = [Finding("journal", "ok", f"{settings.database_shown} can be written")]
        roles = [
            f"{'a Python program' if item.role == 'python' else f'receiver {item.role}'} on {item.host}"
            for item in await journal.engines()
        ]
        text = "none runs here: nothing is polled or delivered until one starts, or a function is called"
        running = Finding("engines", "ok", f"{len(roles)} running: {', '.join(roles)}")
        found.append(running if roles else Finding("engines", "note", text))
        if journal.shared:
            async with aclosing(store_of(settings)) as store:
                try:
                    await check_same_store(journal, store)
                except MediaError as exc:
                    found.append(Finding("media", "problem", str(exc)))
        with suppress(SettingsError):  # keys that cannot be used are a finding of their own
            mine, other = setup_of(settings), await kept_setup(journal).read()
            if (problem := differing_keys(mine, other)) is not None:
                found.append(Finding("keys", "problem", problem))
            if (problem := differing_destinations(mine, other)) is not None:
                found.append(Finding("destinations", "note", problem))
        now_ms = Clock().now_ms()
        for item in await journal.destinations():
            if (status := item.display_status(now_ms)) != "working":
                reason = item.paused_reason or item.last_error
                text = f"{status}, {item.pending} deliveries wait: {reason}"
                found.append(Finding(f"destination {item.name}", "problem", text))
        troubles = await find_troubles(journal, now_ms, space=False)
        told = [item for item in troubles if not item.name.startswith("paused ")]  # those are named above
        return [*found, *[Finding(item.name, "problem", item.text) for item in told]]


async def _media(settings: Settings) -> list[Finding]:
    async with aclosing(store_of(settings)) as store:
        await store.check()
    return [Finding("media", "ok", f"{store.place} can be written")]


async def _destinations(settings: Settings) -> list[Finding]:
    opened: dict[str, OpenDestination] = {}
    try:
        open_all(opened, settings)
        for item in opened.values():
            check_link(item.name, item.handler, opened)
    finally:
        await close_all(opened)
    found = [Finding("destinations", "ok", f"{', '.join(opened)}; to send a sample: receiver destinations test NAME")]
    if settings.database_kind != "sqlite" and not (settings.to or settings.destinations):
        text = "none is named, so each engine saves results into the folder outputs on its own machine"
        found.append(Finding("destinations", "note", text))
    return found
