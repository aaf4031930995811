"""The whole application: its routes, the page's own files, and the guard around both."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from client.look import stylesheet
from client.serving.completions import Completions
from client.serving.faults import RequestError, refusal_of
from client.serving.guard import Guard
from client.serving.page_api import PageApi
from client.serving.turns import Turns

# Address -> file in the folder `page`; nothing else of it is served.
PAGE_FILES = {
    "/": "page.html",
    "/page.css": "page.css",
    "/page.js": "page.js",
    "/api.js": "api.js",
    "/chat.js": "chat.js",
    "/compare.js": "compare.js",
    "/diff.js": "diff.js",
    "/routing.js": "routing.js",
    "/forget.js": "forget.js",
}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


def _new_id() -> str:
    return secrets.token_hex(12)


def build_app(
    turns: Turns,
    *,
    token: str,
    port: int,
    clock: Callable[[], float] = time.time,
    new_id: Callable[[], str] = _new_id,
) -> Guard:
    """The ASGI application that answers at 127.0.0.1:`port` to whoever has `token`."""
    completions = Completions(turns, clock, new_id, started=int(clock()))
    shell = [
        Route(path, partial(_send_file, _read(name), _TYPES[name.rpartition(".")[2]]))
        for path, name in PAGE_FILES.items()
    ]
    handlers = dict.fromkeys((RequestError, HTTPException, Exception), _refuse)
    inner = Starlette(
        routes=[*shell, *completions.routes(), *PageApi(turns).routes()],
        exception_handlers=dict(handlers),
    )
    return Guard(inner, token=token, port=port, open_paths=frozenset(PAGE_FILES))


def _read(name: str) -> bytes:
    content = files("client.serving").joinpath("page", name).read_bytes()
    return stylesheet().encode() + content if name.endswith(".css") else content


async def _send_file(content: bytes, kind: str, _request: Request) -> Response:
    return Response(content, media_type=kind)


async def _refuse(_request: Request, error: Exception) -> Response:
    return refusal_of(error).response()
