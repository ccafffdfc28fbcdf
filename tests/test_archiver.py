"""Archiving: each file of a result is downloaded on its own schedule, and deliveries wait for it, but not for ever."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from engine import JPEG, PNG, Kit, Recording, destination, engine, logged, until
from waiting import PATIENCE

from receiver.backoff import MEDIA
from receiver.engine.archiver import AT_ONCE
from receiver.journal.files import MAX_FILES
from receiver.journal.store import Filter
from receiver.maintenance.replay import Replay


async def archive(kit: Kit) -> int:
    """One step, and what it started."""
    started = await kit.archiver.archive_once()
    await kit.archiver.settle()
    return started


async def due(kit: Kit, submission_id: str) -> bool:
    (delivery,) = await kit.deliveries(submission_id)
    return delivery.due_ms <= kit.clock.now_ms()


async def test_a_result_is_archived_and_its_delivery_released(tmp_path: Path) -> None:
    """Digest, kind and size are journalled, the file lies in the store, and what waited for it is due now."""
    async with engine(tmp_path) as kit:
        kit.origin.files["/a"] = PNG
        row = await kit.succeeded(imageUrl=f"{kit.origin.url}/a")
        assert not await due(kit, row.id)
        assert await archive(kit) == 1
        row = await kit.row(row.id)
        (media,) = row.media
        assert (media.digest, media.type, media.size) == (hashlib.sha256(PNG).hexdigest(), "image/png", len(PNG))
        assert kit.store.path(media).read_bytes() == PNG
        assert (row.media_due_ms, row.media_problem) == (None, None)
        assert await due(kit, row.id)
        assert await archive(kit) == 0
        assert kit.origin.requests == ["/a"]


async def test_videos_are_archived_all_in_order(tmp_path: Path) -> None:
    """Several files of one result keep their order and positions."""
    async with engine(tmp_path) as kit:
        videos = [b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes([n]) * 600 for n in range(4)]
        kit.origin.files |= {f"/{n}.mp4": data for n, data in enumerate(videos)}
        row = await kit.succeeded(
            imageUrl=f"{kit.origin.url}/cover.png",
            videoUrls=[{"url": f"{kit.origin.url}/{n}.mp4"} for n in range(4)],
        )
        await archive(kit)
        media = (await kit.row(row.id)).media
        assert [(item.index, item.type) for item in media] == [(n, "video/mp4") for n in range(4)]
        assert [kit.store.path(item).read_bytes() for item in media] == videos


async def test_a_dead_link_holds_back_no_other(tmp_path: Path) -> None:
    """One file of two is missing: the other is archived, and the missing one is tried alone until it comes."""
    async with engine(tmp_path) as kit:
        kit.origin.files["/0"] = PNG
        links = [{"url": f"{kit.origin.url}/{n}"} for n in range(2)]
        row = await kit.succeeded(imageUrl="", imageUrls=links)
        await archive(kit)
        row = await kit.row(row.id)
        assert [item.type for item in row.media] == ["image/png"]
        assert (row.media_problem or "").startswith("1 of 2 files is missing. ")
        assert not await due(kit, row.id)
        kit.origin.files["/1"] = JPEG
        kit.clock.advance(4)
        await archive(kit)
        media = (await kit.row(row.id)).media
        assert [(item.index, item.type) for item in media] == [(0, "image/png"), (1, "image/jpeg")]
        assert sorted(kit.origin.requests) == ["/0", "/1", "/1"]
        assert await due(kit, row.id)


async def with_two_sources(kit: Kit, fetched: str, called_back: str) -> str:
    """A result whose fetch gives another link than its callback did."""
    row = await kit.submit()
    await kit.calls_back(row, "SUCCESS", image_url=called_back)
    kit.relay.tasks["17"] = {"id": "17", "status": "SUCCESS", "progress": "100%", "imageUrl": fetched}
    await kit.reconciler.reconcile_once()
    return row.id


async def test_the_fetchs_link_comes_first(tmp_path: Path) -> None:
    """While it works, the callback's is not asked."""
    async with engine(tmp_path) as kit:
        kit.origin.files |= {"/fetched": PNG, "/called": JPEG}
        await with_two_sources(kit, f"{kit.origin.url}/fetched", f"{kit.origin.url}/called")
        await archive(kit)
        assert kit.origin.requests == ["/fetched"]


async def test_the_callbacks_link_is_the_second_source(tmp_path: Path) -> None:
    """Where the fetch's link does not work, the callback's is taken in the same try."""
    async with engine(tmp_path) as kit:
        kit.origin.files["/called"] = JPEG
        submission = await with_two_sources(kit, f"{kit.origin.url}/fetched", f"{kit.origin.url}/called")
        await archive(kit)
        (media,) = (await kit.row(submission)).media
        assert (media.type, kit.origin.requests) == ("image/jpeg", ["/fetched", "/called"])


@pytest.mark.parametrize("forbidden", ["fetched", "called"])
async def test_one_forbidden_source_does_not_spoil_the_other(tmp_path: Path, forbidden: str) -> None:
    """One link leads to a host outside the list, the other is only late: the result is archived when it comes."""
    async with engine(tmp_path) as kit:
        links = {name: f"{kit.origin.url}/{name}" for name in ("fetched", "called")}
        links[forbidden] = "https://elsewhere.test/a.png"
        other = "called" if forbidden == "fetched" else "fetched"
        submission = await with_two_sources(kit, links["fetched"], links["called"])
        await archive(kit)
        row = await kit.row(submission)
        assert row.media_due_ms is not None
        assert "elsewhere.test" in (row.media_problem or "")
        assert f"/{other}" in (row.media_problem or "")
        kit.origin.files[f"/{other}"] = PNG
        kit.clock.advance(4)
        await archive(kit)
        assert len((await kit.row(submission)).media) == 1


async def test_two_forbidden_sources_are_given_up_at_once(tmp_path: Path) -> None:
    """Neither can ever be had."""
    async with engine(tmp_path) as kit:
        submission = await with_two_sources(kit, "https://one.test/a", "http://two.test/b")
        await archive(kit)
        assert (await kit.row(submission)).media_due_ms is None
        assert await due(kit, submission)


async def test_a_download_is_tried_for_a_day_and_then_given_up(tmp_path: Path) -> None:
    """The delivery goes without the picture after two minutes; after a day the reason stays."""
    async with engine(tmp_path) as kit:
        row = await kit.succeeded(imageUrl=f"{kit.origin.url}/never")
        began, tries = kit.clock.time, 0
        while (row := await kit.row(row.id)).media_due_ms is not None:
            kit.clock.advance(max(0.0, row.media_due_ms / 1000 - kit.clock.time) + 0.001)
            tries += await archive(kit)
            assert await due(kit, row.id) == (kit.clock.time - began >= 120)
        assert tries == len(MEDIA) + 1
        assert 22 * 3600 < kit.clock.time - began < 26 * 3600
        assert "404" in (row.media_problem or "")
        kit.clock.advance(86400)
        assert await archive(kit) == 0
        assert len(kit.origin.requests) == len(MEDIA) + 1


async def test_a_retry_asks_the_provider_for_fresh_links(tmp_path: Path) -> None:
    """The first link is dead for good; the provider shows another one by then."""
    async with engine(tmp_path) as kit:
        kit.origin.files["/new"] = PNG
        row = await kit.succeeded(imageUrl=f"{kit.origin.url}/old")
        await archive(kit)
        kit.relay.tasks[row.task_id or ""]["imageUrl"] = f"{kit.origin.url}/new"
        kit.clock.advance(4)
        await archive(kit)
        assert len((await kit.row(row.id)).media) == 1
        assert kit.origin.requests == ["/old", "/new"]


async def test_a_link_to_a_host_off_the_list_is_replaced_by_the_relays(tmp_path: Path) -> None:
    """`localhost` of a relay without an address, while the provider itself serves the picture."""
    async with engine(tmp_path) as kit:
        kit.provider.image_url = lambda task_id: f"{kit.origin.url}/mj/image/{task_id}"  # type: ignore[method-assign]
        row = await kit.succeeded(imageUrl="http://localhost:3000/mj/image/t0")
        kit.origin.files["/mj/image/t0"] = PNG
        await archive(kit)
        assert len((await kit.row(row.id)).media) == 1


async def test_the_other_links_stand_in_for_one_that_is_not_fetched(tmp_path: Path) -> None:
    """The grid is on a host off the list, its four pictures are not: they are the result, and nothing is missing."""
    async with engine(tmp_path) as kit:
        kit.origin.files |= {f"/{n}": PNG + bytes([n]) for n in range(4)}
        links = [{"url": f"{kit.origin.url}/{n}"} for n in range(4)]
        row = await kit.succeeded(imageUrl="https://elsewhere.test/grid.png", imageUrls=links)
        while await archive(kit):
            kit.clock.advance(20)
        row = await kit.row(row.id)
        assert [item.index for item in row.media] == [0, 1, 2, 3]
        assert (row.media_problem, row.media_due_ms) == (None, None)
        assert await due(kit, row.id)


async def test_a_result_is_bounded_in_files_and_bytes(tmp_path: Path) -> None:
    """One answer with thousands of links starts 16 downloads, and all of them together have four times the bytes."""
    async with engine(tmp_path) as kit:
        large = PNG + bytes(500_000)
        kit.origin.files |= {f"/{n}": large + bytes([n]) for n in range(2 * MAX_FILES)}
        row = await kit.succeeded(imageUrl="", imageUrls=[{"url": f"{kit.origin.url}/{n}"} for n in range(3000)])
        while await archive(kit):
            pass
        row = await kit.row(row.id)
        assert len(row.expected) == MAX_FILES
        assert len(set(kit.origin.requests)) <= MAX_FILES
        assert 3_000_000 < sum(item.size for item in row.media) <= 4_000_000
        assert "RECEIVER_MEDIA_MAX_BYTES" in str([item.problem for item in row.files])


async def test_a_person_can_ask_for_missing_files(tmp_path: Path) -> None:
    """A replay makes them due, and what comes is delivered once more, to every destination."""
    async with engine(tmp_path) as kit:
        row = await kit.succeeded(imageUrl="https://elsewhere.test/a.png")
        await archive(kit)
        handler = Recording()
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        kit.origin.files["/a"] = PNG
        kit.relay.tasks[row.task_id or ""]["imageUrl"] = f"{kit.origin.url}/a"
        replay = Replay(journal=kit.journal, destinations=["main"], clock=kit.clock)
        await replay.carry_out(await replay.of_deliveries(Filter(submission_id=row.id)))
        assert not await due(kit, row.id)
        await archive(kit)
        kit.clock.advance(31)
        await archive(kit)
        for _ in range(2):
            await dispatcher.dispatch_once()
            await dispatcher.settle()
        assert [len(item.media) for item in handler.attempts] == [0, 1, 1]
        assert [item.event.further for item in handler.attempts] == [0, 0, 1]


async def test_a_forbidden_link_is_not_tried_again(tmp_path: Path) -> None:
    """The delivery is released at once: waiting cannot help."""
    async with engine(tmp_path) as kit:
        row = await kit.succeeded(imageUrl="https://not-on-the-list.test/a.png")
        await archive(kit)
        assert (await kit.row(row.id)).media_due_ms is None
        assert await due(kit, row.id)
        handler = Recording()
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        problem = handler.attempts[0].media_problem or ""
        assert "RECEIVER_MEDIA_HOSTS" in problem
        assert problem.endswith(f"To try again: receiver media fetch {row.id}")
        assert not handler.attempts[0].media_pending


async def test_a_download_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    """One origin never answers; the pictures behind it are archived meanwhile, and it is not asked twice at once."""
    async with engine(tmp_path) as kit:
        kit.origin.hanging["/slow"] = asyncio.Event()
        kit.origin.files |= {"/slow": PNG, "/quick": JPEG}
        slow = await kit.succeeded(imageUrl=f"{kit.origin.url}/slow")
        assert await kit.archiver.archive_once() == 1
        await until(lambda: kit.origin.requests == ["/slow"])
        quick = await kit.succeeded(imageUrl=f"{kit.origin.url}/quick")
        assert await kit.archiver.archive_once() == 1
        async with asyncio.timeout(PATIENCE):
            while not (await kit.row(quick.id)).media:  # noqa: ASYNC110 - the journal has no event of its own
                await asyncio.sleep(0)
        assert (await kit.row(slow.id)).media == ()
        assert await kit.archiver.archive_once() == 0
        kit.origin.hanging["/slow"].set()
        await kit.archiver.settle()
        assert len((await kit.row(slow.id)).media) == 1
        assert kit.origin.requests == ["/slow", "/quick"]


async def test_no_more_downloads_run_than_allowed(tmp_path: Path) -> None:
    """The rest stays due until there is room, and long ones make room for those that wait."""
    async with engine(tmp_path) as kit:
        gate = asyncio.Event()
        for n in range(AT_ONCE):
            kit.origin.hanging[f"/{n}"] = gate
            await kit.succeeded(imageUrl=f"{kit.origin.url}/{n}")
        assert await kit.archiver.archive_once() == AT_ONCE
        await until(lambda: len(kit.origin.requests) == AT_ONCE)
        kit.origin.files["/quick"] = PNG
        quick = await kit.succeeded(imageUrl=f"{kit.origin.url}/quick")
        assert await kit.archiver.archive_once() == 0
        await kit.archiver.settle()
        assert await kit.archiver.archive_once() >= 1
        gate.set()
        await kit.archiver.settle()
        assert len((await kit.row(quick.id)).media) == 1


async def test_stopping_gives_up_downloads_which_stay_due(tmp_path: Path) -> None:
    """Nothing is left behind in the store, and the next engine starts over."""
    async with engine(tmp_path) as kit:
        kit.origin.hanging["/slow"] = asyncio.Event()
        kit.origin.files["/slow"] = PNG
        row = await kit.succeeded(imageUrl=f"{kit.origin.url}/slow")
        await kit.archiver.archive_once()
        await until(lambda: kit.origin.requests == ["/slow"])
        await kit.archiver.stop()
        assert [item.tries for item in (await kit.row(row.id)).files] == [0]
        assert [path for path in (tmp_path / "media").rglob("*") if path.is_file()] == []
        kit.origin.hanging["/slow"].set()
        assert await archive(kit) == 1
        assert len((await kit.row(row.id)).media) == 1


async def test_a_download_that_cannot_be_recorded_is_due_again(tmp_path: Path) -> None:
    """The journal fails just then: it is logged, and the next step has the file from its origin again."""
    async with engine(tmp_path, faulty=True) as kit:
        journal: Any = kit.journal
        kit.origin.files["/a"] = PNG
        row = await kit.succeeded(imageUrl=f"{kit.origin.url}/a")
        journal.failing["change"] = 1
        with logged() as lines:
            await archive(kit)
        (line,) = [line for line in lines if line["event"] == "media.unrecorded"]
        assert "exception" not in line  # a sentence says it all
        assert line["problem"]
        await archive(kit)
        assert len((await kit.row(row.id)).media) == 1
