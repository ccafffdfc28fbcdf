"""The pages: of each the address, the template, the regions that change, and the values for them."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from starlette.datastructures import QueryParams

from receiver import handbook
from receiver.clock import Clock
from receiver.deliveries import DELIVERY_STATUSES, Delivery
from receiver.disk import in_thread
from receiver.errors import InputError, NotFound
from receiver.events import DISPLAY_STATUSES, EventType, Submission, first_id, id_ms
from receiver.extras import install
from receiver.journal import Journal
from receiver.journal.store import Filter, Key
from receiver.journal.troubles import find_troubles
from receiver.maintenance.replay import Replay
from receiver.maintenance.retention import Retention
from receiver.media import Store, Thumbnails
from receiver.page.access import Role, User
from receiver.page.render import age
from receiver.pictures import AVAILABLE
from receiver.provider import Provider
from receiver.requests import KINDS, SPEEDS
from receiver.submissions import Submissions
from receiver.tasks import is_grid
from receiver.telemetry import redact
from receiver.web.api.queries import read_conditions, read_cursor, whole_number
from receiver.web.api.responses import clean
from receiver.web.problems import Problem

PAGE = 60
"""Pictures on one page, and rows of a table."""
SEARCHED = 10
"""Pages of the journal that are read to fill one page of a filtered listing."""
SEARCH_SECONDS = 0.05
"""Time after which no further window is searched for words and labels. The next page goes on."""
DAY_MS = 86_400_000
MAX_DAYS = 10_000
FOREVER_MS = 2**53
ENDS: tuple[EventType, ...] = ("task.failed", "task.lost")
COUNTED = 200
"""Rows that are counted. More are shown as `200+`, so that the page costs the same at any size."""
MAX_BODY = 20_000
"""Characters of a callback's body that are shown."""
MAX_SELECTED = 200
HIDDEN = frozenset({"failed", "lost", "refused"})
"""Statuses of submissions that never have a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything that the page reads and commands.

    Attributes:
        destinations: names, as configured in this process.
        settings: returns name, value and source of each setting, with secrets masked.
        examine: yields the findings of `receiver doctor`.
        sample: sends a sample to a destination and returns a sentence.
        stream: False where a process may be frozen after its answer, so that pages poll.
    """

    journal: Journal
    store: Store
    thumbnails: Thumbnails
    submissions: Submissions
    provider: Provider
    replay: Replay
    retention: Retention
    clock: Clock
    destinations: Collection[str]
    version: str
    settings: Callable[[], Sequence[tuple[str, str, str]]]
    examine: Callable[[], AsyncIterator[Any]]
    sample: Callable[[str], Awaitable[str]]
    stream: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look of a user at an address. `root` is the path at which the page is mounted."""

    path: str
    query: QueryParams
    params: Mapping[str, str]
    user: User
    root: str


Load = Callable[[Sources, Look], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class View:
    """A page. Each of its `regions` is a block of the template that is sent again when it has changed."""

    path: str
    template: str
    load: Load
    regions: tuple[str, ...] = ()
    role: Role = "viewer"


# Rows of a listing


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A submission as a grid or a table shows it."""

    row: Submission
    grid: bool
    marks: tuple[tuple[str, str], ...]  # destination and the status of its newest delivery

    @property
    def percent(self) -> int | None:
        """Progress of a task under way."""
        return self.row.task.progress if self.row.task and self.row.ended is None else None


def read_listing(query: QueryParams, statuses: Sequence[str], now_ms: int) -> tuple[Filter, tuple[str] | None]:
    """Return the selection and the cursor that a URL or a form asks for, as the API reads them. Raise InputError.

    `days=N` selects what is at most so old.
    """
    given = QueryParams([(name, value) for name, value in query.multi_items() if value])  # forms send empty fields, too
    try:
        selection, cursor = read_conditions(given, statuses), read_cursor(given)
        if "days" in given:
            since_ms = now_ms - whole_number("days", given["days"], 1, MAX_DAYS) * DAY_MS
            selection = replace(selection, since_ms=max(since_ms, selection.since_ms or 0))
    except Problem as exc:
        raise InputError(exc.detail) from exc
    return selection, cursor


async def _rows(sources: Sources, look: Look, *, hidden: frozenset[str] = frozenset()) -> tuple[list[Submission], str]:
    """Return a page of submissions, newest first, and the cursor of the next one ("": none).

    A page may have fewer than there are: words and labels have no index, so they are searched for `SEARCH_SECONDS`,
    back in windows that double.
    """
    selection, cursor = read_listing(look.query, DISPLAY_STATUSES, sources.clock.now_ms())
    after = cast("Key | None", cursor)
    floor_ms, until = selection.since_ms or 0, time.monotonic() + SEARCH_SECONDS
    now_ms, searching = sources.clock.now_ms(), bool(selection.words or selection.labels)
    edge_ms = id_ms(cursor[0]) if cursor else selection.until_ms or now_ms
    found: list[Submission] = []
    full, following = 0, True
    while following and full < SEARCHED and len(found) < PAGE:
        window_ms = max(DAY_MS, now_ms - edge_ms)
        since_ms = max(edge_ms - window_ms, floor_ms) if searching else floor_ms
        some = replace(selection, since_ms=since_ms or None)
        page = await sources.journal.page("submissions", some, after=after, limit=PAGE)
        rows = [row.record for row in page if isinstance(row.record, Submission)]
        found += [row for row in rows if row.display_status not in hidden]
        if len(page) == PAGE:
            after, full = page[-1].key, full + 1
            continue
        following = since_ms > floor_ms
        after, edge_ms = (first_id(since_ms),), since_ms
        if time.monotonic() > until:
            break
    if len(found) > PAGE:
        return found[:PAGE], found[PAGE - 1].id
    return found, str(after[0]) if following and after else ""


def _older(rows: Sequence[Submission], following: str) -> dict[str, Any]:
    """Return the cursor of the next page, and the time back to which an incomplete page was searched."""
    return {"following": following, "searched_ms": id_ms(following) if following and len(rows) < PAGE else None}


async def tiles(sources: Sources, rows: Sequence[Submission]) -> list[Tile]:
    """Return submissions with a mark for each destination: succeeded, waiting, running or dead."""
    ids = [row.id for row in rows]
    documents = await sources.journal.store.load(ids)
    marks: dict[str, dict[str, str]] = defaultdict(dict)
    for id, document in documents.items():
        marks[id] |= dict.fromkeys(document.receipts, "succeeded")
    made = [row.created_ms for row in rows]
    if made:  # a delivery is made after its submission, and seldom a day after it
        dead = Filter(status="dead", since_ms=min(made), until_ms=max(made) + DAY_MS)
        for item in await sources.journal.deliveries(dead, limit=COUNTED):
            if item.submission_id in documents:
                marks[item.submission_id][item.destination] = "dead"
    for id, document in documents.items():
        marks[id] |= {item.destination: item.status for item in document.deliveries}
    return [Tile(row=row, grid=_is_grid(row), marks=tuple(sorted(marks[row.id].items()))) for row in rows]


def _is_grid(row: Submission) -> bool:
    pictures = [item for item in row.media if item.type.startswith("image/")]
    return row.task is not None and len(pictures) == len(row.media) == 1 and is_grid(row.task, row.kind, row.button)


# Pages


async def home(sources: Sources, look: Look) -> dict[str, Any]:
    journal, now_ms = sources.journal, sources.clock.now_ms()
    newest, _ = await _rows(sources, look, hidden=HIDDEN)
    ends = [
        item
        for type in ENDS
        for item in await journal.events(type=type, limit=COUNTED)
        if item.created_ms >= now_ms - DAY_MS
    ]
    under_way = [row for row in await journal.due("poll", FOREVER_MS, COUNTED) if row.ended is None]
    waiting = [row for row in await journal.due("send", FOREVER_MS, COUNTED) if row.status == "prepared"]
    counts = await journal.counts()
    owed = counts.destinations.values()
    oldest = [count.oldest_due_ms for count in owed if count.oldest_due_ms is not None]
    troubles = await find_troubles(journal, now_ms)
    return {
        "troubles": troubles,
        "cards": {
            "under way": _counted(under_way),
            "waiting to send": _counted(waiting),
            "owed": sum(count.pending for count in owed),
            "dead": sum(count.dead for count in owed),
            "failed or lost today": _counted(ends),
        },
        "oldest": age(now_ms - min(oldest)) if oldest else "",
        "health": _health({item.name.partition(" ")[0] for item in troubles}, newest),
        "newest": await tiles(sources, newest[:12]),
        "destinations": [(item, item.display_status(now_ms)) for item in await journal.destinations(counts)],
        "engines": await journal.engines(),
    }


def _health(troubles: set[str], newest: Sequence[Submission]) -> dict[str, str]:
    """Return a word on the callbacks and on the provider, by troubles and the newest submissions."""
    if "callbacks" in troubles:
        callbacks = "failing"
    elif any(row.callbacks for row in newest):
        callbacks = "working"
    else:
        callbacks = "none yet" if any(row.hooked for row in newest) else "not in use"
    answered = any(row.task_id for row in newest)
    provider = "failing" if "provider" in troubles else "working" if answered else "not asked yet"
    return {"callbacks": callbacks, "provider": provider}


def _counted(rows: Sequence[object]) -> int | str:
    return f"{COUNTED}+" if len(rows) >= COUNTED else len(rows)


async def pictures(sources: Sources, look: Look) -> dict[str, Any]:
    top = look.query.get("top", "")
    rows, following = await _rows(sources, look, hidden=frozenset() if look.query.get("status") else HIDDEN)
    news = [row for row in rows if top and row.id > top]
    shown = [row for row in rows if not top or row.id <= top]
    return {
        "tiles": await tiles(sources, shown),
        "news": len(news),
        **_older(rows, following),
        "top": top or (shown[0].id if shown else ""),
        "names": sorted(sources.destinations),
        "thumbnails": AVAILABLE,
        "install": install("images"),
        **_choices(),
    }


async def tasks(sources: Sources, look: Look) -> dict[str, Any]:
    rows, following = await _rows(sources, look)
    return {"tiles": await tiles(sources, rows), **_older(rows, following), **_choices()}


def _choices() -> dict[str, Any]:
    return {"statuses": DISPLAY_STATUSES, "kinds": tuple(KINDS)}


async def picture(sources: Sources, look: Look) -> dict[str, Any]:
    row = await sources.journal.find(look.params["id"])
    [tile] = await tiles(sources, [row])
    deliveries = await sources.journal.deliveries(limit=100, submission_id=row.id)
    family = await sources.journal.family(row.id)
    return {
        "tile": tile,
        "row": row,
        "parent": next((item for item in family if item.id == row.parent_id), None),
        "family": _tree(family),
        "deliveries": deliveries,
        "parameters": _parameters(row.prompt),
        "seed": row.task.seed if row.task else "",
        "links": row.task.result_urls if row.task else (),
        "names": sorted(sources.destinations),
    }


def _tree(family: Sequence[Submission]) -> list[tuple[Submission, int]]:
    """Return the rows, oldest first, so that each one follows its parent, with the number of its ancestors."""
    paths: dict[str | None, tuple[str, ...]] = {}
    for row in family:
        paths[row.id] = (*paths.get(row.parent_id, ()), row.id)
    return [(row, len(paths[row.id]) - 1) for row in sorted(family, key=lambda row: paths[row.id])]


def _parameters(prompt: str) -> list[str]:
    """Return the parameters of a prompt, e.g. `--ar 3:2`."""
    parts = prompt.split(" --")
    return [f"--{part.strip()}" for part in parts[1:] if part.strip()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A line of a timeline. `body` is a text that can be unfolded."""

    ms: int
    what: str
    status: str
    detail: str = ""
    body: str = ""
    delivery: str = ""


async def task(sources: Sources, look: Look) -> dict[str, Any]:
    journal = sources.journal
    row = await journal.find(look.params["id"])
    deliveries = await journal.deliveries(limit=100, submission_id=row.id)
    moments = [Moment(ms=row.created_ms, what="prepared", status="prepared", body=_pretty(row.request))]
    for event in await journal.events(limit=200, submission_id=row.id):
        percent = f"{event.progress} %" if event.progress is not None else ""
        detail = " · ".join(filter(None, (f"by {event.source}", percent, event.reason or "")))
        moments.append(Moment(ms=event.created_ms, what=event.type, status=event.type[5:], detail=clean(detail)))
    for callback in await journal.callbacks(row.id, limit=100):
        body, said = callback.body.decode(errors="replace"), ""
        try:
            told = json.loads(body)
            body = _pretty(told)
            if isinstance(told, dict):
                said = " ".join(str(told[name])[:20] for name in ("status", "progress") if told.get(name))
        except ValueError:
            body = redact(body)[:MAX_BODY]
        end = "accepted" if callback.cause is None else f"the provider was asked: {callback.cause}"
        detail = clean(" · ".join(filter(None, (said, end))))
        moments.append(Moment(ms=callback.received_ms, what="callback", status="callback", detail=detail, body=body))
    for delivery in deliveries:
        for attempt in await journal.attempts(delivery.id):
            moments.append(
                Moment(
                    ms=attempt.started_ms,
                    what=f"attempt {attempt.number} at {delivery.destination}",
                    status=attempt.outcome or "running",
                    detail=clean(attempt.detail or ""),
                    delivery=delivery.id,
                )
            )
    moments.sort(key=lambda item: item.ms)
    return {
        "row": row,
        "moments": moments,
        "deliveries": deliveries,
        "labels": row.labels,
    }


def _pretty(value: Any) -> str:
    return redact(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False))[:MAX_BODY]


async def make(sources: Sources, look: Look) -> dict[str, Any]:
    kind = look.query.get("kind", "imagine")
    makeable = [name for name, item in KINDS.items() if item.address == "/submissions"]
    if kind not in makeable:
        raise InputError(f"There is no kind {kind[:40]!r} that can be made here. There are: {', '.join(makeable)}.")
    return {
        "kind": kind,
        "kinds": [(name, KINDS[name].summary) for name in makeable],
        "fields": KINDS[kind].fields,
        "speeds": SPEEDS,
        "names": sorted(sources.destinations),
        "prompt": look.query.get("prompt", ""),
    }


def selection_of(query: QueryParams, now_ms: int) -> tuple[Filter, tuple[str] | None]:
    """Return the selection and the cursor of deliveries that a URL or a form asks for. Raise InputError."""
    selection, cursor = read_listing(query, DELIVERY_STATUSES, now_ms)
    destination, submission = query.get("destination") or None, query.get("submission") or None
    return replace(selection, destination=destination, submission_id=submission), cursor


async def deliveries(sources: Sources, look: Look) -> dict[str, Any]:
    wanted, after = selection_of(look.query, sources.clock.now_ms())
    page = await sources.journal.page("deliveries", wanted, after=after, limit=PAGE)
    rows = [row.record for row in page if isinstance(row.record, Delivery)]
    documents = await sources.journal.store.load(sorted({row.submission_id for row in rows}))
    return {
        "rows": rows,
        "prompts": {id: found.submission.prompt for id, found in documents.items()},
        "following": rows[-1].id if len(page) == PAGE else "",
        "statuses": DELIVERY_STATUSES,
        "names": sorted({*sources.destinations, *(item.name for item in await sources.journal.destinations())}),
    }


async def destinations(sources: Sources, look: Look) -> dict[str, Any]:
    now_ms = sources.clock.now_ms()
    known = {item.name: item for item in await sources.journal.destinations()}
    return {
        "rows": [
            (item, item.display_status(now_ms), name in sources.destinations) for name, item in sorted(known.items())
        ],
        "unknown": [name for name in sorted(sources.destinations) if name not in known],
    }


async def system(sources: Sources, look: Look) -> dict[str, Any]:
    findings = [item async for item in sources.examine()] if look.query.get("examine") else []
    return {
        "version": sources.version,
        "journal": sources.journal.store.place,
        "media": sources.store.place,
        "engines": await sources.journal.engines(),
        "disk": await in_thread(_disk, sources.store.folder),
        "settings": sources.settings(),
        "findings": findings,
        "actions": (await sources.journal.actions())[:50],
    }


def _disk(folder: Path) -> tuple[int, int]:
    """Return the free and all bytes of the disk of a folder, which need not be there yet."""
    while not folder.exists():
        folder = folder.parent
    found = shutil.disk_usage(folder)
    return found.free, found.total


async def manual(sources: Sources, look: Look) -> dict[str, Any]:
    topic = look.params.get("topic", "")
    if topic and topic not in handbook.PAGES:
        raise NotFound(f"The handbook has no page {topic[:40]!r}.")
    return {
        "topic": topic,
        "groups": {
            group: [(name, handbook.summary(name)) for name in names] for group, names in handbook.GROUPS.items()
        },
        "text": handbook.page(topic, pictures=True) if topic else "",
    }


VIEWS = (
    View("/", "home.html", home, ("state", "cards", "strip", "newest")),
    View("/pictures", "pictures.html", pictures, ("news", "grid")),
    View("/pictures/{id}", "picture.html", picture, ("picture",)),
    View("/make", "make.html", make, role="maker"),
    View("/tasks", "tasks.html", tasks, ("rows",)),
    View("/tasks/{id}", "task.html", task, ("task",)),
    View("/deliveries", "deliveries.html", deliveries, ("rows",)),
    View("/destinations", "destinations.html", destinations, ("rows",)),
    View("/system", "system.html", system),
    View("/help", "help.html", manual),
    View("/help/{topic}", "help.html", manual),
)

__all__ = ["VIEWS", "Look", "NotFound", "Sources", "View", "selection_of"]
