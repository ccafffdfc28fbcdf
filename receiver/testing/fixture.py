"""The simulator as a pytest fixture."""

from collections.abc import Iterator

import pytest

from receiver.testing.serving import Simulated, simulating


@pytest.fixture
def simulator() -> Iterator[Simulated]:
    """A simulator without faults, for one test."""
    with simulating() as served:
        yield served
