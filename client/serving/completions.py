"""/v1/completions, /v1/chat/completions and /v1/models.

Source: OpenAI's API reference, "Create completion", "Create chat completion", "List models".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client.serving.faults import parse_body, read_body
from client.serving.openai_replies import ChatReply, Reply, TextReply
from client.serving.openai_schema import Asked, ChatRequest, CompletionRequest, asked_by
from client.serving.session import Ending
from client.serving.streams import Emit, EventStream, unless_gone
from client.serving.turns import Step, Turns

CLOSED_REQUEST = 499  # nobody reads it; the number is nginx's


@dataclass(frozen=True)
class Completions:
    """The endpoints over one session; `clock` gives seconds since 1970, `new_id` random letters."""

    turns: Turns
    clock: Callable[[], float]
    new_id: Callable[[], str]
    started: int

    def routes(self) -> list[Route]:
        return [
            Route("/v1/completions", self.text, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
        ]

    async def text(self, request: Request) -> Response:
        body = parse_body(CompletionRequest, await read_body(request))
        asked = asked_by(body, self.turns.session.model_names)
        reply = TextReply(f"cmpl-{self.new_id()}", *self._frame(asked))
        return await self._answer(request, asked, reply)

    async def chat(self, request: Request) -> Response:
        body = parse_body(ChatRequest, await read_body(request))
        asked = asked_by(body, self.turns.session.model_names)
        reply = ChatReply(f"chatcmpl-{self.new_id()}", *self._frame(asked))
        return await self._answer(request, asked, reply)

    async def models(self, _request: Request) -> Response:
        common = {"object": "model", "created": self.started, "owned_by": "proper"}
        names = self.turns.session.model_names
        return JSONResponse({"object": "list", "data": [{"id": name, **common} for name in names]})

    def _frame(self, asked: Asked) -> tuple[int, str, bool]:
        return int(self.clock()), asked.model, asked.include_usage

    async def _answer(self, request: Request, asked: Asked, reply: Reply) -> Response:
        if asked.stream:
            return EventStream(partial(self._stream, asked, reply))
        whole = await unless_gone(request.receive, self._whole(asked, reply))
        return Response(status_code=CLOSED_REQUEST) if whole is None else JSONResponse(whole)

    async def _whole(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        pieces: list[str] = []
        async with self.turns.turn(), self._generating(asked) as step:
            while isinstance(part := await step(), str):
                pieces.append(part)
            return reply.whole("".join(pieces), part, await self._count(asked.prompt))

    async def _stream(self, asked: Asked, reply: Reply, emit: Emit) -> None:
        async with self.turns.turn(), self._generating(asked) as step:
            part: str | Ending = await step()  # before anything is sent: a refusal is a status
            for chunk in reply.opening():
                await emit(chunk)
            while isinstance(part, str):
                if part:
                    await emit(reply.piece(part))
                part = await step()
            for chunk in reply.closing(part, await self._count(asked.prompt)):
                await emit(chunk)

    def _generating(self, asked: Asked) -> AbstractAsyncContextManager[Step]:
        return self.turns.generating(asked.prompt, stage=asked.stage, max_tokens=asked.max_tokens)

    async def _count(self, text: str) -> int:
        return await self.turns.worker.call(partial(self.turns.session.count_tokens, text))
