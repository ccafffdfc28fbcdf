"""Stores that fail, in front of a real one: cut off after so many writes, or behind a proxy that fails as told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import httpx
from waiting import PATIENCE

from receiver.bodies import certificates
from receiver.bucket.client import Bucket, StoredObject, Tag
from receiver.errors import EngineStopped

Fault = Literal["busy", "error", "done", "slow", "reset", "reset done"]
"""What a proxy does: answer 503 SlowDown, or 500, and do nothing; do it and answer 500; wait, then do it; close the
connection before, or after it was done."""


class Cut(Bucket):
    """The bucket of a process that ends before its `writes`-th write. Nothing reaches the store from then on."""

    def __init__(self, bucket: Bucket, writes: int) -> None:
        self.__dict__.update(vars(bucket))
        self.left = writes
        self.done: list[str] = []

    @property
    def ended(self) -> bool:
        return self.left <= 0

    def _check(self) -> None:
        if self.ended:
            raise EngineStopped("the process has ended")

    def _write(self, what: str) -> None:
        self.left -= 1
        self._check()
        self.done.append(what)

    async def get(self, key: str) -> StoredObject | None:
        self._check()
        return await super().get(key)

    async def get_if_changed(self, key: str, tag: Tag) -> StoredObject | Tag | None:
        self._check()
        return await super().get_if_changed(key, tag)

    async def put(self, key: str, data: bytes | bytearray, attributes: Mapping[str, str] | None = None) -> Tag:
        self._write(key)
        return await super().put(key, data, attributes)

    async def create(self, key: str, data: bytes | bytearray, attributes: Mapping[str, str] | None = None) -> Tag:
        self._write(key)
        return await super().create(key, data, attributes)

    async def replace(self, key: str, data: bytes | bytearray, tag: Tag) -> Tag:
        self._write(key)
        return await super().replace(key, data, tag)

    async def delete(self, keys: Sequence[str]) -> None:
        if keys:
            self._write(f"delete {keys[0]}")
        await super().delete(keys)


@dataclass
class Proxy:
    """A server in front of a store.

    Attributes:
        fault: asked about each request (method, path with query): what goes wrong with it.
        requests: how many came, by class.
    """

    store: str
    fault: Callable[[str, str], Fault | None] = lambda method, path: None
    requests: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.5
    url: str = ""
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            async with httpx.AsyncClient(verify=certificates(), trust_env=False, timeout=PATIENCE) as client:
                while await self._answer(client, reader, writer):
                    pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # either side has closed the connection, or the test has ended
        finally:
            self.connections.discard(task)
            writer.close()

    async def _answer(
        self, client: httpx.AsyncClient, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *lines = head.rstrip().split("\r\n")
        method, path, _ = line.split(" ")
        headers = [(name, value.strip()) for name, _, value in (item.partition(":") for item in lines)]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        body = await reader.readexactly(length)
        self.requests[_class(method, path)] += 1
        fault = self.fault(method, path)
        if fault == "reset":
            return False
        if fault == "slow":
            await asyncio.sleep(self.seconds)
        answer = httpx.Response(503 if fault == "busy" else 500)
        if fault not in ("busy", "error"):
            url = httpx.URL(self.store).copy_with(raw_path=path.encode())
            answer = await client.request(method, url, headers=headers, content=body)
        if fault == "reset done":
            return False
        if fault == "done":
            answer = httpx.Response(500)
        self._write(writer, method, answer, busy=fault == "busy")
        await writer.drain()
        return True

    @staticmethod
    def _write(writer: asyncio.StreamWriter, method: str, answer: httpx.Response, *, busy: bool) -> None:
        content = b"<Error><Code>SlowDown</Code></Error>" if busy else answer.content
        skipped = ("content-length", "transfer-encoding", "connection")
        kept = [f"{name}: {value}" for name, value in answer.headers.items() if name.lower() not in skipped]
        length = answer.headers.get("content-length", "0") if method == "HEAD" else str(len(content))
        bare = answer.status_code in (204, 304)
        lines = [f"HTTP/1.1 {answer.status_code} X", *kept, *([] if bare else [f"content-length: {length}"]), "", ""]
        writer.write("\r\n".join(lines).encode() + (b"" if bare or method == "HEAD" else content))


def _class(method: str, path: str) -> str:
    if method == "GET" and "list-type=" in path:
        return "LIST"
    return "DELETE" if method == "POST" and "delete" in path else method


@asynccontextmanager
async def proxied(store: str) -> AsyncIterator[Proxy]:
    """A proxy on a free port while the block runs."""
    proxy = Proxy(store)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        connections = list(proxy.connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections)
