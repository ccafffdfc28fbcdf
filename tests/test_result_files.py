"""Rules for the files of a result: candidates, reserves, tries and further copies, as tables."""

from __future__ import annotations

from typing import Any

import pytest
from journals import NOW, submission

from receiver.backoff import MEDIA
from receiver.events import Media, Submission
from receiver.journal import files
from receiver.journal.files import MAX_FILES, MAX_LINKS, Failure, Outcome
from receiver.tasks import Task, read_task

GRID, CLIP = "https://cdn.test/grid.png", "https://cdn.test/clip.mp4"
FOUR = tuple(f"https://cdn.test/0_{number}.png" for number in range(4))
BUSY, FORBIDDEN = Failure(problem="503."), Failure(problem="Not on the list.", permanent=True)


def view(**fields: Any) -> Task:
    return Task(id="1", status="SUCCESS", **fields)


def media(name: str) -> Media:
    return Media(digest=name, type="image/png", size=3, extension=".png", url=name)


def expected(*views: Task, **fields: Any) -> Submission:
    row = submission(1, task=views[0] if views else None, ended="task.succeeded", **fields)
    return files.expect(row, views, NOW)


def due(row: Submission) -> list[str]:
    return [item.place for item in row.files if item.due_ms is not None]


def tried(row: Submission, after_ms: int = 1000, seen: Task | None = None, **outcomes: Outcome) -> Submission:
    named = {name.replace("__", "."): outcome for name, outcome in outcomes.items()}
    return files.tried(row, seen, named, NOW + after_ms, random=lambda: 0.5)


@pytest.mark.parametrize(
    ("fields", "wanted", "reserve"),
    [
        ({"image_url": GRID}, ["image_url"], []),
        ({"image_urls": FOUR[:2]}, ["image_urls.0", "image_urls.1"], []),
        ({"image_url": GRID, "image_urls": FOUR[:2]}, ["image_url"], ["image_urls.0", "image_urls.1"]),
        ({"video_urls": FOUR[:2], "video_url": CLIP}, ["video_urls.0", "video_urls.1"], ["video_url"]),
        ({"video_urls": FOUR[:2], "image_urls": FOUR[:2]}, ["video_urls.0", "video_urls.1"], []),
        ({"video_url": CLIP, "image_url": CLIP}, ["video_url"], []),
        ({"image_url": GRID, "action": "DESCRIBE"}, [], []),
    ],
)
def test_every_link_is_a_candidate(fields: dict[str, Any], wanted: list[str], reserve: list[str]) -> None:
    """The best field is the result, each link once, and the others are its reserve."""
    row = expected(view(**fields))
    assert due(row) == wanted
    assert [item.place for item in row.files if item.reserve] == reserve


@pytest.mark.parametrize(
    "names",
    [("imageUrl", "imageUrls", "videoUrl", "videoUrls"), ("image_url", "image_urls", "video_url", "video_urls")],
)
@pytest.mark.parametrize("packed", [False, True])
def test_links_are_read_in_every_spelling(names: tuple[str, ...], packed: bool) -> None:
    """Camel case, snake case, and lists as JSON text."""
    several: Any = (
        '["https://a.test/0", "https://a.test/1"]' if packed else [{"url": "https://a.test/0"}, "https://a.test/1"]
    )
    task = read_task({"id": "1", names[0]: GRID, names[1]: several, names[2]: CLIP, names[3]: several})
    assert (task.image_url, task.video_url) == (GRID, CLIP)
    assert task.image_urls == task.video_urls == ("https://a.test/0", "https://a.test/1")


def test_a_second_view_adds_candidates() -> None:
    """The callback's link of the same place is tried second, and another try begins with it."""
    row = expected(view(image_url=GRID), view(image_url=FOUR[0]))
    (file,) = row.files
    assert files.candidates(file) == (GRID, FOUR[0])
    (file,) = tried(row, image_url=BUSY).files
    assert files.candidates(file) == (FOUR[0], GRID)


def test_videos_that_only_the_callback_has_are_wanted() -> None:
    """Some relays leave the cover alone in their own answer."""
    row = expected(view(image_url=GRID, action="VIDEO"), view(video_urls=FOUR[:2], action="VIDEO"))
    assert due(row) == ["image_url", "video_urls.0", "video_urls.1"]


def test_one_dead_link_of_four_brings_out_the_stored_copy() -> None:
    """The stored copy comes beside the three, and the fourth is still tried for."""
    row = expected(view(video_urls=FOUR, video_url=CLIP, image_url=CLIP, action="VIDEO"))
    row = tried(row, **{f"video_urls__{number}": media(str(number)) for number in range(3)}, video_urls__3=BUSY)
    assert due(row) == ["video_urls.3"]
    row = tried(row, 4000, video_urls__3=BUSY)
    assert due(row) == ["video_urls.3", "video_url"]
    row = tried(row, 5000, video_url=media("clip"))
    assert [item.index for item in row.media] == [0, 1, 2, 4]
    assert row.media_problem == "1 of 5 files is missing. 503."


def test_a_copy_of_what_is_there_is_no_further_file() -> None:
    """The stored copy is one of the four."""
    row = expected(view(video_urls=FOUR[:2], video_url=CLIP))
    row = tried(row, video_urls__0=media("same"), video_urls__1=FORBIDDEN)
    row = tried(row, 2000, video_url=media("same"))
    assert [item.digest for item in row.media] == ["same"]
    assert len(row.expected) == 2


def test_four_pictures_stand_in_for_their_grid() -> None:
    """The grid's host is not allowed: nothing is missing."""
    row = tried(expected(view(image_url=GRID, image_urls=FOUR)), image_url=FORBIDDEN)
    assert due(row) == [f"image_urls.{number}" for number in range(4)]
    row = tried(row, 2000, **{f"image_urls__{number}": media(str(number)) for number in range(4)})
    assert ([item.index for item in row.media], row.media_problem) == ([0, 1, 2, 3], None)


def test_a_file_is_tried_for_a_day_by_schedule() -> None:
    """The waits grow, and one try is at the time at which deliveries start."""
    row, at = expected(view(image_url=GRID)), 0
    times = []
    while row.media_due_ms is not None:
        at = row.media_due_ms - NOW
        times.append(at)
        row = tried(row, at, image_url=BUSY)
    assert 120_000 in times
    assert 22 * 3600 < times[-1] / 1000 < 26 * 3600
    assert len(times) == len(MEDIA) + 1


def test_a_new_link_revives_a_file_that_was_given_up() -> None:
    """A forbidden host now, another one later."""
    row = tried(expected(view(image_url=GRID)), image_url=FORBIDDEN)
    assert due(row) == []
    assert due(tried(row, 2000, view(image_url=GRID))) == []
    assert due(tried(row, 2000, view(image_url=FOUR[0]))) == ["image_url"]


def test_the_numbers_are_bounded() -> None:
    """Files of a result, and links of a file."""
    row = expected(view(image_urls=tuple(f"https://cdn.test/{number}" for number in range(6500))))
    assert len(row.files) == MAX_FILES
    for number in range(20):
        row = tried(row, seen=view(image_urls=(f"https://cdn.test/new{number}",)))
    assert max(len(item.links) for item in row.files) == MAX_LINKS


def test_a_result_without_links_says_so_and_takes_later_ones() -> None:
    """It is one missing file until there are links."""
    row = expected(view())
    assert (row.media_problem, len(row.expected)) == (files.no_link(None), 1)
    again = tried(row, 400_000, view(image_urls=FOUR), **{"": Failure(problem=files.no_link(None))})
    assert due(again) == [f"image_urls.{number}" for number in range(4)]
    assert expected(view(), kind="describe").files == ()


def test_what_retention_removed_is_not_fetched_again() -> None:
    """Only what was lost on the way is."""
    row = tried(expected(view(image_urls=FOUR[:2])), image_urls__0=media("a"), image_urls__1=FORBIDDEN)
    row = files.dropped(row, "it was removed after 30 days")
    assert row.media == ()
    assert due(files.refetch(row, NOW)) == ["image_urls.1"]
