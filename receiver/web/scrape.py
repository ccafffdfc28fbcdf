"""`GET /metrics`: the metrics of this process, for Prometheus. The only module that needs `prometheus-client`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry
from prometheus_client.utils import floatToGoString
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver import metrics
from receiver.web.callers import Callers
from receiver.web.problems import HANDLERS

TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Scrape:
    """The endpoint.

    Args:
        token: the bearer token that a request must have. None: the address is open.
        refresh: sets the gauges that are read only now.
    """

    def __init__(self, *, token: str | None, refresh: Callable[[], Awaitable[None]]) -> None:
        self._callers = None if token is None else Callers({"metrics": token}, "RECEIVER_METRICS_TOKEN")
        self._refresh = refresh

    def route(self) -> Route:
        """Return the route of the endpoint."""
        return Route("/metrics", self.answer, methods=["GET"])

    def app(self) -> Starlette:
        """Return an app with nothing else, for a port of its own."""
        return Starlette(routes=[self.route()], exception_handlers=HANDLERS)

    async def answer(self, request: Request) -> Response:
        """Return the metrics in OpenMetrics if the request accepts that by name, else in the text of Prometheus."""
        if self._callers is not None:
            self._callers.named(request.headers)
        await self._refresh()
        if "application/openmetrics-text" in request.headers.get("accept", "").lower():
            body, type = generate_openmetrics(_REGISTRY), OPENMETRICS  # type: ignore[no-untyped-call]
        else:
            body, type = generate_latest(_REGISTRY), TEXT
        return Response(body, headers={"Content-Type": type, "Cache-Control": "no-store"})


class _Collector:
    """Source of a registry: our metrics."""

    def collect(self) -> Iterator[Metric]:
        for item in metrics.METRICS:
            samples = [(list(values), list(numbers)) for values, numbers in sorted(item.samples.items())]
            if item.kind == "histogram":
                yield _histogram(item, samples)
                continue
            family = (CounterMetricFamily if item.kind == "counter" else GaugeMetricFamily)(
                item.name, item.help, labels=list(item.labels)
            )
            for values, (number,) in samples:
                family.add_metric(values, number)
            yield family


def _histogram(item: metrics.Metric, samples: list[tuple[list[str], list[float]]]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(item.name, item.help, labels=list(item.labels))
    bounds = [floatToGoString(bound) for bound in (*item.buckets, float("inf"))]  # type: ignore[no-untyped-call]
    for values, (*counts, total) in samples:
        family.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total)
    return family


_REGISTRY = CollectorRegistry()
_REGISTRY.register(_Collector())
ProcessCollector(registry=_REGISTRY)
