"""The experiments of `scripts/faults`."""

from __future__ import annotations

from experiments import clock_steps, file_errors, journal_errors, kills, power, shutdown, storage, submits
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
)
