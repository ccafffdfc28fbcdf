"""A strict local server that plays Slack's Web API, its upload server and an incoming webhook, as documented on
docs.slack.dev: it takes nothing a method does not list, no block Slack's own SDK calls wrong, no file that was not
uploaded to its last byte, and no token but its own."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from flows import served
from slack_sdk.models.blocks import Block
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from receiver.cli.servers import address, bind

TOKEN = "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcBrzbqgy"
CHANNEL = "C0123ABCD"
HOOK = "/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"
_MESSAGE = {"channel", "text", "blocks", "parse", "link_names"}
METHODS: dict[str, tuple[set[str], set[str]]] = {
    "chat.postMessage": ({"channel"}, _MESSAGE | {"thread_ts", "unfurl_links", "unfurl_media", "mrkdwn"}),
    "chat.update": ({"channel", "ts"}, _MESSAGE | {"ts"}),
    "chat.getPermalink": ({"channel", "message_ts"}, {"channel", "message_ts"}),
    "conversations.join": ({"channel"}, {"channel"}),
    "conversations.list": (set(), {"types", "exclude_archived", "limit", "cursor"}),
    "files.getUploadURLExternal": ({"filename", "length"}, {"filename", "length", "alt_txt"}),
    "files.completeUploadExternal": ({"files"}, {"files", "channel_id", "thread_ts", "initial_comment"}),
    "files.info": ({"file"}, {"file"}),
}
"""What each method needs and takes, beside the token."""


class No(Exception):
    """An error Slack answers."""

    def __init__(self, error: str, *messages: str) -> None:
        super().__init__(error)
        self.answer = {"ok": False, "error": error, "response_metadata": {"messages": list(messages)}}


@dataclass
class File:
    name: str
    length: int
    alt_txt: str
    data: bytes = b""
    complete: bool = False
    looks: int = 0


@dataclass
class Message:
    channel: str
    text: str
    blocks: list[dict[str, Any]]
    thread_ts: str | None = None
    files: tuple[str, ...] = ()
    edits: int = 0


@dataclass
class Slack:
    """The workspace.

    Attributes:
        members: channels the bot is in.
        channels: names by id; those that begin with C are public.
        answers: what the next calls of a method are answered with, in place of doing it; None: done.
        slow: how often `files.info` says that a file is not taken in yet.
        blind: how many posts with a file are refused although `files.info` knows its type.
    """

    url: str = ""
    members: set[str] = field(default_factory=lambda: {CHANNEL})
    channels: dict[str, str] = field(default_factory=lambda: {CHANNEL: "pictures", "C0999ZZZZ": "public"})
    answers: dict[str, list[Response | None]] = field(default_factory=lambda: defaultdict(list))
    messages: dict[str, Message] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    hooked: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    slow: int = 0
    blind: int = 0
    posted: int = 0

    @property
    def api(self) -> str:
        return f"{self.url}/api"

    @property
    def hook(self) -> str:
        return f"{self.url}{HOOK}"

    def top(self) -> list[Message]:
        """What stands in the channel itself."""
        return [message for message in self.messages.values() if message.thread_ts is None]

    def replies(self) -> list[Message]:
        return [message for message in self.messages.values() if message.thread_ts is not None]

    def _new_ts(self) -> str:
        self.posted += 1
        return f"1732200402.{self.posted:06}"

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/api/{method}", self._call, methods=["POST"]),
                Route("/upload/v1/{file_id}", self._take, methods=["POST"]),
                Route(HOOK, self._hook, methods=["POST"]),
            ]
        )

    async def _call(self, request: Request) -> Response:
        method = request.path_params["method"]
        self.calls.append(method)
        try:
            await request.body()
        except ClientDisconnect:
            return Response(status_code=499)
        try:
            arguments = await self._arguments(request, method)
            if self.answers[method] and (given := self.answers[method].pop(0)) is not None:
                return given
            answer = getattr(self, "_" + method.replace(".", "_"))(arguments)
        except No as no:
            return JSONResponse(no.answer)
        return JSONResponse({"ok": True} | answer)

    async def _arguments(self, request: Request, method: str) -> dict[str, str]:
        if (given := request.headers.get("authorization")) != f"Bearer {TOKEN}":
            raise No("invalid_auth" if given else "not_authed")
        if request.headers.get("content-type") != "application/x-www-form-urlencoded":
            raise No("invalid_post_type")
        arguments = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, strict_parsing=True))
        needed, taken = METHODS[method]
        if wrong := (needed - arguments.keys()) | (arguments.keys() - taken):
            raise No("invalid_arguments", f"missing or unknown: {sorted(wrong)}")
        return arguments

    def _chat_postMessage(self, given: dict[str, str]) -> dict[str, Any]:  # noqa: N802
        self._may_post(given["channel"])
        if (thread := given.get("thread_ts")) and self._thread(given["channel"], thread) is None:
            raise No("thread_not_found")
        message = Message(given["channel"], *self._content(given), thread_ts=thread)
        ts = self._new_ts()
        self.messages[ts] = message
        return {"channel": message.channel, "ts": ts}

    def _chat_update(self, given: dict[str, str]) -> dict[str, Any]:
        message = self.messages.get(given["ts"])
        if message is None or message.channel != given["channel"]:
            raise No("message_not_found")
        message.text, message.blocks = self._content(given)
        message.edits += 1
        return {"channel": message.channel, "ts": given["ts"], "text": message.text}

    def _chat_getPermalink(self, given: dict[str, str]) -> dict[str, Any]:  # noqa: N802
        message = self.messages.get(given["message_ts"])
        if message is None or message.channel != given["channel"]:
            raise No("message_not_found")
        address = f"https://acme.slack.com/archives/{message.channel}/p{given['message_ts'].replace('.', '')}"
        thread = f"?thread_ts={message.thread_ts}&cid={message.channel}" if message.thread_ts else ""
        return {"channel": message.channel, "permalink": address + thread}

    def _conversations_join(self, given: dict[str, str]) -> dict[str, Any]:
        if not given["channel"].startswith("C"):
            raise No("method_not_supported_for_channel_type")
        self.members.add(given["channel"])
        return {"channel": {"id": given["channel"]}}

    def _conversations_list(self, given: dict[str, str]) -> dict[str, Any]:
        """A page holds one channel, whatever was asked: pages may be short."""
        ids = sorted(self.channels)
        at = int(given.get("cursor") or 0)
        following = str(at + 1) if at + 1 < len(ids) else ""
        found = [{"id": ids[at], "name": self.channels[ids[at]]}]
        return {"channels": found, "response_metadata": {"next_cursor": following}}

    def _files_getUploadURLExternal(self, given: dict[str, str]) -> dict[str, Any]:  # noqa: N802
        if len(given.get("alt_txt", "")) > 1000:
            raise No("alt_txt_too_large")
        file_id = f"F{len(self.files):08}"  # as blocks take it: ^F[A-Z0-9]{8,}$
        self.files[file_id] = File(given["filename"], int(given["length"]), given.get("alt_txt", ""))
        return {"upload_url": f"{self.url}/upload/v1/{file_id}", "file_id": file_id}

    async def _take(self, request: Request) -> Response:
        try:
            data = await request.body()
        except ClientDisconnect:
            return Response(status_code=499)
        file = self.files[request.path_params["file_id"]]
        if "authorization" in request.headers or len(data) != file.length or file.complete:
            return PlainTextResponse("no", status_code=400)
        file.data = data
        return PlainTextResponse(f"OK - {len(data)}")

    def _files_completeUploadExternal(self, given: dict[str, str]) -> dict[str, Any]:  # noqa: N802
        items = json.loads(given["files"])
        for item in items:
            file = self.files.get(item["id"])
            if file is None or file.complete or len(file.data) != file.length:
                raise No("file_not_found")
            file.complete = True
        if channel := given.get("channel_id"):
            self._may_post(channel)
            thread = given.get("thread_ts")
            if thread and self._thread(channel, thread) is None:
                raise No("thread_not_found")
            ids = tuple(item["id"] for item in items)
            self.messages[self._new_ts()] = Message(channel, "", [], thread, ids)
        return {"files": [{"id": item["id"], "title": item["title"]} for item in items]}

    def _files_info(self, given: dict[str, str]) -> dict[str, Any]:
        file = self.files[given["file"]]
        file.looks += 1
        return {"file": {"id": given["file"], "mimetype": self._type(file)}}

    def _type(self, file: File) -> str:
        if not file.complete or file.looks <= self.slow:
            return ""
        return "video/mp4" if file.name.endswith("mp4") else "image/png"

    def _may_post(self, channel: str) -> None:
        if channel not in self.channels:
            raise No("channel_not_found")
        if channel not in self.members:
            raise No("not_in_channel")

    def _thread(self, channel: str, ts: str) -> Message | None:
        """The message at the top of a thread: replies have no threads of their own."""
        message = self.messages.get(ts)
        return message if message and message.channel == channel and message.thread_ts is None else None

    def _content(self, given: dict[str, str]) -> tuple[str, list[dict[str, Any]]]:
        if not given.get("text"):
            raise No("no_text")
        if len(given["text"]) > 4000:
            raise No("msg_too_long")
        blocks = json.loads(given["blocks"])
        check_blocks(blocks)
        for block in blocks:
            if "slack_file" in block:
                file = self.files.get(block["slack_file"]["id"])
                self.blind -= 1
                if file is None or not self._type(file).startswith("image/") or self.blind >= 0:
                    raise No("invalid_blocks", "invalid slack file [json-pointer:/blocks/2/slack_file]")
        return given["text"], blocks

    async def _hook(self, request: Request) -> Response:
        if self.answers["webhook"] and (given := self.answers["webhook"].pop(0)) is not None:
            return given
        payload = json.loads(await request.body())
        if payload.keys() - {"text", "blocks", "unfurl_links", "unfurl_media"} or "text" not in payload:
            return PlainTextResponse("invalid_payload", status_code=400)
        check_blocks(payload["blocks"])
        self.hooked.append(payload)
        return PlainTextResponse("ok")


def text_of(part: Any) -> int:
    """Characters of all texts in a part of a post."""
    if isinstance(part, dict):
        return sum(len(value) if isinstance(value, str) else text_of(value) for value in part.values())
    return sum(map(text_of, part)) if isinstance(part, list) else 0


def check_blocks(blocks: list[dict[str, Any]]) -> None:
    """By the official SDK's models: each is what it says, holds nothing else, and is within Slack's limits. Together
    they have a limit that no document names."""
    if text_of(blocks) > 11_300:
        raise No("msg_blocks_too_long")
    parsed = Block.parse_all(blocks)
    if not 0 < len(blocks) <= 50 or len(parsed) != len(blocks) or None in parsed:
        raise No("invalid_blocks", "too many, or of no known type")
    for block, given in zip(parsed, blocks, strict=True):
        block.validate_json()
        if block.to_dict() != given:
            raise No("invalid_blocks", f"{given} holds what {block.to_dict()} does not")


@asynccontextmanager
async def workspace() -> AsyncIterator[Slack]:
    """A workspace behind real HTTP on a free port."""
    slack = Slack()
    with bind("127.0.0.1", 0) as listener:
        slack.url = address(listener)
        async with served(slack.app(), listener):
            yield slack
