"""The experiments of `scripts/faults`."""

from __future__ import annotations

from experiments import (
    bounds,
    clock_steps,
    destinations,
    effects,
    file_errors,
    flow,
    functions,
    hostile_pictures,
    journal_errors,
    kills,
    members,
    poison,
    polling,
    postgres,
    power,
    results,
    shutdown,
    sizes,
    storage,
    submits,
    trust,
)
from experiments.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    *kills.EXPERIMENTS,
    *power.EXPERIMENTS,
    *journal_errors.EXPERIMENTS,
    *file_errors.EXPERIMENTS,
    *storage.EXPERIMENTS,
    *shutdown.EXPERIMENTS,
    *submits.EXPERIMENTS,
    *clock_steps.EXPERIMENTS,
    *flow.EXPERIMENTS,
    *polling.EXPERIMENTS,
    *results.EXPERIMENTS,
    *destinations.EXPERIMENTS,
    *effects.EXPERIMENTS,
    *poison.EXPERIMENTS,
    *bounds.EXPERIMENTS,
    *trust.EXPERIMENTS,
    *hostile_pictures.EXPERIMENTS,
    *functions.EXPERIMENTS,
    *sizes.EXPERIMENTS,
    *postgres.EXPERIMENTS,
    *members.EXPERIMENTS,
)

BESIDE: tuple[tuple[str, ...], ...] = (
    ("postgres-kills", "postgres-leader", "clock-steps", "function-killed"),
    ("postgres-cut-off", "postgres-crashes", "dead-link", "answer-lost", "provider-outage", "locked"),
    ("poison-handlers", "postgres-crowded", "postgres-slow", "postgres-poison-rows"),
)
"""Experiments that mostly wait and measure nothing. Each row runs in another process beside the rest."""
