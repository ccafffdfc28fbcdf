"""What a store's refusal means to a person, and to whoever asked: later, never, or again by its own schedule.

What an operator can mend (a secret, a bucket, a right) is worth another try, so that a day's results still arrive once
it is mended; never is what lies in the file or its key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Fate = Literal["later", "never", "again"]
WRITE_AND_READ = "write and read objects (on S3: s3:PutObject and s3:GetObject)"
"""What credentials must be allowed at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a store did not do it.

    Attributes:
        text: a sentence or two for a person: what happened, where, what to do.
        fate: `later` where it is busy for everybody, `never` where asking again cannot help, else `again`.
        away: whether it is out of reach, out of order or busy, so that nobody here has to mend anything.
    """

    text: str
    fate: Fate = "again"
    away: bool = False


@dataclass(frozen=True, slots=True)
class _Meaning:
    said: str
    remedy: str
    fate: Fate = "again"


_CREDENTIALS = _Meaning(
    "does not accept these credentials", "Check access_key and secret_key, or what gives them in their place."
)
_RIGHTS = _Meaning(
    "does not let these credentials do that",
    "Allow them to {needs}.",
)
_BUSY = _Meaning("is too busy", "", "later")
_REGION = _Meaning("says that the bucket lies in another region", "Set region, or AWS_REGION.")
_NO_BUCKET = _Meaning("has no such bucket", "Make it, or correct its name.")
_KEY = _Meaning("does not take such a key", "Set another path, then replay the delivery.", "never")
_CODES: dict[str, _Meaning] = {
    **dict.fromkeys(
        ("SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "InvalidSecurity", "AuthenticationFailed"),
        _CREDENTIALS,
    ),
    "ExpiredToken": _Meaning("says that these credentials have expired", "Renew them."),
    "RequestTimeTooSkewed": _Meaning("finds this machine's clock wrong", "Set the clock."),
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "AuthorizationPermissionMismatch"), _RIGHTS),
    **dict.fromkeys(("NoSuchBucket", "ContainerNotFound"), _NO_BUCKET),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _REGION
    ),
    **dict.fromkeys(
        (
            "SlowDown",
            "ServiceUnavailable",
            "TooManyRequests",
            "ErrTooManyRequest",
            "ErrRequestBytesExceed",
            "RequestLimitExceeded",
            "ServerBusy",
        ),
        _BUSY,
    ),
    "EntityTooLarge": _Meaning(
        "finds the file too large", "Leave it in the archive, or raise the store's limit.", "never"
    ),
    **dict.fromkeys(("KeyTooLongError", "InvalidObjectName", "InvalidResourceName"), _KEY),
    "QuotaExceeded": _Meaning("is full", "Raise its quota, or make room."),
    "NotImplemented": _Meaning(
        "does not know what was asked", "If it knows no If-None-Match, set conditional = false."
    ),
}
_STATUSES: dict[int, _Meaning] = {
    400: _Meaning("found the request wrong", "Check endpoint, region and addressing."),
    401: _CREDENTIALS,
    403: _RIGHTS,
    404: _NO_BUCKET,
    413: _CODES["EntityTooLarge"],
    429: _BUSY,
    501: _CODES["NotImplemented"],
    507: _CODES["QuotaExceeded"],
}
_STATUS = re.compile(r"(?:non-2xx status code: |status: |error status )(\d{3})")
_CODE = re.compile(r"<Code>\s*([A-Za-z]{1,60})\s*</Code>")
_REGION_SAID = re.compile(r"<Region>\s*([a-z0-9-]{1,40})\s*</Region>")
_KIND_STATUSES = {
    "FileNotFoundError": 404,
    "NotFoundError": 404,
    "PermissionDeniedError": 403,
    "UnauthenticatedError": 401,
}
_CAUSES = (
    ("Connection refused", "nothing listens there"),
    ("dns error", "its name cannot be resolved"),
    ("certificate", "its certificate is not trusted"),
    ("Connection reset", "the connection was cut off"),
    ("connection closed before", "the connection was cut off"),
    ("IncompleteMessage", "the connection was cut off"),
    ("deadline has elapsed", "it does not answer"),
    ("TimedOut", "it does not answer"),
    ("timed out", "it does not answer"),
)
_METADATA = ("169.254.169.254", "fd00:ec2::254", "metadata.google.internal", "169.254.170.2")


def _login(text: str) -> str:
    """What to set, by whom obstore asked in the end: each service has a path of its own there."""
    if "computeMetadata" in text or "metadata.google.internal" in text:
        return "Set GOOGLE_APPLICATION_CREDENTIALS, or service_account, to the file of a service account."
    if "/identity/oauth2/token" in text:
        return "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or account and access_key."
    return "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or access_key and secret_key."


def explain(error: BaseException, *, bucket: str, server: str, needs: str = WRITE_AND_READ) -> Refusal:
    """What one of obstore's errors means.

    Args:
        error: known by its type's name and its text, which holds the answer's status and XML.
        bucket: whose it is.
        server: what to call the other side; see `opening.server_of`.
        needs: what the credentials must be allowed, for the remedy.
    """
    text = str(error)
    if any(place in text for place in _METADATA):
        return Refusal(
            text=f"There are no credentials for the bucket {bucket}: neither options nor environment nor a profile "
            f"have any, and this machine has no role. {_login(text)}"
        )
    status = _status(error, text)
    code = match[1] if (match := _CODE.search(text)) else ""
    meaning = _CODES.get(code) or ("without LOCATION" in text and _REGION) or _STATUSES.get(status or 0)
    if meaning:
        answer = " ".join(filter(None, (str(status or ""), code)))
        said = f"{server} {meaning.said} ({answer}; bucket {bucket}{_region(text)})."
        return Refusal(
            text=f"{said} {meaning.remedy.format(needs=needs)}".rstrip(),
            fate=meaning.fate,
            away=meaning.fate == "later",
        )
    if status is not None:
        said = f"{server} answered {status}{f' {code}' if code else ''} for the bucket {bucket}."
        return Refusal(text=said, away=status >= 500)
    return Refusal(text=f"{server} cannot be reached ({_cause(text)}). Check endpoint, and that it runs.", away=True)


def _status(error: BaseException, text: str) -> int | None:
    if match := _STATUS.search(text):
        return int(match[1])
    return _KIND_STATUSES.get(type(error).__name__)


def _region(text: str) -> str:
    return f", region {match[1]}" if (match := _REGION_SAID.search(text)) else ""


def _cause(text: str) -> str:
    return next((words for sign, words in _CAUSES if sign in text), "the request failed")
