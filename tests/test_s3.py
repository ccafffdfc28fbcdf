"""The s3 handler against a real S3 server (SeaweedFS), and against a local one that answers as S3 is documented to."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from attempts import COLORS, EVENT, ID, attempt_of, colors_of, event_of, grid_picture, stored
from buckets import READER, READER_SECRET, SECRET, Between, Buckets, content, listed, listening, reading
from flows import world
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE

from receiver.bucket.options import BucketOptions, address_of, read_profile
from receiver.deliveries import Receipt
from receiver.errors import MediaError, SettingsError
from receiver.extras import install
from receiver.handlers.base import Attempt, Rejected, RetryLater, StoredMedia
from receiver.handlers.registry import build, describe_handlers
from receiver.handlers.result_files import ArchiveError
from receiver.handlers.s3 import WHOLE, S3Handler, S3Options, StoreError, check_template, fill
from receiver.media import MediaStore, Tiles
from receiver.settings import Destination
from receiver.settings.kinds import show_url
from receiver.settings.options import read_options
from receiver.testing import check_handler

PICTURE = grid_picture(400, 300)
STEM = f"mj/2024-11-21/paper-boat-calm-water-{ID}"


@pytest.fixture
def server(s3_server: Buckets) -> Buckets:
    """The real S3 server of this run."""
    return s3_server


@pytest.fixture
def bucket(server: Buckets, request: pytest.FixtureRequest) -> str:
    """A bucket of the test's own."""
    return server.bucket("t" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16])


def handler_of(options: dict[str, Any]) -> S3Handler:
    return S3Handler(read_options(S3Options, options))


# --- what is put -----------------------------------------------------------------------------------------------------


async def test_a_result_is_a_picture_and_a_json(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """Picture and JSON lie under readable keys, with type, caching and digest, and the receipt says where."""
    item = stored(tmp_path, PICTURE)
    receipt = await handler_of(server.options(bucket)).deliver(attempt_of(EVENT, item))
    store = reading(server, bucket)
    assert await listed(store) == [f"{STEM}.png", f"{STEM}.task.succeeded.json"]
    found = await store.get_async(f"{STEM}.png")
    assert found.attributes == {
        "Content-Type": "image/png",
        "Cache-Control": "max-age=31536000, immutable",
        "sha256": item.media.digest,
        "original": item.media.digest,
        "submission": ID,
    }
    assert bytes(await found.bytes_async()) == PICTURE
    assert receipt.ref == f"s3://{bucket}/{STEM}.png"
    assert receipt.url is None
    (file,), page = receipt.data["files"], receipt.data["record"]
    assert file == {
        "url": receipt.ref,
        "key": f"{STEM}.png",
        "etag": found.meta["e_tag"],
        "sha256": item.media.digest,
    }
    assert re.fullmatch('"[0-9a-f]{32}"', file["etag"])
    assert page["key"] == f"{STEM}.task.succeeded.json"
    said = await store.get_async(page["key"])
    assert (said.attributes["Content-Type"], said.attributes["Cache-Control"]) == ("application/json", "no-cache")
    written = json.loads(bytes(await said.bytes_async()))
    assert (written["prompt"], written["parameters"]) == (EVENT.prompt, {"v": "6.1", "ar": "16:9"})
    assert written["media"][0]["file"] == f"{STEM}.png"
    assert "secret" not in json.dumps(written)


async def tiled(folder: Path, content: bytes = PICTURE) -> tuple[Attempt, MediaStore]:
    """An attempt with a grid, as the dispatcher makes it."""
    store = MediaStore(folder / "media")
    media = await store.put_bytes(content, url="https://cdn.test/a.png")
    tiles = Tiles(store)

    async def cut() -> tuple[StoredMedia, ...]:
        made = await tiles.of(media)
        return tuple(StoredMedia(media=m, path=tiles.path(media, n), tile=n) for n, m in enumerate(made, 1))

    return attempt_of(EVENT, StoredMedia(media=media, path=store.path(media)), tiles=cut), store


async def test_tiles_and_provenance(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """A grid's four pictures follow it, each PNG says where it comes from, and the archive keeps the original."""
    attempt, _ = await tiled(tmp_path)
    receipt = await handler_of(server.options(bucket, tiles=True, embed=True)).deliver(attempt)
    keys = [f"{STEM}.png", *(f"{STEM}-u{n}.png" for n in range(1, 5))]
    assert [file["key"] for file in receipt.data["files"]] == keys
    store = reading(server, bucket)
    contents = [await content(store, key) for key in keys]
    assert colors_of(contents[1:]) == [{color} for color in COLORS]
    for data in contents:
        assert b"a paper boat on calm water --v 6.1" in data
    assert b'"tile": "U3"' in contents[3]
    written = json.loads(await content(store, f"{STEM}.task.succeeded.json"))
    assert [item["sha256"] for item in written["media"]] == [hashlib.sha256(data).hexdigest() for data in contents]
    assert [item.get("tile") for item in written["media"]] == [None, "U1", "U2", "U3", "U4"]
    assert attempt.media[0].path.read_bytes() == PICTURE


async def test_a_grid_that_cannot_be_cut_is_delivered_whole(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """A picture too odd to cut arrives, and the JSON says why there are no tiles."""
    attempt, _ = await tiled(tmp_path, b"GIF89a" + bytes(100))
    receipt = await handler_of(server.options(bucket, tiles=True)).deliver(attempt)
    assert len(receipt.data["files"]) == 1
    written = json.loads(await content(reading(server, bucket), receipt.data["record"]["key"]))
    assert written["tiles_problem"].startswith("The picture was not cut into tiles: ")


async def test_tiles_that_cannot_be_made_now_are_waited_for(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """A full disk is no property of the picture: the attempt fails, and nothing half is left."""

    async def full() -> tuple[StoredMedia, ...]:
        raise MediaError("The tiles cannot be kept (No space left on device).")

    attempt = attempt_of(EVENT, stored(tmp_path, PICTURE), tiles=full)
    with pytest.raises(MediaError, match="No space left"):
        await handler_of(server.options(bucket, tiles=True)).deliver(attempt)
    assert await listed(reading(server, bucket)) == []


async def test_several_files_are_numbered(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """Videos come in fours; each has its number."""
    videos = [
        stored(tmp_path, b"\0\0\0\x18ftypmp42" + bytes([n]) * 99, type="video/mp4", extension=".mp4") for n in (1, 2)
    ]
    videos[1] = dataclasses.replace(videos[1], media=msgspec.structs.replace(videos[1].media, index=1))
    receipt = await handler_of(server.options(bucket)).deliver(attempt_of(EVENT, *videos))
    assert [file["key"] for file in receipt.data["files"]] == [f"{STEM}-1.mp4", f"{STEM}-2.mp4"]


@pytest.mark.parametrize("type", ["task.failed", "task.lost", "task.input_required"])
async def test_what_has_no_picture_is_a_json(server: Buckets, bucket: str, type: Any) -> None:
    """With the reason, under a name of its own: a late success takes nothing away."""
    receipt = await handler_of(server.options(bucket)).deliver(attempt_of(event_of(type, reason="banned: boat")))
    assert await listed(reading(server, bucket)) == [f"{STEM}.{type}.json"]
    assert receipt.ref == f"s3://{bucket}/{STEM}.{type}.json"


async def test_steps_on_the_way_put_nothing(server: Buckets, bucket: str) -> None:
    """They succeed with an empty receipt."""
    assert await handler_of(server.options(bucket)).deliver(attempt_of(event_of("task.progressed"))) == Receipt()
    assert await listed(reading(server, bucket)) == []


async def test_a_picture_that_never_comes_is_rejected(server: Buckets, bucket: str) -> None:
    """The JSON keeps what is known, and the delivery says that the picture is missing."""
    handler = handler_of(server.options(bucket))
    with pytest.raises(Rejected, match=r"without the picture\. cdn\.test answered 404"):
        await handler.deliver(attempt_of(EVENT, media_problem="cdn.test answered 404."))
    assert await listed(reading(server, bucket)) == [f"{STEM}.task.succeeded.json"]


async def test_a_large_file_goes_in_parts(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """A video beyond one request arrives whole; a repeat looks first and sends nothing."""
    video = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * (WHOLE // 256 + 5000)
    item = stored(tmp_path, video, type="video/mp4", extension=".mp4")
    handler = handler_of(server.options(bucket))
    first = await handler.deliver(attempt_of(EVENT, item))
    assert hashlib.sha256(await content(reading(server, bucket), f"{STEM}.mp4")).hexdigest() == item.media.digest
    before = (await reading(server, bucket).head_async(f"{STEM}.mp4"))["last_modified"]
    assert (await handler.deliver(attempt_of(EVENT, item, number=2))).data["files"] == first.data["files"]
    assert (await reading(server, bucket).head_async(f"{STEM}.mp4"))["last_modified"] == before


async def test_a_damaged_archive_is_not_put(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """Nothing wrong is delivered."""
    item = stored(tmp_path, PICTURE)
    item.path.write_bytes(PICTURE[:-1])
    with pytest.raises(ArchiveError, match="is damaged"):
        await handler_of(server.options(bucket)).deliver(attempt_of(EVENT, item))
    assert await listed(reading(server, bucket)) == []


# --- links -----------------------------------------------------------------------------------------------------------


async def test_a_signed_link_opens_the_picture(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """Whoever has the link needs no key; without its signature the server refuses."""
    receipt = await handler_of(server.options(bucket, link_for="10m")).deliver(
        attempt_of(EVENT, stored(tmp_path, PICTURE))
    )
    assert receipt.url is not None
    assert "X-Amz-Expires=600" in receipt.url
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(receipt.url)
        assert (answer.status_code, answer.content) == (200, PICTURE)
        assert answer.headers["content-type"] == "image/png"
        assert (await client.get(receipt.url.partition("?")[0])).status_code == 403


async def test_a_public_link_is_the_base_and_the_key(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """For buckets behind a CDN."""
    options = server.options(bucket, public_url="https://cdn.example.com/art/")
    receipt = await handler_of(options).deliver(attempt_of(EVENT, stored(tmp_path, PICTURE)))
    assert receipt.url == f"https://cdn.example.com/art/{STEM}.png"


# --- once ------------------------------------------------------------------------------------------------------------


async def test_a_repeat_puts_nothing_twice(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """The refused precondition meets our own digest: the same receipt, and the object is the first one."""
    handler, item = handler_of(server.options(bucket)), stored(tmp_path, PICTURE)
    first = await handler.deliver(attempt_of(EVENT, item))
    before = await reading(server, bucket).head_async(f"{STEM}.png")
    assert await handler.deliver(attempt_of(EVENT, item, number=7)) == first
    assert await reading(server, bucket).head_async(f"{STEM}.png") == before


async def test_many_at_once_give_one_object(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """Eight engines that believe the delivery theirs: one puts, all succeed, all say the same."""
    item = stored(tmp_path, PICTURE)
    handlers = [handler_of(server.options(bucket)) for _ in range(8)]
    first, *others = await asyncio.gather(*(handler.deliver(attempt_of(EVENT, item)) for handler in handlers))
    assert all(other == first for other in others)


@pytest.mark.parametrize("conditional", [True, False])
async def test_somebody_elses_file_is_left_alone(
    server: Buckets, bucket: str, tmp_path: Path, conditional: bool
) -> None:
    """Another content under our key: never overwritten, and a sentence says what to do."""
    store = reading(server, bucket)
    await store.put_async(f"{STEM}.png", b"somebody else's")
    with pytest.raises(Rejected, match=rf"Another file is at s3://{bucket}/{STEM}\.png and was left alone\. Move"):
        await handler_of(server.options(bucket, conditional=conditional)).deliver(
            attempt_of(EVENT, stored(tmp_path, PICTURE))
        )
    assert await content(store, f"{STEM}.png") == b"somebody else's"


async def test_the_same_content_by_another_hand_is_ours(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """Copied there without our metadata: what lies there is read and compared."""
    store = reading(server, bucket)
    await store.put_async(f"{STEM}.png", PICTURE)
    receipt = await handler_of(server.options(bucket)).deliver(attempt_of(EVENT, stored(tmp_path, PICTURE)))
    assert receipt.ref == f"s3://{bucket}/{STEM}.png"
    await store.put_async(f"{STEM}.png", bytes(len(PICTURE)))
    with pytest.raises(Rejected, match="Another file"):
        await handler_of(server.options(bucket)).deliver(attempt_of(EVENT, stored(tmp_path, PICTURE)))


async def test_a_piece_made_by_another_version_of_us_is_ours(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """An upgrade between two attempts may make other bytes of the same original: that is no conflict."""
    item = stored(tmp_path, PICTURE)
    handler = handler_of(server.options(bucket, embed=True))
    first = await handler.deliver(attempt_of(EVENT, item))
    longer = attempt_of(event_of("task.succeeded", prompt=f"{EVENT.prompt} --stylize 1"), item)
    again = await handler.deliver(longer)
    assert again.data["files"][0]["etag"] == first.data["files"][0]["etag"]


async def test_without_conditions_we_look_first(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """For servers without If-None-Match: put, and a repeat finds it."""
    handler, item = handler_of(server.options(bucket, conditional=False)), stored(tmp_path, PICTURE)
    first = await handler.deliver(attempt_of(EVENT, item))
    assert await handler.deliver(attempt_of(EVENT, item, number=2)) == first


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"secret_key": "wrong-secret"},
            r"not accept these credentials \(403 SignatureDoesNotMatch; bucket t.*Ch",
        ),
        ({"access_key": "AKIANOBODY"}, r"does not accept these credentials \(403 InvalidAccessKeyId; "),
        ({"bucket": "no-such-bucket", "conditional": False}, r"has no such bucket \(404 NoSuchBucket; "),
        ({"bucket": "no-such-bucket"}, r"has no such bucket \(404 NoSuchBucket; bucket no-such-bucket\)\. Make it, or"),
        (
            {"access_key": READER, "secret_key": READER_SECRET},
            r"does not let these credentials do that \(403 AccessDenied; .*s3:PutObject",
        ),
    ],
)
async def test_a_refusal_of_the_real_server_names_the_remedy(
    server: Buckets, bucket: str, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    """A wrong secret, an unknown key, a missing bucket, a key without rights: sentences without the secret. They fail
    and are tried again by the schedule, because an operator can mend them while results wait."""
    options = server.options(bucket) | changes
    with pytest.raises(StoreError, match=sentence) as caught:
        await handler_of(options).deliver(attempt_of(EVENT, stored(tmp_path, PICTURE)))
    assert str(caught.value).startswith(f"The server {server.url.removeprefix('http://')} ")
    assert options["secret_key"] not in str(caught.value)
    assert await listed(reading(server, bucket)) == []


async def test_a_real_server_that_is_too_busy_is_left_in_peace(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """It answers 503: the whole destination rests, and no attempt is used up."""
    server.limit_writes(bucket, 1)
    item = stored(tmp_path, b"\x89PNG\r\n\x1a\n" + bytes(3 * 2**20))
    async with asyncio.timeout(PATIENCE):
        while True:  # until the server has read its own settings
            try:
                await handler_of(server.options(bucket)).deliver(attempt_of(EVENT, item))
            except RetryLater as exc:
                busy = exc
                break
            await reading(server, bucket).delete_async(f"{STEM}.png")
    assert (busy.after, busy.pause) == (15, True)
    assert re.match(rf"The server .* is too busy \(503 ErrRequestBytesExceed; bucket {bucket}\)\.", str(busy))


async def test_a_server_killed_in_between_is_tried_again(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """Killed after the picture and before the JSON: the attempt fails with a sentence, and so does the next; when the
    server is back, the one after completes it, and the picture is the one put before."""
    relay, item = Between(server.address, before_json=server.kill), stored(tmp_path, PICTURE)
    try:
        async with listening(relay.handle) as url:
            with pytest.raises(StoreError, match=r"cannot be reached \(the connection was cut off\)"):
                await handler_of(server.options(bucket, endpoint=url)).deliver(attempt_of(EVENT, item))
        with pytest.raises(StoreError, match=r"The server .* cannot be reached \(nothing listens there\)\. Check end"):
            await handler_of(server.options(bucket)).deliver(attempt_of(EVENT, item, number=2))
    finally:
        server.start()
    before = await reading(server, bucket).head_async(f"{STEM}.png")
    assert await listed(reading(server, bucket)) == [f"{STEM}.png"]
    receipt = await handler_of(server.options(bucket)).deliver(attempt_of(EVENT, item, number=3))
    assert await reading(server, bucket).head_async(f"{STEM}.png") == before
    assert receipt.data["files"][0]["etag"] == before["e_tag"]
    assert await listed(reading(server, bucket)) == [f"{STEM}.png", f"{STEM}.task.succeeded.json"]


@pytest.mark.parametrize("lost", [1, 9])
async def test_a_lost_answer_leaves_one_object(server: Buckets, bucket: str, tmp_path: Path, lost: int) -> None:
    """The put arrived and its answer did not: the repeat, obstore's own or our next attempt, meets our own picture."""
    relay, item = Between(server.address, lost=lost), stored(tmp_path, PICTURE)
    async with listening(relay.handle) as url:
        # Signed for the relay's address, which the server is told as Host.
        handler = handler_of(server.options(bucket, endpoint=url))
        if lost > 3:
            with pytest.raises(StoreError, match="cannot be reached"):
                await handler.deliver(attempt_of(EVENT, item))
            relay.lost = 0
        receipt = await handler.deliver(attempt_of(EVENT, item, number=2))
    puts = [line for line in relay.seen if line.startswith("PUT") and ".png" in line]
    assert len(puts) > 1
    assert receipt.data["files"][0]["sha256"] == item.media.digest
    assert await content(reading(server, bucket), f"{STEM}.png") == PICTURE


def xml(code: str, more: str = "", said: str = "m") -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{said}</Message>{more}</Error>'


REGION = "<Region>eu-central-1</Region>"
ANSWERS = [
    (503, xml("SlowDown"), RetryLater, r"is too busy \(503 SlowDown"),
    (503, xml("ServiceUnavailable"), RetryLater, "is too busy"),
    (429, "", RetryLater, r"is too busy \(429"),
    (403, xml("SignatureDoesNotMatch"), StoreError, "does not accept these credentials"),
    (403, xml("InvalidAccessKeyId"), StoreError, "does not accept these credentials"),
    (400, xml("ExpiredToken"), StoreError, "have expired .* Renew them"),
    (403, xml("RequestTimeTooSkewed"), StoreError, "finds this machine's clock wrong .* Set the clock"),
    (403, xml("AccessDenied"), StoreError, "does not let these credentials do that"),
    (403, "", StoreError, "does not let these credentials do that"),
    (401, "", StoreError, "does not accept these credentials"),
    (404, xml("NoSuchBucket"), StoreError, "has no such bucket"),
    (400, xml("AuthorizationHeaderMalformed", REGION), StoreError, "another region .*region eu-central-1.* Set region"),
    (301, xml("PermanentRedirect"), StoreError, "another region .* Set region"),
    (413, xml("EntityTooLarge"), Rejected, "finds the file too large"),
    (400, xml("KeyTooLongError"), Rejected, "does not take such a key"),
    (501, xml("NotImplemented"), StoreError, "set conditional = false"),
    (507, "", StoreError, "is full"),
    (400, "<html>nonsense</html>", StoreError, r"answered 400 .* with a page of HTML, .* in front of the store\.$"),
    (403, "<HTML>Sign in</HTML>", StoreError, "answered 403 .* with a page of HTML"),
    (413, "<html>too large</html>", StoreError, "answered 413 .* with a page of HTML"),
    (413, "", StoreError, "finds the file too large"),
    (400, "", StoreError, "found the request wrong .* Check endpoint, region and addressing"),
    (400, xml("InvalidDigest", said="The digest is &quot;wrong&quot;."), StoreError, r'bkt\. It says: "The digest is'),
    (403, xml("AccountProblem", said="Call us"), StoreError, r'403 AccountProblem for the bucket bkt\. It says: "Call'),
    (
        403,
        xml("AccessDenied", said="Storage cap exceeded"),
        StoreError,
        r"is full .* room\. It says: .Storage",
    ),
    (403, xml("AccessDenied", said="not authorized: kms:GenerateDataKey"), StoreError, "the key that encrypts"),
    (
        400,
        xml("KMS.DisabledException", said="arn is disabled"),
        StoreError,
        r"KMS\.Disabled.* Enable that KMS",
    ),
    (400, xml("InvalidRequest", said="Object is WORM protected"), StoreError, "has locked that object .* another path"),
    (503, xml("SlowDown", said="Request quota exceeded"), RetryLater, "is too busy"),
    (500, xml("InternalError"), StoreError, r"answered 500 InternalError for the bucket bkt\."),
    (502, "<html>", StoreError, r"answered 502 for the bucket"),
    (418, "", StoreError, r"answered 418 for the bucket"),
    (302, "", StoreError, r"points to another address \(302; bucket bkt\)\. Check endpoint and region\."),
    (307, "", StoreError, r"another region \(a redirect; bucket bkt\)\. Set region"),
    (200, "hello", StoreError, r"does not answer as an object store does\. Check endpoint\."),
    (500, "Überlastet", StoreError, r"does not answer as an object store does\. Check endpoint\."),
]


@pytest.mark.parametrize(("status", "body", "kind", "sentence"), ANSWERS)
async def test_every_answer_has_its_outcome(
    tmp_path: Path, status: int, body: str, kind: type[Exception], sentence: str
) -> None:
    """What S3 is documented to answer, by a local server: later, never, or again by the schedule, and a sentence."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
        location = "Location: https://other.example/\r\n" if status == 302 else ""
        head = f"HTTP/1.1 {status} X\r\n{location}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(f"{head}{body}".encode("latin-1"))
        await writer.drain()
        writer.close()

    async with listening(answer) as url:
        options = {"bucket": "bkt", "endpoint": url, "access_key": "AKIA", "secret_key": "5ecr3t-5ecr3t"}
        with pytest.raises(kind, match=sentence) as caught:
            await handler_of(options).deliver(attempt_of(EVENT, stored(tmp_path, PICTURE)))
    assert "5ecr3t" not in str(caught.value)
    assert len(str(caught.value)) < 400
    if isinstance(caught.value, RetryLater):
        assert (caught.value.after, caught.value.pause) == (15, True)


OBJECT_LOCK = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidRequest</Code><Message>Content-MD5 OR x-amz-checksum- '
    "HTTP header is required for Put Object requests with Object Lock parameters</Message></Error>"
)


@pytest.mark.parametrize("large", [False, True], ids=["whole", "in parts"])
async def test_a_bucket_that_asks_for_checksums_gets_them(
    server: Buckets, bucket: str, tmp_path: Path, large: bool
) -> None:
    """One with Object Lock refuses a put without. The same put is repeated with one, and an upload by the retry."""
    refused: list[str] = []

    async def strict(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1]) if length else 0)
        if head.startswith((b"PUT", b"POST")) and b"uploadid=" not in head.lower() and b"x-amz-checksum" not in head:
            refused.append(head.split()[1].decode())
            answer = f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(OBJECT_LOCK)}\r\nConnection: close\r\n\r\n"
            writer.write((answer + OBJECT_LOCK).encode())
        else:
            to, back = await asyncio.open_connection(*server.address)
            back.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
            writer.write(await to.read())
            back.close()
        await writer.drain()
        writer.close()

    item = stored(tmp_path, PICTURE + (bytes(20 * 2**20) if large else b""))
    async with listening(strict) as url:
        handler = handler_of(server.options(bucket, endpoint=url))
        if large:
            with pytest.raises(StoreError, match=r"InvalidRequest .* It says: .Content-MD5 OR x-amz-checksum"):
                await handler.deliver(attempt_of(EVENT, item))
        await handler.deliver(attempt_of(EVENT, item, number=2))
    assert len(refused) == 1
    assert len(await content(reading(server, bucket), f"{STEM}.png")) == item.media.size


async def test_no_credentials_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing configured and no machine role: the sentence says what to set, not which address did not answer."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")  # to close with bytes unread would reset the connection
        writer.write(b"HTTP/1.1 404 X\r\nContent-Length: 15\r\nConnection: close\r\n\r\n169.254.169.254")
        writer.close()

    async with listening(refuse) as url:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", url)
        with pytest.raises(StoreError, match=r"There are no credentials for the bucket bkt: .* Set AWS_ACCESS_KEY_ID"):
            await handler_of({"bucket": "bkt"}).deliver(attempt_of(EVENT, stored(tmp_path, PICTURE)))


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("mj/{date}/{slug}-{id}{tile}.{ext}", f"mj/2024-11-21/paper-boat-calm-water-{ID}-u2.png"),
        ("{year}/{month}/{day}/{id}{tile}.{ext}", f"2024/11/21/{ID}-u2.png"),
        ("{label.customer}/{kind}/{id}{tile}.{ext}", f"zoe-sohne/imagine/{ID}-u2.png"),
        ("{label.nobody}/{id}{tile}.{ext}", f"none/{ID}-u2.png"),
        ("day={date}/{ext}/{id}{tile}.{ext}", f"day=2024-11-21/png/{ID}-u2.png"),
    ],
)
def test_a_template_becomes_a_key(template: str, key: str) -> None:
    """Fields are filled in from the event."""
    assert fill(check_template(template), EVENT, mark="u2", ext="png") == key


def test_an_empty_prompt_gives_the_kind() -> None:
    """A blend has no words: its name says what it is."""
    event = event_of("task.succeeded", prompt="https://cdn.test/a.png --v 6", kind="blend")
    assert fill("{slug}-{id}{tile}.{ext}", event, mark="", ext="png") == f"blend-{ID}.png"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("mj/{id}.{ext}", "{tile} must be in it"),
        ("mj/{slug}{tile}.{ext}", "{id} must be in it"),
        ("mj/{id}{tile}", "{ext} must be in it"),
        ("{prompt}/{id}{tile}.{ext}", "{prompt} is no field of it; there are: {date}"),
        ("{label.}/{id}{tile}.{ext}", "{label.} is no field"),
        ("{}/{id}{tile}.{ext}", "{} is no field"),
        ("/mj/{id}{tile}.{ext}", "begins without a slash"),
        ("mj//{id}{tile}.{ext}", "would be empty"),
        ("mj/../{id}{tile}.{ext}", "'..'"),
        ("./{id}{tile}.{ext}", "'.'"),
        ("mj/{tile}/{id}.{ext}", "would be empty"),
        ("mj/.{tile}/{id}.{ext}", "'.'"),
        ("mj/{id}{tile}.{ext}/", "would be empty"),
        ("mj/\x00{id}{tile}.{ext}", "letters, digits"),
        ("mj/a\n{id}{tile}.{ext}", "letters, digits"),
        ("mj/ü{id}{tile}.{ext}", "letters, digits"),
        ("mj/a b{id}{tile}.{ext}", "letters, digits"),
        ("mj/%2e%2e/{id}{tile}.{ext}", "letters, digits"),
        ("mj/{id{tile}.{ext}", "no field of it|letters, digits|must be in it"),
        ("a" * 400 + "{id}{tile}.{ext}", "longer than"),
    ],
)
def test_an_unsafe_template_stops_the_start(template: str, problem: str) -> None:
    """Every problem is told with destination and option."""
    with pytest.raises(SettingsError) as caught:
        build(Destination(name="store", handler="s3", options={"bucket": "acme", "path": template}))
    assert str(caught.value).startswith("Destination store: the option path is wrong: ")
    assert any(part in str(caught.value) for part in problem.split("|"))


@given(prompt=st.text(), kind=st.text(), label=st.text(), button=st.none() | st.text())
def test_whatever_others_say_the_key_is_plain(prompt: str, kind: str, label: str, button: str | None) -> None:
    """No traversal, no control character, nothing empty, whatever prompt, kind, label and button hold."""
    event = event_of("task.succeeded", prompt=prompt, kind=kind, labels={"c": label}, button=button)
    key = fill("mj/{label.c}/{kind}/{slug}-{id}{tile}.{ext}", event, mark="", ext="png")
    assert re.fullmatch(rf"mj/[a-z0-9-]+/[a-z0-9-]+/[a-z0-9-]+-{ID}\.png", key)
    assert len(key) < 200


@pytest.mark.parametrize("id", ["", "../../x", "1320098173412546"])
def test_an_id_that_is_not_ours_never_becomes_a_key(id: str) -> None:
    """Keys are built from our own ids only."""
    with pytest.raises(ValueError, match="ULID"):
        fill("{id}{tile}.{ext}", event_of("task.failed", submission_id=id), mark="", ext="json")


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://acme", {"bucket": "acme", "service": "s3"}),
        ("s3://acme/", {"bucket": "acme", "service": "s3"}),
        ("s3://acme/mj", {"bucket": "acme", "service": "s3", "path": "mj/{date}/{slug}-{id}{tile}.{ext}"}),
        ("gs://acme/a/b/", {"bucket": "acme", "service": "gs", "path": "a/b/{date}/{slug}-{id}{tile}.{ext}"}),
        ("az://acme/{id}{tile}.{ext}", {"bucket": "acme", "service": "az", "path": "{id}{tile}.{ext}"}),
        ("s3://acme/%7Bid%7D{tile}.{ext}", {"bucket": "acme", "service": "s3", "path": "{id}{tile}.{ext}"}),
        (
            "s3://acme?endpoint=http://127.0.0.1:9000&tiles=true",
            {"bucket": "acme", "service": "s3", "endpoint": "http://127.0.0.1:9000", "tiles": "true"},
        ),
    ],
)
def test_a_url_stands_for_options(url: str, options: dict[str, Any]) -> None:
    """Bucket, folder or template, and options in the query; the handler takes them."""
    assert S3Handler.options_from_url(url) == options
    read_options(S3Options, options)


WRONG = [
    (
        {"url": "s3://key:s3cret@acme"},
        "its url cannot be used: it holds a user name or a secret. Put AWS_ACCESS_KEY_ID",
    ),
    ({"url": "s3://acme/a#b"}, "it holds a '#'"),
    ({"url": "s3://acme?secret_key=s3cret"}, "secret_key does not belong into its query. Write a table"),
    ({"url": "s3://acme?tile=true"}, "the option tile does not exist. Did you mean tiles?"),
    ({"url": "s3://"}, "the option bucket is wrong: it is no bucket's name"),
    ({"handler": "s3"}, "the option bucket is missing. Write a text. The bucket, or Azure's container."),
    ({"url": "s3://a..b"}, "it is no bucket's name"),
    ({"url": "s3://acme", "options": {"access_key": "s3cret"}}, "access_key and secret_key go together"),
    (
        {"url": "s3://acme", "options": {"public_url": "https://a.b", "link_for": "1h"}},
        "public_url and link_for are two ways to link: give one of them",
    ),
    ({"url": "s3://acme", "options": {"link_for": "8d"}}, "the option link_for cannot be '8d'"),
    ({"url": "gs://acme", "options": {"addressing": "virtual"}}, "belong to s3 only"),
    ({"url": "s3://acme", "options": {"endpoint": "ftp://s3cret"}}, "the option endpoint is wrong"),
    ({"url": "s3://acme", "options": {"cache_control": "a\r\nX: s3cret"}}, "the option cache_control is wrong"),
    ({"url": "az://acme"}, "The bucket acme cannot be used: Azure's storage account is missing. Set account"),
    ({"url": "gs://acme", "options": {"service_account": "/no/such.json"}}, "Unable to open service account file"),
    ({"url": "s3://acme", "options": {"profile": "nobody"}}, "There is no profile nobody in "),
]


@pytest.mark.parametrize(("fields", "sentence"), WRONG)
def test_wrong_options_stop_the_start(
    fields: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Destination, option and remedy, and never a secret."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(SettingsError) as caught:
        build(Destination(name="store", **fields))
    assert str(caught.value).startswith("Destination store: ")
    assert sentence in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("obstore", f"The handler s3 needs more than the core: {install('s3')}"),
        ("PIL", f"The option tiles needs more than the core: {install('images')}"),
    ],
)
def test_a_missing_extra_stops_the_start(monkeypatch: pytest.MonkeyPatch, module: str, sentence: str) -> None:
    """With the command that helps. The handler is listed with its options all the same."""
    monkeypatch.setitem(sys.modules, module, None)  # as Python itself marks what cannot be imported
    with pytest.raises(SettingsError) as caught:
        build(Destination(name="store", url="s3://acme?tiles=true"))
    assert str(caught.value) == f"Destination store: {sentence}"
    (doc,) = [doc for doc in describe_handlers() if doc.name == "s3"]
    assert (doc.problem, "link_for" in {option.name for option in doc.options}) == (None, True)


def test_an_empty_url_counts_as_none() -> None:
    """A `$VAR` in a file may be empty."""
    options = S3Options(bucket="acme", endpoint="", public_url="", link_for="1h")
    assert (options.endpoint, options.public_url) == (None, None)


def test_secrets_are_not_shown() -> None:
    """Neither in a repr nor in what is shown of a URL."""
    options = S3Options(bucket="acme", access_key="AKIA", secret_key="5ecr3t", session_token="t0ken")
    assert "5ecr3t" not in repr(options)
    assert "t0ken" not in repr(options)
    assert show_url("s3://acme/mj?endpoint=http://u:p@h") == "s3://acme/mj?••••"


@pytest.mark.parametrize(
    ("options", "link"),
    [
        ({"bucket": "acme", "region": "eu-central-1"}, f"https://s3.eu-central-1.amazonaws.com/acme/{STEM}.png?"),
        (
            {"bucket": "acme", "region": "eu-central-1", "addressing": "virtual"},
            f"https://acme.s3.eu-central-1.amazonaws.com/{STEM}.png?",
        ),
        (
            {"bucket": "acme", "endpoint": "https://fra1.example.com", "addressing": "virtual"},
            f"https://acme.fra1.example.com/{STEM}.png?",
        ),
        ({"bucket": "acme", "endpoint": "https://fra1.example.com"}, f"https://fra1.example.com/acme/{STEM}.png?"),
        ({"bucket": "acme", "endpoint": "https://a1.r2.example/acme"}, f"https://a1.r2.example/acme/{STEM}.png?"),
        ({"bucket": "acme", "endpoint": "https://acme.fra1.example/"}, f"https://acme.fra1.example/{STEM}.png?"),
        (
            {"bucket": "acme", "endpoint": "https://acme.fra1.example", "addressing": "path"},
            f"https://fra1.example/acme/{STEM}.png?",
        ),
        (
            {"bucket": "acme", "endpoint": "https://x.supabase.example/storage/v1/s3"},
            f"https://x.supabase.example/storage/v1/s3/acme/{STEM}.png?",
        ),
        (
            {"bucket": "acme", "service": "az", "account": "myaccount", "access_key": "c2VjcmV0"},
            f"https://myaccount.blob.core.windows.net/acme/{STEM}.png?",
        ),
    ],
)
async def test_addresses_of_every_style(options: dict[str, Any], link: str) -> None:
    """Path style, virtual host, own endpoint, Azure: shown by the link each signs, without any network."""
    keys = {} if options.get("service") == "az" else {"access_key": "AKIA", "secret_key": "x" * 8}
    handler = handler_of({**keys, **options, "link_for": "1h"})
    described = await handler._described(f"{STEM}.png", "etag")
    assert described["link"].startswith(link)


PROFILES = """
[default]
aws_access_key_id = AKIADEFAULT
aws_secret_access_key = a%b
[work]
aws_access_key_id = AKIAWORK
aws_secret_access_key = w
aws_session_token = t
[sso]
sso_session = x
"""
CONFIG = "[default]\nregion = eu-west-1\n[profile work]\nregion = us-west-2\n"


@pytest.mark.parametrize(
    ("name", "environ", "found"),
    [
        (None, {}, {"access_key_id": "AKIADEFAULT", "secret_access_key": "a%b", "region": "eu-west-1"}),
        (
            None,
            {"AWS_PROFILE": "work"},
            {"access_key_id": "AKIAWORK", "secret_access_key": "w", "session_token": "t", "region": "us-west-2"},
        ),
        (None, {"AWS_ACCESS_KEY_ID": "AKIAENV"}, {}),
        (
            "work",
            {"AWS_ACCESS_KEY_ID": "AKIAENV"},
            {"access_key_id": "AKIAWORK", "secret_access_key": "w", "session_token": "t", "region": "us-west-2"},
        ),
        (None, {"AWS_SHARED_CREDENTIALS_FILE": "/no/such", "AWS_CONFIG_FILE": "/no/such"}, {}),
    ],
)
def test_keys_from_a_profile(tmp_path: Path, name: str | None, environ: dict[str, str], found: dict[str, str]) -> None:
    """The environment's keys come first, then the profile; the region comes along."""
    (tmp_path / "credentials").write_text(PROFILES)
    (tmp_path / "config").write_text(CONFIG)
    files = {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }
    assert read_profile(name, files | environ) == found


ENDPOINTS = """
[default]
endpoint_url = http://all:1
[profile work]
services = mine
endpoint_url = http://all:2
[services mine]
dynamodb =
  endpoint_url = http://no:3
s3 =
  addressing_style = path
  endpoint_url = http://acme.s3:4
"""


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, ("http://all:1", False)),
        ({"AWS_PROFILE": "work"}, ("http://acme.s3:4", False)),
        ({"AWS_PROFILE": "work", "AWS_ENDPOINT_URL": "http://env:5/acme"}, ("http://env:5", False)),
        ({"AWS_PROFILE": "work", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, (None, False)),
        ({"AWS_ENDPOINT_URL": "https://acme.env.example"}, ("https://env.example", True)),
        ({"AWS_CONFIG_FILE": "/no/such"}, (None, False)),
    ],
)
def test_the_endpoint_comes_from_environment_or_profile(
    tmp_path: Path, environ: dict[str, str], address: tuple[str | None, bool]
) -> None:
    """For S3 before all services. An endpoint of the options goes before both."""
    (tmp_path / "config").write_text(ENDPOINTS)
    files = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": "/no/such"}
    assert address_of(BucketOptions(bucket="acme"), files | environ) == address
    own = BucketOptions(bucket="acme", endpoint="http://own:6")
    assert address_of(own, files | environ) == ("http://own:6", False)
    with pytest.raises(SettingsError, match="a page for people"):
        address_of(BucketOptions(bucket="acme"), {"AWS_ENDPOINT_URL": "https://s3.console.aws.amazon.com/s3/acme"})


@pytest.mark.parametrize(
    ("name", "sentence"), [("nobody", "There is no profile nobody"), ("sso", "export-credentials")]
)
def test_a_profile_without_keys_says_what_to_do(tmp_path: Path, name: str, sentence: str) -> None:
    """SSO and roles are the work of AWS's own tools."""
    (tmp_path / "credentials").write_text(PROFILES)
    files = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_CONFIG_FILE": "/no/such"}
    with pytest.raises(SettingsError, match=sentence):
        read_profile(name, files)
    (tmp_path / "credentials").write_text("no section\n")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_profile(name, files)


# --- all of it -------------------------------------------------------------------------------------------------------


async def test_the_handler_keeps_its_contract(server: Buckets, bucket: str) -> None:
    """One effect over retries, crashes, duplicates, deadlines and cancellations, against the real server."""
    store = reading(server, bucket)

    async def effects() -> list[tuple[str, str | None]]:
        return sorted([(item["path"], item["e_tag"]) async for batch in store.list() for item in batch])

    await check_handler(S3Handler, server.options(bucket, embed=True), effects=effects)


async def test_from_a_prompt_to_the_bucket(server: Buckets, bucket: str, tmp_path: Path) -> None:
    """A submission to the simulated provider: its grid, four tiles and a JSON lie in the folder and in the bucket."""
    options = server.options(bucket, tiles=True, embed=True)
    destinations = {
        "folder": {"handler": "file", "path": str(tmp_path / "outputs"), "tiles": True},
        "store": {"handler": "s3", **options},
    }
    async with world(tmp_path, to="", destinations=destinations) as both:
        row = await both.submit()
        await both.rest(row.id)
        deliveries = await both.receiver.journal.deliveries(limit=10, submission_id=row.id)
    assert {(item.destination, item.status) for item in deliveries} == {
        ("folder", "succeeded"),
        ("store", "succeeded"),
    }
    keys = await listed(reading(server, bucket))
    names = ["-u1.png", "-u2.png", "-u3.png", "-u4.png", ".png", ".task.succeeded.json"]
    assert [key.partition(row.id)[2] for key in keys] == names
    assert sorted(path.name.partition(row.id)[2] for path in (tmp_path / "outputs").iterdir()) == [
        ".json", ".png", "_u1.png", "_u2.png", "_u3.png", "_u4.png",
    ]  # fmt: skip
    assert SECRET not in json.dumps([item.detail for item in deliveries])
