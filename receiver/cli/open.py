"""`open`: show the page, or a result in the program that the system uses for pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import httpx
import typer

from receiver.cli.output import note, say
from receiver.cli.process import on_journal, settings_for
from receiver.cli.tables import status_of
from receiver.deliveries import Delivery
from receiver.errors import NotFound
from receiver.events import Submission
from receiver.journal import Journal
from receiver.journal.selection import LAST
from receiver.journal.store import Filter
from receiver.page.access import local_key
from receiver.settings import Settings, ensure_keys

ANSWER_SECONDS = 3.0
"""Time for `receiver serve` on this machine to answer."""
OPEN_SECONDS = 5.0
"""Time in which a desktop's program says that it cannot open something."""


def open(
    reference: Annotated[
        str | None,
        typer.Argument(help="The submission's id, 6 characters of its end, the task id, or last.", show_default=False),
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="Open the page, also with an id.")] = False,
) -> None:
    """Open the page, or the picture of a result.

    With an id, or if `receiver serve` shows no page on this machine, the picture is opened where a destination put it,
    or else at its link, and its place is printed. Without an id that is the newest result's.
    """
    settings = settings_for(quiet=True)
    wanted = reference or LAST

    async def read(journal: Journal) -> tuple[Submission, list[Delivery]]:
        done = await journal.submissions(Filter(status="succeeded"), limit=1) if wanted == LAST else []
        row = done[0] if done else await journal.find(wanted)
        return row, await journal.deliveries(limit=100, submission_id=row.id)

    if page or reference is None:
        path = "/" if reference is None else f"/pictures/{on_journal(read, settings)[0].id}"
        address = _page_at(settings, path)
        if address is not None:
            say(address.partition("?")[0])
            _show(address)
            return
        if page:
            raise NotFound(f"No page is at {_base(settings)}. Start it: receiver serve", page="page")
    row, deliveries = on_journal(read, settings)
    receipts = [item.receipt for item in deliveries if item.receipt]
    files = [item.ref for item in receipts if item.ref and Path(item.ref).is_file()]
    links = [item.url for item in receipts if item.url and item.url.startswith("https://")]
    place = next(iter([*files, *links, *(row.task.result_urls if row.task else ())]), None)
    if place is None:
        raise NotFound(f"Submission {row.id} has no picture to open ({status_of(row)}).")
    say(place)
    _show(place)


def _show(place: str) -> None:
    """Open a file or a URL with the desktop's program for it. Without a desktop, ask the person to do it."""
    command, quiet = "open" if sys.platform == "darwin" else "xdg-open", subprocess.DEVNULL
    try:
        opener = subprocess.Popen([command, place], stdout=quiet, stderr=quiet)  # noqa: S603 - it runs no shell
        failed = opener.wait(OPEN_SECONDS) != 0
    except subprocess.TimeoutExpired:
        return  # it shows the place until it is closed
    except OSError:
        failed = True
    if failed:
        note(f"No desktop here can open it; do so elsewhere: {place}")


def _base(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.bind_host, settings.bind_host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _page_at(settings: Settings, path: str) -> str | None:
    """Return the URL of a path on the page of this machine, with the key on loopback. None: there is no page."""
    base = _base(settings)
    try:
        answer = httpx.get(f"{base}/login", timeout=ANSWER_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return None
    if answer.status_code != 200 or "Receiver</title>" not in answer.text:
        return None
    if settings.bind_host not in ("127.0.0.1", "::1", "localhost"):
        return base + path
    return f"{base}/login?{urlencode({'key': local_key(ensure_keys(settings)), 'next': path})}"
