"""Checks before a start: signing keys, the provider's key, and platforms whose disk is lost at each restart."""

from __future__ import annotations

import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from receiver.disk import own_draft, sync_folder
from receiver.errors import SettingsError
from receiver.settings.model import Settings

MIN_KEY_BYTES = 32
_MAKE = "Make one with: openssl rand -hex 32"
_LAMBDA = (
    # AWS replaces all variables of a function at once, so the old ones are read first.
    "aws lambda update-function-configuration --function-name {name} --environment "
    '"$(aws lambda get-function-configuration --function-name {name} --query Environment --output json '
    '| jq --arg key "$(openssl rand -hex 32)" \'.Variables.RECEIVER_KEYS = $key | {{Variables}}\')"'
)
_RENDER = (
    "curl -fsS -X PUT https://api.render.com/v1/services/{name}/env-vars/RECEIVER_KEYS "
    '-H "Authorization: Bearer $RENDER_API_KEY" -H "Content-Type: application/json" '
    '-d "{{\\"value\\": \\"$(openssl rand -hex 32)\\"}}"'
)


def require_provider_key(settings: Settings) -> str:
    """Return the provider's API key.

    Raises:
        SettingsError: none is set.
    """
    if settings.provider_key is None:
        raise SettingsError(
            "COMETAPI_KEY is not set, so nothing can be sent to the provider. "
            "Get a key at https://api.cometapi.com/console/token and set COMETAPI_KEY to it.",
            page="submit",
        )
    return settings.provider_key.text


def ensure_keys(settings: Settings) -> tuple[str, ...]:
    """Return the signing keys, newest last: from the settings, else from `<data>/keys`, made at the first start.

    Raises:
        SettingsError: a key is too short, the file is unreadable, or the disk here does not last.
    """
    if settings.keys:
        keys = tuple(key.text for key in settings.keys)
        return _checked(keys, settings.sources["keys"].removeprefix("environment "), _MAKE)
    path = settings.data / "keys"
    platform = platform_of(settings) if settings.disk == "auto" else None  # its disk is lost at a restart
    if platform is not None:
        raise SettingsError(_keys_problem(settings, platform), page="callbacks")
    if settings.database_kind != "sqlite":
        database = settings.sources["database"].removeprefix("environment ")
        remedy = (
            f'The keys used so far are in {path}: set RECEIVER_KEYS="$(cat {path})" for all of them.'
            if path.exists()
            else f"{_MAKE}, once, and set RECEIVER_KEYS to it for all of them. "
            "For a journal in a file of this machine set RECEIVER_DATABASE=sqlite:.receiver/journal.db"
        )
        raise SettingsError(
            f"RECEIVER_KEYS is not set. All processes on the database that {database} names sign and verify with the "
            f"same keys, on any machine, so none is made here. {remedy}",
            page="postgres",
        )
    try:
        if not path.exists():
            _make_key(path)
        return _read_keys(path)
    except OSError as exc:
        raise SettingsError(
            f"The signing key in {path} cannot be read or made: {exc.strerror}. "
            "Set RECEIVER_DATA to a folder this user may write, or set RECEIVER_KEYS.",
            page="callbacks",
        ) from exc


def rotate_keys(settings: Settings) -> Path:
    """Add a new key behind those of the file `<data>/keys`. It signs from the next start on. Return the file's path.

    Raises:
        SettingsError: the keys are not in a file of ours, or it cannot be used.
    """
    path = _key_file(settings)
    _replace_keys(path, [*_read_keys(path), secrets.token_hex(32)])
    return path


def prune_keys(settings: Settings, now: float) -> tuple[Path, int]:
    """Remove all keys but the last from the file. Return its path and the number removed.

    Raises:
        SettingsError: as `rotate_keys`, or a callback under way may still need one of them.
    """
    path = _key_file(settings)
    *old, newest = _read_keys(path)
    until = path.stat().st_mtime + settings.token_max_age
    if old and now < until:
        raise SettingsError(
            f"Callbacks under way may still need the older keys of {path}. Try again after "
            f"{time.strftime('%Y-%m-%d %H:%M:%S %Z', time.localtime(until))}, when RECEIVER_TOKEN_MAX_AGE is over "
            "since its last change.",
            page="backup",
        )
    if old:
        _replace_keys(path, [newest])
    return path, len(old)


def _key_file(settings: Settings) -> Path:
    """Return the file with the keys. Raise SettingsError if they are in a setting, or if there is none yet."""
    path = settings.data / "keys"
    if settings.keys:
        written = settings.sources["keys"].removeprefix("environment ")
        raise SettingsError(
            f"The keys come from {written}, which this command cannot change. To rotate, set it to the present keys "
            "and a new one behind them (`receiver keys rotate --print` prints all of that), and restart every process. "
            "After RECEIVER_TOKEN_MAX_AGE remove all but the last.",
            page="backup",
        )
    if not path.exists():
        raise SettingsError(f"There is no key in {path} yet, and the first start makes one.", page="backup")
    return path.resolve()


def _replace_keys(path: Path, keys: Iterable[str]) -> None:
    """Write the file anew. A reader sees the old keys or the new ones."""
    try:
        with own_draft(path.with_name(".keys.part")) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write("".join(f"{key}\n" for key in keys).encode())
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        sync_folder(path.parent)
    except OSError as exc:
        raise SettingsError(f"{path} cannot be written: {exc.strerror}. It was not changed.", page="backup") from exc


def _checked(keys: tuple[str, ...], written: str, remedy: str) -> tuple[str, ...]:
    for number, key in enumerate(keys, start=1):
        size = len(key.encode())
        if size < MIN_KEY_BYTES:
            problem = f"Key {number} in {written} has {size} bytes and needs {MIN_KEY_BYTES}. {remedy}"
            raise SettingsError(problem, page="callbacks")
    return keys


def _read_keys(path: Path) -> tuple[str, ...]:
    remedy = f"Put one key per line, or delete {path} to have one made; callback URLs made so far then stop working."
    try:
        keys = tuple(path.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{path} is not text. {remedy}", page="callbacks") from exc
    if not keys:
        raise SettingsError(f"{path} holds no key. {remedy}", page="callbacks")
    return _checked(keys, str(path), remedy)


def _make_key(path: Path) -> None:
    """Make a key, unless a process that started at the same time has made one. A reader sees a whole key or no file."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".keys-") as file:  # has mode 0600
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(file.name)
    sync_folder(path.parent)


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform whose disk is lost at each restart. It sets the variable `sign`."""

    title: str
    sign: str
    keys_command: str
    """Command that sets a key. `{name}` in it is the value of the variable `instance`."""
    instance: str = ""
    volume: str = ""
    database_command: str = ""


PLATFORMS = (
    Platform(
        "Heroku",
        "DYNO",
        "heroku config:set RECEIVER_KEYS=$(openssl rand -hex 32)",
        database_command="Type: heroku addons:create heroku-postgresql:essential-0",
    ),
    Platform(
        "Cloud Run",
        "K_SERVICE",
        "gcloud run services update {name} --update-env-vars RECEIVER_KEYS=$(openssl rand -hex 32)",
        instance="K_SERVICE",
    ),
    Platform("AWS Lambda", "AWS_LAMBDA_FUNCTION_NAME", _LAMBDA, instance="AWS_LAMBDA_FUNCTION_NAME"),
    Platform("Vercel", "VERCEL", "openssl rand -hex 32 | vercel env add RECEIVER_KEYS production"),
    Platform("Render", "RENDER", _RENDER, instance="RENDER_SERVICE_ID", volume="/var/data"),
)


def platform_of(settings: Settings) -> Platform | None:
    """Return the platform that the settings were read on, if it is known."""
    return next((platform for platform in PLATFORMS if settings.origin.environ.get(platform.sign)), None)


def check_platform(settings: Settings, *, functions: bool = False) -> None:
    """Refuse to start on a platform whose disk is lost, if anything that must last would be on it.

    `functions` is True if results also go to functions of the program.

    Raises:
        SettingsError: no keys are set, the journal is a file, the media store beside a shared journal is a folder, or
            no destination is named. The text has the commands to type.
    """
    platform = platform_of(settings) if settings.disk == "auto" else None  # its disk is lost at a restart
    if platform is None:
        return
    problems = [] if settings.keys else [_keys_problem(settings, platform)]
    vanish = f"files on {platform.title} vanish at the next restart"
    if settings.database_kind == "sqlite":
        written = settings.sources["database"].removeprefix("environment ")
        volume = platform.volume or "/path/on/the/volume"
        found = f"Or add a disk at {volume}" if platform.volume else "Or, if a persistent volume is mounted here"
        problems.append(
            f"{'RECEIVER_DATABASE' if written == 'default' else written}: the journal would be a file, and {vanish}. "
            f"{platform.database_command or 'Set DATABASE_URL to a PostgreSQL database: postgresql://…'}. "
            f"{found}, set RECEIVER_DATA={volume} "
            f"RECEIVER_DATABASE=sqlite:{volume}/journal.db RECEIVER_DISK=persistent"
        )
    if settings.database_kind == "postgres" and "://" not in settings.media_place:
        problems.append(
            f"RECEIVER_MEDIA: archived pictures would be in the folder {settings.media_place}, and {vanish} and are "
            "seen by no other process. Set it to a bucket: RECEIVER_MEDIA=s3://BUCKET/FOLDER, or gs:// or az://"
        )
    if settings.database_kind != "sqlite" and not (settings.to or settings.destinations or functions):
        problems.append(
            f"RECEIVER_TO: no destination is named, so results would be saved in the folder outputs, and {vanish}. "
            "Name one that lasts, for instance RECEIVER_TO=s3://BUCKET/FOLDER, or slack://CHANNEL"
        )
    if problems:
        raise SettingsError("\n".join(problems), page="server")


def _keys_problem(settings: Settings, platform: Platform) -> str:
    found = settings.origin.environ.get(platform.instance)
    name = shlex.quote(found) if found else "SERVICE"
    return (
        "RECEIVER_KEYS is not set, and a key made here would vanish with the disk: "
        f"{platform.title} gives an empty one at each restart. "
        f"Type: {platform.keys_command.format(name=name)}"
    )
