"""The application behind the page: its files, and what it asks for; maps come line by line, as they are made."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.live.asked import Doubt, Judge, Look, Maps, read
from captum_extract_aggregate.live.gallery import LARGEST_FILE
from captum_extract_aggregate.live.work import Told, Work, line_of, picture_told
from captum_extract_aggregate.visualization.page_templates import render

Tell = Callable[[Told], Coroutine[Any, Any, None]]
Report = Callable[[int, int, str], None]

_LARGEST_REQUEST = 64 << 10  # bytes
_SILENCE = 30  # seconds that a body may take
_MOST_WAITING = 8  # requests that are worked on or wait
_FILES = {
    "/": ("live.html", "text/html"),
    "/live.js": ("live.js", "text/javascript"),
    "/draw.js": ("draw.js", "text/javascript"),
    "/live.css": ("live.css", "text/css"),
    "/style.css": ("style.css", "text/css"),
}


class _RefusedError(Exception):
    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


def application(work: Work) -> Starlette:
    """Returns the application, without its guard."""
    queue = _Queue()

    async def offer(request: Request) -> Response:
        return JSONResponse(await queue.run(work.offer))

    async def pictures(request: Request) -> Response:
        return JSONResponse(await anyio.to_thread.run_sync(work.pictures))

    async def thumbnail(request: Request) -> Response:
        photo = work.gallery[request.path_params["id"]]
        return Response(await anyio.to_thread.run_sync(photo.thumbnail), media_type="image/png")

    async def add(request: Request) -> Response:
        if not request.headers.get("content-type", "").startswith("image/"):  # which no page of others may send
            raise _RefusedError(415, "expected a picture, of a content type image/...")
        content, name = await _body(request, LARGEST_FILE), request.query_params.get("name", "")
        add = functools.partial(work.gallery.add, content, name)
        return JSONResponse(picture_told(await queue.run(add)))

    async def look(request: Request) -> Response:
        asked = await _json(request, Look)
        return JSONResponse(await queue.run(lambda: work.look(asked)))

    async def right(request: Request) -> Response:
        asked = await _json(request, Judge)
        return JSONResponse(await queue.run(lambda: work.right(asked)))

    async def maps(request: Request) -> Response:
        asked = await _json(request, Maps)
        return _Lines(lambda tell: queue.each(lambda: work.maps(asked), tell))

    async def trust(request: Request) -> Response:
        asked = await _json(request, Doubt)
        return _Lines(lambda tell: queue.reported(lambda report: work.trust(asked, report), tell))

    routes = [Route(path, functools.partial(_file, *about)) for path, about in _FILES.items()]
    routes += [
        Route("/favicon.ico", _no_icon),
        Route("/api/offer", offer),
        Route("/api/pictures", pictures),
        Route("/api/pictures", add, methods=["POST"]),
        Route("/api/pictures/{id}", thumbnail),
        Route("/api/look", look, methods=["POST"]),
        Route("/api/right", right, methods=["POST"]),
        Route("/api/maps", maps, methods=["POST"]),
        Route("/api/trust", trust, methods=["POST"]),
    ]
    handlers: Any = {InvalidValueError: _refused, _RefusedError: _refused, Exception: _failed}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Queue:
    """Lets one request be worked on at a time, in a thread, and a few wait."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._waiting = 0

    async def run(self, do: Callable[[], Any]) -> Any:
        """Returns what a function gives."""
        self._enter()
        try:
            async with self._lock:
                return await anyio.to_thread.run_sync(do)
        finally:
            self._waiting -= 1

    async def each(self, make: Callable[[], Iterator[Told]], tell: Tell) -> None:
        """Tells what an iterator gives, as it comes."""
        self._enter()
        try:
            async with self._lock:
                events = make()
                while (event := await anyio.to_thread.run_sync(lambda: next(events, None))) is not None:
                    await tell(event)
        finally:
            self._waiting -= 1

    async def reported(self, make: Callable[[Report], Told], tell: Tell) -> None:
        """Tells the steps that a function reports, then what it gives."""

        def report(done: int, of: int, what: str) -> None:
            anyio.from_thread.run(tell, {"state": "begun", "done": done, "of": of, "what": what})

        await tell(await self.run(lambda: make(report)))

    def _enter(self) -> None:
        if self._waiting >= _MOST_WAITING:
            raise _RefusedError(429, "too many requests wait; expected fewer at a time")
        self._waiting += 1


async def _json(request: Request, kind: type[BaseModel]) -> Any:
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise _RefusedError(415, "expected the content type application/json")
    return read(kind, await _body(request, _LARGEST_REQUEST))


async def _body(request: Request, most: int) -> bytes:
    """Returns a body, read no further than it may be long, and not for ever."""
    told = request.headers.get("content-length", "")
    too_large = _RefusedError(413, f"the body is too large; expected at most {most:,} bytes")
    if told.isascii() and told.isdigit() and (len(told) > 12 or int(told) > most):
        raise too_large
    content = bytearray()
    try:
        with anyio.fail_after(_SILENCE):
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    raise too_large
    except TimeoutError:
        raise _RefusedError(408, f"the body did not come in {_SILENCE} seconds") from None
    return bytes(content)


class _Lines(Response):
    """Is an answer of one line of JSON for each event, sent as it happens; work ends where nobody listens any more."""

    media_type = "application/x-ndjson"

    def __init__(self, produce: Callable[[Tell], Awaitable[None]]) -> None:
        super().__init__()
        self.produce = produce

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends the lines."""
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def tell(event: Told) -> None:
            await send({"type": "http.response.body", "body": json.dumps(event).encode() + b"\n", "more_body": True})

        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                await self.produce(tell)
            except Exception as error:
                await tell({"state": "refused", "error": line_of(error)})
            group.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _file(name: str, kind: str, request: Request) -> Response:
    return Response(_text(name), media_type=kind)


@functools.lru_cache
def _text(name: str) -> str:
    package = f"{__package__}" if name.startswith("live") else "captum_extract_aggregate.visualization"
    if name.endswith(".html"):
        return render(package, name)
    folder = Path(__file__).parent if name.startswith("live") else Path(__file__).parent.parent / "visualization"
    return (folder / "templates" / name).read_text(encoding="utf-8")


async def _no_icon(request: Request) -> Response:
    return Response(status_code=204)


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, getattr(error, "status", 400))


async def _failed(request: Request, error: Exception) -> Response:
    logging.getLogger(__name__).error("a request failed", exc_info=error)
    return JSONResponse({"error": "the server failed; what happened stands where it was started"}, 500)
