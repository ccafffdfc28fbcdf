"""A strict local server that plays a Discord webhook as documented (docs.discord.com/developers/resources/webhook): it
takes no field the form does not list, no attachment without its file or above the limit, no text beyond Discord's
limits, and no mention that is allowed to ping. At an address without a version, it names a rate limit in
milliseconds, as the real one does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message as Part
from typing import Any

from flows import served
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.cli.servers import address, bind

ID, TOKEN = "1423456789012345678", "k3PzXq-Yw_secret-of-the-webhook_0123456789"
THREAD = "1499999999999999999"
_FORM = {"embeds", "attachments", "allowed_mentions"}
_EMBED = {"title": 256, "description": 4096}


class No(Exception):
    """An error Discord answers."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.answer = {"code": code, "message": message}


@dataclass
class Message:
    payload: dict[str, Any]
    files: dict[str, bytes]
    thread_id: str | None
    edits: int = 0

    @property
    def embed(self) -> dict[str, Any]:
        embed: dict[str, Any] = self.payload["embeds"][0]
        return embed


@dataclass
class Discord:
    """The channel.

    Attributes:
        limit: bytes a file may have.
        together: bytes all files of a request may have.
        limited: seconds of a rate limit that the next request meets.
        answers: what the next requests are answered with, in place of doing them; None: done.
    """

    url: str = ""
    limit: int = 10_000_000
    together: int = 25_000_000
    limited: float | None = None
    answers: list[Response | None] = field(default_factory=list)
    messages: dict[str, Message] = field(default_factory=dict)
    posted: int = 0

    @property
    def hook(self) -> str:
        return f"{self.url}/api/webhooks/{ID}/{TOKEN}"

    @property
    def only(self) -> Message:
        (message,) = self.messages.values()
        return message

    def app(self) -> Starlette:
        routes = []
        for path in ("/api/webhooks/{id}/{token}", "/api/v{version:int}/webhooks/{id}/{token}"):
            routes.append(Route(path, self._answered, methods=["POST"]))
            routes.append(Route(path + "/messages/{message}", self._answered, methods=["PATCH"]))
        return Starlette(routes=routes)

    async def _answered(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response(status_code=499)
        if self.answers and (given := self.answers.pop(0)) is not None:
            return given
        if self.limited is not None:
            seconds, self.limited = self.limited, None
            return rate_limit(seconds, versioned="version" in request.path_params)
        try:
            self._check_address(request)
            payload, files = self._form(request, body)
            verb = self._edit if request.method == "PATCH" else self._post
            return JSONResponse({"channel_id": "1400000000000000000"} | verb(request, payload, files))
        except No as no:
            return JSONResponse(no.answer, status_code=no.status)

    def _check_address(self, request: Request) -> None:
        if request.path_params["id"] != ID:
            raise No(404, 10015, "Unknown Webhook")
        if request.path_params["token"] != TOKEN:
            raise No(401, 50027, "Invalid Webhook Token")
        query = dict(request.query_params)
        if query.pop("thread_id", THREAD) != THREAD:
            raise No(404, 10003, "Unknown Channel")
        if query != ({"wait": "true"} if request.method == "POST" else {}):
            raise No(400, 50035, "Invalid Form Body")

    def _form(self, request: Request, body: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
        parts = _parts(request.headers["content-type"], body)
        payload = json.loads(bytes(parts.pop("payload_json").get_payload(decode=True)))
        allowed = _FORM | ({"username"} if request.method == "POST" else set())
        if payload.keys() - allowed or payload.get("allowed_mentions") != {"parse": []}:
            raise No(400, 50035, "Invalid Form Body")
        files = {}
        for at, attachment in enumerate(payload["attachments"]):
            part = parts.pop(f"files[{at}]", None)
            if part is None or part.get_filename() != attachment["filename"] or attachment["id"] != at:
                raise No(400, 50035, "Invalid Form Body")
            if len(attachment["description"]) > 1024:
                raise No(400, 50035, "Invalid Form Body")
            files[attachment["filename"]] = bytes(part.get_payload(decode=True))
        if parts or len(files) > 10:
            raise No(400, 50035, "Invalid Form Body")
        sizes = [len(data) for data in files.values()]
        if sum(sizes) > self.together or any(size > self.limit for size in sizes):
            raise No(413, 40005, "Request entity too large")
        _check_embed(payload["embeds"][0], files)
        return payload, files

    def _post(self, request: Request, payload: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
        self.posted += 1
        id = f"15000000000000{self.posted:05}"
        self.messages[id] = Message(payload, files, request.query_params.get("thread_id"))
        return {"id": id}

    def _edit(self, request: Request, payload: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
        message = self.messages.get(request.path_params["message"])
        if message is None:
            raise No(404, 10008, "Unknown Message")
        message.payload, message.files = payload, files
        message.edits += 1
        return {"id": request.path_params["message"]}


def rate_limit(seconds: float, *, versioned: bool) -> Response:
    """429 as recorded: in the body and in Retry-After, an address without a version has milliseconds."""
    after = seconds if versioned else round(seconds * 1000)
    headers = {"Retry-After": str(after), "X-RateLimit-Reset-After": str(seconds), "Via": "1.1 google"}
    answer = {"message": "You are being rate limited.", "retry_after": after, "global": False}
    return JSONResponse(answer, status_code=429, headers=headers)


def _check_embed(embed: dict[str, Any], files: dict[str, bytes]) -> None:
    wrong = embed.keys() - {"title", "description", "color", "image", "footer"}
    too_long = [name for name, most in _EMBED.items() if len(embed.get(name, "")) > most]
    image = embed.get("image", {}).get("url", "")
    if wrong or too_long or len(embed.get("footer", {}).get("text", "")) > 2048:
        raise No(400, 50035, "Invalid Form Body")
    if image and image.removeprefix("attachment://") not in files:
        raise No(400, 50035, "Invalid Form Body")


def _parts(content_type: str, body: bytes) -> dict[str, Part]:
    """The parts of a multipart form by their names."""
    form = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts = {}
    for part in form.get_payload():
        assert isinstance(part, Part)
        part["Content-Transfer-Encoding"] = "binary"
        parts[str(part.get_param("name", header="content-disposition"))] = part
    return parts


@asynccontextmanager
async def channel() -> AsyncIterator[Discord]:
    """A channel with a webhook behind real HTTP on a free port."""
    discord = Discord()
    with bind("127.0.0.1", 0) as listener:
        discord.url = address(listener)
        async with served(discord.app(), listener):
            yield discord
