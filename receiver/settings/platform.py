"""Platforms whose disk vanishes at each restart, and what to type there instead."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from receiver.errors import SettingsError
from receiver.settings.model import Settings

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


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform. `sign` is the variable it sets; `{name}` in `keys_command` is the value of `instance`;
    `database_command` makes a PostgreSQL database there and sets DATABASE_URL."""

    title: str
    sign: str
    keys_command: str
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


def platform_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environ` that give a known platform away."""
    names = {name for platform in PLATFORMS for name in (platform.sign, platform.instance)}
    return {name: environ[name] for name in sorted(names) if environ.get(name)}


def ephemeral_platform(settings: Settings) -> Platform | None:
    """The platform we run on, if its disk vanishes and the user has not said that ours stays."""
    if settings.disk != "auto":
        return None
    return next((platform for platform in PLATFORMS if platform.sign in settings.platform_variables), None)


def check_platform(settings: Settings, *, functions: bool = False) -> None:
    """Stop the start where the disk vanishes and what must last would lie on it.

    Args:
        settings: as loaded.
        functions: results go to functions of the program, too.

    Raises:
        SettingsError: no keys are set, or the journal is a file, or beside a journal that is elsewhere the media store
            is a folder, or nothing is named where results go; says which commands to type.
    """
    platform = ephemeral_platform(settings)
    if platform is None:
        return
    problems = [] if settings.keys else [keys_problem(settings, platform)]
    if settings.database_kind == "sqlite":
        problems.append(_database_problem(settings, platform))
    else:
        if settings.database_kind == "postgres" and "://" not in settings.media_place:
            problems.append(_media_problem(settings, platform))
        if not (settings.to or settings.destinations or functions):
            problems.append(_destination_problem(platform))
    if problems:
        raise SettingsError("\n".join(problems))


def keys_problem(settings: Settings, platform: Platform) -> str:
    """That a key cannot be made here, and the command that sets one."""
    found = settings.platform_variables.get(platform.instance)
    name = shlex.quote(found) if found else "SERVICE"
    return (
        "RECEIVER_KEYS is not set, and a key made here would vanish with the disk: "
        f"{platform.title} gives an empty one at each restart. "
        f"Type: {platform.keys_command.format(name=name)}"
    )


def _media_problem(settings: Settings, platform: Platform) -> str:
    """That pictures would vanish before they are delivered, or never be seen by another process."""
    return (
        f"RECEIVER_MEDIA: archived pictures would lie in the folder {settings.media_place}, and files on "
        f"{platform.title} vanish at the next restart and are seen by no other process. "
        "Set it to a bucket: RECEIVER_MEDIA=s3://BUCKET/FOLDER, or gs:// or az://"
    )


def _destination_problem(platform: Platform) -> str:
    """That what is delivered would vanish, in a place that nobody has chosen."""
    return (
        "RECEIVER_TO: no destination is named, so results would be saved in the folder outputs, and files on "
        f"{platform.title} vanish at the next restart. "
        "Name one that lasts, for instance RECEIVER_TO=s3://BUCKET/FOLDER, or slack://CHANNEL"
    )


def _database_problem(settings: Settings, platform: Platform) -> str:
    written = settings.sources["database"].removeprefix("environment ")
    name = "RECEIVER_DATABASE" if written == "default" else written
    volume = platform.volume or "/path/on/the/volume"
    found = f"Or add a disk at {volume}" if platform.volume else "Or, if a persistent volume is mounted here"
    return (
        f"{name}: the journal would be a file, and files on {platform.title} vanish at the next restart. "
        f"{platform.database_command or 'Set DATABASE_URL to a PostgreSQL database: postgresql://…'}. "
        f"{found}, set RECEIVER_DATA={volume} "
        f"RECEIVER_DATABASE=sqlite:{volume}/journal.db RECEIVER_DISK=persistent"
    )
