"""Text of the metrics, in the formats of Prometheus and OpenMetrics. The only module that needs `prometheus-client`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import CollectorRegistry
from prometheus_client.utils import floatToGoString

from receiver import metrics

TEXT = "text/plain; version=0.0.4; charset=utf-8"


def text_of(accept: str) -> tuple[bytes, str]:
    """Return all metrics and their media type: OpenMetrics if the `Accept` header names it, else Prometheus' text."""
    if "application/openmetrics-text" in accept.lower():
        return generate_openmetrics(_REGISTRY), OPENMETRICS  # type: ignore[no-untyped-call]
    return generate_latest(_REGISTRY), TEXT


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
