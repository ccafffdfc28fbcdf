"""The OpenAPI document: valid, complete, and about what is really there."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import httpx
import pytest
from flows import world
from openapi_spec_validator import validate
from starlette.routing import Route

from receiver.provider import PATHS, requests
from receiver.web.api import asked
from receiver.web.openapi import document

METHODS = {"get", "post", "put", "patch", "delete"}


def test_it_is_valid() -> None:
    """OpenAPI 3.1, every reference resolved."""
    validate(document())


def test_every_operation_has_a_name_of_its_own() -> None:
    """Generated clients call their functions so."""
    names = [item["operationId"] for methods in document()["paths"].values() for item in methods.values()]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)


async def test_every_route_stands_in_it_and_nothing_else(tmp_path: Path) -> None:
    """And it is served, to everyone, as it was checked."""
    async with world(tmp_path, api_tokens={"n8n": "s" * 16}) as here, httpx.AsyncClient(base_url=here.url) as client:
        there: set[tuple[str, str]] = set()
        for route in here.receiver.app.routes:
            assert isinstance(route, Route)
            path = route.path.replace(":path}", "}")
            methods = {method.lower() for method in route.methods or {"post"}} - {"head"}  # an ASGI app takes POST
            there |= {(path, method) for method in methods}
        served: dict[str, Any] = (await client.get("/openapi.json")).json()
        assert served.pop("servers") == [{"url": "/"}]
        assert served == document()
        documented = {(path, method) for path, methods in served["paths"].items() for method in methods}
        assert documented == there
        assert {method for _, method in documented} <= METHODS


def test_only_what_needs_no_token_says_so() -> None:
    """Callbacks are signed otherwise; health and this document are for everyone."""
    paths = document()["paths"]
    assert {path for path, methods in paths.items() for item in methods.values() if item.get("security") == []} == {
        "/callbacks", "/callbacks/{token}", "/livez", "/readyz", "/openapi.json",
    }  # fmt: skip
    assert document()["security"] == [{"token": []}]


@pytest.mark.parametrize("kind", [*asked.KINDS, "upload"])
def test_a_body_has_the_fields_of_its_builder(kind: str) -> None:
    """Same names, same defaults: a field added to a builder is asked for here, too."""
    type, build = (asked.Upload, requests.upload) if kind == "upload" else asked.KINDS[kind]
    expected = {
        name: None if parameter.default is inspect.Parameter.empty else (parameter.default or None,)
        for name, parameter in inspect.signature(build).parameters.items()
    }
    carried = {"kind", *asked.Sent.__struct_fields__}
    schema = document()["components"]["schemas"][type.__name__]
    declared = {
        name: None if name in schema["required"] else (field["default"] or None,)
        for name, field in schema["properties"].items()
        if name not in carried
    }
    assert declared == expected


def test_every_kind_of_request_has_an_address() -> None:
    """A kind the provider learns is offered here, or says where it is."""
    assert {*asked.KINDS, *asked.ELSEWHERE} == set(PATHS)
