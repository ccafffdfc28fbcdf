"""The HTTP side: paths, keys and bytes (PROTOCOL.md §1, §2)."""

import hmac
from collections.abc import AsyncIterator, Iterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from receiver.simulator import answers, requests
from receiver.simulator.answers import Answer
from receiver.simulator.gallery import Gallery, Picture
from receiver.simulator.tasks import Task, View
from receiver.simulator.world import Origin, World

_CHUNK = 65_536
_GONE = answers.picture_error("This content is no longer available.", 404)


class Routes:
    """One method for each path; the world knows the answers, the gallery the pictures."""

    def __init__(self, world: World, gallery: Gallery, key: str | None) -> None:
        self._world = world
        self._gallery = gallery
        self._key = key

    def table(self) -> Iterator[Route]:
        """Every route, under every prefix clients use."""
        for prefix in requests.PREFIXES:
            yield Route(f"{prefix}/submit/imagine", self.imagine, methods=["POST"])
            yield Route(f"{prefix}/task/{{task_id}}/fetch", self.fetch, methods=["GET"])
            yield Route(f"{prefix}/task/list-by-condition", self.listed, methods=["POST"])
            yield Route(f"{prefix}/task/list-by-ids", self.listed, methods=["POST"])
            yield Route(f"{prefix}/image/{{task_id}}", self.relayed_picture, methods=["GET"])
        yield Route("/attachments/{channel}/{message}/{name}", self.attachment, methods=["GET"])
        yield Route("/cdn/{job}/{name}", self.single_picture, methods=["GET"])

    async def imagine(self, request: Request) -> Response:
        """POST …/submit/imagine."""
        content = await request.body()
        authorized = self._authorized(request)
        return self._response(self._world.imagine(content, _origin(request), authorized=authorized))

    async def fetch(self, request: Request) -> Response:
        """GET …/task/{id}/fetch; a body, which some clients send, is ignored."""
        if not self._authorized(request):
            return self._response(answers.unauthorized())
        return self._response(self._world.fetch(request.path_params["task_id"], _origin(request)))

    async def listed(self, request: Request) -> Response:
        """POST …/task/list-by-condition."""
        if not self._authorized(request):
            return self._response(answers.unauthorized())
        return self._response(self._world.listed(requests.ids(await request.body()), _origin(request)))

    async def relayed_picture(self, request: Request) -> Response:
        """GET …/image/{id}: open to anybody, chunked, no length promised (PROTOCOL.md §2, §9)."""
        task = self._world.task(request.path_params["task_id"])
        if task is None:
            return self._response(answers.picture_error("midjourney_task_not_found", 400))
        picture = await self._picture(self._world.view(task, _origin(request)))
        if picture is None:
            return self._response(answers.picture_error("http_get_image_failed", 500))
        return StreamingResponse(_chunks(picture.content), media_type=picture.content_type)

    async def attachment(self, request: Request) -> Response:
        """GET a raw link as Discord makes them; ``width`` asks for a smaller one."""
        name = request.path_params["name"]
        view = self._linked(name)
        if view is None:
            return self._response(_GONE)
        if name.endswith(".png") and view.succeeded:
            return _picture_response(await self._gallery.grid(view.task, _width(request)))
        preview = await self._preview(view) if name.endswith(".webp") else None
        return _picture_response(preview) if preview else self._response(_GONE)

    async def single_picture(self, request: Request) -> Response:
        """GET one of the four pictures of a finished grid."""
        name = request.path_params["name"]
        view = self._linked(request.path_params["job"])
        if view is None or not view.succeeded or name[:3] not in {"0_0", "0_1", "0_2", "0_3"}:
            return self._response(_GONE)
        return _picture_response(await self._gallery.tile(view.task, int(name[2]), small=name[3:] != ".png"))

    async def _picture(self, view: View) -> Picture | None:
        return await self._gallery.grid(view.task) if view.succeeded else await self._preview(view)

    async def _preview(self, view: View) -> Picture | None:
        if view.succeeded:
            # A preview link goes on working after the end; it shows how far the picture had come.
            return await self._gallery.preview(view.task, 93)
        return await self._gallery.preview(view.task, view.step.percent) if view.has_preview else None

    def _linked(self, link: str) -> View | None:
        task: Task | None = self._world.task_in_link(link)
        return self._world.live(task) if task else None

    def _authorized(self, request: Request) -> bool:
        return self._key is None or hmac.compare_digest(requests.key(request.headers).encode(), self._key.encode())

    def _response(self, answer: Answer) -> Response:
        if answer.body is answers.NOTHING:
            return Response(status_code=answer.http)
        profile = self._world.profile
        content = profile.encode(answer.body)
        return Response(content, answer.http, headers={"Content-Type": profile.content_type})


def _picture_response(picture: Picture) -> Response:
    return Response(picture.content, media_type=picture.content_type)


def _origin(request: Request) -> Origin:
    return Origin(str(request.base_url).rstrip("/"), requests.speed_prefix(request.url.path))


def _width(request: Request) -> int | None:
    text = request.query_params.get("width", "")
    return int(text) if text.isdigit() and 0 < len(text) < 5 else None


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]
