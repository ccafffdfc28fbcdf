"""The command that installs an optional extra, in the way in which Receiver was installed here."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "imagine-receiver"


def install(extra: str, package: str = DISTRIBUTION) -> str:
    """Return the command that adds an extra to an installed package."""
    from importlib.metadata import PackageNotFoundError, distribution  # noqa: PLC0415 - slow, and for errors only

    try:
        origin = distribution(package).read_text("direct_url.json")
    except PackageNotFoundError:  # the sources alone are on the path
        origin = None
    return f"pip install '{requirement(package, extra, origin)}'"


def requirement(package: str, extra: str, origin: str | None) -> str:
    """Return the requirement with an extra. `origin` is the text of `direct_url.json` (PEP 610), or None.

    A folder or wheel is named by its path, or by `.` if it is gone. A package without `origin` came from an index.
    """
    found = json.loads(origin) if origin else {}
    url = str(found.get("url", ""))
    if url.startswith("file:"):
        path = Path(unquote(urlsplit(url).path))
        return f"{path if path.exists() else '.'}[{extra}]"
    if "vcs_info" in found:
        url = f"{found['vcs_info']['vcs']}+{url}@{found['vcs_info']['commit_id']}"
    return f"{package}[{extra}] @ {url}" if url else f"{package}[{extra}]"
