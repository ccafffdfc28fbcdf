"""Errors of an object store, translated into sentences that name the remedy."""

from __future__ import annotations

import html
import re
from typing import Literal, NamedTuple

Fate = Literal["later", "never", "again"]
WRITE_AND_READ = "write and read objects (on S3: s3:PutObject and s3:GetObject)"
"""Least rights of the credentials."""


class BucketError(Exception):
    """A request to the store failed. The text is one or two sentences: cause, place, remedy.

    `fate` is `later` if the store is busy for every client, `never` if a retry cannot help, else `again`, also for what
    an operator can repair (credentials, bucket, rights). `away` is True if there is nothing to repair on our side.
    """

    def __init__(self, text: str, *, fate: Fate = "again", away: bool = False) -> None:
        super().__init__(text)
        self.fate = fate
        self.away = away


class PreconditionFailed(Exception):
    """The condition of a put does not hold. Nothing was written."""


class _Meaning(NamedTuple):
    text: str
    remedy: str
    fate: Fate = "again"


_CREDENTIALS = _Meaning(
    "does not accept these credentials", "Check access_key and secret_key, or what gives them in their place."
)
_RIGHTS = _Meaning("does not let these credentials do that", "Allow them to {needs}.")
_BUSY = _Meaning("is too busy", "", "later")
_REGION = _Meaning("says that the bucket is in another region", "Set region, or AWS_REGION.")
_NO_BUCKET = _Meaning("has no such bucket", "Make it, or correct its name.")
_KEY = _Meaning("does not take such a key", "Set another path, then replay the delivery.", "never")
_TOO_LARGE = _Meaning("finds the file too large", "Leave it in the archive, or raise the store's limit.", "never")
_FULL = _Meaning("is full", "Raise its quota, or make room.")
_LARGE_REQUEST = _TOO_LARGE._replace(fate="again")  # the word of a status alone is perhaps that of a proxy in front
_UNKNOWN_REQUEST = _Meaning("does not know what was asked", "If it knows no If-None-Match, set conditional = false.")
_CODES = {
    code: meaning
    for codes, meaning in (
        ("SignatureDoesNotMatch InvalidAccessKeyId InvalidToken InvalidSecurity AuthenticationFailed", _CREDENTIALS),
        ("ExpiredToken", _Meaning("says that these credentials have expired", "Renew them.")),
        ("RequestTimeTooSkewed", _Meaning("finds this machine's clock wrong", "Set the clock.")),
        ("AccessDenied AllAccessDisabled AuthorizationPermissionMismatch", _RIGHTS),
        ("NoSuchBucket ContainerNotFound", _NO_BUCKET),
        ("PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException", _REGION),
        ("SlowDown ServiceUnavailable TooManyRequests RequestLimitExceeded ServerBusy", _BUSY),
        ("ErrTooManyRequest ErrRequestBytesExceed", _BUSY),  # SeaweedFS
        ("EntityTooLarge", _TOO_LARGE),
        ("KeyTooLongError InvalidObjectName InvalidResourceName", _KEY),
        ("QuotaExceeded XMinioStorageFull XMinioBucketQuotaExceeded InsufficientStorage", _FULL),
        ("NotImplemented", _UNKNOWN_REQUEST),
    )
    for code in codes.split()
}
_ELSEWHERE = _Meaning("points to another address", "Check endpoint and region.")
_STATUSES: dict[int, _Meaning] = {
    **dict.fromkeys((301, 302, 303, 307, 308), _ELSEWHERE),
    400: _Meaning("found the request wrong", "Check endpoint, region and addressing."),
    401: _CREDENTIALS,
    403: _RIGHTS,
    404: _NO_BUCKET,
    413: _LARGE_REQUEST,
    429: _BUSY,
    501: _UNKNOWN_REQUEST,
    507: _FULL,
}
_WORDS = tuple(
    (re.compile(pattern, re.IGNORECASE), meaning)
    for pattern, meaning in (
        (
            r"\bkms\b|customer master key|encryption key",
            _Meaning(
                "cannot use the key that encrypts the bucket",
                "Enable that KMS key, and allow these credentials kms:GenerateDataKey and kms:Decrypt on it.",
            ),
        ),
        (
            r"\bcaps?\b.{0,20}exceeded|exceeded.{0,20}\b(?:caps?|quota)\b|quota.{0,20}exceeded|storage (?:cap|quota)",
            _FULL,
        ),
        (
            r"\bWORM\b|retention|object is (?:protected|locked)",
            _Meaning("has locked that object", "Set another path, then replay the delivery."),
        ),
    )
)
"""Meanings by the store's own message, before its code: several stores call all of this AccessDenied."""
_CHECKSUM = re.compile(
    r"(?:Content-MD5|x-amz-(?:sdk-)?checksum).{0,60}required|required header.{0,60}(?:Content-MD5|checksum)"
    r"|MissingContentMD5",
    re.IGNORECASE,
)
_MESSAGE = re.compile(r"<Message>([^<]{1,2000})</Message>")
MAX_SAID = 160
"""Characters of the store's own message that a sentence repeats."""
_STATUS = re.compile(r"(?:non-2xx status code: |status: |error status )(\d{3})")
_CODE = re.compile(r"<Code>\s*([A-Za-z0-9.]{1,60})\s*</Code>")
_REGION_NAME = re.compile(r"<Region>\s*([a-z0-9-]{1,40})\s*</Region>")
_TYPES = {"FileNotFoundError": 404, "NotFoundError": 404, "PermissionDeniedError": 403, "UnauthenticatedError": 401}
_CAUSES = (
    ("Connection refused", "nothing listens there"),
    ("dns error", "its name cannot be resolved"),
    ("InvalidCertificate", "its certificate is not trusted"),
    ("hyper::Error( Parse(", "its answer is no valid HTTP"),
    *((sign, "the connection was cut off") for sign in ("Connection reset", "connection closed before", "Incomplete")),
    *((sign, "it does not answer") for sign in ("deadline has elapsed", "TimedOut", "timed out")),
)
_GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS, or service_account, to the file of a service account"
_LOGINS = (
    ("metadata.google.internal", _GOOGLE),
    ("computeMetadata", _GOOGLE),
    ("/identity/oauth2/token", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or account and access_key"),
    ("", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or access_key and secret_key"),
)
"""Names of the credentials, by the address that obstore asked last: each service has its own path."""
_METADATA = ("169.254.169.254", "fd00:ec2::254", "metadata.google.internal", "169.254.170.2")


def explain(error: BaseException, *, bucket: str, server: str, needs: str = WRITE_AND_READ) -> BucketError:
    """Translate an error of obstore by the name of its type and its text, which holds the response's status and XML.

    `server` is the subject of a sentence (see `options.server_of`), `needs` the rights that the credentials must have.
    """
    text = " ".join(str(error).split())
    if any(address in text for address in _METADATA):
        return BucketError(
            f"There are no credentials for the bucket {bucket}: neither options nor environment nor a profile "
            f"have any, and this machine has no role. Set {next(names for sign, names in _LOGINS if sign in text)}."
        )
    match = _STATUS.search(text)
    status = int(match[1]) if match else _TYPES.get(type(error).__name__)
    code = match[1] if (match := _CODE.search(text)) else ""
    message = said(text)
    answer = " ".join(filter(None, (str(status or ""), code))) or "a redirect"
    if status is not None and not code and "<html" in text.lower():
        return BucketError(
            f"{server} answered {status} for the bucket {bucket} with a page of HTML, as no object store does. "
            "Check endpoint, and what is in front of the store.",
            away=status >= 500,
        )
    meaning = _CODES.get(code) or (_REGION if "without LOCATION" in text else None)
    if meaning is not _BUSY:
        meaning = next((words for pattern, words in _WORDS if pattern.search(f"{code} {message}")), meaning)
    if meaning is None and not code:
        meaning = _STATUSES.get(status or 0)
    words = f' It says: "{message}"' if message else ""
    if meaning:
        region = f", region {match[1]}" if (match := _REGION_NAME.search(text)) else ""
        sentence = f"{server} {meaning.text} ({answer}; bucket {bucket}{region}). {meaning.remedy.format(needs=needs)}"
        return BucketError(sentence.rstrip() + words, fate=meaning.fate, away=meaning.fate == "later")
    if status is not None:
        return BucketError(f"{server} answered {answer} for the bucket {bucket}.{words}", away=status >= 500)
    if "missing from response" in text.lower() or "invalid utf-8" in text:
        return BucketError(f"{server} does not answer as an object store does. Check endpoint.", away=True)
    cause = next((words for sign, words in _CAUSES if sign in text), "the request failed")
    return BucketError(f"{server} cannot be reached ({cause}). Check endpoint, and that it runs.", away=True)


def said(text: str) -> str:
    """Return the store's own message in the text of an error, on one line, or ""."""
    found = _MESSAGE.search(text)
    line = " ".join(html.unescape(found[1]).split()) if found else ""
    line = "".join(char if char.isprintable() else " " for char in line)
    return line if len(line) <= MAX_SAID else f"{line[: MAX_SAID - 1]}…"


def wants_checksum(text: str) -> bool:
    """Return True if a bucket refused a put because it had no checksum, as those with Object Lock do."""
    return bool(_CHECKSUM.search(text))
