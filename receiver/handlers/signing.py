"""Signatures of what leaves the house, per Standard Webhooks (https://www.standardwebhooks.com), by its own library."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook, WebhookVerificationError

PREFIX = "whsec_"
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
FEWEST_BYTES, MOST_BYTES = 24, 64
"""Of a secret, by the standard."""


def new_secret() -> str:
    """A secret of 32 random bytes."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> str:
    """The secret, if it is one.

    Raises:
        ValueError: it is not `whsec_` and 24–64 bytes in Base64; the text does not hold it.
    """
    remedy = 'make one with: echo "whsec_$(openssl rand -base64 32)"'
    if not secret.startswith(PREFIX):
        raise ValueError(f"a secret begins with {PREFIX}; {remedy}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"after {PREFIX} a secret is Base64; {remedy}") from None
    if not FEWEST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"a secret has {FEWEST_BYTES} to {MOST_BYTES} bytes, not {len(key)}; {remedy}")
    return secret


def signed_headers(secrets: Sequence[str], id: str, body: bytes, now_s: int) -> dict[str, str]:
    """The three headers of one attempt. Each secret signs, so that a receiver may know either while they are rotated.

    Args:
        secrets: at least one, as `check_secret` takes them.
        id: the same over all retries.
        body: exactly what is sent.
        now_s: epoch seconds of this attempt.
    """
    now = datetime.fromtimestamp(now_s, UTC)
    signatures = [Webhook(secret).sign(id, now, body.decode()) for secret in secrets]
    return {ID: id, TIMESTAMP: str(now_s), SIGNATURE: " ".join(signatures)}


def verify(secrets: Iterable[str], headers: Mapping[str, str], body: bytes) -> str | None:
    """What is wrong with the signature of something that came in, a phrase; None if one of the secrets made it, within
    five minutes."""
    problem = "there is no secret to verify it with"
    for secret in secrets:
        try:
            Webhook(secret).verify(body, dict(headers), json_parse=False)
        except WebhookVerificationError as exc:
            problem = str(exc)
        except ValueError:  # the library splits and decodes whatever the header holds
            problem = "The headers cannot be read"
        else:
            return None
    return problem[:1].lower() + problem[1:]
