"""`Simulator`: the provider as one object, put together from its parts."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette

from receiver.simulator import profiles
from receiver.simulator.callbacks import CallbackSender, SentCallback
from receiver.simulator.clock import Clock
from receiver.simulator.faults import Faults
from receiver.simulator.gallery import Gallery
from receiver.simulator.reception import Reception
from receiver.simulator.routes import Routes
from receiver.simulator.world import World


class Simulator:
    """CometAPI's Midjourney API without CometAPI: mount ``app`` under any ASGI server.

    The same seed and the same order of submits give the same run: courses, faults and pictures; only ids and
    times differ.

    Args:
        profile: Whose quirks to show, one of `PROFILES`.
        speed: How many simulated seconds pass in a real one.
        seed: Decides everything that would else be left to chance.
        faults: What shall go wrong, any of `FAULTS`.
        key: The only key accepted; None accepts any, and none.
        client: Makes the callbacks; one of our own if None. It is not closed by us.

    Raises:
        ValueError: The profile or a fault is unknown, or the speed is not above 0.
        ImportError: Pillow is not installed.

    Attributes:
        app: The ASGI application; its lifespan ends with `aclose`.
    """

    def __init__(
        self,
        *,
        profile: str = "default",
        speed: float = 1.0,
        seed: int = 0,
        faults: Iterable[str] = (),
        key: str | None = None,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        found, wrong, clock = profiles.find(profile), Faults(faults), Clock(speed)
        self._gallery = Gallery()
        self._sender = CallbackSender(found, wrong, clock, client)
        world = World(found, wrong, clock, self._sender)
        self._reception = Reception(world, wrong, seed)
        routes = Routes(world, self._reception, self._gallery, key)
        self.app = Starlette(routes=list(routes.table()), lifespan=self._lifespan)
        # The provider has its paths and no others; a redirect would be one more quirk, and none we know of.
        self.app.router.redirect_slashes = False

    @property
    def submits(self) -> list[dict[str, Any]]:
        """The body of every submit received, in order, also of those answered with an error."""
        return self._reception.submits

    @property
    def endpoints(self) -> list[str]:
        """Where each of `submits` was sent, by the last part of its path: ``imagine``, ``action``, ``modal``."""
        return self._reception.endpoints

    @property
    def callbacks(self) -> list[SentCallback]:
        """Every callback made, in order."""
        return self._sender.sent

    @property
    def pictures(self) -> int:
        """How many pictures and videos were downloaded, previews included."""
        return self._gallery.served

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop calling back and let go of everything; may be called twice."""
        await self._sender.aclose()
        await self._gallery.aclose()
