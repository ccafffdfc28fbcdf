"""The provider: what is sent to it, how its answers are read, and what they come to. Only this room knows its HTTP."""

from receiver.provider import requests
from receiver.provider.answers import Accepted, read_submit
from receiver.provider.checks import SPEEDS, check_prompt, check_speed, check_task_id, is_link
from receiver.provider.client import Provider
from receiver.provider.outcomes import OUTCOMES, Outcome
from receiver.provider.pictures import MAX_PICTURES, PictureField, with_pictures
from receiver.provider.reading import inspect
from receiver.provider.requests import PATHS, Request

__all__ = [
    "MAX_PICTURES",
    "OUTCOMES",
    "PATHS",
    "SPEEDS",
    "Accepted",
    "Outcome",
    "PictureField",
    "Provider",
    "Request",
    "check_prompt",
    "check_speed",
    "check_task_id",
    "inspect",
    "is_link",
    "read_submit",
    "requests",
    "with_pictures",
]
