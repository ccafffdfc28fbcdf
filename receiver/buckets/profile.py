"""Keys and region from `~/.aws`, where people who use S3 have them. Everything else of the usual chain is obstore's:
environment, web identity, container and machine roles."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from receiver.errors import SettingsError

_KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}


def read_profile(name: str | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the profile says, by obstore's names; nothing where the environment has keys, or no profile is there.

    Args:
        name: a profile asked for by name, which must be there; None takes AWS_PROFILE, or `default` if there is one.
        environ: the environment.

    Raises:
        SettingsError: the profile is not there, or gets its keys in a way that needs AWS's own tools.
    """
    asked = name or environ.get("AWS_PROFILE")
    if name is None and "AWS_ACCESS_KEY_ID" in environ:
        return {}
    files = [
        Path(environ.get(variable, default)).expanduser()
        for variable, default in (
            ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
            ("AWS_CONFIG_FILE", "~/.aws/config"),
        )
    ]
    wanted = asked or "default"
    found = _section(files[0], wanted) | _section(files[1], wanted if wanted == "default" else f"profile {wanted}")
    if asked and not found:
        raise SettingsError(f"There is no profile {asked} in {files[0]} or {files[1]}.")
    said = {ours: found[theirs] for theirs, ours in _KEYS.items() if theirs in found}
    if asked and "access_key_id" not in said:
        raise SettingsError(
            f"The profile {asked} holds no access key. Keys by SSO, a role or a program come from AWS's own tools: "
            f'run eval "$(aws configure export-credentials --profile {asked} --format env)" first.'
        )
    return said | ({"region": found["region"]} if "region" in found else {})


def _section(file: Path, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, default_section="\0")
    try:
        parser.read(file, encoding="utf-8")
    except (OSError, UnicodeError, configparser.Error) as exc:
        raise SettingsError(f"{file} cannot be read ({type(exc).__name__}).") from exc
    return dict(parser[name]) if parser.has_section(name) else {}
