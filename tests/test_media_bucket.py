"""The media store in a bucket, on a real S3 server: two machines are two caches."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from attempts import COLORS, colors_of, grid_picture, media_of
from buckets import READER, READER_SECRET, Between, Buckets, content, listed, listening, reading
from engine import PNG, Recording, destination, engine, logged, until
from flows import world
from obstore.store import S3Store
from servers import Result, receiver, serving

from receiver.app.factory import open_runtime
from receiver.app.web import web_app
from receiver.bucket import BucketOptions
from receiver.errors import MediaError, SettingsError
from receiver.events import Media
from receiver.media import Fetcher, MediaStore, Store, Thumbnails, Tiles, open_store
from receiver.media.cache import Cache
from receiver.media.store import WHOLE, BucketStore
from receiver.settings import Settings
from receiver.settings.options import read_options

LARGE = PNG + bytes(range(256)) * (WHOLE // 256 + 1000)
"""Goes in parts."""
Making = Callable[..., BucketStore]


@pytest.fixture
def bucket(s3_server: Buckets, request: pytest.FixtureRequest) -> str:
    """A bucket of the test's own."""
    return s3_server.bucket("m" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16])


@pytest.fixture
async def making(s3_server: Buckets, bucket: str, tmp_path: Path) -> AsyncIterator[Making]:
    """Makes the store as another machine: with options of its own, and a cache of its own."""
    made: list[BucketStore] = []

    def make(*, limit: int = 10**9, check_seconds: float = 0.0, **changes: Any) -> BucketStore:
        options = read_options(BucketOptions, s3_server.options(bucket) | changes)
        cache = Cache(tmp_path / f"cache{len(made)}", limit)
        made.append(BucketStore(options, "kept/here", cache, check_seconds=check_seconds))
        return made[-1]

    yield make
    for store in made:
        await store.aclose()


@pytest.fixture
def store(making: Making) -> BucketStore:
    return making()


@pytest.fixture
def other(making: Making, store: BucketStore) -> BucketStore:
    """The same store on another machine."""
    return making()


async def kept(store: Store, data: bytes = PNG) -> Media:
    return await store.put_bytes(data, url="https://cdn.test/a.png")


def key_of(media: Media) -> str:
    return f"kept/here/{media.digest[:2]}/{media.digest}{media.extension}"


async def originals(objects: S3Store) -> list[str]:
    """The objects of a bucket, apart from thumbnails, which come some time after their picture."""
    return [key for key in await listed(objects) if not key.endswith(".u.webp")]


def drafts(store: BucketStore) -> list[Path]:
    return list(store.path(media_of(PNG)).parent.parent.glob(".*.part"))


# --- in and out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [PNG, LARGE], ids=["one request", "parts"])
async def test_a_file_is_kept_under_its_digest(
    s3_server: Buckets, bucket: str, store: BucketStore, other: BucketStore, data: bytes
) -> None:
    """It lies in the bucket when the call returns, laid out as in a folder; another machine reads it."""
    media = await kept(store, data)
    assert (media.digest, media.size, media.type) == (hashlib.sha256(data).hexdigest(), len(data), "image/png")
    client = reading(s3_server, bucket)
    assert await listed(client) == [key_of(media)]
    assert (await client.get_async(key_of(media))).attributes["Content-Type"] == "image/png"
    assert (await other.local(media)).read_bytes() == data
    assert await other.read(media.digest) == data
    assert await store.read(media.digest) == data
    assert not drafts(store) + drafts(other)


async def test_what_came_in_is_not_fetched_again(making: Making, s3_server: Buckets) -> None:
    """The machine that archives delivers from its cache."""
    relay = Between(s3_server.address)
    async with listening(relay.handle) as url:
        store = making(endpoint=url)
        media = await kept(store)
        path = await store.local(media)
    assert path.read_bytes() == PNG
    assert [line.split()[0] for line in relay.seen] == ["PUT"]


async def test_many_who_want_a_file_fetch_it_once(making: Making, s3_server: Buckets, store: BucketStore) -> None:
    """Twenty attempts at once, and some of them give up: one download."""
    relay, media = Between(s3_server.address), await kept(store, LARGE)
    async with listening(relay.handle) as url:
        other = making(endpoint=url)
        asking = [asyncio.ensure_future(other.local(media)) for _ in range(20)]
        await asyncio.sleep(0)
        for impatient in asking[:5]:
            impatient.cancel()
        found = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(item) for item in found[:5]} == {asyncio.CancelledError}
    assert set(found[5:]) == {other.path(media)}
    assert other.path(media).read_bytes() == LARGE
    assert len(relay.seen) == 1


async def test_who_gives_up_alone_has_it_come_all_the_same(
    making: Making, s3_server: Buckets, store: BucketStore
) -> None:
    """A file too large for one attempt's patience is there for the next."""
    relay, media = Between(s3_server.address), await kept(store, LARGE)
    async with listening(relay.handle) as url:
        other = making(endpoint=url)
        asking = asyncio.ensure_future(other.local(media))
        await until(lambda: bool(relay.seen))
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        await until(lambda: other.path(media).exists())


async def test_the_same_content_twice_is_one_object(
    s3_server: Buckets, bucket: str, store: BucketStore, other: BucketStore
) -> None:
    """From two machines at once, many times; and a damaged object is healed by the next put."""
    made = await asyncio.gather(*(kept(machine) for machine in (store, other) for _ in range(10)))
    assert len(set(made)) == 1
    client = reading(s3_server, bucket)
    assert await listed(client) == [key_of(made[0])]
    await client.put_async(key_of(made[0]), b"damaged")
    await kept(store)
    assert await content(client, key_of(made[0])) == PNG


@pytest.mark.parametrize(
    ("data", "problem"), [(b"<html>expired", "neither picture nor video, but HTML"), (PNG * 99, "larger than")]
)
async def test_what_is_no_picture_or_too_large_never_leaves(
    s3_server: Buckets, bucket: str, store: BucketStore, data: bytes, problem: str
) -> None:
    """Nothing is put, and nothing remains here."""

    async def chunks() -> AsyncIterator[bytes]:
        yield data

    with pytest.raises(MediaError, match=problem):
        await store.put(chunks(), url="https://cdn.test/a.png", index=0, max_bytes=100_000)
    assert await listed(reading(s3_server, bucket)) == []
    assert not drafts(store)


@pytest.mark.parametrize("moment", range(0, 40, 8))
async def test_a_cancelled_put_leaves_the_whole_file_or_nothing(
    s3_server: Buckets, bucket: str, store: BucketStore, moment: int
) -> None:
    """Whenever it comes."""
    put = asyncio.ensure_future(kept(store, LARGE))
    await asyncio.sleep(moment / 1000)
    put.cancel()
    await asyncio.wait([put])
    client = reading(s3_server, bucket)
    for key in await listed(client):
        assert await content(client, key) == LARGE
    assert not drafts(store)


async def test_the_cache_may_vanish(other: BucketStore, store: BucketStore) -> None:
    """At any time: the next who reads fetches again; and a damaged copy is replaced."""
    media = await kept(store)
    for _ in range(2):
        path = await other.local(media)
        shutil.rmtree(path.parent.parent)
    (await other.local(media)).write_bytes(b"damaged")
    assert (await other.local(media)).read_bytes() == PNG


async def test_what_is_held_is_not_evicted(making: Making, store: BucketStore) -> None:
    """A cache for two pictures, and four held at once: all are there while they are held."""
    files = [await kept(store, PNG + bytes([number])) for number in range(4)]
    other = making(limit=2 * len(PNG))
    async with other.holding(files) as paths:
        for _ in range(3):
            await kept(other, PNG + os.urandom(9))
        assert [path.read_bytes() for path in paths] == [PNG + bytes([number]) for number in range(4)]


async def test_a_cache_that_cannot_be_used_is_named(making: Making, tmp_path: Path) -> None:
    """The folder, why, and what to do."""
    (tmp_path / "cache0").write_text("a file where the folder should be")
    store = making()
    for call in (store.local(media_of(PNG)), kept(store), store.check()):
        with pytest.raises(MediaError, match=r"media cache .*/cache0 cannot be used \(.+\)\. Free space .*MEDIA_CACHE"):
            await call


# --- what is not there -----------------------------------------------------------------------------------------------


async def test_what_is_gone_or_damaged_is_said_for_good(
    s3_server: Buckets, bucket: str, store: BucketStore, other: BucketStore
) -> None:
    """Asking again cannot help: a delivery goes on without it."""
    media, client = await kept(store), reading(s3_server, bucket)
    await client.put_async(key_of(media), PNG[:-1])
    for call in (other.local(media), other.read(media.digest)):
        with pytest.raises(MediaError, match=rf"{media.digest} in s3://{bucket}/kept/here is damaged") as caught:
            await call
        assert caught.value.permanent
    await client.delete_async(key_of(media))
    for call in (other.local(media), other.read(media.digest)):
        with pytest.raises(MediaError, match=rf"is (gone from|not in).* s3://{bucket}/kept/here") as caught:
            await call
        assert caught.value.permanent
    assert not drafts(other)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "0" * 63 + "\n"])
async def test_what_is_no_digest_reaches_no_key(store: BucketStore, digest: str) -> None:
    """Nothing is asked, nothing removed."""
    with pytest.raises(MediaError, match="is not in the media store"):
        await store.read(digest)
    assert await store.remove(digest, unless_younger=0)


async def test_the_missing_are_found(store: BucketStore, other: BucketStore) -> None:
    """Among many that are there, in any order, from a machine that has none of them."""
    made = await asyncio.gather(*(kept(store, PNG + bytes([number])) for number in range(40)))
    gone = [hashlib.sha256(bytes([number])).hexdigest() for number in range(5)]
    assert await other.missing([*gone, *(media.digest for media in made)]) == sorted(gone)
    assert await other.missing([made[0].digest]) == []
    assert await other.missing(gone[:1]) == gone[:1]
    assert await other.missing([]) == []


async def test_usage_is_counted_by_listing(store: BucketStore, other: BucketStore) -> None:
    """From a machine that has none of the files, with the times of the store."""
    for number in range(2):
        await kept(store, PNG + bytes([number]))
    found = await other.sizes()
    assert [size for _, size in found] == [len(PNG) + 1] * 2
    assert all(at_ms > 0 for at_ms, _ in found)


async def test_a_fresh_file_is_not_removed(
    s3_server: Buckets, bucket: str, store: BucketStore, other: BucketStore
) -> None:
    """By the store's clock: what has just been put stays; what is old enough goes, from this cache as well."""
    media = await kept(store)
    assert not await other.remove(media.digest, unless_younger=60)
    assert await listed(reading(s3_server, bucket)) == [key_of(media)]
    assert await store.remove(media.digest, unless_younger=0)
    assert await listed(reading(s3_server, bucket)) == []
    assert not store.path(media).exists()
    assert await store.remove(media.digest, unless_younger=60)


async def test_a_thumbnail_is_in_the_bucket_beside_its_picture(
    s3_server: Buckets, bucket: str, store: BucketStore, other: BucketStore
) -> None:
    """Another machine reads it without decoding. It is no proof of the picture, and goes with it."""
    media = await kept(store, grid_picture())
    made = await Thumbnails(store).of(media)
    thumbnail = key_of(media).replace(media.extension, ".u.webp")
    assert sorted(await listed(reading(s3_server, bucket))) == sorted([key_of(media), thumbnail])
    found = await other.thumbnail(media.digest)
    assert found is not None
    assert found.read_bytes() == made.read_bytes()
    assert not other.path(media).exists()
    assert await store.remove(media.digest, unless_younger=0)
    assert await listed(reading(s3_server, bucket)) == []
    assert not made.exists()
    assert await other.keep_thumbnail(media.digest, b"of a picture that is gone") == found
    assert await other.missing([media.digest]) == [media.digest]


# --- what goes wrong -------------------------------------------------------------------------------------------------


async def failing(store: BucketStore, sentence: str) -> None:
    """Each call says it, and none says for good."""
    media = media_of(b"never kept here")
    calls = [kept(store), store.local(media), store.read(media.digest), store.missing([media.digest])]
    calls += [store.remove(media.digest, unless_younger=60), store.check()]  # type: ignore[list-item]
    for call in calls:
        with pytest.raises(MediaError, match=sentence) as caught:
            await call
        assert not caught.value.permanent
        assert "s3cret" not in str(caught.value)
        assert "wrong-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"secret_key": "wrong-secret"}, r"not accept these credentials \(403 SignatureDoesNotMatch; bucket m.*Check"),
        ({"bucket": "no-such-bucket"}, r"has no such bucket \(404 NoSuchBucket; bucket no-such-bucket\)\. Make it, or"),
        ({"endpoint": "http://127.0.0.1:9"}, r"127\.0\.0\.1:9 cannot be reached \(nothing listens there\)\. Check end"),
    ],
)
async def test_a_refusal_names_the_remedy(making: Making, changes: dict[str, Any], sentence: str) -> None:
    """A wrong secret, a missing bucket, nobody there: every call says so, and asking again may help."""
    await failing(making(**changes), sentence)


async def test_credentials_that_may_only_read_are_told_by_the_check(making: Making, store: BucketStore) -> None:
    """What they lack stands there, in the store's own words; what they may, works."""
    media = await kept(store)
    reader = making(access_key=READER, secret_key=READER_SECRET)
    with pytest.raises(MediaError, match=r"not let these credentials do that .*s3:PutObject.*s3:DeleteObject.*s3:List"):
        await reader.check()
    assert (await reader.local(media)).read_bytes() == PNG


async def test_a_server_killed_in_between(s3_server: Buckets, store: BucketStore, other: BucketStore) -> None:
    """While it is away every call is a sentence, but what is here can be read; then all is as before."""
    media = await kept(store)
    try:
        s3_server.kill()
        await failing(other, r"The media store s3://.* cannot be used\. The server .* cannot be reached")
        assert (await store.local(media)).read_bytes() == PNG
    finally:
        s3_server.start()
    await other.check()
    assert (await other.local(media)).read_bytes() == PNG
    await kept(other, PNG + b"more")


async def test_a_store_that_hangs_is_not_taken_for_the_sender(making: Making) -> None:
    """The deadline of a download ends with its last byte; from there on the store's own counts, and names the store."""
    arrived = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await asyncio.sleep(2.5)  # longer than the fetcher's deadline
        writer.close()

    async def picture(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PNG) + PNG)
        await writer.drain()
        writer.close()

    async with listening(silent) as hanging, listening(picture) as origin:
        fetcher = Fetcher(hosts=[], origins=[origin], max_bytes=10**6, timeout=2)
        with pytest.raises(MediaError, match=r"The media store s3://.* cannot be used"):
            await fetcher.fetch(f"{origin}/a.png", making(endpoint=hanging))
        await fetcher.aclose()
    assert arrived.is_set()


async def test_a_store_that_is_away_is_left_alone_for_a_moment(
    making: Making, s3_server: Buckets, store: BucketStore
) -> None:
    """A backlog is not held up by one time-out after the other; what is here is read all the same."""
    files = [await kept(store, PNG + bytes([number])) for number in range(9)]
    relay = Between(s3_server.address)
    async with listening(relay.handle) as url:
        other = making(endpoint=url, check_seconds=3600)
        await other.local(files[0])
        relay.lost = 999
        with pytest.raises(MediaError) as first:
            await other.local(files[1])
        asked = len(relay.seen)
        for media in files[2:]:
            with pytest.raises(MediaError, match=re.escape(str(first.value))):
                await other.local(media)
        assert len(relay.seen) == asked
        assert (await other.local(files[0])).read_bytes() == PNG + b"\0"


async def test_many_checks_are_one(making: Making, s3_server: Buckets) -> None:
    """Put, read, removed once, though fifty ask; and again only when the answer is old."""
    relay = Between(s3_server.address)
    async with listening(relay.handle) as url:
        store = making(endpoint=url, check_seconds=3600)
        await asyncio.gather(*(store.check() for _ in range(50)))
        await store.check()
        assert [line.split()[0] for line in relay.seen] == ["PUT", "GET", "POST"]
        asked_often = making(endpoint=url, check_seconds=0)
        await asked_often.check()
        await asked_often.check()
        assert len(relay.seen) == 9


async def test_a_check_leaves_nothing(s3_server: Buckets, bucket: str, store: BucketStore) -> None:
    """And works in an empty bucket, for a folder nobody has made."""
    await store.check()
    assert await listed(reading(s3_server, bucket)) == []


# --- which store -----------------------------------------------------------------------------------------------------


async def test_a_store_knows_itself(making: Making, store: BucketStore, bucket: str, tmp_path: Path) -> None:
    """The same bucket and folder by the same server is the same store; a folder is one only with itself."""
    assert await store.identity() == await making().identity()
    assert (await store.identity()).startswith(f"s3://{bucket}/kept/here?endpoint=http://127.0.0.1:")
    here, there = MediaStore(tmp_path / "a"), MediaStore(tmp_path / "b")
    assert await here.identity() == await MediaStore(tmp_path / "a").identity()
    assert len({await here.identity(), await there.identity(), await store.identity()}) == 3
    named = await asyncio.gather(*(MediaStore(tmp_path / "c").identity() for _ in range(20)))
    assert len(set(named)) == 1


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("ftp://acme/a", "RECEIVER_MEDIA: there are no pictures at ftp://"),
        ("s3://acme/a?acl=public", "RECEIVER_MEDIA: its query may hold"),
        ("s3://AKIA:s3cret@acme/a", "RECEIVER_MEDIA: it holds a user name or a secret"),
    ],
)
def test_a_url_that_is_no_store_stops_the_start(tmp_path: Path, where: str, sentence: str) -> None:
    """With the setting's name, and without the secret."""
    with pytest.raises(SettingsError, match=sentence) as caught:
        open_store(where, cache=tmp_path)
    assert "s3cret" not in str(caught.value)


def test_a_path_or_a_url(tmp_path: Path) -> None:
    """One setting for both."""
    assert isinstance(open_store(tmp_path / "media", cache=tmp_path), MediaStore)
    assert isinstance(open_store(str(tmp_path / "media"), cache=tmp_path), MediaStore)
    made = open_store("S3://acme/mj?region=eu-central-1", cache=tmp_path)
    assert (type(made), made.place) == (BucketStore, "s3://acme/mj")


# --- deliveries ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def delivering(folder: Path, store: Store, *files: bytes) -> AsyncIterator[Any]:
    """A kit with one result that is archived and owed to `main`, on that store."""
    async with engine(folder, store=store) as kit:
        for number, data in enumerate(files):
            kit.origin.files[f"/{number}.png"] = data
        urls = [f"{kit.origin.url}/{number}.png" for number in range(len(files))]
        buttons = [{"customId": f"MJ::JOB::upsample::{n}::abc", "label": f"U{n}"} for n in range(1, 5)]
        await kit.succeeded(imageUrl=urls[0], buttons=buttons)
        await kit.archiver.archive_once()
        await kit.archiver.settle()
        yield kit


async def test_tiles_are_cut_in_the_cache(
    s3_server: Buckets, bucket: str, tmp_path: Path, store: BucketStore, other: BucketStore
) -> None:
    """A machine that did not archive the grid brings it, cuts it beside its copy, and puts no second truth into the
    bucket; emptied caches change nothing."""
    picture = grid_picture()
    media = await kept(store, picture)
    tiles = Tiles(other)
    for _ in range(2):
        made = await tiles.of(media)
        paths = [tiles.path(media, number) for number in range(1, 5)]
        assert colors_of([path.read_bytes() for path in paths]) == [{color} for color in COLORS]
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] == [tile.digest for tile in made]
        shutil.rmtree(other.path(media).parent.parent)
    assert await listed(reading(s3_server, bucket)) == [key_of(media)]


async def test_a_handler_reads_what_another_machine_archived(
    tmp_path: Path, store: BucketStore, other: BucketStore
) -> None:
    """It gets paths as ever, and they are there until it ends."""
    async with delivering(tmp_path, store, PNG) as kit:
        handler = Recording()
        kit.store = other
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        (attempt,) = handler.attempts
        assert [item.path.read_bytes() for item in attempt.media] == [PNG]
        assert attempt.media[0].path == other.path(attempt.media[0].media)


async def test_a_store_that_is_down_puts_deliveries_off(
    tmp_path: Path, s3_server: Buckets, store: BucketStore, making: Making
) -> None:
    """It is no failure of the destination: the attempt is postponed with a sentence, longer each time, and used up
    nothing; when the store is back, the handler gets the file."""
    relay = Between(s3_server.address, lost=999)
    async with delivering(tmp_path, store, PNG) as kit, listening(relay.handle) as url:
        handler = Recording()
        kit.store = making(endpoint=url)
        dispatcher = kit.dispatcher(destination("main", handler))
        waits = []
        for _ in range(3):
            await dispatcher.dispatch_once()
            await dispatcher.settle()
            (delivery,) = await kit.deliveries((await kit.journal.submissions(limit=1))[0].id)
            assert (delivery.status, delivery.failures) == ("pending", 0)
            assert "cannot be used. The server" in (delivery.detail or "")
            waits.append((delivery.due_ms - kit.clock.now_ms()) / 1000)
            kit.clock.advance(waits[-1] + 0.001)
        assert waits == [pytest.approx(5, rel=0.1), pytest.approx(15, rel=0.1), pytest.approx(60, rel=0.1)]
        assert handler.attempts == []
        relay.lost = 0
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        assert [item.path.read_bytes() for item in handler.attempts[0].media] == [PNG]


async def test_what_is_gone_is_delivered_without(
    tmp_path: Path, s3_server: Buckets, bucket: str, store: BucketStore, other: BucketStore
) -> None:
    """Somebody emptied the bucket: handlers are told why there is no picture, and the rest is not kept back."""
    async with delivering(tmp_path, store, PNG) as kit:
        client = reading(s3_server, bucket)
        await client.delete_async(await listed(client))
        handler = Recording()
        kit.store = other
        dispatcher = kit.dispatcher(destination("main", handler))
        await dispatcher.dispatch_once()
        await dispatcher.settle()
        (attempt,) = handler.attempts
        assert (attempt.media, attempt.media_pending) == ((), False)
        assert f"is gone from s3://{bucket}/kept/here" in (attempt.media_problem or "")
        assert await attempt.tiles() == ()


async def test_a_store_that_is_down_puts_downloads_off(tmp_path: Path, s3_server: Buckets, making: Making) -> None:
    """The picture is downloaded again when the store is back; until then its submission says what is wrong."""
    relay = Between(s3_server.address, lost=999)
    async with listening(relay.handle) as url, engine(tmp_path, store=making(endpoint=url)) as kit:
        kit.origin.files["/a.png"] = PNG
        row = await kit.succeeded(imageUrl=f"{kit.origin.url}/a.png")
        await kit.archiver.archive_once()
        await kit.archiver.settle()
        problem = (await kit.row(row.id)).media_problem or ""
        assert "The media store s3://" in problem
        assert "cannot be reached" in problem
        relay.lost = 0
        kit.clock.advance(60)
        await kit.archiver.archive_once()
        await kit.archiver.settle()
        row = await kit.row(row.id)
        assert [media.size for media in row.media] == [len(PNG)]
        assert row.media_problem is None


async def test_a_store_that_is_away_keeps_nobody_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks are kept without it, so the engine starts, and readiness stays; log and health tell all the same."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s" * 20)
    away = Settings(provider_key="s" * 20, data=tmp_path, media="s3://acme/a?endpoint=http://127.0.0.1:9")
    async with (
        open_runtime(away) as runtime,
        serving(web_app(runtime)) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        with logged() as lines:
            await runtime.start_engine("serve")
        assert [line["problem"] for line in lines if line["event"] == "media.away"] == [
            "The media store s3://acme/a cannot be used. The server 127.0.0.1:9 cannot be reached (nothing listens "
            "there). Check endpoint, and that it runs."
        ]
        health = await client.get("/readyz")
        assert (health.status_code, health.json()["ready"]) == (200, True)
        assert health.json()["media"] == "The media store cannot be used. Receiver's log says why."


async def test_a_store_somebody_has_to_mend_stops_the_start(
    s3_server: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong bucket does not come right by itself."""
    keys = s3_server.options("nobodys-bucket")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["access_key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["secret_key"])
    wrong = Settings(provider_key="s" * 20, data=tmp_path, media=f"s3://nobodys-bucket?endpoint={s3_server.url}")
    async with open_runtime(wrong) as runtime:
        with pytest.raises(MediaError, match="has no such bucket"):
            await runtime.start_engine("serve")


async def test_a_folder_that_moves_in_is_all_there(
    s3_server: Buckets, bucket: str, tmp_path: Path, store: BucketStore
) -> None:
    """Copied as it is: the bucket is laid out like the folder."""
    folder = MediaStore(tmp_path / "media")
    files = [await kept(folder, PNG + bytes([number])) for number in range(5)]
    for path in folder.folder.glob("*/*"):
        await reading(s3_server, bucket).put_async(f"kept/here/{path.relative_to(folder.folder)}", path.read_bytes())
    assert await store.missing(media.digest for media in files) == []
    assert [(await store.local(media)).read_bytes()[-1] for media in files] == [0, 1, 2, 3, 4]


# --- all of it -------------------------------------------------------------------------------------------------------


async def test_the_life_of_a_picture_in_a_bucket(
    s3_server: Buckets, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the provider to a folder with tiles, over the HTTP API, through check, backup and restore, and erased, by
    a server and commands that know no more than a URL and the usual variables."""
    keys = s3_server.options(bucket)
    env = {"AWS_ACCESS_KEY_ID": keys["access_key"], "AWS_SECRET_ACCESS_KEY": keys["secret_key"]}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    media = f"s3://{bucket}/pictures?endpoint={s3_server.url}"
    album = {"album": {"handler": "file", "path": str(tmp_path / "outputs"), "tiles": True}}
    async with world(tmp_path, media=media, destinations=album, to="", api_tokens={"me": "m" * 16}) as here:
        row = await here.rest((await here.submit()).id)
        (kept,) = row.media
        assert len(here.pictures()) == 5
        async with httpx.AsyncClient(base_url=here.url, headers={"Authorization": f"Bearer {'m' * 16}"}) as client:
            picture = await client.get(f"/submissions/{row.id}/media/0")
            assert hashlib.sha256(picture.content).hexdigest() == kept.digest
            assert (await client.get("/readyz")).json()["media"] == "ok"
            objects = reading(s3_server, bucket)
            assert await originals(objects) == [f"pictures/{kept.digest[:2]}/{kept.digest}{kept.extension}"]
            assert not (tmp_path / "data" / "media").exists()
            shutil.rmtree(tmp_path / "data" / "cache")
            assert (await client.get(f"/submissions/{row.id}/media/0")).content == picture.content
    env |= {"RECEIVER_MEDIA": media, "RECEIVER_DATA": str(tmp_path / "data"), "COMETAPI_KEY": "s" * 20}

    async def command(*words: str) -> Result:
        return await asyncio.to_thread(receiver, *words, folder=tmp_path, env=env)

    assert (await command("journal", "check")).code == 0
    (key,) = await originals(objects)
    assert (await command("backup", "copy")).code == 0
    await objects.delete_async(key)
    checked = await command("journal", "check")
    assert checked.code == 1
    assert f"1 archived files are missing in s3://{bucket}/pictures: {kept.digest}" in checked.out
    elsewhere = env | {"RECEIVER_DATA": str(tmp_path / "new")}
    restored = await asyncio.to_thread(receiver, "restore", "copy", folder=tmp_path, env=elsewhere)
    assert restored.code == 0, restored.err
    assert await originals(objects) == [key]
    wrong = env | {"AWS_SECRET_ACCESS_KEY": "wrong-secret"}
    erased, refused = [
        await asyncio.to_thread(receiver, *words, folder=tmp_path, env=wrong)
        for words in (("erase", row.id, "--force"), ("purge",))
    ]
    assert erased.code == 0
    assert f"Its files are not removed: The media store s3://{bucket}/pictures cannot be used" in erased.err
    assert "The next purge tries again" in erased.err
    assert refused.code == 1
    assert f"The media store s3://{bucket}/pictures cannot be used. The server" in refused.err
    assert "wrong-secret" not in erased.err + refused.err
    assert (await command("purge")).code == 0
    assert await originals(objects) == [key]  # it is too young to go: somebody may just have put the same content
