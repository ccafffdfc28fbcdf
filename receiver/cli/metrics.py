"""`metrics`: a dashboard for Grafana and alert rules for Prometheus."""

from __future__ import annotations

from receiver.cli import group
from receiver.cli.output import say
from receiver.metrics import dashboard as files

metrics = group("metrics")


@metrics.command("dashboard")
def dashboard() -> None:
    """Print a Grafana dashboard, as JSON for its import."""
    say(files.dashboard())


@metrics.command("alerts")
def alerts() -> None:
    """Print alert rules for Prometheus, as YAML."""
    say(files.alerts().rstrip())
