"""Who may use the session: one at a time, in order, with a bounded queue, all in one thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from client.serving.faults import RequestError
from client.serving.session import Ending, Manner, Session
from proper_model.text import ChatMessage

MAX_WAITING = 4
Step = Callable[[], Awaitable[str | Ending]]
_Value = TypeVar("_Value")


class Worker:
    """One thread that runs every call of a session, one after the other in the order they came.

    A thread of its own because a call may take seconds while the server must answer; only one because
    torch keeps state by thread and a generation is left and entered again; a daemon because a call
    that does not end must not keep the program alive.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="proper-session", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], _Value]) -> Future[_Value]:
        """Queue `work`; the future may be cancelled until it starts."""
        future: Future[_Value] = Future()
        self._jobs.put((future, work))
        return future

    async def call(self, work: Callable[[], _Value]) -> _Value:
        """Wait for `work`. If the waiting task is cancelled, work that has begun runs to its end."""
        return await asyncio.wrap_future(self.submit(work))

    def stop(self, timeout_s: float) -> bool:
        """End after what is queued; whether that was done in time."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            _do(*job)
            del job  # a prompt must not stay alive until the next job comes


def _do(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = work()
    except BaseException as error:  # noqa: BLE001 - belongs to whoever waits
        future.set_exception(error)
    else:
        future.set_result(value)


class Turns:
    """The session, for one request at a time.

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
        """Wait for the session and hold it, as it is stored now.

        Raises RequestError at once: 429 if too many wait, 503 if it is reserved; else as
        `Session.refresh`.
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
            await self.worker.call(self.session.refresh)
            yield

    async def look(self) -> None:
        """Between requests: take what is stored now. Whoever is at work has done so.

        What cannot be had is told to the next request.
        """
        if self.busy or self.stopping.is_set():
            return
        async with self._lock:  # not `_held`: to look is not to be busy
            with suppress(Exception):
                await self.worker.call(self.session.refresh)

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
        self, messages: Sequence[ChatMessage], *, stage: str, manner: Manner
    ) -> AsyncIterator[Step]:
        """Yields a function that gives the next piece, or the Ending; afterwards generation ends.

        Only within a turn.
        """
        start = partial(self.session.generate, messages, stage=stage, manner=manner)
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
        """End behind what is at work; whether that was done in time."""
        self.stopping.set()
        return self.worker.stop(timeout_s)


def _advance(pieces: Generator[str, None, Ending]) -> str | Ending:
    """The next piece; a StopIteration could not pass through a future."""
    try:
        return next(pieces)
    except StopIteration as end:
        ending = end.value
    assert isinstance(ending, Ending), "a session's generate returns an Ending"
    return ending
