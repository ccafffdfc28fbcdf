"""The experiments of `scripts/faults`."""

from __future__ import annotations

from experiments import (
    clock_steps,
    destinations,
    effects,
    file_errors,
    flow,
    functions,
    journal_errors,
    kills,
    poison,
    polling,
    power,
    shutdown,
    sizes,
    storage,
    submits,
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
    *destinations.EXPERIMENTS,
    *effects.EXPERIMENTS,
    *poison.EXPERIMENTS,
    *functions.EXPERIMENTS,
    *sizes.EXPERIMENTS,
)

BESIDE = frozenset({"poison-handlers"})
"""These mostly wait, and measure nothing that the others would disturb."""
