"""The HTTP API as callers meet it: real servers on both sides, the simulated provider behind."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from engine import JPEG, PNG, Faulty, logged
from flows import SPEED, World, world
from jsonschema import Draft202012Validator
from ports import free_port
from scripted import content_of, scripted
from servers import exchange, serving
from waiting import PATIENCE

from receiver.app.container import retention_of
from receiver.bodies import certificates
from receiver.requests import KINDS, build
from receiver.web.admission import Admission
from receiver.web.api import Api, Endpoints
from receiver.web.api.openapi import document
from receiver.web.api.schemas import MAX_BODY
from receiver.web.app import create_app
from receiver.web.callbacks import Callbacks
from receiver.web.connections import MAX_CONNECTIONS
from receiver.web.health import Readyz
from receiver.web.streams import with_pauses

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET, OTHER = "n8n-secret-0123456789", "reporting-secret-0123"
TOKENS = {"n8n": SECRET, "reporting": OTHER}
STREAM = {"Accept": "text/event-stream"}
PROMPT = {"prompt": "a paper boat --v 6.1"}
SLOW = SPEED / 10
"""For what is to happen while a task runs, on a busy machine, too."""


def data_uri(data: bytes, type: str = "image/png") -> str:
    return f"data:{type};base64,{base64.b64encode(data).decode()}"


@asynccontextmanager
async def door(folder: Path, **settings: Any) -> AsyncIterator[tuple[World, httpx.AsyncClient]]:
    """A world with tokens, and a client with one of them."""
    async with world(folder, api_tokens=TOKENS, **settings) as here, client_of(here.url) as client:
        yield here, client


def client_of(url: str, secret: str = SECRET) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {secret}"}
    return httpx.AsyncClient(base_url=url, headers=headers, verify=certificates(), timeout=PATIENCE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[World, httpx.AsyncClient]]:
    """One world for what leaves nothing behind."""
    async with door(tmp_path_factory.mktemp("api")) as found:
        yield found


async def stream(client: httpx.AsyncClient, id: str, last: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(type, event) of everything a stream tells until it ends."""
    headers = STREAM | ({"Last-Event-ID": last} if last else {})
    found = []
    async with client.stream("GET", f"/submissions/{id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        text = (await response.aread()).decode()
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            event = json.loads(fields["data"])
            assert (fields["id"], fields["event"]) == (event["id"], event["type"])
            found.append((fields["event"], event))
    return found


def types(told: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The types of events in order. A file that is late, as on a busy machine, repeats its success: that is one."""
    return list(dict.fromkeys(type for type, _ in told))


def conforms(value: Any, schema: str) -> Any:
    """The value, which is as the OpenAPI document says."""
    whole = {"$ref": f"#/components/schemas/{schema}", "components": document()["components"]}
    Draft202012Validator(whole).validate(value)
    return value


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """A refusal as every refusal is: a problem with a sentence."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = conforms(response.json(), "ProblemRecord")
    assert found["status"] == status
    assert found["detail"].endswith((".", "?"))
    assert found["detail"].isprintable()
    return found


async def finished(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    """A submission at its end."""
    response = await client.post("/submissions", json=PROMPT | body)
    assert response.status_code == 201, response.text
    await stream(client, response.json()["id"])
    found: dict[str, Any] = (await client.get(f"/submissions/{response.json()['id']}")).json()
    return found


# --- the whole way -----------------------------------------------------------------------------------------------


async def test_from_a_prompt_to_a_zoom(tmp_path: Path) -> None:
    """Prompt, grid, U2, a zoom that asks for input: submitted, followed and fetched by HTTP alone."""
    async with door(tmp_path) as (here, client):
        response = await client.post("/submissions", json=PROMPT | {"labels": {"order": "7"}, "state": "mine"})
        assert response.status_code == 201
        grid = conforms(response.json(), "SubmissionRecord")
        assert response.headers["location"] == f"/submissions/{grid['id']}"
        assert (grid["kind"], grid["labels"], grid["state"]) == ("imagine", {"order": "7"}, "mine")
        assert grid["status"] in ("accepted", "in_progress"), "callbacks may be faster than the answer"

        told = await stream(client, grid["id"])
        assert types(told) == ["task.accepted", "task.succeeded"]
        assert all(event["labels"] == {"order": "7"} for _, event in told)

        await here.rest(grid["id"])
        grid = conforms((await client.get(f"/submissions/{grid['task']}")).json(), "SubmissionRecord")
        assert (grid["status"], grid["progress"]) == ("succeeded", 100)
        assert {"U1", "U2", "V4"} <= set(grid["buttons"])
        (media,) = grid["media"]
        picture = await client.get(f"/submissions/{grid['id']}/media/0")
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
        assert len(picture.content) == media["size"]

        response = await client.post(f"/submissions/{grid['id']}/actions", json={"button": "U2"})
        assert response.status_code == 201
        single = response.json()
        assert (single["parent"], single["button"], single["labels"]) == (grid["id"], "U2", {"order": "7"})
        assert types(await stream(client, single["id"]))[-1] == "task.succeeded"

        response = await client.post(f"/submissions/{single['id']}/actions", json={"button": "Custom Zoom"})
        zoom = response.json()
        assert (response.status_code, zoom["status"]) == (201, "input_required")
        response = await client.post(f"/submissions/{zoom['id']}/modal", json={"prompt": "a boat --zoom 2"})
        assert (response.status_code, response.json()["id"]) == (200, zoom["id"])
        assert types(await stream(client, zoom["id"])) == ["task.accepted", "task.input_required", "task.succeeded"]
        seed = await client.get(f"/submissions/{single['id']}/seed")
        assert conforms(seed.json(), "Seed")["seed"].isdigit()

        await here.rest(single["id"])
        row = await here.rest(zoom["id"])
        deliveries = (await client.get(f"/submissions/{row.id}")).json()["deliveries"]
        assert [item["status"] for item in deliveries][-1] == "succeeded"
        assert len(here.pictures()) == 3


async def test_a_video_and_texts_are_results_like_any_other(tmp_path: Path) -> None:
    """Describe gives texts, a video an mp4; both come by the same addresses."""
    async with door(tmp_path) as (_, client):
        body = {"kind": "describe", "source": data_uri(PNG)}
        response = await client.post("/submissions", json=body)
        await stream(client, response.json()["id"])
        described = (await client.get(f"/submissions/{response.json()['id']}")).json()
        assert len(described["texts"]) == 4

        body = {"kind": "video", "image": data_uri(PNG), "prompt": "it sails away", "motion": "high"}
        response = await client.post("/submissions", json=body)
        assert response.status_code == 201, response.text
        await stream(client, response.json()["id"])
        film = (await client.get(f"/submissions/{response.json()['id']}")).json()
        assert film["media"], film
        found = await client.get(f"/submissions/{film['id']}/media/0")
        assert found.headers["content-type"] == film["media"][0]["type"] == "video/mp4"


async def test_pictures_go_out_as_data_uris_and_links_as_links(tmp_path: Path) -> None:
    """What the caller sent is what the provider gets."""
    async with door(tmp_path) as (here, client):
        await client.post("/submissions", json=PROMPT | {"pictures": [data_uri(PNG), data_uri(JPEG, "image/jpeg")]})
        await client.post("/submissions", json={"kind": "blend", "pictures": [data_uri(PNG)] * 2})
        await client.post("/submissions", json={"kind": "describe", "source": "https://cdn.example.com/a.png"})
        first, second, third = here.simulator.submits
        assert first["base64Array"] == [data_uri(PNG), data_uri(JPEG, "image/jpeg")]
        assert len(second["base64Array"]) == 2
        assert third["link"] == "https://cdn.example.com/a.png"


async def test_uploads_give_links(shared: tuple[World, httpx.AsyncClient]) -> None:
    """Pictures that make no task get links to be used in prompts."""
    _, client = shared
    response = await client.post("/uploads", json={"pictures": [data_uri(PNG)] * 2})
    assert response.status_code == 200, response.text
    assert len(conforms(response.json(), "Links")["urls"]) == 2


# --- how a submit ends -------------------------------------------------------------------------------------------


async def test_a_refusal_names_its_outcome_and_frees_the_key(tmp_path: Path) -> None:
    """No task was made: 422 with the reason, and the same key may try again."""
    async with door(tmp_path, faults=["banned_word"]) as (here, client):
        for tries in (1, 2):
            response = await client.post("/submissions", json=PROMPT, headers={"Idempotency-Key": "a"})
            found = problem(response, 422)
            assert found["outcome"] == "banned_word"
            assert len(here.simulator.submits) == tries
        record = (await client.get(f"/submissions/{found['submission']}")).json()
        assert (record["status"], record["outcome"]) == ("refused", "banned_word")
        assert record["reason"] == found["detail"]


async def test_a_busy_provider_is_tried_again(tmp_path: Path) -> None:
    """202: the submission is kept, sent again by itself, and ends well."""
    async with door(tmp_path, faults=["queue_full"]) as (_, client):
        response = await client.post("/submissions", json=PROMPT)
        assert (response.status_code, response.json()["status"]) == (202, "prepared")
        assert response.json()["reason"]
        assert [type for type, _ in await stream(client, response.json()["id"])][-1] == "task.succeeded"


async def test_a_lost_answer_is_never_sent_again(tmp_path: Path) -> None:
    """202 with status unknown and a sentence; the same key gives the same submission and no second request."""
    async with door(tmp_path, faults=["ambiguous_lost"]) as (here, client):
        headers = {"Idempotency-Key": "a"}
        response = await client.post("/submissions", json=PROMPT, headers=headers)
        assert (response.status_code, response.json()["status"]) == (202, "unknown")
        assert "may" in response.json()["reason"]
        again = await client.post("/submissions", json=PROMPT, headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, response.json()["id"])
        assert len(here.simulator.submits) == 1


async def test_a_provider_that_does_not_take_our_key_is_our_fault(tmp_path: Path) -> None:
    """502, with the outcome."""
    async with door(tmp_path, faults=["unauthorized"]) as (_, client):
        assert problem(await client.post("/submissions", json=PROMPT), 502)["outcome"] == "unauthorized"


async def test_a_provider_that_cannot_be_reached(tmp_path: Path) -> None:
    """502 everywhere the provider is needed, and the submission that came to nothing is named."""
    async with door(tmp_path, provider_url=f"http://127.0.0.1:{free_port()}") as (_, client):
        found = problem(await client.post("/submissions", json=PROMPT), 502)
        assert found["outcome"] == "unreachable"
        assert (await client.get(f"/submissions/{found['submission']}")).json()["status"] == "refused"
        assert problem(await client.post("/submissions/watch", json={"task_id": "17"}), 502)["outcome"] == "unreachable"
        body = {"pictures": [data_uri(PNG)]}
        assert problem(await client.post("/uploads", json=body), 502)["outcome"] == "unreachable"


# --- idempotency -------------------------------------------------------------------------------------------------


async def test_a_key_makes_one_submission(tmp_path: Path) -> None:
    """Same key and body: the same one; another body: 409; another caller: another one. The order of fields and
    defaults do not matter."""
    async with door(tmp_path) as (here, client), client_of(here.url, OTHER) as other:
        headers = {"Idempotency-Key": "order 7"}
        body = PROMPT | {"labels": {"a": "1"}}
        first = await client.post("/submissions", json=body, headers=headers)
        same = {"labels": {"a": "1"}, "kind": "imagine", "speed": None, **PROMPT}
        second = await client.post("/submissions", json=same, headers=headers)
        assert (first.status_code, second.status_code) == (201, 200)
        assert second.json()["id"] == first.json()["id"]
        assert second.headers["location"] == first.headers["location"]
        taken = problem(await client.post("/submissions", json=PROMPT, headers=headers), 409)
        assert taken["help"] == "receiver help http"
        third = await other.post("/submissions", json=body, headers=headers)
        assert third.status_code == 201
        assert third.json()["id"] != first.json()["id"]
        assert len(here.simulator.submits) == 2


async def test_a_key_used_at_once_makes_one_submission(tmp_path: Path) -> None:
    """Of ten at the same time one makes it, and nine wait for it and find it."""
    async with door(tmp_path) as (here, client):
        headers = {"Idempotency-Key": "a"}
        answers = await asyncio.gather(*(client.post("/submissions", json=PROMPT, headers=headers) for _ in range(10)))
        assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]
        assert len({answer.json()["id"] for answer in answers}) == 1
        told = {answer.json()["status"] for answer in answers}
        assert told <= {"accepted", "in_progress", "succeeded"}, "all know what became of it"
        assert len(here.simulator.submits) == 1


@pytest.mark.parametrize("key", ["", "x" * 201, "tab\there", "späße".encode("latin-1")])
async def test_a_bad_key_is_refused(key: str | bytes, shared: tuple[World, httpx.AsyncClient]) -> None:
    """1 to 200 printable ASCII characters."""
    _, client = shared
    headers = {b"Idempotency-Key": key if isinstance(key, bytes) else key.encode()}
    assert "Idempotency-Key" in problem(await client.post("/submissions", json=PROMPT, headers=headers), 422)["detail"]


# --- follow-ups --------------------------------------------------------------------------------------------------


async def test_a_button_pressed_twice_is_one_follow_up(tmp_path: Path) -> None:
    """The second press gives the first one's submission; `again` a further one, once for each key."""
    async with door(tmp_path) as (here, client):
        grid = await finished(client)
        path = f"/submissions/{grid['id']}/actions"
        first = await client.post(path, json={"button": "V1", "labels": {"by": "me"}, "to": ["file"]})
        second = await client.post(path, json={"button": "v1"})
        assert (first.status_code, second.status_code) == (201, 200)
        assert first.json()["id"] == second.json()["id"]
        assert (first.json()["labels"], first.json()["to"]) == ({"by": "me"}, ["file"])
        body, headers = {"button": "V1", "again": True}, {"Idempotency-Key": "a"}
        third = await client.post(path, json=body, headers=headers)
        fourth = await client.post(path, json=body, headers=headers)
        assert (third.status_code, fourth.status_code) == (201, 200)
        assert third.json()["id"] == fourth.json()["id"] != first.json()["id"]
        problem(await client.post(path, json=body | {"prompt": "a boat"}, headers=headers), 409)
        assert len(here.simulator.submits) == 3


async def test_follow_ups_start_by_themselves(tmp_path: Path) -> None:
    """`auto` on a submit presses its buttons once it has succeeded."""
    async with door(tmp_path) as (_, client):
        grid = await finished(client, auto=["U1", "U3"])
        rows = (await client.get("/submissions")).json()
        assert sorted(row["button"] for row in rows if row["parent"] == grid["id"]) == ["U1", "U3"]


async def test_a_task_of_somebody_else_is_taken_over(tmp_path: Path) -> None:
    """Watched once, followed like our own; a task nobody knows is 404."""
    async with door(tmp_path) as (here, client):
        provider = here.receiver.provider
        accepted = await provider.submit("imagine", {"prompt": "a kite", "state": "theirs"}, speed=None)
        body = {"task_id": accepted.task_id, "labels": {"from": "n8n"}}
        first = await client.post("/submissions/watch", json=body)
        second = await client.post("/submissions/watch", json=body)
        assert (first.status_code, second.status_code) == (201, 200)
        assert first.json()["id"] == second.json()["id"]
        assert first.headers["location"] == f"/submissions/{first.json()['id']}"
        assert [type for type, _ in await stream(client, first.json()["id"])][-1] == "task.succeeded"
        problem(await client.post("/submissions/watch", json={"task_id": "404404404"}), 404)


async def test_a_running_task_is_cancelled(tmp_path: Path) -> None:
    """202, and an event tells what became of it; what has ended cannot be cancelled."""
    async with door(tmp_path, speed=SLOW) as (_, client):
        id = (await client.post("/submissions", json=PROMPT)).json()["id"]
        assert (await client.post(f"/submissions/{id}/cancel")).status_code == 202
        assert [type for type, _ in await stream(client, id)][-1] == "task.failed"
        problem(await client.post(f"/submissions/{id}/cancel"), 409)
        problem(await client.get(f"/submissions/{id}/seed"), 409)
        found = problem(await client.post(f"/submissions/{id}/actions", json={"button": "U1"}), 422)
        assert "has not succeeded" in found["detail"]


async def test_what_cannot_follow_is_said_before_it_is_sent(tmp_path: Path) -> None:
    """An unknown button, a reply nobody asked for, a mask that is none."""
    async with door(tmp_path) as (here, client):
        grid = await finished(client)
        path = f"/submissions/{grid['id']}"
        cases: list[tuple[str, dict[str, Any], str]] = [
            ("actions", {"button": "U9"}, "There is no button U9"),
            ("actions", {"button": " "}, "empty"),
            ("actions", {}, "button is missing"),
            ("actions", {"button": "U1", "mask": "/etc/passwd"}, "data:image/"),
            ("actions", {"button": "U1", "mask": "https://example.com/a.png"}, "data:image/"),
            ("actions", {"button": "U1", "mask": data_uri(b"GIF89a" + bytes(99), "image/gif")}, "GIF"),
            ("actions", {"button": "U1", "to": ["nowhere"]}, "no destination 'nowhere'"),
            ("actions", {"buton": "U1"}, "Did you mean button?"),
            ("modal", {"prompt": "a boat"}, "does not ask for input"),
            ("modal", {"mask": "/etc/passwd"}, "data:image/"),
        ]
        for name, body, words in cases:
            assert words in problem(await client.post(f"{path}/{name}", json=body), 422)["detail"]
        assert len(here.simulator.submits) == 1


# --- who may -----------------------------------------------------------------------------------------------------

ADDRESSES = [
    (method, path.replace("{id}", "01J").replace("{index}", "0"))
    for path, methods in document()["paths"].items()
    for method, operation in methods.items()
    if operation.get("security") != []
]


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
async def test_nobody_comes_in_without_a_token(method: str, path: str, shared: tuple[World, httpx.AsyncClient]) -> None:
    """Every address of the API is closed, before anything of the request is looked at."""
    here, _ = shared
    async with httpx.AsyncClient(base_url=here.url, verify=certificates()) as stranger:
        response = await stranger.request(method, path, content=b"no JSON")
        problem(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", SECRET)],
        [("Authorization", f"Basic {SECRET}")],
        [("Authorization", "Bearer")],
        [("Authorization", f"Bearer {SECRET}x")],
        [("Authorization", f"Bearer {SECRET[:-1]}")],
        [("Authorization", "Bearer n8n")],
        [("Authorization", b"Bearer \xff\xfe")],
        [("Authorization", f"Bearer {SECRET}"), ("Authorization", f"Bearer {SECRET}")],
    ],
)
async def test_a_wrong_token_is_no_token(headers: Any, shared: tuple[World, httpx.AsyncClient]) -> None:
    """Whatever is not exactly one of the secrets."""
    here, _ = shared
    async with httpx.AsyncClient(base_url=here.url, verify=certificates()) as stranger:
        problem(await stranger.get("/submissions", headers=headers), 401)


async def test_the_log_names_the_caller_and_no_secret(shared: tuple[World, httpx.AsyncClient]) -> None:
    """One line for each request; an unknown caller has no name."""
    here, _ = shared
    with logged() as lines:
        async with client_of(here.url, OTHER) as client, client_of(here.url, "wrong" * 5) as stranger:
            await client.get("/submissions")
            await stranger.get("/submissions")
    told = [(line["caller"], line["status"]) for line in lines if line["event"] == "request.answered"]
    assert told == [("reporting", 200), (None, 401)]
    assert OTHER not in str(lines)
    assert "wrongwrong" not in str(lines)


async def test_without_tokens_there_is_no_api(tmp_path: Path) -> None:
    """404 for every address, the document included; callbacks and health are there."""
    async with world(tmp_path) as here, client_of(here.url) as client:
        for method, path in [*ADDRESSES, ("get", "/openapi.json")]:
            problem(await client.request(method, path), 404)
        assert (await client.get("/livez")).status_code == 200


# --- bad input ---------------------------------------------------------------------------------------------------

BODIES: dict[str, tuple[Any, str]] = {
    "a list": ([], "must be a JSON object"),
    "null": (None, "must be a JSON object"),
    "nothing asked": ({}, "The field prompt is missing"),
    "a number for text": ({"prompt": 5}, "The field prompt is wrong: expected `str`, got `int`"),
    "an unknown field": ({"promt": "x"}, "There is no field 'promt' here. Did you mean prompt?"),
    "a name of the protocol": (PROMPT | {"botType": "MID_JOURNEY"}, "Did you mean bot_type?"),
    "a field of another kind": (PROMPT | {"motion": "low"}, "There is no field 'motion' here"),
    "an unknown kind": (PROMPT | {"kind": "imagin"}, "Did you mean imagine?"),
    "a kind that is a list": (PROMPT | {"kind": ["imagine"]}, "The kind must be text"),
    "a kind that is null": (PROMPT | {"kind": None}, "The kind must be text"),
    "an upload": ({"kind": "upload"}, "go to POST /uploads"),
    "an action": ({"kind": "action"}, "go to POST /submissions/{id}/actions"),
    "an empty prompt": ({"prompt": " "}, "The prompt is empty"),
    "a long prompt": ({"prompt": "x" * 6001}, "shorten it to 6000"),
    "a NUL": ({"prompt": "x\x00"}, "holds a NUL"),
    "half a character": ({"prompt": "\ud800"}, "half a character"),
    "half a character in a label": (PROMPT | {"labels": {"a": "\ud800"}}, "half a character"),
    "half a character in a field's name": (PROMPT | {"\ud800": 1}, "half a character"),
    "half a character for labels": (PROMPT | {"labels": "\ud800"}, "half a character"),
    "half a character for a list": (PROMPT | {"to": "\udfff", "auto": ["\ud83d"]}, "half a character"),
    "half a character deep inside": (PROMPT | {"account_filter": {"a": [{"b\ud800": None}]}}, "half a character"),
    "half a character for the kind": ({"kind": "\ud800"}, "half a character"),
    "control characters in a name": (PROMPT | {"\x1b[31m\n": 1}, "There is no field"),
    "labels of numbers": (PROMPT | {"labels": {"a": 1}}, "The field labels[...] is wrong"),
    "too many labels": (PROMPT | {"labels": {str(n): "" for n in range(33)}}, "at most 32 labels"),
    "a long state": (PROMPT | {"state": "x" * 10_001}, "shorten it to 10000"),
    "no destination": (PROMPT | {"to": []}, "at least one destination"),
    "an unknown destination": (PROMPT | {"to": ["slack"]}, "There is no destination 'slack'. There are: file"),
    "a destination that is text": (PROMPT | {"to": "file"}, "The field to is wrong"),
    "a reply to elsewhere": (
        PROMPT | {"reply_to": "https://x.test/s3cret"},
        "reply_to is at https://x.test, which is not",
    ),
    "an unknown speed": (PROMPT | {"speed": "warp"}, "'warp' cannot be speed"),
    "an unknown bot": (PROMPT | {"bot_type": "niji"}, "'niji' cannot be botType"),
    "an unknown filter": (PROMPT | {"account_filter": {"x": 1}}, "'x' cannot be a key of accountFilter"),
    "too many buttons": (PROMPT | {"auto": ["U1"] * 17}, "at most 16 follow-ups"),
    "six pictures": (PROMPT | {"pictures": [data_uri(PNG)] * 6}, "at most 5 pictures, not 6"),
    "a path among pictures": (PROMPT | {"pictures": ["/etc/passwd"]}, "A picture comes as `data:"),
    "a picture that is text": (PROMPT | {"pictures": [data_uri(b"hello")]}, "is no PNG, JPEG, WebP or GIF"),
    "a picture that is HTML": (PROMPT | {"pictures": [data_uri(b"<html>")]}, "is no PNG, JPEG, WebP or GIF"),
    "no base64": (PROMPT | {"pictures": ["data:image/png;base64,%%%"]}, "not valid base64"),
    "no base64 at all": (PROMPT | {"pictures": ["data:image/png,abc"]}, "does not start with"),
    "a large picture": (PROMPT | {"pictures": [data_uri(PNG + bytes(16 * 2**20))]}, "larger than 16 MiB"),
    "one picture to blend": ({"kind": "blend", "pictures": [data_uri(PNG)]}, "takes 2 to 5 pictures"),
    "a video without a prompt": ({"kind": "video", "image": "https://x.test/a.png"}, "The field prompt is missing"),
    "a video of nothing": ({"kind": "video", "prompt": "it sails"}, "The picture for image is missing"),
    "an index beyond": (
        {"kind": "video", "prompt": "p", "action": "extend", "task_id": "1", "index": 10**4000},
        "index must be one of",
    ),
    "a task id as path": (
        {"kind": "video", "prompt": "p", "action": "extend", "task_id": "..", "index": 0},
        "The task id is empty",
    ),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_bad_body_is_answered_with_a_sentence(name: str, shared: tuple[World, httpx.AsyncClient]) -> None:
    """422, before any money is spent."""
    here, client = shared
    before = len(here.simulator.submits)
    body, words = BODIES[name]
    content = json.dumps(body)
    response = await client.post("/submissions", content=content, headers={"Content-Type": "application/json"})
    assert words in problem(response, 422)["detail"]
    assert len(here.simulator.submits) == before


RAW: dict[str, tuple[bytes, dict[str, str], int]] = {
    "no JSON": (b"{", {}, 400),
    "no UTF-8": (b'{"prompt": "\xff"}', {}, 400),
    "deep JSON": (b"[" * 100_000, {}, 400),
    "wide JSON": (b'{"prompt": "a boat", "x": [' + b"[]," * 100_000 + b"0]}", {}, 400),
    "NaN": (b'{"prompt": NaN}', {}, 400),
    "a long number": (b'{"prompt": ' + b"1" * 5000 + b"}", {}, 400),
    "a form": (b"prompt=x", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "no type": (b"{}", {"Content-Type": ""}, 415),
    "compressed": (b"{}", {"Content-Encoding": "gzip"}, 415),
    "nothing": (b"", {}, 400),
}


@pytest.mark.parametrize("name", RAW)
async def test_bytes_that_are_no_request(name: str, shared: tuple[World, httpx.AsyncClient]) -> None:
    """A 4xx each, and never a 500."""
    _, client = shared
    content, headers, status = RAW[name]
    response = await client.post(
        "/submissions", content=content, headers={"Content-Type": "application/json"} | headers
    )
    problem(response, status)


async def test_a_body_beyond_the_limit_is_refused_unread(shared: tuple[World, httpx.AsyncClient]) -> None:
    """413 by its Content-Length alone."""
    here, _ = shared
    head = (
        f"POST /submissions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {MAX_BODY * 2}\r\n\r\n"
    )
    answer = await exchange(here.url, head.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"80 MiB at most" in answer


PICTURES = [
    ("imagine", "pictures", True), ("blend", "pictures", True), ("describe", "source", False),
    ("video", "image", False), ("video", "end_image", False), ("edits", "image", False), ("edits", "mask", False),
    ("swap", "source", False), ("swap", "target", False), ("upload", "pictures", True),
]  # fmt: skip
"""Kind, field, and whether it is a list."""
OTHERS: dict[str, dict[str, Any]] = {
    "imagine": PROMPT,
    "blend": {},
    "describe": {},
    "video": {"image": data_uri(PNG), "prompt": "it sails"},
    "edits": PROMPT | {"image": data_uri(PNG)},
    "swap": {"source": data_uri(PNG), "target": data_uri(PNG)},
    "upload": {},
}


@pytest.mark.parametrize("spelled", ["{}", " {}", "file://{}", "FILE:{}", "./../../../../../../..{}", "{}\t"])
@pytest.mark.parametrize("place", PICTURES, ids=str)
async def test_no_path_of_this_machine_is_read(
    place: tuple[str, str, bool], spelled: str, shared: tuple[World, httpx.AsyncClient], tmp_path: Path
) -> None:
    """A picture that lies here stays here, in whichever field and spelling its path comes."""
    (kind, field, many), (here, client) = place, shared
    path = tmp_path / "private.png"
    path.write_bytes(PNG)
    before = len(here.simulator.submits)
    value = spelled.format(path)
    body = OTHERS[kind] | {field: [value, value] if many else value}
    address = "/uploads" if kind == "upload" else "/submissions"
    response = await client.post(address, json=body if kind == "upload" else body | {"kind": kind})
    problem(response, 422)
    assert len(here.simulator.submits) == before


def fields_with_pictures() -> set[tuple[str, str]]:
    """(kind, field) of every field that is declared as a picture."""
    return {
        (kind, field.name)
        for kind, declared in KINDS.items()
        for field in declared.fields
        if field.form.picture and kind != "modal"
    }


async def test_every_field_that_takes_a_picture_is_tried() -> None:
    """A new one has no place to hide."""
    assert {(kind, field) for kind, field, _ in PICTURES} == fields_with_pictures()


QUERIES = {
    "/submissions?limit=0": "limit is a whole number from 1 to 200.",
    "/submissions?limit=201": "limit is",
    "/submissions?limit=x": "limit is",
    "/submissions?limit=%D9%A1": "limit is",
    "/submissions?limit=99999999999999999999": "limit is",
    "/submissions?status=done": "status is one of prepared",
    "/submissions?kind=film": "kind is one of imagine",
    "/submissions?label=order": "label is written name=value.",
    "/submissions?after=x": "after is the id of the last entry",
    "/submissions?after=" + "Z" * 26: "after is the id of the last entry",
    "/submissions?since_ms=today": "since_ms is a whole number",
    "/submissions?until_ms=-1": "until_ms is a whole number",
    "/submissions?destination=file": "There are: limit",
    "/deliveries?status=failed": "status is one of pending, running, succeeded, dead, cancelled.",
    "/deliveries?limt=1": "destination, submission.",
    "/submissions?limt=1": "There are: limit, after, status,",
}


@pytest.mark.parametrize("path", QUERIES)
async def test_a_bad_query_is_answered_with_a_sentence(path: str, shared: tuple[World, httpx.AsyncClient]) -> None:
    """422, and never a guess."""
    _, client = shared
    assert QUERIES[path] in problem(await client.get(path), 422)["detail"]


@pytest.mark.parametrize(
    "path",
    ["/submissions/0", "/submissions/%00", "/submissions/%ff", "/submissions/a%2Fb", "/submissions/" + "9" * 5000,
     "/deliveries/x", "/deliveries/replay", "/deliveries?submission=x",
     "/submissions/watch", "/submissions/x/events", "/submissions/x/media/0", "/submissions/x/seed", "/nothing"],
)  # fmt: skip
async def test_what_is_not_there_is_not_found(path: str, shared: tuple[World, httpx.AsyncClient]) -> None:
    """404 with a sentence."""
    _, client = shared
    problem(await client.get(path), 404)


async def test_other_methods_are_refused(shared: tuple[World, httpx.AsyncClient]) -> None:
    """405 that says which there are."""
    _, client = shared
    response = await client.delete("/submissions")
    problem(response, 405)
    assert {"GET", "POST"} <= set(response.headers["allow"].split(", "))


# --- what is read ------------------------------------------------------------------------------------------------


async def test_lists_are_the_newest_first(tmp_path: Path) -> None:
    """Limited, filtered by where they stand, and without deliveries; part of an id is no id."""
    async with door(tmp_path) as (_, client):
        first, second = await finished(client), await finished(client)
        assert "deliveries" in first
        rows = (await client.get("/submissions")).json()
        assert [row["id"] for row in rows] == [second["id"], first["id"]]
        for row in rows:
            assert "deliveries" not in conforms(row, "SubmissionRecord")
        assert [row["id"] for row in (await client.get("/submissions?limit=1")).json()] == [second["id"]]
        assert len((await client.get("/submissions?status=succeeded")).json()) == 2
        assert (await client.get("/submissions?status=input_required")).json() == []
        problem(await client.get(f"/submissions/{first['id'][:12]}"), 404)


async def test_lists_are_filtered_and_go_on_at_a_cursor(tmp_path: Path) -> None:
    """By label, words, kind and time; the `Link` header leads from page to page, with the same conditions."""
    async with door(tmp_path) as (here, client):
        made = [await finished(client, prompt=f"boat {number}", labels={"order": "7"}) for number in range(3)]
        other = await finished(client, prompt="a fox", labels={"order": "8"})
        for row in (*made, other):
            await here.rest(row["id"])

        async def ids(query: str) -> list[str]:
            response = await client.get(f"/submissions?{query}")
            assert response.status_code == 200, response.text
            assert "link" not in response.headers
            return [row["id"] for row in response.json()]

        assert await ids("label=order%3D7&search=BOAT+2") == [made[2]["id"]]
        assert await ids("kind=imagine&label=order%3D8") == [other["id"]]
        assert await ids("kind=video") == []
        assert await ids(f"since_ms={made[2]['created_ms']}&label=order%3D7") == [made[2]["id"]]
        assert await ids(f"until_ms={made[0]['created_ms']}") == []

        address, pages = "/submissions?label=order%3D7&limit=1", []
        for _ in made:
            response = await client.get(address)
            pages += [row["id"] for row in response.json()]
            address = response.links["next"]["url"]
        assert pages == [row["id"] for row in made[::-1]]
        assert await ids(address.partition("?")[2]) == []

        row = made[0]
        deliveries = (await client.get("/deliveries", params={"submission": row["task"], "destination": "file"})).json()
        assert {item["submission"] for item in deliveries} == {row["id"]}
        assert "history" not in conforms(deliveries[0], "DeliveryRecord")
        response = await client.get("/deliveries?limit=1&status=succeeded")
        assert "after=" in response.links["next"]["url"]
        found = conforms((await client.get(f"/deliveries/{deliveries[0]['id']}")).json(), "DeliveryRecord")
        assert found["history"][-1]["outcome"] == "succeeded"


async def test_a_replay_is_foreseen_and_carried_out(tmp_path: Path) -> None:
    """By condition or id; nothing happens in a preview, and never to everything at once."""
    async with door(tmp_path) as (here, client):
        row = await finished(client)
        await here.rest(row["id"])
        wanted = {"submission": row["id"], "status": "succeeded", "search": "paper boat"}
        foreseen = (await client.post("/deliveries/replay", json=wanted | {"preview": True})).json()
        item = next(conforms(item, "Replayed") for item in foreseen)  # files that come late make a second one
        assert (item["outcome"], item["was"], item["destination"]) == ("again", "succeeded", "file")
        assert (await client.get(f"/deliveries/{item['delivery']}")).json()["attempts"] == 1
        done = await client.post("/deliveries/replay", json={"ids": [item["delivery"]]})
        assert done.json() == [item]
        await here.rest(row["id"])
        assert (await client.get(f"/deliveries/{item['delivery']}")).json()["attempts"] == 2

        bad = {
            "everything": ({}, 422, "everything"),
            "no status": ({"status": "failed"}, 422, "status is one of"),
            "both": ({"ids": [item["delivery"]], "status": "dead"}, 422, "not both"),
            "a part of an id": ({"ids": [item["delivery"][:12]]}, 404, "No delivery"),
            "too many": ({"ids": ["x"] * 201}, 422, "200 at most"),
            "nowhere": ({"ids": [item["delivery"]], "to": "nowhere"}, 422, "There is no destination"),
        }
        for body, status, text in bad.values():
            assert text in problem(await client.post("/deliveries/replay", json=body), status)["detail"]
        assert problem(await client.post("/deliveries/replay", json={}), 422)["help"] == "receiver help operate"


async def test_a_destination_is_paused_and_goes_on(tmp_path: Path) -> None:
    """Nothing reaches it meanwhile, and what waited does afterwards."""
    async with door(tmp_path) as (here, client):
        paused = conforms((await client.post("/destinations/file/pause?seconds=3600")).json(), "Destination")
        assert (paused["status"], paused["reason"]) == ("paused", "paused by n8n")
        row = await finished(client)
        assert here.pictures() == []
        [shown] = (await client.get("/destinations")).json()
        assert (shown["name"], shown["configured"], shown["pending"]) == ("file", True, 1)
        resumed = (await client.post("/destinations/file/resume")).json()
        assert (resumed["status"], resumed["paused_until_ms"]) == ("working", None)
        await here.rest(row["id"])
        assert len(here.pictures()) == 1
        problem(await client.post("/destinations/nowhere/pause"), 404)
        assert "seconds is" in problem(await client.post("/destinations/file/pause?seconds=0"), 422)["detail"]


async def test_a_submission_is_erased(tmp_path: Path) -> None:
    """With its events, deliveries and files; one under way only if it is given up."""
    async with door(tmp_path) as (here, client):
        await client.post("/destinations/file/pause")
        row = await finished(client)
        assert "force=true" in problem(await client.delete(f"/submissions/{row['id']}"), 409)["detail"]
        erased = await client.delete(f"/submissions/{row['id']}?force=true")
        found = conforms(erased.json(), "Erased")
        assert (erased.status_code, found["submission"], found["removed"]["submissions"]) == (200, row["id"], 1)
        problem(await client.get(f"/submissions/{row['id']}"), 404)
        problem(await client.delete(f"/submissions/{row['id']}"), 404)
        assert (await client.get("/deliveries")).json() == []
        assert not await here.receiver.journal.events(limit=10)


async def test_events_are_listed_the_oldest_first(tmp_path: Path) -> None:
    """As JSON for whoever does not ask for a stream; our own state token is in none of the answers."""
    async with door(tmp_path) as (here, client):
        grid = await finished(client, state="mine")
        events = (await client.get(f"/submissions/{grid['id']}/events")).json()
        assert [conforms(event, "Event")["type"] for event in events] == ["task.accepted", "task.succeeded"]
        (token,) = {submit["state"] for submit in here.simulator.submits}
        assert here.receiver.tokens.read_state_token(token) == grid["id"]
        for path in ("", "/events"):
            text = (await client.get(f"/submissions/{grid['id']}{path}")).text
            assert token not in text
            assert '"state":"mine"' in text
        streamed = await stream(client, grid["id"])
        assert token not in str(streamed)
        assert [event for _, event in streamed] == events


async def test_a_stream_goes_on_after_the_last_event_seen(tmp_path: Path) -> None:
    """An unknown id keeps nothing back; after the very last, 204 tells a browser to stop asking."""
    async with door(tmp_path) as (_, client):
        id = (await finished(client))["id"]
        assert len(await stream(client, id, last="unknown")) == 2
        assert [type for type, _ in await stream(client, id, last=f"{id}.task.accepted")] == ["task.succeeded"]
        headers = STREAM | {"Last-Event-ID": f"{id}.task.succeeded"}
        assert (await client.get(f"/submissions/{id}/events", headers=headers)).status_code == 204


async def test_a_stream_tells_progress_where_a_destination_wants_it(tmp_path: Path) -> None:
    """Progress is journalled for those who want it, and then streamed too."""
    tables = {"live": {"url": f"file:{tmp_path / 'live'}", "progress": True}}
    async with door(tmp_path, to="", destinations=tables, speed=SLOW) as (_, client):
        id = (await client.post("/submissions", json=PROMPT)).json()["id"]
        types = [type for type, _ in await stream(client, id)]
        assert "task.progressed" in types
        assert types[-1] == "task.succeeded"


@asynccontextmanager
async def own_api(
    here: World, *, max_connections: int = MAX_CONNECTIONS, **changed: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """The API of a world on a server of its own, with parts exchanged."""
    runtime, admission = here.receiver, Admission(None)
    parts: dict[str, Any] = {
        "submissions": runtime.submissions, "journal": runtime.journal, "provider": runtime.provider,
        "store": runtime.store, "clock": runtime.clock, "changes": runtime.watch, "replays": runtime.replay,
        "destinations": runtime.destinations.keys(),
        "retention": retention_of(runtime.settings, runtime.journal, runtime.clock, store=runtime.store),
    }  # fmt: skip
    endpoints = Endpoints(**parts | changed)
    app = create_app(
        callbacks=Callbacks(intake=runtime.intake, tokens=runtime.tokens, admission=admission),
        readyz=Readyz({}),
        api=Api(endpoints, tokens=TOKENS, admission=admission, max_connections=max_connections),
    )
    async with serving(app) as url, client_of(url) as client:
        yield client


async def test_a_silent_stream_says_that_it_is_there_and_ends_with_its_listener(tmp_path: Path) -> None:
    """Comments while nothing happens; who hangs up is watched for no longer."""
    ended = asyncio.Event()
    async with door(tmp_path) as (here, _):
        row = await here.receiver.submissions.prepare(build("imagine", prompt="a boat"))

        async def watch(submission_id: str) -> AsyncIterator[Any]:
            try:
                yield row
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with own_api(here, changes=watch, heartbeat=0.05) as client:
            async with client.stream("GET", f"/submissions/{row.id}/events", headers=STREAM) as response:
                lines = response.aiter_lines()
                assert (await anext(lines)).startswith(":")
            async with asyncio.timeout(PATIENCE):
                await ended.wait()


async def test_a_caller_has_its_share_of_streams(tmp_path: Path) -> None:
    """A fifth of the connections each, and half of them for all. Callbacks and health checks keep the rest."""
    async with door(tmp_path) as (here, _):
        row = await here.receiver.submissions.prepare(build("imagine", prompt="a boat"))

        async def watch(submission_id: str) -> AsyncIterator[Any]:
            yield row
            await asyncio.Event().wait()

        async with (
            own_api(here, changes=watch, max_connections=10, heartbeat=0.05) as client,
            client_of(str(client.base_url), OTHER) as other,
            AsyncExitStack() as stack,
        ):
            where = f"/submissions/{row.id}/events"
            for caller in (client, client):
                response = await stack.enter_async_context(caller.stream("GET", where, headers=STREAM))
                assert response.status_code == 200
            found = problem(await client.get("/submissions"), 429)
            assert "under way" in found["detail"]
            assert (await other.get("/submissions")).status_code == 200
            assert (await client.get("/livez")).status_code == 200
            await stack.aclose()
            async with asyncio.timeout(PATIENCE):
                while (await client.get("/submissions")).status_code != 200:
                    pass


async def test_a_stream_ends_when_the_server_stops(tmp_path: Path) -> None:
    """It is closed in order, and not by an error in the log."""
    async with door(tmp_path) as (here, _):
        row = await here.receiver.submissions.prepare(build("imagine", prompt="a boat"))

        watched = asyncio.Event()

        async def watch(submission_id: str) -> AsyncIterator[Any]:
            watched.set()
            yield row
            await asyncio.Event().wait()

        async def listen(client: httpx.AsyncClient) -> str:
            return (await client.get(f"/submissions/{row.id}/events", headers=STREAM)).text

        async with client_of(here.url) as outside:
            async with own_api(here, changes=watch) as client:
                outside.base_url = client.base_url
                listening = asyncio.create_task(listen(outside))
                await asyncio.wait_for(watched.wait(), PATIENCE)
            assert await listening == ""


async def test_pauses_stand_between_items_and_the_end_is_the_end() -> None:
    """None for every silence; an item that comes late is not lost."""

    async def items() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0.05)
        yield 2

    found = [item async for item in with_pauses(items(), 0.02)]  # type: ignore[arg-type]
    assert [item for item in found if item is not None] == [1, 2]
    assert None in found


async def test_a_file_is_sent_so_that_it_can_do_no_harm(tmp_path: Path) -> None:
    """Its own type, a name, no sniffing, no scripts; parts of it on request."""
    async with door(tmp_path) as (here, client):
        grid = await finished(client)
        path = f"/submissions/{grid['id']}/media/0"
        response = await client.get(path)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in response.headers["content-security-policy"]
        assert response.headers["content-disposition"] == f'inline; filename="{grid["id"]}-0.png"'
        part = await client.get(path, headers={"Range": "bytes=0-7"})
        assert (part.status_code, part.content) == (206, PNG[:8])
        assert (await client.head(path)).headers["content-length"] == str(grid["media"][0]["size"])
        for wrong in ("1", "-1", "x", "9" * 30):
            problem(await client.get(f"/submissions/{grid['id']}/media/{wrong}"), 404)
        row = await here.receiver.journal.find(grid["id"])
        here.receiver.store.path(row.media[0]).unlink()
        problem(await client.get(path), 410)


async def test_a_file_on_its_way_is_worth_waiting_for(tmp_path: Path) -> None:
    """404 before there is a result. While its file is awaited, 409 with Retry-After, and the status says so by name."""
    async with (
        scripted("cdn_down_25_minutes", down=True) as provider,
        door(tmp_path, provider_url=provider.url) as (here, client),
    ):
        id = (await client.post("/submissions", json=PROMPT)).json()["id"]
        problem(await client.get(f"/submissions/{id}/media/5"), 404)
        await stream(client, id)
        assert (await client.get(f"/submissions/{id}")).json()["media_status"] == "downloading files"
        answer = await client.get(f"/submissions/{id}/media/0")
        problem(answer, 409)
        assert int(answer.headers["retry-after"]) > 0
        # The clock runs a hundred times as fast: the 25 minutes of the case are 15 s.
        provider.down = False
        await here.rest(id)
        assert (await client.get(f"/submissions/{id}")).json()["media_status"] == "complete"
        assert (await client.get(f"/submissions/{id}/media/0")).content == content_of("media/grid.png")


async def test_a_journal_that_fails_is_overload_and_no_fault(tmp_path: Path) -> None:
    """503 with Retry-After, and nothing of this machine in the sentence."""
    async with door(tmp_path) as (here, _):
        row = await here.receiver.submissions.prepare(build("imagine", prompt="a boat"))
        faulty = Faulty(here.receiver.journal)
        async with own_api(here, journal=faulty) as client:
            for name, path in [
                ("page", "/submissions"), ("find", f"/submissions/{row.id}"),
                ("deliveries", f"/submissions/{row.id}"), ("events", f"/submissions/{row.id}/events"),
            ]:  # fmt: skip
                faulty.failing = {name: 1}
                response = await client.get(path)
                assert "disk" not in problem(response, 503)["detail"]
                assert response.headers["retry-after"] == "5"
            faulty.failing = {"events": 1}
            response = await client.get(f"/submissions/{row.id}/events", headers=STREAM)
            assert (response.status_code, response.text) == (200, "")
