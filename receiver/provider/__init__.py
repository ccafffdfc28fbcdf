"""The provider: what is sent to it, how its answers are read, and what they come to. Only this room knows its HTTP."""

from receiver.provider.answers import Accepted, read_submit
from receiver.provider.client import Provider
from receiver.provider.outcomes import OUTCOMES, Outcome
from receiver.provider.reading import inspect
from receiver.provider.requests import SPEEDS, check_prompt, check_speed, imagine_body

__all__ = [
    "OUTCOMES",
    "SPEEDS",
    "Accepted",
    "Outcome",
    "Provider",
    "check_prompt",
    "check_speed",
    "imagine_body",
    "inspect",
    "read_submit",
]
