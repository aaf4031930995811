"""Who may use the session: one at a time, in order, with a bounded queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial

from client.serving.faults import RequestError
from client.serving.session import Ending, Session
from client.serving.worker import Worker

MAX_WAITING = 4
Step = Callable[[], Awaitable[str | Ending]]


class Turns:
    """The session, lent to one request at a time.

    `stopping` is set when the server is to end: generations then end at their next piece.
    """

    def __init__(self, session: Session, *, max_waiting: int = MAX_WAITING) -> None:
        self.session = session
        self.stopping = threading.Event()
        self.worker = Worker()
        self._max_waiting = max_waiting
        self._lock = asyncio.Lock()
        self._inside = 0  # waiting or working
        self._reserved = False

    @property
    def busy(self) -> bool:
        return self._inside > 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the session and hold it.

        Raises RequestError at once: 429 if too many wait, 503 if it is reserved.
        """
        if self._reserved:
            raise RequestError(
                503,
                "items are being forgotten and the model retrained; try again when that is done",
                kind="server_error",
                code="forgetting",
                headers={"Retry-After": "10"},
            )
        if self._inside > self._max_waiting:
            raise RequestError(
                429,
                f"one request is at work and {self._max_waiting} wait; try again later",
                kind="requests",
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        async with self._held():
            yield

    @asynccontextmanager
    async def reserved(self) -> AsyncIterator[None]:
        """Wait for those who wait already, hold the session, and refuse everybody else meanwhile."""
        self._reserved = True
        try:
            async with self._held():
                yield
        finally:
            self._reserved = False

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        self._inside += 1
        try:
            async with self._lock:
                yield
        finally:
            self._inside -= 1

    @asynccontextmanager
    async def generating(
        self, prompt: str, *, stage: str, max_tokens: int | None
    ) -> AsyncIterator[Step]:
        """Lend a function that gives the next piece, or the Ending; on leaving, generation stops.

        Only within a turn.
        """
        start = partial(self.session.generate, prompt, stage=stage, max_tokens=max_tokens)
        pieces = await self.worker.call(start)
        try:
            yield partial(self._step, pieces)
        finally:
            # Behind a step that is still at work, before anything of the next turn.
            self.worker.submit(pieces.close)

    async def _step(self, pieces: Generator[str, None, Ending]) -> str | Ending:
        if self.stopping.is_set():
            raise RequestError(503, "the server is stopping", kind="server_error")
        return await self.worker.call(partial(_advance, pieces))

    def close(self, timeout_s: float) -> bool:
        """Close the session behind what is at work; whether that was done in time."""
        self.stopping.set()
        self.worker.submit(self.session.close)
        return self.worker.stop(timeout_s)


def _advance(pieces: Generator[str, None, Ending]) -> str | Ending:
    """The next piece; a StopIteration could not pass through a future."""
    try:
        return next(pieces)
    except StopIteration as end:
        ending = end.value
    assert isinstance(ending, Ending), "a session's generate returns an Ending"
    return ending
