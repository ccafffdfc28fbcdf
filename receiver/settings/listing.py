"""Settings as tables: all that exist (README, `--help`), and their current values (`receiver settings`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from receiver.settings.kinds import Kind, KnownAs, Unset, show_url, without_passwords
from receiver.settings.model import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SettingDoc:
    """One setting: its name in TOML, its variable, other names of the variable, its default, its help."""

    name: str
    env: str
    aliases: tuple[str, ...]
    default: str
    help: str


def describe() -> list[SettingDoc]:
    """Return all settings, in the order of their declaration."""
    return [
        SettingDoc(
            name,
            f"RECEIVER_{name.upper()}" + ("__NAME__OPTION" if name == "destinations" else ""),
            tuple(marker.name for marker in info.metadata if isinstance(marker, KnownAs)),
            _shown(info, info.default),
            info.description or "",
        )
        for name, info in Settings.model_fields.items()
    ]


def show(settings: Settings) -> list[tuple[str, str, str]]:
    """Return name, value and source of each setting, then of each destination. Secrets are masked."""
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
    for name, item in settings.destinations.items():
        parts = [f"handler {item.handler}"] if item.handler else []
        parts += [show_url(item.url)] if item.url else []
        # Options by name only: the handler alone knows which of them are secret.
        parts += [f"options {' '.join(sorted(item.options))}"] if item.options else []
        rows.append((f"destinations.{name}", ", ".join(parts), settings.sources.get(f"destinations.{name}", "default")))
    return rows


def _shown(info: FieldInfo, value: Any) -> str:
    unset, kind = _marker(info, Unset), _marker(info, Kind)
    if unset is not None and value in (None, "", (), {}):
        return unset.text
    return kind.show(value) if kind else str(value)


def _marker(info: FieldInfo, kind: type[T]) -> T | None:
    return next((marker for marker in info.metadata if isinstance(marker, kind)), None)
