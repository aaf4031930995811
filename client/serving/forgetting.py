"""Forgetting as a job of its own: it goes on when the page is closed, and the page can ask how far.

It runs for minutes, so no request waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from client.serving.faults import RequestError, refusal_of
from client.serving.session import ForgetReport
from client.serving.turns import Turns
from proper_model.errors import InterruptedRunError


@dataclass(frozen=True)
class Job:
    """How far it is; `total` 0 means: unknown. Replaced as a whole, as two threads look at it."""

    state: Literal["idle", "running", "done", "failed"] = "idle"
    phase: str = ""
    done: int = 0
    total: int = 0
    report: ForgetReport | None = None
    error: str | None = None


class Forgetting:
    """The one job there can be."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._job = Job()
        self._task: asyncio.Task[None] | None = None  # held, or it could be collected at work

    def view(self) -> dict[str, object]:
        return asdict(self._job)

    def start(self, ids: Sequence[str] | None) -> None:
        """Begin to forget `ids`, None for everything. Raises RequestError if one runs already."""
        if self._job.state == "running":
            raise RequestError(409, "items are being forgotten already", code="forgetting")
        self._job = Job(state="running")
        self._task = asyncio.create_task(self._run(ids))

    async def _run(self, ids: Sequence[str] | None) -> None:
        work = partial(self._turns.session.forget, ids, progress=self._progress)
        try:
            async with self._turns.reserved():
                report = await self._turns.worker.call(work)
        except Exception as error:  # noqa: BLE001 - told by its type or safe message only
            self._job = Job(state="failed", error=refusal_of(error).message)
        else:
            self._job = Job(state="done", report=report)

    def _progress(self, phase: str, done: int, total: int) -> None:
        """Called in the session's thread; ends the work when the server stops."""
        if self._turns.stopping.is_set():
            raise InterruptedRunError("forgetting was stopped; the last complete state stays")
        self._job = Job(state="running", phase=phase, done=done, total=total)
