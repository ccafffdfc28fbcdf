"""Usage of disks and buckets: journal, media store and folders of destinations, by age."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from datetime import datetime, timedelta

import msgspec

from receiver.app.container import store_of
from receiver.app.journals import journal_of
from receiver.disk import in_thread, sizes_in
from receiver.errors import SettingsError
from receiver.events import Submission
from receiver.handlers import registry
from receiver.handlers.file import FileHandler
from receiver.journal.store import Filter
from receiver.settings import Settings

PAGE = 1000
RESULTS = "*_" + "[0-9A-HJKMNP-TV-Z]" * 26 + "*"
"""Pattern of the names that a file destination gives. Other files in its folder are not counted."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one place by age: since midnight, then up to 7 days, up to 30 days, and older. None: not known.

    Of `submissions` it is their number.
    """

    name: str
    place: str = ""
    today: int | None = None
    week: int | None = None
    month: int | None = None
    older: int | None = None
    all: int | None


async def usage_of(settings: Settings) -> list[Usage]:
    """Return what is used by submissions, journal, media store, its cache, and each file destination.

    Raises:
        JournalError: the journal cannot be read.
        MediaError: the media store cannot be read.
    """
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [int((midnight - timedelta(days=days)).timestamp() * 1000) for days in (0, 7, 30)]
    found = []
    async with journal_of(settings, existing=True) as journal:
        total = sum((await journal.counts(submissions=True)).submissions.values())
        recent, after = list[Submission](), None
        while page := await journal.submissions(Filter(since_ms=starts[-1]), limit=PAGE, after=after):
            recent += page
            after = page[-1].id
        ages = _by_age("submissions", "", [(row.created_ms, 1) for row in recent], starts)
        older = max(total - (ages.all or 0), 0)
        found.append(msgspec.structs.replace(ages, older=older, all=(ages.all or 0) + older))
    size = None
    if settings.database_kind == "sqlite":
        path = settings.database_path
        size = sum([size for _, size in await in_thread(sizes_in, path.parent, f"{path.name}*")])
    found.append(Usage(name="journal", place=settings.database_shown, all=size))
    async with aclosing(store_of(settings)) as store:
        found.append(_by_age("media", store.place, await store.sizes(), starts))
    folders = {"cache": (store.folder, "**/*")} if store.remote else {}
    for item in settings.resolved_destinations():
        if item.handler == FileHandler.name or (item.url or "").startswith("file:"):
            try:
                handler: object = registry.build(item)
            except SettingsError:
                continue  # `destinations list` says why
            if isinstance(handler, FileHandler):
                folders[item.name] = (handler.folder, RESULTS)
    for name, (folder, pattern) in folders.items():
        found.append(_by_age(name, str(folder), await in_thread(sizes_in, folder, pattern), starts))
    return found


def _by_age(name: str, place: str, sizes: Iterable[tuple[int, int]], starts: list[int]) -> Usage:
    ages = [0] * 4
    for at_ms, size in sizes:
        ages[next((number for number, start in enumerate(starts) if at_ms >= start), 3)] += size
    today, week, month, older = ages
    return Usage(name=name, place=place, today=today, week=week, month=month, older=older, all=sum(ages))
