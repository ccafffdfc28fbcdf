"""The recipes of the handbook, run from its page. n8n and ComfyUI are played by stand-ins."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from engine import until
from flows import World, world
from handbooks import block
from standardwebhooks import Webhook
from test_webhook import OK, SECRET, Place, answered, place
from waiting import PATIENCE

TOKEN = "a-token-of-this-test"


@asynccontextmanager
async def receiver(folder: Path, **settings: Any) -> AsyncIterator[tuple[World, httpx.AsyncClient]]:
    """A running server with the API, and a client with the credential."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        world(folder, api_tokens={"n8n": TOKEN}, **settings) as here,
        httpx.AsyncClient(headers=headers) as client,
    ):
        yield here, client


@asynccontextmanager
async def n8n() -> AsyncIterator[Place]:
    """An execution that does not wait yet when the first reply comes, resumes with the second, and then is gone."""
    answers = [answered("409 Conflict", body="The execution is running already."), OK]

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(answers.pop(0) if answers else answered("404 Not Found"))
        await writer.drain()

    async with place(answer) as there:
        yield there


async def test_the_workflow_of_n8n_resumes_with_its_picture(tmp_path: Path) -> None:
    """Each node of the workflow does what it says, in the order of its connections."""
    workflow = json.loads(block("recipes", "json"))
    nodes = {node["name"]: node["parameters"] for node in workflow["nodes"]}
    names = ["Start", "Submit", "Wait", "Succeeded", "Picture"]
    assert list(nodes) == names
    following = {name: to["main"][0][0]["node"] for name, to in workflow["connections"].items()}
    assert following == dict(itertools.pairwise(names))
    table = tomllib.loads(block("recipes", "toml").replace("   ", ""))["destinations"]["reply"]
    async with n8n() as there:
        table |= {"hosts": [there.url.partition("/hooks")[0]], "secret": SECRET}
        async with receiver(tmp_path, destinations={"reply": table}) as (here, client):
            made = await client.post(
                nodes["Submit"]["url"].replace("http://127.0.0.1:8000", here.url),
                content=evaluated(nodes["Submit"]["jsonBody"], there.url),
                headers={"Content-Type": "application/json", "Idempotency-Key": "17"},
            )
            assert made.status_code == 201
            await until(lambda: len(there.arrived) == 2)
            reply = there.arrived[1]
            Webhook(SECRET).verify(reply.body, reply.headers)
            assert reply.headers["content-type"] == "application/json"
            body = json.loads(reply.body)
            (condition,) = nodes["Succeeded"]["conditions"]["conditions"]
            assert (condition["leftValue"], condition["rightValue"]) == ("={{ $json.body.type }}", body["type"])
            url = nodes["Picture"]["url"].removeprefix("=").replace("http://127.0.0.1:8000", here.url)
            assert await downloaded(client, url.replace("{{ $json.body.subject }}", body["subject"]))


async def downloaded(client: httpx.AsyncClient, url: str) -> bool:
    """Try again as the node does: on the fast clock of a busy machine a file may come after the reply."""
    async with asyncio.timeout(PATIENCE):
        while (answer := await client.get(url)).status_code == 409:  # noqa: ASYNC110 - as the node does
            await asyncio.sleep(0.05)
    return answer.content.startswith(b"\x89PNG")


def evaluated(expression: str, resume_url: str) -> str:
    """The JSON that n8n makes of the expression of a body."""
    (inner,) = re.fullmatch(r"=\{\{ JSON\.stringify\((.*)\) \}\}", expression).groups()  # type: ignore[union-attr]
    text = (
        re.sub(r"(\w+): ", r'"\1": ', inner).replace("'", '"').replace("$execution.resumeUrl", json.dumps(resume_url))
    )
    return json.dumps(json.loads(text))


class Tensor:
    """As much of a tensor as the node uses."""

    def __init__(self, values: bytes, shape: tuple[int, ...]) -> None:
        assert math.prod(shape) == len(values)
        self.values = values
        self.shape = shape

    def reshape(self, *shape: int) -> Tensor:
        return Tensor(self.values, shape)

    def float(self) -> Tensor:
        return self

    def __truediv__(self, number: int) -> Tensor:
        assert number == 255
        return self


async def test_the_node_of_comfyui_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output is a picture in ComfyUI's form, the same inputs cost once, and a failure says why."""
    torch, comfy, management = ModuleType("torch"), ModuleType("comfy"), ModuleType("comfy.model_management")
    vars(torch).update(uint8="uint8", frombuffer=lambda data, dtype: Tensor(bytes(data), (len(data),)))
    vars(management)["throw_exception_if_processing_interrupted"] = lambda: None
    vars(comfy)["model_management"] = management
    for module in (torch, comfy, management):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    async with receiver(tmp_path) as (here, _):
        monkeypatch.setenv("PICTURES_URL", here.url)
        monkeypatch.setenv("PICTURES_TOKEN", TOKEN)
        found: dict[str, Any] = {}
        exec(block("recipes", "python"), found)  # noqa: S102 - the page's own text
        (node,) = found["NODE_CLASS_MAPPINGS"].values()
        drawn = [await asyncio.to_thread(getattr(node(), node.FUNCTION), prompt="a boat", number=1) for _ in range(2)]
        for (picture,) in drawn:
            count, height, width, colours = picture.shape
            assert (count, colours, height > 0, width > 0) == (1, 3, True, True)
        assert len(here.simulator.submits) == 1
