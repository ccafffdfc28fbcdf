"""What Receiver stands on here, looked at piece by piece: settings, provider, journal, engines, media store,
destinations. Nothing is submitted or delivered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal

import msgspec

from receiver.app.container import check_same_store, store_of
from receiver.app.factory import check_links, close_all, journal_of, open_all
from receiver.clock import Clock
from receiver.engine.attempts import OpenDestination
from receiver.errors import MediaError, ReceiverError
from receiver.journal import Journal
from receiver.provider import Provider
from receiver.settings import Settings, check_platform, ensure_keys, require_provider_key

Verdict = Literal["ok", "note", "problem"]

NOBODY = "receiver-doctor"
"""A task id that no provider has given: to ask after it tells whether the key is taken, and costs nothing."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one piece. A `note` is worth knowing and nothing is broken; a `problem` says what to do."""

    name: str
    verdict: Verdict
    text: str


Look = Callable[[Settings], Awaitable[list[Finding]]]


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Each piece in turn; one that cannot be used keeps none of the others from being looked at."""
    for name, look in _LOOKS.items():
        try:
            found = await look(settings)
        except ReceiverError as exc:
            found = [Finding(name=name, verdict="problem", text=str(exc))]
        for item in found:
            yield item


async def _platform(settings: Settings) -> list[Finding]:
    check_platform(settings)
    if settings.public_url:
        return [_ok("callbacks", f"they are to come to {settings.public_url}, which is not tried from here")]
    text = "RECEIVER_PUBLIC_URL is not set, so nothing calls back and results are polled"
    return [Finding(name="callbacks", verdict="note", text=text)]


async def _keys(settings: Settings) -> list[Finding]:
    if settings.database_kind == "sqlite" and not settings.keys and not (settings.data / "keys").exists():
        return []  # the first start makes one
    ensure_keys(settings)
    return [_ok("keys", "they can be used; all processes on one journal need the same")]


async def _provider(settings: Settings) -> list[Finding]:
    provider = Provider(
        base_url=settings.provider_url,
        key=require_provider_key(settings),
        clock=Clock(),
        submit_timeout=settings.submit_timeout,
    )
    try:
        await provider.fetch(NOBODY)
    finally:
        await provider.aclose()
    return [_ok("provider", f"{settings.provider_url} answers, and takes the key")]


async def _journal(settings: Settings) -> list[Finding]:
    async with journal_of(settings, existing=True) as journal:
        await journal.check()
        await journal.check_space()
        return [
            _ok("journal", f"{settings.database_shown} can be written"),
            *await _engines(journal),
            *await _same_store(settings, journal),
            *await _standings(journal),
            *[Finding(name=item.name, verdict="problem", text=item.text) for item in await journal.troubles()],
        ]


async def _engines(journal: Journal) -> list[Finding]:
    found = await journal.engines()
    if found:
        roles = ", ".join(f"receiver {item.role} on {item.host}" for item in found)
        return [_ok("engines", f"{len(found)} live: {roles}")]
    text = "none lives here: nothing is polled or delivered until one starts, or a function is called"
    return [Finding(name="engines", verdict="note", text=text)]


async def _same_store(settings: Settings, journal: Journal) -> list[Finding]:
    if not journal.shared:
        return []
    store = store_of(settings)
    try:
        await check_same_store(journal, store)
    except MediaError as exc:
        return [Finding(name="media", verdict="problem", text=str(exc))]
    finally:
        await store.aclose()
    return []


async def _standings(journal: Journal) -> list[Finding]:
    now_ms = Clock().now_ms()
    ill = [item for item in await journal.destinations() if item.display_status(now_ms) != "working"]
    return [
        Finding(
            name=f"destination {item.name}",
            verdict="problem",
            text=f"{item.display_status(now_ms)}, {item.pending} deliveries wait: "
            f"{item.paused_reason or item.last_error}",
        )
        for item in ill
    ]


async def _media(settings: Settings) -> list[Finding]:
    store = store_of(settings)
    try:
        await store.check()
    finally:
        await store.aclose()
    return [_ok("media", f"{store.place} can be written")]


async def _destinations(settings: Settings) -> list[Finding]:
    opened: dict[str, OpenDestination] = {}
    try:
        open_all(opened, settings)
        check_links(opened)
    finally:
        await close_all(opened)
    names = ", ".join(opened)
    found = [_ok("destinations", f"{names}; to send a sample: receiver destinations test NAME")]
    if settings.database_kind != "sqlite" and not (settings.to or settings.destinations):
        text = "none is named, so each engine saves results into the folder outputs on its own machine"
        found.append(Finding(name="destinations", verdict="note", text=text))
    return found


def _ok(name: str, text: str) -> Finding:
    return Finding(name=name, verdict="ok", text=text)


_LOOKS: dict[str, Look] = {
    "platform": _platform,
    "keys": _keys,
    "provider": _provider,
    "journal": _journal,
    "media": _media,
    "destinations": _destinations,
}
