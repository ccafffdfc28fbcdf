"""Buckets by URL: what a URL may say, and what its refusal says. How they are opened and what their servers answer is
tested where they are used (test_s3, test_media_bucket)."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver.bucket import BucketOptions, read_url
from receiver.bucket.options import endpoint_of, server_of
from receiver.errors import SettingsError


@pytest.mark.parametrize(
    ("url", "options", "folder"),
    [
        ("s3://acme", {"bucket": "acme"}, ""),
        ("s3://acme/mj/2026/", {"bucket": "acme"}, "mj/2026"),
        ("S3://acme/.receiver", {"bucket": "acme"}, ".receiver"),
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
    assert found.model_dump(exclude_defaults=True) == options | (
        {} if url.lower().startswith("s3") else {"service": url[:2]}
    )
    assert where == folder


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://AKIA:s3cret@acme/a", "holds a user name or a secret"),
        ("s3://acme/a?secret_key=s3cret", "its query may hold account, addressing, endpoint, .* has 'secret_key'"),
        ("s3://acme/a?region=Nowhere!", "region: "),
        ("s3://acme/a?endpoint=minio", "endpoint: "),
        ("s3:///a", "bucket: "),
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
    assert (endpoint_of(plain), server_of(plain)) == (None, "The object store")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://ceph:8080")
    assert endpoint_of(plain) == "http://ceph:8080"
    assert (endpoint_of(own), server_of(own)) == ("http://minio:9000", "The server minio:9000")
    assert endpoint_of(BucketOptions(bucket="acme", service="gs")) is None
