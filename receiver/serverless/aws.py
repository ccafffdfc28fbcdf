"""AWS Lambda: two handlers on one event loop, which stays open from one invocation to the next.

Mangum translates the event of a function URL or API Gateway into an ASGI request, and the answer back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from receiver.courier import BUDGET
from receiver.extras import require
from receiver.serverless.application import asgi

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]
"""A Lambda handler: (event, context) → answer."""

_TEXT = ["application/json", "application/problem+json", "text/plain"]
"""Our media types that need no Base64."""


def aws(*, budget: float = BUDGET, **settings: Any) -> tuple[Handler, Handler]:
    """Return the handlers of a function URL (or API Gateway, or a load balancer) and of a schedule::

        http, tick = aws(database="s3://acme/.receiver", to=["s3://acme/pictures"])

    Both may be handlers of one function or of two. The time limit is read from the context of each invocation. Set it
    to at least 100 s more than `budget`, or nothing is sent again automatically.

    Args:
        budget: seconds a callback may be held to deliver what it brings.
        settings: single settings, which override the environment and `receiver.toml`.

    Raises:
        SettingsError: a setting is wrong, or the extra `aws` is not installed.
    """
    require("mangum", extra="aws", why="AWS Lambda")
    from mangum import Mangum  # noqa: PLC0415 - an optional extra

    logging.getLogger("mangum").setLevel(logging.WARNING)  # it logs paths, which hold tokens
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # Mangum asks for one
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
