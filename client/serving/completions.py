"""/v1/completions, /v1/chat/completions and /v1/models; answers whole or as chunks of a stream.

Source: OpenAI's API reference, "Create completion", "Create chat completion", "List models", and the
objects they answer with. With `include_usage` every chunk has a null `usage`, and a last chunk
without choices holds the counts. Every object has one field more than OpenAI's: `wording`, which says
whether the trained task's words were used ("task") or the base's chat template ("chat").
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client.person.answering import Wording
from client.serving.faults import parse_body, read_body
from client.serving.openai_schema import Asked, ChatRequest, CompletionRequest, asked_by
from client.serving.session import Ending
from client.serving.streams import Emit, EventStream, whole_or_gone
from client.serving.turns import Step, Turns

Json = dict[str, Any]


@dataclass(frozen=True)
class Reply(ABC):
    """One answer's frame: id, time (seconds since 1970), model name, and how it was asked."""

    prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    id: str
    created: int
    model: str
    wording: Wording
    include_usage: bool

    @abstractmethod
    def answer(self, text: str) -> Json:
        """The choice of a whole answer, without its reason to end."""

    @abstractmethod
    def part(self, text: str) -> Json:
        """The choice of a chunk; without text that of the last one."""

    def opening(self) -> Iterator[Json]:
        """Chunks before the first piece."""
        return iter(())

    def whole(self, text: str, ending: Ending) -> Json:
        framed = self._framed(self.kind, self.answer(text), ending.reason)
        return framed | {"usage": usage(ending)}

    def chunk(self, choice: Json, reason: str | None = None) -> Json:
        framed = self._framed(self.chunk_kind, choice, reason)
        return framed | {"usage": None} if self.include_usage else framed

    def closing(self, ending: Ending) -> Iterator[Json]:
        """Chunks after the last piece."""
        last = self.chunk(self.part(""), ending.reason)
        yield last
        if self.include_usage:
            yield last | {"choices": [], "usage": usage(ending)}

    def _framed(self, kind: str, choice: Json, reason: str | None) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "wording": self.wording,
            "choices": [{"index": 0, "logprobs": None, "finish_reason": reason, **choice}],
        }


class TextReply(Reply):
    """Of /v1/completions; chunks have the form of the whole."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def answer(self, text: str) -> Json:
        return {"text": text}

    part = answer


class ChatReply(Reply):
    """Of /v1/chat/completions."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def answer(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def part(self, text: str) -> Json:
        return {"delta": {"content": text} if text else {}}

    def opening(self) -> Iterator[Json]:
        yield self.chunk({"delta": {"role": "assistant", "content": ""}})


def usage(ending: Ending) -> Json:
    """Token counts of an answer."""
    return {
        "prompt_tokens": ending.prompt_tokens,
        "completion_tokens": ending.tokens,
        "total_tokens": ending.prompt_tokens + ending.tokens,
    }


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
        return await self._answer(request, body, TextReply)

    async def chat(self, request: Request) -> Response:
        body = parse_body(ChatRequest, await read_body(request))
        return await self._answer(request, body, ChatReply)

    async def models(self, _request: Request) -> Response:
        await self.turns.look()
        common = {"object": "model", "created": self.started, "owned_by": "proper"}
        names = self.turns.session.model_names
        return JSONResponse({"object": "list", "data": [{"id": name, **common} for name in names]})

    async def _answer(
        self, request: Request, body: CompletionRequest | ChatRequest, form: type[Reply]
    ) -> Response:
        await self.turns.look()
        asked = self._asked(body)
        name = f"{form.prefix}-{self.new_id()}"
        wording = self.turns.session.wording(asked.messages)
        reply = form(name, int(self.clock()), asked.model, wording, asked.include_usage)
        if asked.stream:
            return EventStream(partial(self._stream, body, reply))
        return await whole_or_gone(request, self._whole(body, reply))

    def _asked(self, body: CompletionRequest | ChatRequest) -> Asked:
        """Read again within the turn: until it came, another stage may have become the highest."""
        return asked_by(body, self.turns.session.model_names)

    async def _whole(self, body: CompletionRequest | ChatRequest, reply: Reply) -> Json:
        pieces: list[str] = []
        async with self.turns.turn(), self._generating(self._asked(body)) as step:
            while isinstance(part := await step(), str):
                pieces.append(part)
            return reply.whole("".join(pieces), part)

    async def _stream(
        self, body: CompletionRequest | ChatRequest, reply: Reply, emit: Emit
    ) -> None:
        async with self.turns.turn(), self._generating(self._asked(body)) as step:
            part: str | Ending = await step()  # before anything is sent: a refusal is a status
            for chunk in reply.opening():
                await emit(chunk)
            while isinstance(part, str):
                if part:
                    await emit(reply.chunk(reply.part(part)))
                part = await step()
            for chunk in reply.closing(part):
                await emit(chunk)

    def _generating(self, asked: Asked) -> AbstractAsyncContextManager[Step]:
        return self.turns.generating(asked.messages, stage=asked.stage, manner=asked.manner)
