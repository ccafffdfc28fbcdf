"""Actions of the forms of the page. Each action is journalled with its user."""

from __future__ import annotations

import asyncio
import base64
import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO
from urllib.parse import quote

from starlette.datastructures import FormData, QueryParams, UploadFile

from receiver.deliveries import PAUSE_SECONDS
from receiver.errors import Ambiguous, InputError, NotFound, Refused
from receiver.events import Submission
from receiver.journal.document import Action
from receiver.journal.selection import Order
from receiver.journal.store import EVERYTHING, Filter
from receiver.page.access import User
from receiver.page.views import MAX_SELECTED, Sources, selection_of
from receiver.requests import KINDS, REQUIRED, build
from receiver.submissions import Options
from receiver.web.api.responses import clean

PAUSE_MS = PAUSE_SECONDS * 1000
"""A pause by hand ends by itself after a day."""
MAX_UPLOAD = 32 * 2**20
"""Bytes of the pictures of one form."""
MAX_ZIP = 2 * 10**9


async def note(sources: Sources, user: User, what: str, subject: str) -> None:
    """Journal an action of a user."""
    await sources.journal.note_action(
        Action(at_ms=sources.clock.now_ms(), user=user.name, what=what, subject=clean(subject)[:200])
    )


async def make(sources: Sources, user: User, form: FormData) -> str:
    """Submit a request of any kind. Return the address of its picture."""
    kind = str(form.get("kind", "imagine"))
    if kind not in KINDS or KINDS[kind].address != "/submissions":
        raise InputError(f"There is no kind {kind[:40]!r} that can be made here.")
    values: dict[str, Any] = {}
    for field in KINDS[kind].fields:
        given = [item for item in form.getlist(field.name) if (item if isinstance(item, str) else item.filename)]
        if not given:
            values |= {field.name: ""} if field.default is REQUIRED and not field.form.picture else {}
            continue
        if field.form.picture:
            sources_given = [await _data_uri(item) for item in given]
            values[field.name] = sources_given if field.form.type is not str else sources_given[0]
        else:
            values[field.name] = _value(str(given[0]), field.form.type)
    options = Options(
        speed=str(form.get("speed") or "") or None,
        labels=_labels(str(form.get("labels", ""))),
        to=tuple(map(str, form.getlist("to"))) or None,
    )
    row = await sources.submissions.prepare(build(kind, **values), options)
    await note(sources, user, f"made {kind}", row.prompt or row.id)
    await _send(sources, row)
    return f"/pictures/{row.id}"


async def press(sources: Sources, user: User, row: Submission, form: FormData) -> str:
    """Press a button of a finished task. A button that was pressed before gives the picture of then."""
    button = str(form.get("button", ""))
    again = form.get("again") == "yes"
    prompt, mask = _answer(form)
    made = await sources.submissions.follow_up(row, button, again=again, prompt=prompt, mask=mask)
    await note(sources, user, f"pressed {button}", row.prompt or row.id)
    await _send(sources, made)
    return f"/pictures/{made.id}"


async def reply(sources: Sources, user: User, row: Submission, form: FormData) -> str:
    """Answer a task that asks for input."""
    prompt, mask = _answer(form)
    row = await sources.submissions.reply(row, prompt=prompt, mask=mask)
    await note(sources, user, "answered", row.prompt or row.id)
    try:
        await sources.submissions.send_reply(row.id)
    except (Refused, Ambiguous) as exc:
        if isinstance(exc, Refused) and not exc.retry:
            raise
    return f"/pictures/{row.id}"


async def cancel(sources: Sources, user: User, row: Submission, form: FormData) -> str:
    """Ask the provider to stop a task."""
    if row.ended is not None or row.status == "refused" or row.task_id is None:
        raise InputError("It has ended already, or has no task yet, so there is nothing to cancel.")
    await sources.provider.cancel(row.task_id)
    await note(sources, user, "cancelled", row.prompt or row.id)
    return f"/pictures/{row.id}"


async def send_to(sources: Sources, user: User, form: FormData) -> str:
    """Deliver the results of the selected submissions to one destination once more."""
    to = str(form.get("to", ""))
    if to not in sources.destinations:
        raise InputError(f"There is no destination {to[:40]!r}. There are: {', '.join(sources.destinations)}.")
    orders: list[Order] = []
    for id in selected(form):
        orders += await sources.replay.of_events(Filter(submission_id=id, type="task.succeeded"), to=to, as_new=True)
    if not orders:
        raise InputError("None of the selected tasks has a result yet.")
    await sources.replay.carry_out(orders)
    await note(sources, user, f"sent {len(orders)} to {to}", "")
    return f"/deliveries?destination={quote(to)}"


async def erase(sources: Sources, user: User, form: FormData) -> str:
    """Delete the selected submissions with their files."""
    for id in selected(form):
        try:
            await sources.retention.erase(await sources.journal.find(id, whole=True), force=False)
        except NotFound:
            continue  # it is gone already
        await note(sources, user, "erased", id)
    return "/pictures"


async def orders_of(sources: Sources, form: FormData) -> list[Order]:
    """Return the orders of a replay: of the selected deliveries, or of all that match the filter."""
    if form.get("all") != "yes":
        ids = tuple(str(item) for item in form.getlist("id"))
        if not ids:
            raise InputError("Nothing is selected. Tick the deliveries to replay.")
        return await sources.replay.of_deliveries(Filter(ids=ids))
    wanted = [(name, str(value)) for name, value in form.multi_items() if name not in ("confirm", "id")]
    selection, _ = selection_of(QueryParams(wanted), sources.clock.now_ms())
    if selection == EVERYTHING:
        raise InputError("All deliveries are too many. Filter by destination or status first.")
    return await sources.replay.of_deliveries(selection)


async def pause(sources: Sources, user: User, name: str) -> str:
    """Pause a destination by hand."""
    await sources.journal.pause(name, sources.clock.now_ms() + PAUSE_MS, f"paused by {user.name}", by_hand=True)
    await note(sources, user, "paused", name)
    return "/destinations"


async def resume(sources: Sources, user: User, name: str) -> str:
    """End a pause of a destination."""
    if not await sources.journal.resume(name):
        raise NotFound(f"There is no destination {name[:40]!r}.")
    sources.replay.changed()
    await note(sources, user, "resumed", name)
    return "/destinations"


def selected(form: FormData | QueryParams) -> list[str]:
    """Return the selected ids. Raise InputError for none or too many."""
    ids = list(dict.fromkeys(str(item) for item in form.getlist("id")))
    if not ids:
        raise InputError("Nothing is selected. Tick some pictures first.")
    if len(ids) > MAX_SELECTED:
        raise InputError(f"At most {MAX_SELECTED} can be selected at once, not {len(ids)}.")
    return ids


async def zip_of(sources: Sources, ids: list[str]) -> tuple[BinaryIO, int]:
    """Return an open file with a ZIP of the files of some submissions, and its size in bytes."""
    files: list[tuple[str, Path]] = []
    size = 0
    for id in ids:
        row = await sources.journal.find(id, whole=True)
        for item in row.media:
            size += item.size
            if size > MAX_ZIP:
                raise InputError("These files have more than 2 GB. Select fewer.")
            files.append((f"{row.id}-{item.index}{item.extension}", await sources.store.local(item)))
    if not files:
        raise InputError("The selected tasks have no files.")

    def write() -> tuple[BinaryIO, int]:
        file: BinaryIO = TemporaryFile()  # noqa: SIM115 - the answer closes it
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, path in files:
                archive.write(path, name)
        length = file.tell()
        file.seek(0)
        return file, length

    return await asyncio.to_thread(write)


def _answer(form: FormData) -> tuple[str | None, str | None]:
    """Return prompt and mask of a form."""
    prompt, mask = str(form.get("prompt") or "") or None, str(form.get("mask") or "") or None
    if mask is not None and not mask.startswith("data:"):
        raise InputError("The mask must be a picture as data URI.")
    return prompt, mask


async def _send(sources: Sources, row: Submission) -> None:
    """Send a prepared submission now. A lost answer is no error here: the submission's page shows it."""
    if row.status == "prepared":
        with suppress(Ambiguous):  # the record has the status `unknown` and the reason
            await sources.submissions.send_or_keep(row.id)


async def _data_uri(item: str | UploadFile) -> str:
    if isinstance(item, str):
        if not item.startswith(("data:", "http://", "https://")):
            raise InputError("A picture is a file, a data URI or an http(s) link.")
        return item
    data = await item.read(MAX_UPLOAD + 1)
    if len(data) > MAX_UPLOAD:
        raise InputError(f"A picture has at most {MAX_UPLOAD >> 20} MiB.")
    return f"data:{item.content_type or 'application/octet-stream'};base64,{base64.b64encode(data).decode()}"


def _value(text: str, type: Any) -> Any:
    """Return the text of a form as a value of a field."""
    if type is bool:
        return text in ("yes", "true", "on")
    if type is int:
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise InputError(f"{text[:40]!r} is no number.")
        return int(text)
    if type is str:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{text[:40]!r} is no JSON.") from exc


def _labels(text: str) -> Mapping[str, str]:
    found = {}
    for part in text.replace("\n", ",").split(","):
        name, mark, value = part.partition("=")
        if part.strip() and not mark:
            raise InputError(f"A label is written name=value, not {part.strip()[:40]!r}.")
        if part.strip():
            found[name.strip()] = value.strip()
    return found
