"""Rules for the files of a result, as pure functions on a submission.

Every link of the provider's answer is a candidate. The links of the best field are the result (`Task.links`). Those of
the other fields are a reserve, which is used when a file of the fields before it fails. Each file is tried with backoff
for a day, and each further view of the task may bring fresh links.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from receiver.backoff import FILES, MEDIA, wait
from receiver.events import ExpectedFile, Media, Submission
from receiver.tasks import Task

replace = msgspec.structs.replace

MAX_FILES = 16
"""Files of one result. Midjourney makes four at most."""
MAX_LINKS = 4
"""Candidates of one file."""
REVEALED = 2
"""Failures of a file after which the reserve is used. A file that can never come needs one."""
_UNLINKED_TRIES = 6
"""Tries that a result without links counts as, because its links were awaited before it ended."""
_TEXT_KINDS = frozenset({"describe", "shorten"})


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A failed download. `permanent`: only another setting or another link can help."""

    problem: str
    permanent: bool = False


Outcome = Media | Failure


def makes_files(row: Submission) -> bool:
    """Return True if the result of this kind of task is files. Others give texts."""
    return row.kind not in _TEXT_KINDS and not (row.task is not None and row.task.is_text)


def no_link(task: Task | None) -> str:
    """Return the reason of a result without links, with what stands in their place."""
    held = [text for text in (task.problems if task else ()) if text.startswith(("image", "video"))]
    return f"The provider reports success, but gives no link to a file{f' ({held[0]})' if held else ''}."


def expect(row: Submission, views: Sequence[Task], now_ms: int, *, wait_ms: int = int(FILES * 1000)) -> Submission:
    """Return a submission that has succeeded with its files, due now. Earlier views have the better links."""
    files: tuple[ExpectedFile, ...] = ()
    for view in views:
        files = with_links(files, view, now_ms)
    is_video = row.kind == "video" or (row.task is not None and row.task.action == "VIDEO")
    if is_video and not any(item.place.startswith("video") and item.due_ms for item in files):
        # Some relays drop the videos from their answer, and leave the cover (PROTOCOL.md §13.4).
        field = next((_field(item) for item in files if item.place.startswith("video")), "")
        files = tuple([replace(item, due_ms=now_ms) if _field(item) == field else item for item in files])
    if not files and makes_files(row):
        due_ms = now_ms + int(MEDIA[_UNLINKED_TRIES - 1] * 1000)
        files = (ExpectedFile(place="", tries=_UNLINKED_TRIES, due_ms=due_ms, problem=no_link(row.task)),)
        wait_ms = 0
    return replace(row, files=files, late_ms=now_ms + (wait_ms if files else 0), unlinked_ms=None)


def with_links(files: tuple[ExpectedFile, ...], view: Task | None, now_ms: int) -> tuple[ExpectedFile, ...]:
    """Return the files with the links of a view of the task. A missing file is due again if a new one came.

    A place that is known already gets the link as one more candidate. A file of an unknown place is due if nothing else
    is, and a reserve otherwise.
    """
    if view is None or view.status != "SUCCESS" or not view.links:
        return files
    known = {item.place: item for item in files if item.place}
    first = not known
    for field, links in view.links.items():
        for number, link in enumerate(links):
            place = f"{field}.{number}" if field.endswith("s") else field
            found = known.get(place)
            if found is None and len(known) < MAX_FILES:
                known[place] = ExpectedFile(place=place, links=(link,), due_ms=now_ms if first else None)
            elif found is not None and link not in found.links:
                links_now = (*found.links, link)[-MAX_LINKS:]
                lost = found.missing and found.due_ms is None
                known[place] = replace(found, links=links_now, due_ms=now_ms if lost else found.due_ms)
        first = False
    return tuple(known.values())


def candidates(item: ExpectedFile) -> tuple[str, ...]:
    """Return the links of a file in the order of this try, so that each comes first in its turn."""
    turn = item.tries % len(item.links) if item.links else 0
    return item.links[turn:] + item.links[:turn]


def tried(
    row: Submission,
    view: Task | None,
    outcomes: dict[str, Outcome],
    now_ms: int,
    *,
    random: Callable[[], float] = random.random,
) -> Submission:
    """Return the submission after downloads, by place. `view` is the task as the provider shows it now, if asked.

    Deliveries stop waiting (`late_ms`) as soon as no file is due.
    """
    files = []
    for item in with_links(row.files, view, now_ms):
        outcome = outcomes.get(item.place)
        if isinstance(outcome, Media):
            files.append(replace(item, media=outcome, tries=0, due_ms=None, problem=None))
        else:
            files.append(item if outcome is None else _failed(item, outcome, row, now_ms, random))
    files = _without_copies(_revealed(files, now_ms))
    row = replace(row, files=tuple(files))
    if row.media_due_ms is None:
        row = replace(row, late_ms=min(row.late_ms or now_ms, now_ms))
    return row


def _failed(
    item: ExpectedFile, failure: Failure, row: Submission, now_ms: int, random: Callable[[], float]
) -> ExpectedFile:
    """Schedule a file again. The last try before the deliveries start is at that very time."""
    seconds = None if failure.permanent else wait(MEDIA, item.tries + 1, random=random)
    due_ms = None if seconds is None else now_ms + int(seconds * 1000)
    if due_ms is not None and now_ms < (row.late_ms or 0) < due_ms:
        due_ms = row.late_ms
    return replace(item, tries=item.tries + 1, due_ms=due_ms, problem=failure.problem)


def _revealed(files: list[ExpectedFile], now_ms: int) -> list[ExpectedFile]:
    """Make the next field of the reserve due, if a file of the last field in use fails."""
    fields = [_field(item) for item in files if not item.reserve]
    if not fields:
        return files
    last = [item for item in files if _field(item) == fields[-1]]
    if not any(item.missing and (item.due_ms is None or item.tries >= REVEALED) for item in last):
        return files
    fresh = next((_field(item) for item in files if item.reserve and not item.tries), None)
    return [
        replace(item, due_ms=now_ms) if item.reserve and not item.tries and _field(item) == fresh else item
        for item in files
    ]


def _without_copies(files: list[ExpectedFile]) -> list[ExpectedFile]:
    """Put back what another field has brought already: the same content, or the four pictures of a missing grid."""
    single = [item for item in files if _field(item) == "image_urls"]
    whole = bool(single) and all(item.media is not None for item in single)
    kept: list[ExpectedFile] = []
    for item in files:
        others = {one.media.digest for one in kept if one.media is not None and _field(one) != _field(item)}
        same = item.media is not None and item.media.digest in others
        needless = same or (whole and item.place == "image_url" and item.missing)
        spare = replace(item, media=None, due_ms=None, problem=None, tries=max(item.tries, 1))
        kept.append(spare if needless else item)
    return kept


def _field(item: ExpectedFile) -> str:
    return item.place.partition(".")[0]


def refetch(row: Submission, now_ms: int) -> Submission:
    """Return the submission with its missing files due now, because a person asks for them. Settings may be new.

    What retention has removed stays removed.
    """
    if not any(item.fetchable for item in row.files):
        return row
    files = [replace(item, due_ms=now_ms, tries=0) if item.fetchable else item for item in row.files]
    return replace(row, files=tuple(files))


def dropped(row: Submission, problem: str) -> Submission:
    """Return the submission without its archived files. `problem` says why they are gone."""
    files = tuple(
        [item if item.media is None else replace(item, links=(), media=None, problem=problem) for item in row.files]
    )
    return replace(row, files=files)
