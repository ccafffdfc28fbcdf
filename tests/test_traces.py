"""Traces as a program sees them that has set up OpenTelemetry."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flows import world
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from servers import serving
from starlette.requests import Request
from starlette.responses import Response

from receiver.handlers.webhook import new_secret
from receiver.telemetry import span, trace_headers


@dataclass
class Seen(trace.NonRecordingSpan):
    """A span that is kept."""

    name: str
    attributes: Mapping[str, Any]
    links: Sequence[trace.Link]
    context: trace.SpanContext
    status: trace.Status | None = None

    def get_span_context(self) -> trace.SpanContext:
        return self.context

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.status = status


@dataclass
class Recorder(trace.TracerProvider, trace.Tracer):
    """A stand-in for OpenTelemetry's SDK. It keeps all spans of this process, so tests look for their own."""

    spans: list[Seen] = field(default_factory=list)

    def get_tracer(self, *arguments: Any, **named: Any) -> trace.Tracer:
        return self

    def start_span(self, *arguments: Any, **named: Any) -> trace.Span:
        raise NotImplementedError

    @contextmanager
    def start_as_current_span(
        self, name: str, *, links: Any = (), attributes: Any = None, **named: Any
    ) -> Iterator[trace.Span]:
        above = trace.get_current_span().get_span_context()
        id = above.trace_id if above.is_valid else random.getrandbits(127) + 1
        context = trace.SpanContext(id, random.getrandbits(63) + 1, False, trace.TraceFlags(1))
        item = Seen(name, attributes, links, context)
        self.spans.append(item)
        with trace.use_span(item, record_exception=False, set_status_on_exception=False):
            yield item


RECORDER = Recorder()


@pytest.fixture(autouse=True, scope="module")
def recorder() -> None:
    """Only one can be set in a process."""
    trace.set_tracer_provider(RECORDER)


async def test_a_submission_is_traced_to_its_webhook(tmp_path: Path) -> None:
    """Each stage is a span that links to that of the submit. The webhook carries its own to the place."""
    headers: list[Mapping[str, str]] = []

    async def place(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await request.body()
        headers.append(request.headers)
        await Response(status_code=204)(scope, receive, send)

    async with serving(place) as url, world(tmp_path, to=f"{url}/hook#{new_secret()}") as here:
        row = await here.rest((await here.submit()).id)
    ours = [item for item in RECORDER.spans if row.id in str(item.attributes)]
    submit = next(item for item in ours if item.name == "receiver.submit")
    later = [item for item in ours if item is not submit]
    assert {item.name for item in ours} == {"receiver.submit", "receiver.event", "receiver.archive", "receiver.deliver"}
    assert {item.attributes.get("receiver.source") for item in later} & {"poll", "callback"}
    linked = [link.context.span_id for item in later for link in item.links]
    assert linked == [submit.context.span_id] * len(later)
    contexts = [TraceContextTextMapPropagator().extract(item) for item in headers]
    sent = [trace.get_current_span(item).get_span_context().span_id for item in contexts]
    delivered = [item.context.span_id for item in later if item.name == "receiver.deliver"]
    assert sent == delivered != []


def test_an_error_ends_its_span_without_secrets() -> None:
    """The status has the kind of the error and never its text."""
    with suppress(ValueError), span("receiver.test", link="nonsense"):
        assert trace_headers()["traceparent"].startswith("00-")
        raise ValueError("said a-secret-of-ours")
    item = RECORDER.spans[-1]
    assert item.links == []
    assert item.status is not None
    assert item.status.description == "ValueError"
