"""The experiments of `scripts/faults`."""

from __future__ import annotations

from experiments import kills
from experiments.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (*kills.EXPERIMENTS,)
