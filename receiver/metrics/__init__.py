"""Metrics: numbers of this process, for Prometheus.

Every metric is declared here once. Code that knows a fact calls `add`, `observe` or `replace` of its metric, which does
nothing until `switch_on`. Labels come from closed sets: those written here, or the names of destinations.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import product
from typing import Literal

Values = tuple[str, ...]
"""Values of a metric's labels, in the order of its labels."""

OTHER = "other"
"""Value of a label for one that is not in its set."""
FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
LONG = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)
"""Upper bounds of buckets, in seconds."""

door: ContextVar[str] = ContextVar("door", default="program")
"""The way in which the current submission came: see `SUBMISSIONS`."""
counting = False
"""True after `switch_on`. The hottest paths look at it before they call anything here."""
_lock = threading.Lock()
METRICS: list[Metric] = []
"""All metrics, in the order of their declaration."""


class Metric:
    """One metric. Its name has its base unit at the end, and a counter gets `_total` when it is shown.

    Attributes:
        kind: counter, gauge or histogram.
        name: of the family, without `_total`.
        help: a sentence.
        labels: name → closed set of values. An empty set stands for the names of destinations.
        buckets: upper bounds of a histogram.
        samples: by values of the labels: a number, or for a histogram the count of each bucket and the sum.
    """

    def __init__(
        self,
        kind: Literal["counter", "gauge", "histogram"],
        name: str,
        help: str,
        /,
        *,
        buckets: tuple[float, ...] = (),
        **labels: tuple[str, ...],
    ) -> None:
        self.kind, self.name, self.help, self.buckets, self.labels = kind, name, help, buckets, labels
        self.samples: dict[Values, list[float]] = {}
        METRICS.append(self)

    @property
    def shown_name(self) -> str:
        """The name as `/metrics` and queries have it."""
        return f"{self.name}_total" if self.kind == "counter" else self.name

    def add(self, *values: str, amount: float = 1) -> None:
        """Add to a counter."""
        if counting:
            with _lock:
                self._sample(values)[0] += amount

    def observe(self, seconds: float, *values: str) -> None:
        """Take one duration into a histogram."""
        if counting:
            with _lock:
                sample = self._sample(values)
                sample[bisect_left(self.buckets, seconds)] += 1
                sample[-1] += seconds

    def replace(self, samples: Mapping[Values, float]) -> None:
        """Set a gauge, and forget the values it had for other labels."""
        with _lock:
            self.samples = {self._closed(values): [number] for values, number in samples.items()}

    def _sample(self, values: Values) -> list[float]:
        sample = self.samples.get(values)
        if sample is None:
            values = self._closed(values)
            # A bucket for what exceeds the last bound, and the sum.
            sample = self.samples.setdefault(values, [0.0] * (len(self.buckets) + 2 if self.buckets else 1))
        return sample

    def _closed(self, values: Values) -> Values:
        pairs = zip(values, self.labels.values(), strict=True)
        return tuple([value if not known or value in known else OTHER for value, known in pairs])


def switch_on() -> None:
    """Begin to count in this process. Counters with one closed label, or none, begin at 0."""
    global counting  # noqa: PLW0603 - counters are of a process, as loggers are
    counting = True
    for metric in METRICS:
        if metric.kind != "gauge" and len(metric.labels) <= 1 and () not in metric.labels.values():
            for values in product(*metric.labels.values()):
                metric.add(*values, amount=0)


def callback_answered(status: int) -> None:
    """Count a callback by the status of its answer."""
    CALLBACKS.add(_RESULTS.get(status) or ("refused" if status < 500 else "failed"))


def committed(changes: int, since: float) -> None:
    """Count a transaction of the journal that began at `since` of `time.perf_counter`."""
    COMMITS.observe(time.perf_counter() - since)
    CHANGES.add(amount=changes)


_RESULTS = {200: "accepted", 202: "kept", 401: "unsigned", 429: "limited", 503: "unavailable"}
_STATUSES = (
    "prepared", "sending", "accepted", "refused", "unknown", "in_progress", "input_required", "succeeded", "failed",
    "lost",
)  # fmt: skip
_KINDS = ("imagine", "blend", "describe", "shorten", "video", "edits", "swap", "upload", "modal", "action", "change")
_OUTCOMES = (
    "accepted", "queued", "modal", "queue_full", "banned_word", "no_account", "validation", "quota", "rate_limited",
    "no_channel", "unauthorized", "turned_away", "not_found", "not_ready", "failed", "unsupported", "wrong_address",
    "ambiguous", "unreachable",
)  # fmt: skip
_ENDS = ("task.succeeded", "task.failed", "task.lost")
_SOURCES = ("submit", "callback", "poll", "deadline", "engine")
_ATTEMPTS = ("succeeded", "failed", "rejected", "postponed", "interrupted", "refused")
_QUESTIONS = ("submit", "fetch", "list", "seed", "cancel")
_ANSWERS = ("2xx", "3xx", "4xx", "5xx", "timeout", "broken")

BUILD = Metric("gauge", "receiver_build_info", "Always 1. The label is the version.", version=())
CALLBACKS = Metric(
    "counter",
    "receiver_callbacks",
    "Callbacks that were answered. `accepted` is 200, `kept` 202 (the provider is asked), `unsigned` 401, `limited` "
    "429, `unavailable` 503, `refused` any other below 500, `failed` any other.",
    result=(*_RESULTS.values(), "refused", "failed"),
)
CALLBACK_SECONDS = Metric(
    "histogram",
    "receiver_callback_commit_seconds",
    "Time of a verified callback until it was committed.",
    buckets=FAST,
)
SUBMISSIONS = Metric(
    "counter",
    "receiver_submissions",
    "Requests sent for submissions, by the provider's answer. The door is the HTTP API, the page, this program "
    "(Python or a command), or the engine, which sends again and presses buttons.",
    kind=_KINDS,
    door=("http", "page", "program", "engine"),
    outcome=_OUTCOMES,
)
REQUESTS = Metric(
    "counter",
    "receiver_provider_requests",
    "Requests to the provider, by question and answer.",
    request=_QUESTIONS,
    answer=_ANSWERS,
)
REQUEST_SECONDS = Metric(
    "histogram",
    "receiver_provider_request_seconds",
    "Time of a request to the provider.",
    buckets=SLOW,
    request=_QUESTIONS,
)
ENDS = Metric(
    "counter",
    "receiver_tasks_ended",
    "Terminal events, by the source that told them first. A failure that a success supersedes counts as both.",
    event=_ENDS,
    source=_SOURCES,
)
TASK_SECONDS = Metric(
    "histogram",
    "receiver_task_seconds",
    "Time from a submission to its terminal event.",
    buckets=LONG,
    event=_ENDS,
)
ARCHIVED = Metric(
    "counter",
    "receiver_archive_files",
    "Downloads of files of results. `lost` is given up, `failed` is tried again.",
    outcome=("archived", "failed", "lost"),
)
ARCHIVED_BYTES = Metric("counter", "receiver_archive_bytes", "Bytes of archived files.")
ARCHIVE_SECONDS = Metric("histogram", "receiver_archive_seconds", "Time of one download, with retries.", buckets=SLOW)
ATTEMPTS = Metric(
    "counter",
    "receiver_attempts",
    "Attempts at deliveries, by their end. `refused` came too late: another engine has the delivery.",
    destination=(),
    outcome=_ATTEMPTS,
)
ATTEMPT_SECONDS = Metric("histogram", "receiver_attempt_seconds", "Time of one attempt.", buckets=SLOW, destination=())
LAG = Metric(
    "histogram",
    "receiver_delivery_lag_seconds",
    "Time from an event to its successful delivery, without replays by a person.",
    buckets=LONG,
    destination=(),
)
COMMITS = Metric(
    "histogram", "receiver_journal_commit_seconds", "Time of one transaction of the journal.", buckets=FAST
)
CHANGES = Metric("counter", "receiver_journal_changes", "Changes that these transactions held.")
LOOP_DELAY = Metric(
    "histogram",
    "receiver_event_loop_delay_seconds",
    "Delay of a timer of the event loop, measured about once a second while the engine runs.",
    buckets=FAST,
)
DISK_FREE = Metric("gauge", "receiver_disk_free_bytes", "Free bytes of the disk of a folder.", place=("data", "media"))
DISK_SIZE = Metric("gauge", "receiver_disk_size_bytes", "Size of the disk of a folder.", place=("data", "media"))

# Snapshot of the journal, which the leader takes

TASKS = Metric("gauge", "receiver_journal_submissions", "Submissions in the journal.", status=_STATUSES)
DELIVERIES = Metric(
    "gauge",
    "receiver_journal_deliveries",
    "Open and dead deliveries in the journal.",
    destination=(),
    status=("pending", "running", "dead"),
)
OLDEST = Metric(
    "gauge",
    "receiver_journal_oldest_due_seconds",
    "Time since the oldest pending delivery became due. 0 if none is due.",
    destination=(),
)
PAUSED = Metric("gauge", "receiver_destination_paused", "1 while a destination is paused, else 0.", destination=())
ENGINES = Metric("gauge", "receiver_journal_engines", "Engines that run on the journal.")
AGE = Metric("gauge", "receiver_journal_snapshot_age_seconds", "Age of the numbers of the journal.")
SNAPSHOT = (TASKS, DELIVERIES, OLDEST, PAUSED, ENGINES, AGE)
"""Gauges that only the leader shows, so that a sum over processes counts nothing twice."""
