"""A Grafana dashboard of the metrics, and the file of alert rules."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

_RATE = "[$__rate_interval]"
Panel = tuple[str, str, dict[str, str]]
"""Title, unit of Grafana, and query → legend."""


def _quantiles(name: str, by: str = "") -> dict[str, str]:
    """Return queries for the median and the slowest hundredth of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return {
        f"histogram_quantile({at}, sum by ({labels}) (rate({name}_bucket{_RATE})))": f"{word}{legend}"
        for at, word in ((0.5, "median"), (0.99, "99 %"))
    }


def _rate(name: str, *by: str) -> dict[str, str]:
    """Return the query for a counter's rate by labels."""
    return {f"sum by ({', '.join(by)}) (rate({name}_total{_RATE}))": " ".join(f"{{{{{label}}}}}" for label in by)}


ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        ("Under way", "short", {'sum(receiver_journal_submissions{status=~"accepted|in_progress"})': ""}),
        ("Owed", "short", {'sum(receiver_journal_deliveries{status=~"pending|running"})': ""}),
        ("Oldest delivery due", "s", {"max(receiver_journal_oldest_due_seconds)": ""}),
        ("Dead deliveries", "short", {'sum(receiver_journal_deliveries{status="dead"})': ""}),
        ("Paused destinations", "short", {"sum(receiver_destination_paused)": ""}),
        ("Disk free", "percentunit", {"min(receiver_disk_free_bytes / receiver_disk_size_bytes)": ""}),
        ("Engines", "short", {"max(receiver_journal_engines)": ""}),
        ("Age of these numbers", "s", {"max(receiver_journal_snapshot_age_seconds)": ""}),
    ),
    "Tasks": (
        ("Submissions by outcome", "ops", _rate("receiver_submissions", "kind", "door", "outcome")),
        ("Ends by source", "ops", _rate("receiver_tasks_ended", "event", "source")),
        ("Time to the end", "s", _quantiles("receiver_task_seconds", "event")),
        ("Submissions in the journal", "short", {"sum by (status) (receiver_journal_submissions)": "{{status}}"}),
    ),
    "Provider": (
        ("Callbacks by result", "ops", _rate("receiver_callbacks", "result")),
        ("Time of a callback's commit", "s", _quantiles("receiver_callback_commit_seconds")),
        ("Requests by answer", "reqps", _rate("receiver_provider_requests", "request", "answer")),
        ("Time of a request", "s", _quantiles("receiver_provider_request_seconds", "request")),
    ),
    "Files": (
        ("Downloads", "ops", _rate("receiver_archive_files", "outcome")),
        ("Bytes archived", "Bps", {f"sum(rate(receiver_archive_bytes_total{_RATE}))": "archived"}),
        ("Time of a download", "s", _quantiles("receiver_archive_seconds")),
    ),
    "Deliveries": (
        ("Attempts", "ops", _rate("receiver_attempts", "destination", "outcome")),
        ("From event to delivery", "s", _quantiles("receiver_delivery_lag_seconds", "destination")),
        ("Time of an attempt", "s", _quantiles("receiver_attempt_seconds", "destination")),
        (
            "Deliveries in the journal",
            "short",
            {"sum by (destination, status) (receiver_journal_deliveries)": "{{destination}} {{status}}"},
        ),
    ),
    "Process": (
        (
            "Transactions",
            "ops",
            {
                f"sum(rate(receiver_journal_commit_seconds_count{_RATE}))": "commits",
                f"sum(rate(receiver_journal_changes_total{_RATE}))": "changes",
            },
        ),
        ("Time of a transaction", "s", _quantiles("receiver_journal_commit_seconds")),
        ("Delay of the event loop", "s", _quantiles("receiver_event_loop_delay_seconds", "instance")),
        (
            "CPU",
            "percentunit",
            {f"rate(process_cpu_seconds_total{_RATE}) * on (instance) receiver_build_info": "{{instance}}"},
        ),
        ("Memory", "bytes", {"process_resident_memory_bytes * on (instance) receiver_build_info": "{{instance}}"}),
    ),
}
"""The panels by row. The first row shows single numbers."""


def dashboard() -> str:
    """Return the dashboard as JSON, for Grafana's import."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row, members in ROWS.items():
        panels.append({"type": "row", "title": row, "gridPos": _place(0, top, 24, 1), "panels": []})
        top += 1
        single = row == "Now"
        width, height = (3, 4) if single else (24 // len(members) if len(members) < 5 else 8, 8)
        for number, (title, unit, queries) in enumerate(members):
            left, down = number * width % 24, number * width // 24 * height
            panels.append(
                {
                    "type": "stat" if single else "timeseries",
                    "title": title,
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "gridPos": _place(left, top + down, width, height),
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                    "targets": [
                        {"refId": chr(65 + at), "expr": query, "legendFormat": legend}
                        for at, (query, legend) in enumerate(queries.items())
                    ],
                }
            )
        top += -(-len(members) * width // 24) * height
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    return json.dumps(
        {
            "title": "Receiver",
            "uid": "receiver",
            "tags": ["receiver"],
            "schemaVersion": 39,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "templating": {"list": [source]},
            "panels": panels,
        },
        indent=2,
    )


def _place(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def alerts() -> str:
    """Return the alert rules as YAML, for Prometheus."""
    return files("receiver").joinpath("metrics", "alerts.yml").read_text(encoding="utf-8")
