"""Digests of signing keys and destinations, to compare the processes on one journal.

The journal keeps the digests of the engine that started last. Each later start and `receiver doctor` compare theirs.
"""

from __future__ import annotations

import hashlib
import hmac
import platform

import msgspec
from msgspec.structs import asdict, replace

from receiver.journal import Journal
from receiver.journal.shared import Shared
from receiver.settings import Settings, ensure_keys


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """Digests of one process's settings.

    Attributes:
        keys: digests of the signing keys. The last key signs.
        destinations: name → digest of URL and options. The signing key is part of it, so that none can be guessed.
    """

    host: str = ""
    keys: tuple[str, ...] = ()
    destinations: dict[str, str] = {}


def setup_of(settings: Settings) -> Setup:
    """Return the digests of these settings. Functions are left out, because they belong to one program."""
    keys = ensure_keys(settings)
    destinations = {
        item.name: hmac.digest(keys[-1].encode(), repr(asdict(replace(item, variables={}))).encode(), "sha256").hex()[
            :16
        ]
        for item in settings.resolved_destinations()
    }
    digests = tuple(hashlib.sha256(f"setup {key}".encode()).hexdigest()[:16] for key in keys)
    return Setup(host=platform.node(), keys=digests, destinations=destinations)


def kept_setup(journal: Journal) -> Shared[Setup]:
    """Return the shared value with the digests of the engine that started last."""
    return Shared(journal.store, "setup", Setup, Setup())


def differing_keys(mine: Setup, other: Setup) -> str | None:
    """Return a sentence if one of the two does not verify what the other one signs."""
    if not other.keys or (mine.keys[-1] in other.keys and other.keys[-1] in mine.keys):
        return None
    return (
        f"The signing keys here are others than those of the engine that started last, on {other.host}: callbacks of "
        "one are refused by the other. After a rotation, restart every process. Otherwise give all "
        "of them the same RECEIVER_KEYS."
    )


def differing_destinations(mine: Setup, other: Setup) -> str | None:
    """Return a sentence that names the destinations that differ. Options are compared under the same key only."""
    if not other.keys:
        return None
    here, there = mine.destinations, other.destinations
    changed = [name for name in here.keys() & there.keys() if here[name] != there[name]]
    groups = {
        "only here": here.keys() - there.keys(),
        f"only on {other.host}": there.keys() - here.keys(),
        "with other options": changed if mine.keys[-1] == other.keys[-1] else (),
    }
    found = "; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in groups.items() if names)
    if not found:
        return None
    return f"The destinations here are others than those of the engine that started last, on {other.host} ({found})."
