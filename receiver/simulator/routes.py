"""The HTTP side: paths, keys and bytes (PROTOCOL.md §1, §2)."""

import hmac
from collections.abc import AsyncIterator, Iterator, Sized
from functools import partial

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from receiver.simulator import answers, requests
from receiver.simulator.answers import Answer
from receiver.simulator.gallery import Gallery, Picture
from receiver.simulator.reception import Origin, Reception
from receiver.simulator.submits import ENDPOINTS
from receiver.simulator.tasks import Task, View
from receiver.simulator.world import World

_CHUNK = 65_536
_GONE = answers.picture_error("This content is no longer available.", 404)


class Routes:
    """One method for each path; the world knows the answers, the gallery the pictures."""

    def __init__(self, world: World, reception: Reception, gallery: Gallery, key: str | None) -> None:
        self._world = world
        self._reception = reception
        self._gallery = gallery
        self._key = key

    def table(self) -> Iterator[Route]:
        """Every route, under every prefix clients use."""
        for prefix in requests.PREFIXES:
            for name, endpoint in ENDPOINTS.items():
                yield Route(f"{prefix}{endpoint.path}", partial(self.submit, name), methods=["POST"])
            yield Route(f"{prefix}/task/{{task_id}}/fetch", self.fetch, methods=["GET"])
            yield Route(f"{prefix}/task/list-by-condition", self.listed, methods=["POST"])
            yield Route(f"{prefix}/task/list-by-ids", self.listed, methods=["POST"])
            yield Route(f"{prefix}/task/{{task_id}}/image-seed", self.image_seed, methods=["GET"])
            yield Route(f"{prefix}/task/{{task_id}}/cancel", self.cancel, methods=["POST"])
            yield Route(f"{prefix}/image/{{task_id}}", self.relayed_picture, methods=["GET"])
        yield Route("/attachments/{channel}/{message}/{name}", self.attachment, methods=["GET"])
        yield Route("/cdn/video/{job}/{name}", self.video, methods=["GET"])
        yield Route("/cdn/{job}/{name}", self.single_picture, methods=["GET"])

    async def submit(self, name: str, request: Request) -> Response:
        """POST …/submit/NAME."""
        content = await request.body()
        authorized = self._authorized(request)
        answer = self._reception.submit(name, content, _origin(request), authorized=authorized)
        return await self._later(answer)

    async def fetch(self, request: Request) -> Response:
        """GET …/task/{id}/fetch; a body, which some clients send, is ignored."""
        if not self._authorized(request):
            return self._response(answers.unauthorized())
        return self._response(self._world.fetch(request.path_params["task_id"], _address(request)))

    async def listed(self, request: Request) -> Response:
        """POST …/task/list-by-condition."""
        if not self._authorized(request):
            return self._response(answers.unauthorized())
        return self._response(self._world.listed(requests.ids(await request.body()), _address(request)))

    async def image_seed(self, request: Request) -> Response:
        """GET …/task/{id}/image-seed."""
        if not self._authorized(request):
            return self._response(answers.unauthorized())
        return await self._later(self._world.image_seed(request.path_params["task_id"]))

    async def cancel(self, request: Request) -> Response:
        """POST …/task/{id}/cancel."""
        if not self._authorized(request):
            return self._response(answers.unauthorized())
        return self._response(self._world.cancel(request.path_params["task_id"]))

    async def relayed_picture(self, request: Request) -> Response:
        """GET …/image/{id}: open to anybody, chunked, no length promised (PROTOCOL.md §2, §9)."""
        task = self._world.task(request.path_params["task_id"])
        if task is None:
            return self._response(answers.picture_error("midjourney_task_not_found", 400))
        if not self._world.download():
            return self._response(_GONE)
        picture = await self._picture(self._world.view(task, _address(request)))
        if picture is None:
            return self._response(answers.picture_error("http_get_image_failed", 500))
        return StreamingResponse(_chunks(picture.content), media_type=picture.content_type)

    async def attachment(self, request: Request) -> Response:
        """GET a raw link as Discord makes them; ``width`` asks for a smaller one."""
        name = request.path_params["name"]
        upload, view = self._world.upload_in_link(name), self._linked(name)
        if not self._world.download() or (upload is None and view is None):
            return self._response(_GONE)
        if upload is not None:
            return _picture_response(self._gallery.upload(upload))
        return await self._attached(view, name, _width(request)) if view else self._response(_GONE)

    async def _attached(self, view: View, name: str, width: int | None) -> Response:
        if name.endswith(".png") and view.succeeded and view.task.work.shots:
            return _picture_response(await self._gallery.whole(view.task, width))
        preview = await self._preview(view) if name.endswith(".webp") else None
        return _picture_response(preview) if preview else self._response(_GONE)

    async def single_picture(self, request: Request) -> Response:
        """GET one of the pictures of a finished task."""
        name = request.path_params["name"]
        view = self._linked(request.path_params["job"])
        if not self._world.download() or view is None or not view.succeeded:
            return self._response(_GONE)
        if name[:3] not in {f"0_{n}" for n in range(len(view.task.work.shots))}:
            return self._response(_GONE)
        return _picture_response(await self._gallery.tile(view.task, int(name[2]), small=name[3:] != ".png"))

    async def video(self, request: Request) -> Response:
        """GET one of the videos of a finished task, or a small picture of it."""
        name = request.path_params["name"]
        view = self._linked(request.path_params["job"])
        if not self._world.download() or view is None or name[:1] not in _numbers(view.videos):
            return self._response(_GONE)
        if name[1:] != ".mp4":
            return _picture_response(await self._gallery.whole(view.task, 640))
        return _picture_response(await self._gallery.film(view.task, int(name[0])))

    async def _picture(self, view: View) -> Picture | None:
        if not view.succeeded:
            return await self._preview(view)
        if view.videos and view.films_are_pictures:
            return await self._gallery.film(view.task, 0)
        return await self._gallery.whole(view.task) if view.task.work.shots else None

    async def _preview(self, view: View) -> Picture | None:
        if view.succeeded and view.task.work.shots:
            # A preview link goes on working after the end; it shows how far the picture had come.
            return await self._gallery.preview(view.task, 93)
        return await self._gallery.preview(view.task, view.step.percent) if view.has_preview else None

    def _linked(self, link: str) -> View | None:
        task: Task | None = self._world.task_in_link(link)
        return self._world.live(task) if task else None

    def _authorized(self, request: Request) -> bool:
        return self._key is None or hmac.compare_digest(requests.key(request.headers).encode(), self._key.encode())

    async def _later(self, answer: Answer) -> Response:
        """The answer when its time has come."""
        if answer.after:
            await self._world.clock.until(self._world.clock.now() + answer.after)
        return self._response(answer)

    def _response(self, answer: Answer) -> Response:
        if answer.body is answers.NOTHING:
            return Response(status_code=answer.http)
        if isinstance(answer.body, answers.Page):
            return HTMLResponse(answer.body, answer.http)
        profile = self._world.profile
        content = profile.encode(answer.body)
        return Response(content, answer.http, headers={"Content-Type": profile.content_type})


def _numbers(links: Sized) -> set[str]:
    return {str(number) for number in range(len(links))}


def _picture_response(picture: Picture) -> Response:
    return Response(picture.content, media_type=picture.content_type)


def _origin(request: Request) -> Origin:
    return Origin(_address(request), requests.speed_prefix(request.url.path))


def _address(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _width(request: Request) -> int | None:
    text = request.query_params.get("width", "")
    return int(text) if text.isdigit() and 0 < len(text) < 5 else None


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]
