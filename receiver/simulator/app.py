"""The simulator as one object: the provider's paths, keys and bytes over HTTP (PROTOCOL.md §1, §2)."""

import hmac
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from receiver.simulator import answers, profiles
from receiver.simulator.answers import Answer
from receiver.simulator.faults import Faults
from receiver.simulator.prompts import SIDE
from receiver.simulator.submits import ENDPOINTS, Submit, json_object, read
from receiver.simulator.tasks import View
from receiver.simulator.timeline import Clock
from receiver.simulator.world import CallbackSender, SentCallback, World

if TYPE_CHECKING:
    from receiver.simulator.pictures import File

_SPEED_PREFIX = re.compile(r"/mj-(fast|turbo|relax)/")


class _Prefix(StringConvertor):
    """Prefix of every path, with a speed or none. Base addresses may already end in /mj."""

    regex = "(?:mj/)?(?:mj-(?:fast|turbo|relax)/)?mj(?:/mj)?"


register_url_convertor("mj", _Prefix())

_GONE = Answer(404, {"error": "This content is no longer available."})


class Simulator:
    """CometAPI's Midjourney API without CometAPI: mount ``app`` under any ASGI server.

    The same seed and the same order of submits give the same run: timelines, faults and pictures. Only ids and times
    differ. ``submits`` holds the body of every submit received, ``endpoints`` the last part of its path, ``callbacks``
    every callback made, in order.

    Args:
        profile: Server whose quirks to show, one of `PROFILES`.
        speed: Simulated seconds per real second.
        faults: Active faults, any of `FAULTS`.
        key: The only key accepted. None accepts any key, and none.
        side: Width and height of a square picture, in pixels. Small ones are drawn ten times as fast.
        client: Client for the callbacks, which is not closed. None makes one of our own.

    Raises:
        ValueError: The profile or a fault is unknown, or the speed is not above 0.
        ImportError: Pillow is not installed.
    """

    def __init__(
        self,
        *,
        profile: str = "default",
        speed: float = 1.0,
        seed: int = 0,
        faults: Iterable[str] = (),
        key: str | None = None,
        side: int = SIDE,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        found = next((one for one in profiles.ALL_PROFILES if one.name == profile), None)
        if found is None:
            raise ValueError(f"Unknown simulator profile {profile!r}; there are {', '.join(profiles.PROFILES)}.")
        found = replace(found, side=side)
        active, clock = Faults(faults), Clock(speed)
        # Pillow is an optional extra, and FAULTS and PROFILES are available without it.
        from receiver.simulator.pictures import Gallery  # noqa: PLC0415

        self._gallery = Gallery(side)
        self._sender = CallbackSender(found, active, clock, client)
        self._world = World(found, active, clock, self._sender)
        self._faults = active
        self._seed = seed
        self._key = key
        self.submits: list[dict[str, Any]] = []
        self.endpoints: list[str] = []
        self.callbacks: list[SentCallback] = self._sender.sent

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            try:
                yield
            finally:
                await self.aclose()

        self.app = Starlette(routes=list(self._routes()), lifespan=lifespan)
        # The provider has its paths and no others, and a redirect is not among its known quirks.
        self.app.router.redirect_slashes = False

    @property
    def pictures(self) -> int:
        """Count of pictures and videos downloaded, previews included."""
        return self._gallery.served

    async def aclose(self) -> None:
        """Stop calling back. May be called twice."""
        await self._sender.aclose()

    def _routes(self) -> Iterator[Route]:
        for path in ENDPOINTS:
            yield Route(f"/{{prefix:mj}}{path}", partial(self._submit, path), methods=["POST"])
        world = self._world
        for method, name, answer in (
            ("POST", "list-by-condition", world.listed),
            ("POST", "list-by-ids", world.listed),
            ("GET", "list", world.every),
            ("GET", "queue", world.every),
            ("GET", "{task_id}/fetch", world.fetch),
            ("GET", "{task_id}/image-seed", world.image_seed),
            ("POST", "{task_id}/cancel", world.cancel),
        ):
            yield Route(f"/{{prefix:mj}}/task/{name}", partial(self._about, answer, name), methods=[method])
        yield Route("/{prefix:mj}/image/{task_id}", self._relayed_picture, methods=["GET"])
        for path in ("/attachments/{channel}/{message}/{name}", "/cdn/video/{job}/{name}", "/cdn/{job}/{name}"):
            yield Route(path, self._raw, methods=["GET"])

    async def _submit(self, path: str, request: Request) -> Response:
        return await self._response(self._received(path, request, await request.body()))

    def _received(self, path: str, request: Request, content: bytes) -> Answer:
        """Record one submit, an unreadable body as an empty one, and return its answer."""
        body, profile = json_object(content), self._world.profile
        self.submits.append(body or {})
        self.endpoints.append(path.rsplit("/", 1)[-1])
        if not self._authorized(request):
            return answers.unauthorized()
        fields = None if body is None else read(body, coerces=profile.coerces)
        if fields is None:
            return profile.unreadable()
        if len(fields.state or "") > profile.state_limit:
            return answers.validation(f"state is longer than {profile.state_limit} characters")
        if len(fields.notify_hook or "") > profile.hook_limit:
            return answers.validation(f"notifyHook is longer than {profile.hook_limit} characters")
        found, number = _SPEED_PREFIX.search(request.url.path), len(self.submits)
        speed = found[1] if found else None
        submit = Submit(self._world, fields, _address(request), speed, number, f"{self._seed}/{number}")
        order = ENDPOINTS[path](submit, fields)
        if isinstance(order, Answer):
            return order
        submit = replace(submit, order=order)
        answer = self._faults.answer(submit) or submit.accepted()
        action = submit.work.relay_action or submit.work.action
        return self._faults.apply("answered", profile.rewritten(answer, action))

    async def _about(self, answer: Callable[[Any, str], Answer], name: str, request: Request) -> Response:
        """Answer a query about tasks, or a cancel: by the id in the path, the ids in the body, or a list's name."""
        if not self._authorized(request):
            return await self._response(answers.unauthorized())
        wanted: Any = request.path_params.get("task_id", name)
        if wanted.startswith("list-by-"):
            # Some clients send numbers, some null.
            ids = (json_object(await request.body()) or {}).get("ids")
            wanted = map(str, ids) if isinstance(ids, list) else ()
        return await self._response(answer(wanted, _address(request)))

    def _authorized(self, request: Request) -> bool:
        """Compare the key, sent as ``Bearer k``, bare, or as ``mj-api-secret``."""
        key = request.headers.get("authorization", "").strip()
        if key[:7].lower() == "bearer ":
            key = key[7:].strip()
        key = key or request.headers.get("mj-api-secret", "").strip()
        return self._key is None or hmac.compare_digest(key.encode(), self._key.encode())

    async def _response(self, answer: Answer) -> Response:
        if answer.after:
            await self._world.clock.until(self._world.clock.now() + answer.after)
        if answer.body is None:
            return Response(status_code=answer.http)
        if isinstance(answer.body, str):
            return HTMLResponse(answer.body, answer.http)
        profile = self._world.profile
        headers = {"Content-Type": profile.content_type}
        return Response(profile.encode(answer.body), answer.http, headers=headers)

    async def _relayed_picture(self, request: Request) -> Response:
        """Serve without a key, chunked and without a length (PROTOCOL.md §2, §9)."""
        task = self._world.task(request.path_params["task_id"])
        if task is None:
            return await self._response(Answer(400, {"error": "midjourney_task_not_found"}))
        if not self._world.download():
            return await self._file(None)
        view = self._world.view(task, _address(request))
        if not view.succeeded:
            file = await self._preview(view)
        elif view.videos and view.profile.films_are_pictures:
            file = self._gallery.film(task, 0)
        else:
            file = await self._gallery.whole(task) if task.work.pictures else None
        if file is None:
            return await self._response(Answer(500, {"error": "http_get_image_failed"}))
        return StreamingResponse(iter((file.content,)), media_type=file.content_type)

    async def _raw(self, request: Request) -> Response:
        """Serve a raw Discord link: an upload, a picture or preview, one picture of a grid, or a video."""
        path, name = request.url.path, request.path_params["name"]
        upload, task = self._world.upload_in_link(path), self._world.task_in_link(path)
        file = None
        if not self._world.download():
            pass
        elif upload is not None:
            file = self._gallery.upload(upload)
        elif task is not None:
            view, number = self._world.live(task), re.fullmatch(r"(?:0_)?([0-3])(\.png|\.mp4|.+)", name)
            if path.startswith("/attachments/"):
                width = request.query_params.get("width", "")
                size = int(width) if re.fullmatch(r"[0-9]{1,4}", width) else None
                if name.endswith(".webp"):
                    file = await self._preview(view)
                elif name.endswith(".png") and view.succeeded and task.work.pictures:
                    file = await self._gallery.whole(task, size)
            elif number and path.startswith("/cdn/video/") and int(number[1]) < len(view.videos):
                film = number[2] == ".mp4"
                file = self._gallery.film(task, int(number[1])) if film else await self._gallery.whole(task, 640)
            elif number and view.succeeded and int(number[1]) < len(task.work.pictures):
                file = await self._gallery.tile(task, int(number[1]), small=number[2] != ".png")
        return await self._file(file)

    async def _preview(self, view: View) -> "File | None":
        if view.succeeded and view.task.work.pictures:
            # A preview link still works after the end, and shows the picture's last progress.
            return await self._gallery.preview(view.task, 93)
        return await self._gallery.preview(view.task, view.step.percent) if view.has_preview else None

    async def _file(self, file: "File | None") -> Response:
        if file is None:
            return await self._response(_GONE)
        return Response(file.content, media_type=file.content_type)


def _address(request: Request) -> str:
    return str(request.base_url).rstrip("/")
