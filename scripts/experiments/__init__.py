"""The experiments of `scripts/faults`."""

from __future__ import annotations

from experiments.base import Experiment

EXPERIMENTS: tuple[Experiment, ...] = ()
