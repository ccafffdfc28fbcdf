"""The OpenAPI document: valid, complete, and about what is really there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from flows import world
from openapi_spec_validator import validate
from starlette.routing import Route

from receiver.app import web_app
from receiver.requests import KINDS, REQUIRED
from receiver.web.api.schemas import SUBMITTED, Sent
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
        for route in web_app(here.receiver).routes:
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


@pytest.mark.parametrize("kind", [*SUBMITTED, "upload"])
def test_a_body_has_the_declared_fields(kind: str) -> None:
    """Same names, defaults and limits, each with a description."""
    carried = {"kind", *Sent.__struct_fields__}
    schema = document()["components"]["schemas"][kind.capitalize()]
    fields = {name: field for name, field in schema["properties"].items() if name not in carried}
    assert list(fields) == [field.name for field in KINDS[kind].fields]
    for declared in KINDS[kind].fields:
        field = fields[declared.name]
        assert field["description"].startswith(declared.help)
        assert (declared.name in schema["required"]) == (declared.default is REQUIRED)
        if declared.default is not REQUIRED:
            assert field["default"] == (declared.default if declared.default != () else [])
        for name, limit in declared.form.schema.items():
            if name == "items":
                assert field["items"] == limit
            elif name == "enum":
                assert field["enum"] == [*limit, *([None] if declared.default is None else [])]
            else:
                assert field[name] == limit


def test_every_kind_of_request_has_an_address() -> None:
    """Each is documented as a POST."""
    posts = {path for path, methods in document()["paths"].items() if "post" in methods}
    assert {kind.address for kind in KINDS.values()} <= posts
    assert set(SUBMITTED) == {kind for kind, declared in KINDS.items() if declared.address == "/submissions"}
