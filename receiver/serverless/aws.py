"""AWS Lambda: two handlers on one event loop that stays warm from one invocation to the next.

Mangum turns a function URL's or API Gateway's event into a request of the application, and its answer back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from receiver.courier import BUDGET
from receiver.errors import require
from receiver.serverless.application import asgi

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]
"""What Lambda calls: (event, context) → answer."""

_TEXT = ["application/json", "application/problem+json", "text/plain"]
"""Media types of ours that need no Base64."""


def aws(*, budget: float = BUDGET, **settings: Any) -> tuple[Handler, Handler]:
    """The handlers of a function URL (or API Gateway, or a load balancer) and of a schedule::

        http, tick = aws(database="s3://acme/.receiver", to=["s3://acme/pictures"])

    Both may be handlers of one function or of two. How long an invocation may take is read from its context; give it
    at least 100 s more than `budget`, or nothing is sent again by itself.

    Args:
        budget: seconds a callback may be held to deliver what it brings.
        settings: single settings over those that are read from the environment and `receiver.toml`.

    Raises:
        SettingsError: a setting is wrong, or the extra `aws` is not installed.
    """
    require("mangum", extra="aws", why="AWS Lambda")
    from mangum import Mangum  # noqa: PLC0415 - an optional extra

    logging.getLogger("mangum").setLevel(logging.WARNING)  # it tells paths, which hold tokens
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # it asks for one
    application = asgi(budget=budget, **settings)
    adapter = Mangum(application, lifespan="off", text_mime_types=_TEXT)

    def http(event: dict[str, Any], context: Any) -> dict[str, Any]:
        asyncio.set_event_loop(loop)
        return adapter(event, context)

    def tick(event: dict[str, Any], context: Any) -> dict[str, Any]:
        asyncio.set_event_loop(loop)
        limit = context.get_remaining_time_in_millis() / 1000
        return dict(loop.run_until_complete(application.tick(limit)))

    return http, tick
