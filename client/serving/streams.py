"""Answers that take long: they end when the client disconnects, and may be server-sent events.

Source: WHATWG HTML, "Server-sent events"; OpenAI's streams end with `data: [DONE]`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from client.serving.faults import refusal_of

_Value = TypeVar("_Value")
Emit = Callable[[dict[str, Any]], Awaitable[None]]
Produce = Callable[[Emit], Coroutine[Any, Any, None]]
CLOSED_REQUEST = 499  # nobody reads it; the number is nginx's


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _Value]) -> _Value | None:
    """The value of `work`; None if the client disconnected first, and then `work` was cancelled.

    The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def whole_or_gone(request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> Response:
    """The JSON object that `work` gives, or an empty response to a client that disconnected."""
    value = await unless_gone(request.receive, work)
    return Response(status_code=CLOSED_REQUEST) if value is None else JSONResponse(value)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """What `produce` emits, as events. An error before the first one is an ordinary response.

    Later errors come as an event with OpenAI's error object and no [DONE].
    """

    media_type = "text/event-stream"

    def __init__(self, produce: Produce) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers()
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        started = False

        async def write(data: str) -> None:
            nonlocal started
            if not started:
                started = True
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start", **start})
            event = f"data: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": True})

        async def emit(value: dict[str, Any]) -> None:
            await write(json.dumps(value, ensure_ascii=False, allow_nan=False))

        try:
            await self._produce(emit)
            await write("[DONE]")
        except Exception as error:
            if not started:
                raise
            await emit(refusal_of(error).body())
        await send({"type": "http.response.body", "body": b"", "more_body": False})
