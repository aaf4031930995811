"""What the local page asks beside completions: status, comparison, routing, items, forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client.serving.completions import CLOSED_REQUEST
from client.serving.faults import Body, RequestError, parse_body, read_body
from client.serving.forgetting import Forgetting
from client.serving.session import Ending, ItemRow, Routing
from client.serving.streams import Emit, EventStream, unless_gone
from client.serving.turns import Turns


class CompareRequest(Body):
    prompt: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None


class RoutingRequest(Body):
    prompt: str
    stage: str


class ForgetRequest(Body):
    ids: Annotated[list[str], Field(min_length=1)] | None = None
    all: bool = False


@dataclass(frozen=True)
class PageApi:
    """The endpoints over one session."""

    turns: Turns
    forgetting: Forgetting

    def routes(self) -> list[Route]:
        return [
            Route("/api/status", self.status, methods=["GET"]),
            Route("/api/compare", self.compare, methods=["POST"]),
            Route("/api/routing", self.routing, methods=["POST"]),
            Route("/api/items", self.items, methods=["GET"]),
            Route("/api/forget", self.progress, methods=["GET"]),
            Route("/api/forget", self.forget, methods=["POST"]),
        ]

    async def status(self, _request: Request) -> Response:
        session = self.turns.session
        return JSONResponse(
            {
                "task": session.task,
                "bundle_id": session.bundle_id,
                "adapted": session.adapted,
                "stored": session.stored,
                "stages": list(session.stages),
                "models": dict(session.model_names),
                "label_choices": list(session.label_choices),
                "busy": self.turns.busy,
                "forget": self.forgetting.view(),
            }
        )

    async def compare(self, request: Request) -> Response:
        body = parse_body(CompareRequest, await read_body(request))
        return EventStream(partial(self._compare, body))

    async def _compare(self, body: CompareRequest, emit: Emit) -> None:
        """Stage after stage: {stage, text} for a piece, {stage, finish_reason, tokens} at its end."""
        turns = self.turns
        async with turns.turn():
            for stage in turns.session.stages:
                async with turns.generating(
                    body.prompt, stage=stage, max_tokens=body.max_tokens
                ) as step:
                    part: str | Ending = await step()
                    while isinstance(part, str):
                        await emit({"stage": stage, "text": part})
                        part = await step()
                end = {"finish_reason": part.reason, "tokens": part.tokens}
                await emit({"stage": stage, **end})

    async def routing(self, request: Request) -> Response:
        body = parse_body(RoutingRequest, await read_body(request))
        stages = self.turns.session.stages
        if body.stage not in stages:
            expected = ", ".join(stages)
            raise RequestError(400, f"stage: expected one of: {expected}", param="stage")
        routing = await unless_gone(request.receive, self._routing(body))
        if routing is None:
            return Response(status_code=CLOSED_REQUEST)
        return JSONResponse({"stage": body.stage, **asdict(routing)})

    async def _routing(self, body: RoutingRequest) -> Routing:
        work = partial(self.turns.session.routing, body.prompt, stage=body.stage)
        async with self.turns.turn():
            return await self.turns.worker.call(work)

    async def items(self, request: Request) -> Response:
        rows = await unless_gone(request.receive, self._items())
        if rows is None:
            return Response(status_code=CLOSED_REQUEST)
        return JSONResponse({"items": [asdict(row) for row in rows]})

    async def _items(self) -> Sequence[ItemRow]:
        async with self.turns.turn():
            return await self.turns.worker.call(self.turns.session.items)

    async def progress(self, _request: Request) -> Response:
        return JSONResponse(self.forgetting.view())

    async def forget(self, request: Request) -> Response:
        body = parse_body(ForgetRequest, await read_body(request))
        if body.all == (body.ids is not None):
            raise RequestError(400, 'expected either "ids", a list, or "all": true')
        self.forgetting.start(body.ids)
        return JSONResponse(self.forgetting.view(), status_code=202)
