"""Signatures per Standard Webhooks."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from receiver.handlers.webhook import check_secret, new_secret, signed_headers, verify

VECTOR = json.loads((Path(__file__).parent / "vectors/standard-webhooks.json").read_text())
BODY = '{"prompt": "ein Papierboot auf ruhigem Wasser, 紙の船"}'.encode()


def test_the_published_vector() -> None:
    """The fixed vector of the standard's own client libraries."""
    headers = signed_headers([VECTOR["secret"]], VECTOR["id"], VECTOR["body"].encode(), VECTOR["timestamp"])
    assert headers == {
        "webhook-id": VECTOR["id"],
        "webhook-timestamp": str(VECTOR["timestamp"]),
        "webhook-signature": VECTOR["signature"],
    }


def test_while_secrets_rotate_a_receiver_may_know_either() -> None:
    """Each secret signs; the official library accepts with either, and not with another."""
    old, new = new_secret(), new_secret()
    headers = signed_headers([old, new], "id", BODY, int(time.time()))
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, headers) == json.loads(BODY)
        assert verify([secret], headers, BODY) is None
    assert verify([new_secret()], headers, BODY) == "no matching signature found"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"webhook-signature": "v1"}, "the headers cannot be read"),
        ({"webhook-signature": "v1,é"}, "the headers cannot be read"),
        ({"webhook-signature": "v2,AAAA"}, "no matching signature found"),
        ({"webhook-signature": ""}, "missing required headers"),
        ({"webhook-id": "other"}, "no matching signature found"),
        ({"webhook-timestamp": "soon"}, "invalid Signature Headers"),
        ({"webhook-timestamp": -301}, "message timestamp too old"),
        ({"webhook-timestamp": 400}, "message timestamp too new"),
    ],
)
def test_what_is_wrong_is_told(change: dict[str, str | int], problem: str) -> None:
    """Also for headers the library would stumble over. A number is a time from now, in seconds."""
    secret, now = new_secret(), int(time.time())
    changed = {name: str(now + value) if isinstance(value, int) else value for name, value in change.items()}
    headers = signed_headers([secret], "id", BODY, now) | changed
    assert verify([secret], headers, BODY) == problem


def test_another_body_is_not_signed() -> None:
    """One byte is enough."""
    secret = new_secret()
    headers = signed_headers([secret], "id", BODY, int(time.time()))
    assert verify([secret], headers, BODY + b" ") == "no matching signature found"


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("s3cret", "a secret begins with whsec_"),
        ("whsec_s3cret!", "after whsec_ a secret is Base64"),
        ("whsec_czNjcmV0", "a secret has 24 to 64 bytes, not 6"),
        ("whsec_" + "QUFB" * 30, "a secret has 24 to 64 bytes, not 90"),
    ],
)
def test_a_weak_secret_is_refused_with_the_remedy(secret: str, problem: str) -> None:
    """Without showing it."""
    with pytest.raises(ValueError, match=problem) as caught:
        check_secret(secret)
    assert "openssl rand -base64 32" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert check_secret(VECTOR["secret"]) == VECTOR["secret"]
