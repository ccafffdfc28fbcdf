"""Bodies of the HTTP API: one struct each. They check a body, and OpenAPI documents them.

Structs check names and types. The bodies of requests are derived from `KINDS`. `requests.build` and
`submissions.Options` check the values, in sentences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import Meta
from starlette.requests import Request as HttpRequest

from receiver.deliveries import DELIVERY_STATUSES
from receiver.errors import InputError, NotJSON
from receiver.requests import KINDS, REQUIRED, SPEEDS, Field, Request, build
from receiver.settings.options import guessed
from receiver.submissions import MAX_LABEL, MAX_LABELS, Options
from receiver.submissions.options import MAX_AUTO
from receiver.tasks import MAX_TASK_ID, decode_json
from receiver.web.admission import BodyLimits
from receiver.web.problems import Problem

T = TypeVar("T", bound=msgspec.Struct)

MAX_IDS = 200
MAX_BODY = 80 * 1024 * 1024
"""Bytes of a body: a few pictures of the largest size, as base64."""
_LIMITS = BodyLimits(name="Bodies", limit=MAX_BODY, seconds=60.0)
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Half of a character outside the BMP, in JSON. Without its other half it is in no text (RFC 8259 §8.2)."""

_MISSING = re.compile(r"Object missing required field `(\w+)`")


def _meta(description: str, **schema: Any) -> Meta:
    """Document a value. It is checked elsewhere, with a sentence."""
    return Meta(description=description, extra_json_schema=schema)


def _declared(field: Field) -> Meta:
    schema = {name: value for name, value in field.form.schema.items() if name != "items"}
    if field.default is None and "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return _meta(f"{field.help} {field.form.http}".strip(), **schema)


_MASK = {field.name: field for field in KINDS["modal"].fields}["mask"]
_FILTER = {field.name: field for field in KINDS["imagine"].fields}["account_filter"]
_BUTTON = {"minLength": 1, "maxLength": MAX_LABEL}


class Carried(msgspec.Struct, kw_only=True):
    """Fields of every submission."""

    labels: Annotated[
        dict[str, str], _meta("Names and values of your own; every event carries them.", maxProperties=MAX_LABELS)
    ] = {}
    state: Annotated[str | None, _meta("A text of your own; every event carries it.")] = None
    to: Annotated[list[str] | None, _meta("Names of destinations; all of them if not given.", minItems=1)] = None
    auto: Annotated[
        list[Annotated[str, Meta(extra_json_schema=_BUTTON)]],
        _meta("Buttons to press by itself, once, when the task has succeeded: `U1`.", maxItems=MAX_AUTO),
    ] = []
    reply_to: Annotated[
        str | None, _meta("A URL that gets its events too, signed, at a host that a webhook destination allows.")
    ] = None

    def options(self, *, once: str | None = None, once_digest: str | None = None) -> Options:
        """Return them for `Submissions`."""
        return Options(
            speed=getattr(self, "speed", None),
            labels=self.labels,
            state=self.state,
            to=None if self.to is None else tuple(self.to),
            auto=tuple(self.auto),
            reply_to=self.reply_to,
            once=once,
            once_digest=once_digest,
        )


class Sent(Carried, kw_only=True):
    """Fields of every submission that is sent to the provider."""

    speed: Annotated[str | None, _meta("The provider's default if not given.", enum=[*SPEEDS, None])] = None


class Press(Sent, kw_only=True):
    """A button of a finished task. Fields that are not given are inherited from that task's submission."""

    button: Annotated[str, _meta("`U2`, `V1`, `reroll`, `zoom`, `pan left`, or any of its `buttons`.", **_BUTTON)]
    prompt: Annotated[str | None, _meta("For a button that asks for one.")] = None
    mask: Annotated[str | None, _declared(_MASK)] = None
    account_filter: Annotated[dict[str, Any] | None, _declared(_FILTER)] = None
    again: Annotated[bool, _meta("Press it once more although it was pressed before.")] = False


class Answer(msgspec.Struct, kw_only=True):
    """The answer to a task that asks for input."""

    prompt: Annotated[str | None, _meta("The prompt it has if not given.")] = None
    mask: Annotated[str | None, _declared(_MASK)] = None


class Watch(Carried, kw_only=True):
    """A task that was submitted elsewhere."""

    task_id: Annotated[str, _meta("The provider's id of it.", minLength=1, maxLength=MAX_TASK_ID)]


class Replay(msgspec.Struct, kw_only=True):
    """Deliveries to be made due again: by id, or all that meet every given condition."""

    ids: Annotated[list[str], _meta("Ids of deliveries, without any condition.", maxItems=MAX_IDS)] = []
    submission: Annotated[str | None, _meta("Deliveries of this submission, by its id or its task's.")] = None
    destination: Annotated[str | None, _meta("Deliveries to this destination.")] = None
    status: Annotated[str | None, _meta("Deliveries of this status.", enum=[*DELIVERY_STATUSES, None])] = None
    labels: Annotated[dict[str, str], _meta("Deliveries of submissions with all these labels.")] = {}
    search: Annotated[str | None, _meta("Deliveries of submissions with all these words in their prompt.")] = None
    since_ms: Annotated[int | None, _meta("Made at this time or later.")] = None
    until_ms: Annotated[int | None, _meta("Made before this time.")] = None
    to: Annotated[str | None, _meta("Deliver to this destination instead.")] = None
    as_new: Annotated[bool, _meta("With a new idempotency key, so that no destination drops it as a repeat.")] = False
    preview: Annotated[bool, _meta("Change nothing and return the outcome it would have.")] = False


def _struct(kind: str, base: type[T]) -> type[T]:
    """Return the struct of a kind's body."""
    fields: list[Any] = []
    for field in KINDS[kind].fields:
        value: Any = field.form.type
        if items := field.form.schema.get("items"):
            value = list[Annotated[str, Meta(extra_json_schema=items)]]
        hint: Any = Annotated[value | None if field.default is None else value, _declared(field)]
        default = list(field.default) if field.default == () else field.default
        fields.append((field.name, hint) if default is REQUIRED else (field.name, hint, default))
    if base is Sent:
        tag = ("kind", Literal[kind])
        fields.insert(0, (*tag, "imagine") if kind == "imagine" else tag)  # the kind of a body without `kind`
    named = {"__doc__": KINDS[kind].summary}
    made = msgspec.defstruct(kind.capitalize(), fields, bases=(base,), namespace=named, module=__name__, kw_only=True)
    return cast("type[T]", made)


SUBMITTED: Mapping[str, type[Sent]] = {
    kind: _struct(kind, Sent) for kind, declared in KINDS.items() if declared.address == "/submissions"
}
"""Kinds that `POST /submissions` takes, and the structs of their bodies."""
Upload = _struct("upload", msgspec.Struct)


async def read_json(request: HttpRequest) -> dict[str, Any]:
    """Return the JSON object of a request's body, or raise Problem or InputError."""
    headers = dict(request.scope["headers"])
    await _LIMITS.check_length(headers, request.receive)
    _LIMITS.check_type(headers)
    body = await _LIMITS.read(request.receive)
    try:
        value = decode_json(body)
    except NotJSON as exc:
        raise Problem(400, "The body is not JSON.") from exc
    if _HALF.search(body):
        try:
            msgspec.json.encode(value)
        except UnicodeEncodeError as exc:
            raise InputError("The body holds half a character, which cannot be stored. Remove it.") from exc
    if not isinstance(value, dict):
        raise InputError("The body must be a JSON object.")
    return value


async def read_submission(request: HttpRequest) -> tuple[Request, Sent]:
    """Return the request in the body of `POST /submissions`, and the body, or raise InputError."""
    value = await read_json(request)
    kind = value.get("kind", "imagine")
    if not isinstance(kind, str):
        raise InputError("The kind must be text.")
    if kind not in SUBMITTED:
        if kind in KINDS:
            raise InputError(f"Requests of the kind {kind} go to POST {KINDS[kind].address}.")
        raise InputError(f"The kind must be one of {', '.join(SUBMITTED)}. {guessed(kind[:80], SUBMITTED)}")
    body = read(SUBMITTED[kind], value)
    return _request(kind, body), body


async def read_upload(request: HttpRequest) -> Request:
    """Return the request in the body of `POST /uploads`. Raises InputError."""
    return _request("upload", await read_body(request, Upload))


async def read_body(request: HttpRequest, type: type[T]) -> T:
    """Return the body of a request as its struct, or raise Problem or InputError."""
    return read(type, await read_json(request))


def read(type: type[T], body: dict[str, Any]) -> T:
    """Read a body as its struct, or raise InputError."""
    known = [field.encode_name for field in msgspec.structs.fields(type)]
    for name in body:
        if name not in known:
            raise InputError(f"There is no field {name[:40]!r} here. {guessed(name[:80], known)}")
    try:
        return msgspec.convert(body, type)
    except msgspec.ValidationError as exc:
        # Its message has names and types, and of the values only that of `kind`.
        problem, _, place = str(exc).partition(" - at `$")
        field = place.strip("`.")
        if match := _MISSING.match(problem):
            raise InputError(f"The field {match[1]} is missing.") from exc
        subject = f"The field {field}" if field else "The body"
        raise InputError(f"{subject} is wrong: {problem[:1].lower()}{problem[1:]}.") from exc


def check_uri(source: str | None) -> None:
    """Raise InputError unless it is a data URI, or None. A path would name a file of *this* machine."""
    if source is not None and source.strip()[:5].lower() != "data:":
        raise InputError("A picture comes as `data:image/…;base64,…` or, where a link can stand, as http(s) link.")


def _request(kind: str, body: msgspec.Struct) -> Request:
    built = build(kind, **{field.name: getattr(body, field.name) for field in KINDS[kind].fields})
    for picture in built.pictures:
        check_uri(picture.source)
    return built
