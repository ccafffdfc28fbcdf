"""The HTTP door to submissions: submit, follow, fetch. Without tokens in the settings it is not there."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.clock import Clock
from receiver.journal.base import Journal
from receiver.media import Store
from receiver.provider import Provider
from receiver.submissions import Submissions
from receiver.web.admission import Admission
from receiver.web.api.access import Access
from receiver.web.api.answers import Named, guarded
from receiver.web.api.reading import Reading
from receiver.web.api.streaming import HEARTBEAT, Streaming, Watch
from receiver.web.api.write_routes import MAX_BODY, WriteRoutes

__all__ = ["Api"]

MAX_WRITES = 100
MAX_WRITE_BYTES = 256 * 1024 * 1024
"""Of bodies that are being worked on; a body of unknown length counts as the largest one."""
WRITE_SECONDS = 180.0
"""Longer than a body, its pictures and the provider's answer may take one after the other."""


class Api:
    """The endpoints, for `create_app`.

    Args:
        tokens: name of a caller → its secret.
        submissions, journal, provider, store, clock: what they work with.
        watch: gives a submission now, and again after each change.
        admission: what callbacks wait in; while it is shut, nothing is written here either.
        heartbeat: seconds after which a silent stream says that it is there.
    """

    def __init__(
        self,
        *,
        tokens: Mapping[str, str],
        submissions: Submissions,
        journal: Journal,
        provider: Provider,
        store: Store,
        clock: Clock,
        watch: Watch,
        admission: Admission,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self._access = Access(tokens)
        self._admission = admission
        self._writes = Admission(
            None,
            most=MAX_WRITES,
            most_bytes=MAX_WRITE_BYTES,
            patience=WRITE_SECONDS,
            kept="It may have been kept: GET /submissions shows that, and the same Idempotency-Key finds it.",
        )
        self._making = WriteRoutes(submissions=submissions, journal=journal, provider=provider, clock=clock)
        self._reading = Reading(
            journal=journal,
            provider=provider,
            store=store,
            streaming=Streaming(journal, watch, heartbeat=heartbeat),
        )

    def routes(self) -> list[Route]:
        """In the order they are tried: `watch` is no submission's id."""
        making, reading = self._making, self._reading
        return [
            self._route("/uploads", post=making.upload),
            self._route("/submissions", get=reading.list, post=making.submit),
            self._route("/submissions/watch", post=making.watch),
            self._route("/submissions/{id}", get=reading.show),
            self._route("/submissions/{id}/events", get=reading.events),
            self._route("/submissions/{id}/media/{index}", get=reading.media),
            self._route("/submissions/{id}/seed", get=reading.seed),
            self._route("/submissions/{id}/actions", post=making.press),
            self._route("/submissions/{id}/modal", post=making.answer),
            self._route("/submissions/{id}/cancel", post=making.cancel),
        ]

    def _route(self, path: str, *, get: Named | None = None, post: Named | None = None) -> Route:
        answers = {method: answer for method, answer in (("GET", get), ("HEAD", get), ("POST", post)) if answer}

        async def answer(request: Request, caller: str) -> Response:
            if request.method != "POST":
                return await answers[request.method](request, caller)
            self._admission.check()
            with self._writes.enter(_length(request)):
                return await answers["POST"](request, caller)

        return Route(path, guarded(self._access, answer), methods=list(answers))


def _length(request: Request) -> int:
    """Bytes its body may have, at most."""
    text = request.headers.get("content-length", "")
    return min(int(text), MAX_BODY) if text.isascii() and text.isdigit() and len(text) < 19 else MAX_BODY
