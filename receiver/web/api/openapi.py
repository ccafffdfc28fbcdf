"""The OpenAPI document: every address of the web application, and the structs of its bodies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from inspect import cleandoc
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from receiver.deliveries import DELIVERY_STATUSES, MAX_PAUSE_SECONDS, PAUSE_SECONDS
from receiver.events import DISPLAY_STATUSES, Event
from receiver.requests import KINDS
from receiver.web.api import schemas as bodies
from receiver.web.api.queries import MAX_LIST
from receiver.web.api.responses import (
    DeliveryRecord,
    Destination,
    Erased,
    Links,
    ProblemRecord,
    Replayed,
    Seed,
    SubmissionRecord,
    json,
)

VERSION = "1"
"""Version of the API. It rises with an incompatible change."""

Schema = dict[str, Any]

_ASKED: tuple[type, ...] = (
    *bodies.SUBMITTED.values(),
    bodies.Upload,
    bodies.Press,
    bodies.Answer,
    bodies.Watch,
    bodies.Replay,
)
_GIVEN: tuple[type, ...] = (
    SubmissionRecord,
    Event,
    Links,
    Seed,
    Erased,
    DeliveryRecord,
    Replayed,
    Destination,
    ProblemRecord,
)
_REF = "#/components/schemas/"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    name: str  # generated clients call their function so
    summary: str  # its effect
    answers: dict[int, tuple[str, Schema]]  # status → (description of the answer, and its content by media type)
    body: Schema | None = None  # schema of the request's body
    problems: tuple[int, ...] = ()  # statuses of its problems, beside those of every body, name in the path and token
    parameters: tuple[Schema, ...] = ()  # parameters outside the path
    open: bool = False  # True if it needs no token
    tag: str = ""  # subject, by which clients group operations, if it is not the beginning of the path


def _ref(type: type) -> Schema:
    return {"$ref": f"{_REF}{type.__name__}"}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _parameter(place: str, name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": place, "description": description, "schema": schema}


_PLACE: dict[str, Schema] = {"index": {"type": "integer", "minimum": 0}}
"""Parts of a path that are no text."""
_MS: Schema = {"type": "integer", "minimum": 0}
_SUBMISSION = _json(_ref(SubmissionRecord))
_TEXT: Schema = {"text/plain": {"schema": {"type": "string"}}}
_OBJECT = _json({"type": "object"})
_ASKED_PROVIDER = (422, 502, 503)
_BODY = (400, 408, 413, 415, 422)
"""Problems of every request with a body."""
_KEY = _parameter(
    "header",
    "Idempotency-Key",
    "The same key with the same body gives the same submission, with another body 409. A key that was refused is free.",
    {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[ -~]+$"},
)
_MADE = {
    200: ("It exists already, by its key or because the button was pressed before.", _SUBMISSION),
    201: ("The provider took it.", _SUBMISSION),
    202: (
        "It is kept. `prepared`: the provider is busy, and it is sent again by itself. `unknown`: the answer was lost, "
        "a task may exist and be charged, and it is never sent again.",
        _SUBMISSION,
    ),
}
_CALLBACK = Operation(
    "callback",
    "Callback of the provider.",
    body={"type": "object", "required": ["id"], "properties": {"id": {"type": ["string", "integer"]}}},
    answers={200: ("It is kept and accepted.", _OBJECT), 202: ("It is kept; the provider is asked.", _OBJECT)},
    problems=(404, 429),
    open=True,
)


def _page(noun: str, schema: Schema) -> dict[int, tuple[str, Schema]]:
    """Return the answer with a page of a list."""
    array = _json({"type": "array", "items": schema})
    return {200: (f"The newest {noun} first. While there are more, the header `Link` leads to the next page.", array)}


def _conditions(statuses: Sequence[str]) -> tuple[Schema, ...]:
    """Return the parameters of a list whose rows have these statuses."""
    text: Schema = {"type": "string"}
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIST, "default": 20}
    return (
        _parameter("query", "limit", "How many at most.", limit),
        _parameter("query", "after", "The page behind this one, by its id.", text),
        _parameter("query", "status", "Their status, as the answers show it.", text | {"enum": list(statuses)}),
        _parameter("query", "kind", "Of this kind of request.", text | {"enum": list(KINDS)}),
        _parameter("query", "label", "Of submissions with this label, name=value.", {"type": "array", "items": text}),
        _parameter("query", "search", "Of submissions with all these words in their prompt.", text),
        _parameter("query", "since_ms", "Made at this time or later.", _MS),
        _parameter("query", "until_ms", "Made before this time.", _MS),
    )


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("get", "/submissions"): Operation(
        "list_submissions",
        "Submissions, the newest first.",
        answers=_page("submissions", _ref(SubmissionRecord)),
        parameters=_conditions(DISPLAY_STATUSES),
        problems=(422,),
    ),
    ("post", "/submissions"): Operation(
        "submit",
        "Submit. It is journalled, then sent at once.",
        body={"oneOf": [_ref(type) for type in bodies.SUBMITTED.values()]},
        answers=_MADE,
        problems=(409, *_ASKED_PROVIDER),
        parameters=(_KEY,),
    ),
    ("post", "/submissions/watch"): Operation(
        "watch",
        "Take over a task that was submitted elsewhere. It is followed and delivered like our own.",
        body=_ref(bodies.Watch),
        answers={200: ("It was taken over before.", _SUBMISSION), 201: ("It is followed from now.", _SUBMISSION)},
        problems=(404, *_ASKED_PROVIDER),
    ),
    ("get", "/submissions/{id}"): Operation(
        "get_submission",
        "One submission, by its id or its task's.",
        answers={200: ("The submission with its deliveries.", _SUBMISSION)},
    ),
    ("get", "/submissions/{id}/events"): Operation(
        "list_events",
        "Its events; with `Accept: text/event-stream` as they happen.",
        answers={
            200: (
                "The oldest first. The stream ends after the last event, when the files are there.",
                {**_json({"type": "array", "items": _ref(Event)}), "text/event-stream": {"schema": {"type": "string"}}},
            ),
            204: ("Nothing follows the event named by Last-Event-ID.", {}),
        },
        parameters=(_parameter("header", "Last-Event-ID", "Go on after this event.", {"type": "string"}),),
    ),
    ("get", "/submissions/{id}/media/{index}"): Operation(
        "get_file",
        "A file of the result, as it was archived.",
        tag="files",
        answers={
            200: (
                "The file. Its Content-Type is that of the picture or video. Range requests work.",
                {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            )
        },
        problems=(409, 410),
    ),
    ("get", "/submissions/{id}/seed"): Operation(
        "get_seed",
        "The seed of a finished picture. The provider may take a minute.",
        answers={200: ("The seed.", _json(_ref(Seed)))},
        problems=(409, *_ASKED_PROVIDER),
    ),
    ("post", "/submissions/{id}/actions"): Operation(
        "press",
        "Press a button of a finished task. The same one a second time gives the first one's submission.",
        body=_ref(bodies.Press),
        answers=_MADE,
        problems=(409, *_ASKED_PROVIDER),
        parameters=(_KEY | {"description": "Only with `again`: a repeat of this very request is no further one."},),
    ),
    ("post", "/submissions/{id}/modal"): Operation(
        "answer",
        "Answer a task that asks for input; the same task goes on.",
        body=_ref(bodies.Answer),
        answers={200: ("The provider took it.", _SUBMISSION), 202: ("It is kept; see `reason`.", _SUBMISSION)},
        problems=_ASKED_PROVIDER,
    ),
    ("post", "/submissions/{id}/cancel"): Operation(
        "cancel",
        "Ask the provider to stop a task, where it lets its users do so.",
        answers={202: ("It was asked; an event shows the effect.", _SUBMISSION)},
        problems=(409, *_ASKED_PROVIDER),
    ),
    ("delete", "/submissions/{id}"): Operation(
        "erase",
        "Delete a submission for good, with its events, deliveries and files.",
        answers={200: ("It is deleted.", _json(_ref(Erased)))},
        parameters=(_parameter("query", "force", "Also while it is under way. It is given up.", {"type": "boolean"}),),
        problems=(409, 422),
    ),
    ("get", "/deliveries"): Operation(
        "list_deliveries",
        "Deliveries, the newest first.",
        answers=_page("deliveries", _ref(DeliveryRecord)),
        parameters=(
            *_conditions(DELIVERY_STATUSES),
            _parameter("query", "destination", "To this destination.", {"type": "string"}),
            _parameter("query", "submission", "Of this submission, by its id or its task's.", {"type": "string"}),
        ),
        problems=(404, 422),
    ),
    ("get", "/deliveries/{id}"): Operation(
        "get_delivery",
        "One delivery with its attempts.",
        answers={200: ("The delivery with its `history`.", _json(_ref(DeliveryRecord)))},
    ),
    ("post", "/deliveries/replay"): Operation(
        "replay",
        "Make deliveries due again, or with `preview` say what would be.",
        body=_ref(bodies.Replay),
        answers={200: ("The outcome of each.", _json({"type": "array", "items": _ref(Replayed)}))},
        problems=(404,),
    ),
    ("get", "/destinations"): Operation(
        "list_destinations",
        "Destinations and their health, by name.",
        answers={200: ("All that the journal knows.", _json({"type": "array", "items": _ref(Destination)}))},
    ),
    ("post", "/destinations/{name}/pause"): Operation(
        "pause",
        "Deliver nothing to a destination for a while.",
        answers={200: ("It is paused.", _json(_ref(Destination)))},
        parameters=(
            _parameter(
                "query",
                "seconds",
                "Of two pauses the longer one counts.",
                {"type": "integer", "minimum": 1, "maximum": MAX_PAUSE_SECONDS, "default": PAUSE_SECONDS},
            ),
        ),
        problems=(422,),
    ),
    ("post", "/destinations/{name}/resume"): Operation(
        "resume",
        "End a pause and forget its failures. What is due is attempted again.",
        answers={200: ("It goes on.", _json(_ref(Destination)))},
    ),
    ("post", "/uploads"): Operation(
        "upload",
        "Put pictures where prompts can point to them.",
        tag="files",
        body=_ref(bodies.Upload),
        answers={200: ("Their links.", _json(_ref(Links)))},
        problems=_ASKED_PROVIDER,
    ),
    ("get", "/openapi.json"): Operation(
        "openapi", "This document.", tag="health", answers={200: ("OpenAPI 3.1.", _OBJECT)}, open=True
    ),
    ("post", "/callbacks"): replace(_CALLBACK, name="callback_without_token"),
    ("post", "/callbacks/{token}"): _CALLBACK,
    ("get", "/livez"): Operation(
        "livez", "Check that the process answers.", tag="health", answers={200: ("ok", _TEXT)}, open=True
    ),
    ("get", "/readyz"): Operation(
        "readyz",
        "Check that callbacks can be kept now.",
        tag="health",
        answers={200: ("Ready.", _OBJECT), 503: ("Not ready, and why.", _OBJECT)},
        open=True,
    ),
}
"""Every operation by method and path."""


async def openapi(request: Request) -> Response:
    """`GET /openapi.json`. It needs no token, because it holds nothing secret."""
    where = request.scope.get("root_path") or "/"
    return json({**document(), "servers": [{"url": where}]})


@cache
def document() -> dict[str, Any]:
    """Return the whole document, without the address of the mount."""
    _, schemas = msgspec.json.schema_components([*_ASKED, *_GIVEN], ref_template=_REF + "{name}")
    for schema in schemas.values():
        schema["description"] = cleandoc(schema["description"])
    for type in _ASKED:
        schemas[type.__name__]["additionalProperties"] = False
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Receiver",
            "version": VERSION,
            "description": "Submit Midjourney tasks, follow them, and fetch what they made. Times are epoch "
            "milliseconds. Every error is a problem (RFC 9457) whose `detail` is a sentence.",
        },
        "paths": {
            path: {verb: _operation(path, item) for (verb, at), item in OPERATIONS.items() if at == path}
            for _, path in OPERATIONS
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A secret from RECEIVER_API_TOKENS."}
            },
        },
        "security": [{"token": []}],
    }
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(whole))  # plain JSON: no tuples, keys are text
    return found


def _operation(path: str, operation: Operation) -> Schema:
    named = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    inside = [
        {"name": name, "in": "path", "required": True, "schema": _PLACE.get(name, {"type": "string"})} for name in named
    ]
    of_path, of_body = (404,) if named else (), _BODY if operation.body is not None else ()
    problems = {*operation.problems, *of_path, *of_body, *(() if operation.open else (401, 429))}
    answers: Schema = {
        str(status): {"description": text, **({"content": content} if content else {})}
        for status, (text, content) in operation.answers.items()
    }
    problem = {"application/problem+json": {"schema": _ref(ProblemRecord)}}
    answers |= {str(status): {"description": _PROBLEMS[status], "content": problem} for status in sorted(problems)}
    answers["default"] = {"description": "Another problem.", "content": problem}
    found: Schema = {
        "operationId": operation.name,
        "tags": [operation.tag or path.split("/")[1]],
        "summary": operation.summary,
        "parameters": [*inside, *operation.parameters],
        "responses": answers,
    }
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _json(operation.body)}
    if operation.open:
        found["security"] = []
    return found


_PROBLEMS = {
    400: "The body is not JSON, or has too many values.",
    401: "No token, or a wrong one.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "It conflicts with an earlier request, or with the submission's status.",
    410: "The file is no longer there.",
    413: "The body is too large.",
    415: "The Content-Type is not JSON, or the body is compressed.",
    422: "Something in the request cannot be sent, or the provider refused it: see `outcome`.",
    429: "Too many requests of this caller, or callbacks of this submission.",
    502: "The provider cannot be reached, or does not take our key.",
    503: "Not now; send it again after a while.",
}
