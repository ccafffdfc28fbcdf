"""The client of a bucket on a real S3 server, and its URLs. Error sentences are tested where they reach a person
(test_s3, test_media_bucket)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from buckets import Buckets
from msgspec.structs import replace
from stores import proxied

from receiver.bucket import BucketError, BucketOptions, PreconditionFailed, read_url
from receiver.bucket.client import Bucket, ObjectHead, StoredObject, Tag
from receiver.bucket.options import address_of, server_of
from receiver.errors import SettingsError
from receiver.settings.options import read_options


@pytest.mark.parametrize(
    ("url", "options", "folder"),
    [
        ("s3://acme", {"bucket": "acme"}, ""),
        ("s3://acme/mj/2026/", {"bucket": "acme"}, "mj/2026"),
        ("S3://acme/.receiver", {"bucket": "acme"}, ".receiver"),
        ("s3://acme?endpoint=", {"bucket": "acme"}, ""),
        (
            "gs://acme/a?service_account=/srv/key.json",
            {"bucket": "acme", "service_account": Path("/srv/key.json")},
            "a",
        ),
        ("az://pictures?account=acme", {"bucket": "pictures", "account": "acme"}, ""),
        (
            "s3://acme/a?endpoint=http://minio:9000&region=eu-1&addressing=virtual&profile=work",
            {
                "bucket": "acme",
                "endpoint": "http://minio:9000",
                "region": "eu-1",
                "addressing": "virtual",
                "profile": "work",
            },
            "a",
        ),
    ],
)
def test_a_url_says_bucket_folder_and_way(url: str, options: dict[str, object], folder: str) -> None:
    """The host is the bucket, the path a folder in it, the query how to get there."""
    found, where = read_url(url)
    service = {} if url.lower().startswith("s3") else {"service": url[:2]}
    assert found == read_options(BucketOptions, options | service)
    assert where == folder


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://AKIA:s3cret@acme/a", "holds a user name or a secret"),
        ("s3://acme/a?secret_key=s3cret", "its query may hold account, addressing, endpoint, .* has 'secret_key'"),
        ("s3://acme/a?region=Nowhere!", "region is wrong"),
        ("s3://acme/a?endpoint=minio", "endpoint cannot be 'minio'"),
        ("s3:///a", "bucket is wrong"),
        ("s3://[acme", "it is no URL"),
        ("gs://acme?profile=work", "profile belong to s3 only"),
        *(
            (f"s3://acme/{folder}", "the folder in it")
            for folder in ("..", "a/../b", "a//b", "./a", "a b", "a%00", "é")
        ),
        ("s3://acme/a#b", "the folder in it"),
    ],
)
def test_a_url_that_cannot_be_used_is_a_sentence(url: str, sentence: str) -> None:
    """It says what is wrong, and never repeats a secret."""
    with pytest.raises(SettingsError, match=sentence) as caught:
        read_url(url)
    assert "s3cret" not in str(caught.value)


def test_the_environment_knows_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server named by the environment counts where the options name none."""
    plain, own = BucketOptions(bucket="acme"), BucketOptions(bucket="acme", endpoint="http://minio:9000")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert (address_of(plain)[0], server_of(plain)) == (None, "The object store")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://ceph:8080")
    assert address_of(plain)[0] == "http://ceph:8080"
    assert (address_of(own)[0], server_of(own)) == ("http://minio:9000", "The server minio:9000")
    assert address_of(BucketOptions(bucket="acme", service="gs"))[0] is None


@pytest.fixture
def options(s3_server: Buckets, request: pytest.FixtureRequest) -> BucketOptions:
    """Options of a new bucket."""
    name = s3_server.bucket("b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16])
    return read_options(BucketOptions, s3_server.options(name))


@pytest.fixture
def bucket(options: BucketOptions) -> Bucket:
    return Bucket(options, "a/folder")


async def test_puts_keep_their_conditions(bucket: Bucket) -> None:
    """`create` needs a free key and `replace` the version read. A missing object has no version."""
    first = await bucket.create("key", b"1")
    with pytest.raises(PreconditionFailed):
        await bucket.create("key", b"2")
    second = await bucket.replace("key", b"3", first)
    with pytest.raises(PreconditionFailed):
        await bucket.replace("key", b"4", first)
    found = await bucket.get("key")
    assert found is not None
    assert (found.data, found.tag.etag) == (b"3", second.etag)
    await bucket.delete(["key", "never there"])
    with pytest.raises(PreconditionFailed):
        await bucket.replace("key", b"5", second)
    assert await bucket.get("key") is None
    assert bucket.requests == {"PUT": 5, "GET": 2, "DELETE": 1}


async def test_an_unchanged_object_is_not_read_again(bucket: Bucket) -> None:
    """The same tag comes back for the same version, the object for another one, None for none."""
    tag = await bucket.put("key", b"1")
    assert await bucket.get_if_changed("key", tag) is tag
    await bucket.put("key", b"2")
    changed = await bucket.get_if_changed("key", tag)
    assert isinstance(changed, StoredObject)
    assert changed.data == b"2"
    assert await bucket.get_if_changed("other", Tag('"0"')) is None


@pytest.mark.parametrize("content", [b"", b"content"], ids=["empty", "not empty"])
async def test_a_head_has_size_and_attributes(bucket: Bucket, content: bytes) -> None:
    """Also of an empty object, which has no first byte to ask for."""
    tag = await bucket.put("key", content, {"Content-Type": "text/plain", "mark": "x"})
    found = await bucket.head("key")
    assert found is not None
    assert (found.etag, found.size, found.attributes["mark"]) == (tag.etag, len(content), "x")
    assert found.attributes["Content-Type"] == "text/plain"
    assert await bucket.head("other") is None


async def test_a_download_comes_in_blocks(bucket: Bucket, tmp_path: Path) -> None:
    """What was uploaded in parts is read in blocks, never as a whole."""
    content, blocks = bytes(range(256)) * 80_000, list[bytes]()
    (tmp_path / "file").write_bytes(content)
    await bucket.upload("key", tmp_path / "file", {})
    found = await bucket.download("key", blocks.append)
    assert isinstance(found, ObjectHead)
    assert found.size == len(content)
    assert b"".join(blocks) == content
    assert len(blocks) > 1
    assert await bucket.download("other", blocks.append) is None


async def test_a_list_is_in_key_order(bucket: Bucket, options: BucketOptions) -> None:
    """Keys are relative to the folder, and begin behind the given one."""
    for key in ("b/2", "a/1", "b/1", "c"):
        await bucket.put(key, b"")
    await Bucket(options).put("outside", b"")
    assert [item.key async for page in bucket.pages("") for item in page] == ["a/1", "b/1", "b/2", "c"]
    assert [item.key async for page in bucket.pages("b", after="b/1") for item in page] == ["b/2"]
    assert await bucket.folders("") == ["a", "b"]


async def test_a_missing_bucket_is_no_missing_object(options: BucketOptions) -> None:
    """Every call raises. Only `replace` may not: SeaweedFS answers 412."""
    missing = Bucket(replace(options, bucket="never-made"))
    tag = Tag('"0"')
    for call in (
        missing.get("key"), missing.get_if_changed("key", tag), missing.head("key"), missing.put("key", b""),
        missing.create("key", b""), missing.folders(""), anext(missing.pages("")),
    ):  # fmt: skip
        with pytest.raises(BucketError, match=r"has no such bucket \(.*NoSuchBucket; bucket never-made\)\. Make it"):
            await call


async def test_a_request_has_one_limit(options: BucketOptions) -> None:
    """A server that answers late gives a sentence with the limit, and is away."""
    async with proxied(options.endpoint or "") as proxy:
        proxy.fault, proxy.seconds = lambda method, path: "slow", 30.0
        bucket = Bucket(replace(options, endpoint=proxy.url), seconds=0.2)
        with pytest.raises(BucketError, match=r"did not answer in full within 0\.2 s \(bucket ") as caught:
            await bucket.get("key")
        assert caught.value.away
