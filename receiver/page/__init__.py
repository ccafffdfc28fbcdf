"""The page: pictures and deliveries in one place, rendered on the server, live through one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

from starlette.datastructures import FormData, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, compile_path

from receiver import metrics
from receiver.errors import InputError, MediaError, NotFound, ReceiverError, Refused
from receiver.events import Media, Submission
from receiver.page import actions
from receiver.page.access import COOKIE, COOKIE_SECONDS, Access, Role, User, is_ours
from receiver.page.live import Live
from receiver.page.render import FOLDER, HEADERS, answer, partials, regions
from receiver.page.views import VIEWS, Look, Sources, View
from receiver.telemetry import Log
from receiver.web.admission import BodyLimits
from receiver.web.api.responses import clean
from receiver.web.problems import Problem
from receiver.web.streams import EventStream

__all__ = ["Page", "Sources"]

log = Log("receiver.page")

MAX_FORM = 48 * 2**20
"""Bytes of a form with pictures."""
FORM_SECONDS = 60.0
LOGINS = BodyLimits(name="Logins", limit=8 * 1024, seconds=10.0)
"""Anybody can send one, so it is bounded before it is read."""
_STATIC_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".webp": "image/webp"}
_STATIC = {
    path.name: path
    for path in (*(FOLDER / "static").glob("*.*"), *(FOLDER.parent / "handbook").glob("*.webp"))
    if path.suffix in _STATIC_TYPES
}
_PICTURES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "video/mp4", "video/webm"})
"""Types that a browser may show. Everything else is a download."""
_FILE_HEADERS = {
    **HEADERS,
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
_COMPILED = [(compile_path(view.path)[0], view) for view in VIEWS]

Act = Callable[[Request, User, FormData], Awaitable[Response | str]]


class Page:
    """The routes of the page.

    Args:
        sources: what it reads and commands.
        access: its users.
    """

    def __init__(self, sources: Sources, access: Access) -> None:
        self._sources = sources
        self._access = access
        self.live = Live()
        sources.journal.subscribe(self.live.changed)

    def routes(self) -> list[Route]:
        """Return the routes. Reading ones answer GET, all others are forms."""
        return [
            Route("/page/{name}", self._static),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/live", self._shown(self._stream, login=False)),
            Route("/pictures.zip", self._shown(self._zip)),
            Route("/pictures/{id}/files/{index:int}", self._shown(self._file, login=False)),
            Route("/pictures/{id}/thumbs/{index:int}", self._shown(self._thumbnail, login=False)),
            *(Route(view.path, self._shown(partial(self._show, view))) for view in VIEWS),
            self._form("/logout", "viewer", self._logout),
            self._form("/make", "maker", lambda _, user, form: actions.make(self._sources, user, form)),
            self._form("/pictures/send", "operator", lambda _, user, form: actions.send_to(self._sources, user, form)),
            self._form("/pictures/erase", "operator", self._erase),
            self._form("/tasks/{id}/press", "maker", self._on_row(actions.press)),
            self._form("/tasks/{id}/modal", "maker", self._on_row(actions.reply)),
            self._form("/tasks/{id}/cancel", "maker", self._on_row(actions.cancel)),
            self._form("/deliveries/replay", "operator", self._replay),
            self._form("/destinations/{name}/{action}", "operator", self._destination),
        ]

    # Reading

    def _shown(
        self, act: Callable[[Request, Look], Awaitable[Response]], *, login: bool = True
    ) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint for users. Others get the login, or 401. An error becomes a page with its sentence."""

        async def endpoint(request: Request) -> Response:
            user = self._access.user(request)
            if user is None:
                return self._to_login(request) if login else Response(status_code=401, headers=HEADERS)
            look = self._look(request, user)
            try:
                return await act(request, look)
            except ReceiverError as exc:
                return self._problem(look, exc)

        return endpoint

    async def _show(self, view: View, request: Request, look: Look) -> Response:
        self._check_role(look.user, view.role)
        return answer(view.template, await self._values(view, look))

    async def _values(self, view: View, look: Look) -> dict[str, Any]:
        values = await view.load(self._sources, look)
        query = {name: look.query.getlist(name) for name in look.query}
        at = look.path + (f"?{look.query}" if look.query else "")
        if view.path == "/pictures" and "top" not in look.query and values["top"]:
            at += ("&" if look.query else "?") + f"top={values['top']}"
        return {
            **_frame(look),
            "query": query,
            "stream": self._sources.stream,
            "live": f"{look.root}/live?at={quote(at, safe='')}" if view.regions else "",
            "base": "bare.html" if look.query.get("box") else "base.html",
            **values,
        }

    async def _stream(self, request: Request, here: Look) -> Response:
        """`GET /live?at=…`: the regions of the page at that address, once or as a stream."""
        parts = urlsplit(request.query_params.get("at", ""))
        match = next(((view, found) for pattern, view in _COMPILED if (found := pattern.match(parts.path))), None)
        if match is None or not here.user.may(match[0].role):
            return Response(status_code=404, headers=HEADERS)
        view, found = match
        look = replace(here, path=parts.path, query=QueryParams(parts.query), params=found.groupdict())

        async def render() -> dict[str, str]:
            return regions(view.template, view.regions, await self._values(view, look))

        try:
            first = await render()
        except ReceiverError as exc:
            log.info("page.not_rendered", problem=str(exc))
            return Response(status_code=404, headers=HEADERS)
        if not self._sources.stream or "text/event-stream" not in request.headers.get("accept", ""):
            return Response(partials(first), headers=HEADERS, media_type="text/html")
        if self.live.full:
            return Response("Too many pages are open.", 503, {**HEADERS, "Retry-After": "30"})
        key = (parts.path, parts.query, look.user.role, look.root)
        headers = {**HEADERS, "X-Accel-Buffering": "no"}
        return EventStream(self.live.follow(key, render, first), headers=headers, media_type="text/event-stream")

    async def _thumbnail(self, request: Request, look: Look) -> Response:
        """Send the thumbnail of a picture, or the picture where none can be made."""
        _, item = await self._find_file(request)
        try:
            path = await self._sources.thumbnails.of(item)
        except MediaError:
            return RedirectResponse(request.url.path.replace("/thumbs/", "/files/"), 303, HEADERS)
        return _file_of(request, path, f"{item.digest}-thumbnail", media_type="image/webp")

    async def _file(self, request: Request, look: Look) -> Response:
        """Send an archived file. Ranges and `ETag` are those of `FileResponse`, with the digest as the tag."""
        row, item = await self._find_file(request)
        path = await self._sources.store.local(item)
        try:
            found = await asyncio.to_thread(path.stat)
        except OSError as exc:
            raise MediaError("The file is no longer in the media store.") from exc
        shown = item.type in _PICTURES
        return _file_of(
            request,
            path,
            item.digest,
            media_type=item.type if shown else "application/octet-stream",
            filename=f"{row.id}-{item.index}{item.extension}",
            stat_result=found,
            content_disposition_type="inline" if shown and "download" not in request.query_params else "attachment",
        )

    async def _find_file(self, request: Request) -> tuple[Submission, Media]:
        row = await self._sources.journal.find(request.path_params["id"], whole=True)
        item = next((item for item in row.media if item.index == request.path_params["index"]), None)
        if item is None:
            raise NotFound("There is no such file.")
        return row, item

    async def _zip(self, request: Request, look: Look) -> Response:
        file, length = await actions.zip_of(self._sources, actions.selected(look.query))
        headers = {
            **HEADERS,
            "Content-Length": str(length),
            "Content-Disposition": 'attachment; filename="pictures.zip"',
        }
        return StreamingResponse(_chunks(file), headers=headers, media_type="application/zip")

    async def _static(self, request: Request) -> Response:
        path = _STATIC.get(request.path_params["name"])
        if path is None:
            return Response(status_code=404)
        headers = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
        return FileResponse(path, headers=headers, media_type=_STATIC_TYPES[path.suffix])

    # Login

    async def _login(self, request: Request) -> Response:
        given = request.query_params.get("key", "") if request.method == "GET" else ""
        after = _local(request.query_params.get("next", "/"))
        look = self._look(request, User("", "viewer"))
        address = request.client.host if request.client else ""
        if request.method == "POST":
            if not is_ours(request):
                return self._refused(look)
            try:
                await LOGINS.check_length(dict(request.headers.raw), request.receive)
                form = QueryParams((await LOGINS.read(request.receive)).decode("utf-8", "replace"))
            except Problem as exc:
                return answer("login.html", {"root": look.root, "next": "/", "problem": exc.detail}, exc.status)
            except ClientDisconnect:
                return Response(status_code=400)
            given, after = form.get("secret", ""), _local(form.get("next", "/"))
        problem, status = "", 200
        if given:
            seconds = self._access.wait(address)
            user = self._access.log_in(given, address) if seconds <= 0 else None
            if user is not None:
                log.info("page.login", user=user.name)
                response = RedirectResponse(look.root + after, 303, HEADERS)
                secure = request.url.scheme == "https" or address not in ("127.0.0.1", "::1")
                response.set_cookie(
                    COOKIE,
                    self._access.cookie(user),
                    max_age=COOKIE_SECONDS,
                    path=look.root or "/",
                    httponly=True,
                    samesite="lax",
                    secure=secure,
                )
                return response
            log.warning("page.login_failed", address=address)
            status = 429 if seconds > 0 else 401
            problem = f"Too many tries. Wait {seconds:.0f} s." if seconds > 0 else "No user has this key."
        return answer("login.html", {"root": look.root, "next": after, "problem": problem}, status)

    async def _logout(self, request: Request, user: User, form: FormData) -> Response:
        response = RedirectResponse(request.scope.get("root_path", "") + "/login", 303, HEADERS)
        response.delete_cookie(COOKIE, path=request.scope.get("root_path", "") or "/")
        return response

    def _to_login(self, request: Request) -> Response:
        root = request.scope.get("root_path", "")
        here = request.url.path.removeprefix(root) + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{root}/login?next={quote(here, safe='')}", 303, HEADERS)

    # Forms

    def _form(self, path: str, role: Role, act: Act) -> Route:
        """Return the route of a form. Its action returns the address to go to, or a page."""

        async def submit(request: Request, look: Look) -> Response:
            if not is_ours(request):
                return self._refused(look)
            self._check_role(look.user, role)
            metrics.door.set("page")
            try:
                form = await _read_form(request)
                try:
                    done = await act(request, look.user, form)
                finally:
                    await form.close()
            except ClientDisconnect:
                return Response(status_code=400)
            if isinstance(done, Response):
                return done
            log.info("page.acted", user=look.user.name, path=request.url.path)
            return RedirectResponse(look.root + done, 303, HEADERS)

        return Route(path, self._shown(submit), methods=["POST"])

    def _on_row(self, act: Callable[..., Awaitable[str]]) -> Act:
        async def on_row(request: Request, user: User, form: FormData) -> str:
            row = await self._sources.journal.find(request.path_params["id"], whole=True)
            return await act(self._sources, user, row, form)

        return on_row

    async def _erase(self, request: Request, user: User, form: FormData) -> Response | str:
        if form.get("confirm") == "yes":
            return await actions.erase(self._sources, user, form)
        rows = [await self._sources.journal.find(id, whole=True) for id in actions.selected(form)]
        return self._preview(request, user, "erase.html", rows=rows)

    async def _replay(self, request: Request, user: User, form: FormData) -> Response | str:
        orders = await actions.orders_of(self._sources, form)
        if form.get("confirm") == "yes":
            done = await self._sources.replay.carry_out(orders)
            await actions.note(self._sources, user, f"replayed {len(done)}", "")
            name = str(form.get("destination") or "")
            return f"/deliveries?destination={quote(name)}" if name else "/deliveries"
        foreseen = await self._sources.replay.foresee(orders)
        fields = [(name, str(value)) for name, value in form.multi_items()]
        return self._preview(request, user, "replay.html", foreseen=foreseen, fields=fields)

    async def _destination(self, request: Request, user: User, form: FormData) -> Response | str:
        name, action = request.path_params["name"], request.path_params["action"]
        if name not in self._sources.destinations:
            raise NotFound(f"There is no destination {name[:40]!r} here.")
        if action == "pause":
            return await actions.pause(self._sources, user, name)
        if action == "resume":
            return await actions.resume(self._sources, user, name)
        if action == "sample":
            text = await self._sources.sample(name)
            await actions.note(self._sources, user, "sent a sample", name)
            return self._preview(request, user, "done.html", text=text, back="/destinations")
        raise NotFound("There is nothing here.")

    # Small parts

    def _look(self, request: Request, user: User) -> Look:
        root = request.scope.get("root_path", "")
        return Look(
            path=request.url.path.removeprefix(root),
            query=request.query_params,
            params=request.path_params,
            user=user,
            root=root,
        )

    def _preview(self, request: Request, user: User, template: str, **values: Any) -> Response:
        look = self._look(request, user)
        return answer(template, {**_frame(look), **values})

    def _check_role(self, user: User, role: Role) -> None:
        if not user.may(role):
            raise Forbidden(f"This needs the role {role}. You are {user.name}, a {user.role}.")

    def _problem(self, look: Look, exc: ReceiverError) -> Response:
        status = 404 if isinstance(exc, NotFound) else 403 if isinstance(exc, Forbidden) else 422
        if not isinstance(exc, InputError | NotFound | Refused):
            status = 503
        log.info("page.refused", path=look.path[:200], status=status, problem=str(exc))
        return answer("problem.html", {**_frame(look), "text": clean(str(exc))}, status)

    def _refused(self, look: Look) -> Response:
        return answer(
            "problem.html", {**_frame(look), "text": "This request did not come from a page of Receiver."}, 403
        )


class Forbidden(InputError):
    """The user's role does not include this."""


async def _read_form(request: Request) -> FormData:
    """Return a form. Raise InputError if it is too large or too slow."""
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > MAX_FORM:
        raise InputError(f"A form has at most {MAX_FORM >> 20} MiB.")
    try:
        async with asyncio.timeout(FORM_SECONDS):
            return await request.form(max_files=8, max_fields=1000, max_part_size=MAX_FORM)
    except TimeoutError as exc:
        raise InputError(f"The form did not come within {FORM_SECONDS:g} s.") from exc


def _file_of(request: Request, path: Path, tag: str, **options: Any) -> Response:
    headers = {**_FILE_HEADERS, "ETag": f'"{tag}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, headers=headers, **options)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, 2**20):
            yield chunk


def _frame(look: Look) -> dict[str, Any]:
    return {
        "root": look.root, "user": look.user, "path": look.path, "query": {}, "stream": False, "live": "",
        "base": "base.html",
    }  # fmt: skip


def _local(path: str) -> str:
    """Return an address of this page, "/" for one of anywhere else."""
    parts = urlsplit(path)
    safe = path.startswith("/") and not path.startswith(("//", "/\\")) and not (parts.scheme or parts.netloc)
    return path if safe and path.isprintable() else "/"
