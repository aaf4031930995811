"""What the local page asks beside completions: status, comparison, routing, items, forgetting.

Forgetting runs for minutes, so no request waits for it: it is a job that goes on when the page is
closed, and the page asks how far it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client.serving.faults import Body, RequestError, parse_body, read_body, refusal_of
from client.serving.session import Ending, ForgetReport, Manner
from client.serving.streams import Emit, EventStream, whole_or_gone
from client.serving.turns import Turns
from proper_model.errors import InterruptedRunError
from proper_model.text import ChatMessage


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
class Job:
    """How far forgetting is. Replaced as a whole: two threads read it.

    `done` of `total` steps of `phase`, a total of 0 means: unknown; `left_s`: seconds until the
    phase's end at the pace it had so far, None before its first step.
    """

    state: Literal["idle", "running", "done", "failed"] = "idle"
    phase: str = ""
    done: int = 0
    total: int = 0
    left_s: int | None = None
    report: ForgetReport | None = None
    error: str | None = None


class PageApi:
    """The endpoints over one session, and the one job of forgetting that there can be."""

    def __init__(self, turns: Turns, clock: Callable[[], float] = time.monotonic) -> None:
        self._turns, self._clock = turns, clock
        self._job = Job()
        self._began = (0, 0.0)  # steps done and the time when the phase was first told
        self._task: asyncio.Task[None] | None = None  # held, or it could be collected at work

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
        await self._turns.look()
        session = self._turns.session
        return JSONResponse(
            {
                "task": session.task,
                "bundle_id": session.bundle_id,
                "adapted": session.adapted,
                "stored": session.stored,
                "stages": list(session.stages),
                "models": dict(session.model_names),
                "label_choices": list(session.label_choices),
                "busy": self._turns.busy,
                "forget": asdict(self._job),
            }
        )

    async def compare(self, request: Request) -> Response:
        body = parse_body(CompareRequest, await read_body(request))
        return EventStream(partial(self._compare, body))

    async def _compare(self, body: CompareRequest, emit: Emit) -> None:
        """Stage after stage: {stage, text} for a piece, at its end {stage, finish_reason, tokens, wording}."""
        turns, asked = self._turns, [ChatMessage("user", body.prompt)]
        wording = turns.session.wording(asked)
        async with turns.turn():
            for stage in turns.session.stages:
                async with turns.generating(
                    asked, stage=stage, manner=Manner(max_tokens=body.max_tokens)
                ) as step:
                    part: str | Ending = await step()
                    while isinstance(part, str):
                        await emit({"stage": stage, "text": part})
                        part = await step()
                end = {"finish_reason": part.reason, "tokens": part.tokens, "wording": wording}
                await emit({"stage": stage, **end})

    async def routing(self, request: Request) -> Response:
        body = parse_body(RoutingRequest, await read_body(request))
        await self._turns.look()
        stages = self._turns.session.stages
        if body.stage not in stages:
            expected = ", ".join(stages)
            raise RequestError(400, f"stage: expected one of: {expected}", param="stage")
        return await whole_or_gone(request, self._routing(body))

    async def _routing(self, body: RoutingRequest) -> dict[str, Any]:
        work = partial(self._turns.session.routing, body.prompt, stage=body.stage)
        wording = self._turns.session.wording([ChatMessage("user", body.prompt)])
        async with self._turns.turn():
            found = await self._turns.worker.call(work)
            return {"stage": body.stage, "wording": wording, **asdict(found)}

    async def items(self, request: Request) -> Response:
        return await whole_or_gone(request, self._items())

    async def _items(self) -> dict[str, Any]:
        async with self._turns.turn():
            rows = await self._turns.worker.call(self._turns.session.items)
            return {"items": [asdict(row) for row in rows]}

    async def progress(self, _request: Request) -> Response:
        return JSONResponse(asdict(self._job))

    async def forget(self, request: Request) -> Response:
        body = parse_body(ForgetRequest, await read_body(request))
        if body.all == (body.ids is not None):
            raise RequestError(400, 'expected either "ids", a list, or "all": true')
        if self._job.state == "running":
            raise RequestError(409, "items are being forgotten already", code="forgetting")
        self._job = Job(state="running")
        self._task = asyncio.create_task(self._forget(body.ids))
        return JSONResponse(asdict(self._job), status_code=202)

    async def _forget(self, ids: Sequence[str] | None) -> None:
        """Forget `ids`, None for everything."""
        work = partial(self._turns.session.forget, ids, progress=self._on_progress)
        try:
            async with self._turns.reserved():
                report = await self._turns.worker.call(work)
        except Exception as error:  # noqa: BLE001 - told by its type or safe message only
            self._job = Job(state="failed", error=refusal_of(error).message)
        else:
            self._job = Job(state="done", report=report)

    def _on_progress(self, phase: str, done: int, total: int) -> None:
        """Called in the session's thread; ends the work when the server stops."""
        if self._turns.stopping.is_set():
            raise InterruptedRunError("forgetting was stopped; the last complete state stays")
        now = self._clock()
        if phase != self._job.phase or done < self._job.done:
            self._began = (done, now)
        first, since = self._began
        left = round((now - since) / (done - first) * (total - done)) if done > first else None
        left = left if total else None
        self._job = Job(state="running", phase=phase, done=done, total=total, left_s=left)
