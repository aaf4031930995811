"""One thread that runs every call of a session, in order.

A thread of its own because a call may take seconds while the server must answer; only one because
torch keeps state by thread and a generation is left and entered again; a daemon because a call that
does not end must not keep the program alive.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_Value = TypeVar("_Value")


class Worker:
    """Runs functions one after the other in the order they came."""

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
