"""The provider: client, and reading of its answers. Only this package knows its HTTP."""

from receiver.provider.answers import OUTCOMES, Accepted, Outcome, read_submit
from receiver.provider.client import Provider
from receiver.provider.inspection import inspect

__all__ = ["OUTCOMES", "Accepted", "Outcome", "Provider", "inspect", "read_submit"]
