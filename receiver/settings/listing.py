"""The settings as tables: what there is (README, `--help`), and what is set (`receiver settings`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from receiver.settings.databases import without_passwords
from receiver.settings.kinds import Kind, KnownAs, Unset, show_url
from receiver.settings.model import Destination, Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """One setting: its name in TOML, its variable, the names people already have for it, its default, its help."""

    name: str
    env: str
    aliases: tuple[str, ...]
    default: str
    help: str


def describe() -> list[SettingDoc]:
    """All settings, in the order of their declaration."""
    return [_doc(name, info) for name, info in Settings.model_fields.items()]


def show(settings: Settings) -> list[tuple[str, str, str]]:
    """Name, value and source of each setting; secrets are masked, destinations follow one by one."""
    resolved = {
        "host": settings.bind_host,
        "database": settings.database_shown,
        "media": without_passwords(settings.media_place),
        "media_cache": str(settings.media_cache_folder),
    }
    rows = [
        (name, resolved.get(name) or _shown(info, getattr(settings, name)), settings.sources[name])
        for name, info in Settings.model_fields.items()
        if name != "destinations"
    ]
    return rows + [
        (f"destinations.{name}", _destination(destination), settings.sources.get(f"destinations.{name}", "default"))
        for name, destination in settings.destinations.items()
    ]


def _doc(name: str, info: FieldInfo) -> SettingDoc:
    aliases = tuple(marker.name for marker in info.metadata if isinstance(marker, KnownAs))
    env = f"RECEIVER_{name.upper()}" + ("__NAME__OPTION" if name == "destinations" else "")
    return SettingDoc(name, env, aliases, _shown(info, info.default), info.description or "")


def _shown(info: FieldInfo, value: Any) -> str:
    unset, kind = _marker(info, Unset), _marker(info, Kind)
    if unset is not None and value in (None, "", (), {}):
        return unset.text
    return kind.show(value) if kind else str(value)


def _marker(info: FieldInfo, kind: type[T]) -> T | None:
    return next((marker for marker in info.metadata if isinstance(marker, kind)), None)


def _destination(destination: Destination) -> str:
    """What it is, but of its options only the names: which of them are secret, only the handler knows."""
    parts = [f"handler {destination.handler}"] if destination.handler else []
    parts += [show_url(destination.url)] if destination.url else []
    parts += [f"options {' '.join(sorted(destination.options))}"] if destination.options else []
    return ", ".join(parts)
