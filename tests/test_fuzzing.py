"""The callback decoder meets anything: never an error but the documented ones, and what it takes can be stored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fuzzing import PAYLOADS, URL_TOKEN, check_body, check_token
from hypothesis import example, given
from hypothesis import strategies as st

FIELDS = (
    *("id", "state", "status", "progress", "action", "prompt", "promptEn", "description", "failReason", "buttons"),
    *("submitTime", "startTime", "finishTime", "imageUrl", "imageUrls", "image_urls", "videoUrl", "videoUrls"),
    *("properties", "seed"),
)

texts = st.text(st.characters(codec=None)) | st.sampled_from(["", "0%", "46%", "100%", "101%", "SUCCESS", "１７", "\0"])
numbers = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([2**63, 2**63 - 1, 10**400, 0, -1])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)
tasks = st.dictionaries(st.sampled_from(FIELDS), values) | st.fixed_dictionaries(
    {"id": texts | numbers}, optional=dict.fromkeys(FIELDS[1:], values)
)


@given(st.binary(max_size=2000))
@example(b"\xef\xbb\xbf{}")
@example(b"[" * 100_000)
@example(b'{"id":' + b"9" * 4301 + b"}")
@example(b'{"id":"\\ud800"}')
@example(b'{"id":"1","submitTime":1e400}')
def test_any_bytes(body: bytes) -> None:
    """Whatever comes."""
    check_body(body)


@given(values)
def test_any_json(value: Any) -> None:
    """Every JSON there is, NaN and half characters included."""
    check_body(json.dumps(value).encode())


@given(tasks, st.booleans())
def test_anything_in_the_fields_of_a_task(task: dict[str, Any], ascii_only: bool) -> None:
    """The protocol's names with values of any type."""
    check_body(json.dumps(task, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("file", PAYLOADS, ids=lambda file: file.stem)
def test_what_was_recorded(file: Any) -> None:
    """Recorded payloads keep their meaning on the way through our own encoding."""
    check_body(file.read_bytes())


@given(st.data())
def test_recorded_payloads_with_bytes_changed(data: st.DataObject) -> None:
    """What was damaged on the way is refused, or read as what it still says."""
    body = bytearray(data.draw(st.sampled_from(PAYLOADS)).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check_body(bytes(body))


@given(texts)
@example(URL_TOKEN)
@example(URL_TOKEN[:-1])
@example("." * 300)
def test_any_token(text: str) -> None:
    """Whatever stands where a token should."""
    check_token(text)
