"""Processes of a benchmark's own: asked over a pipe, not reached by Ctrl-C, noticed when they end.

A terminal sends Ctrl-C to every process of a command; each would print a traceback of its own. Here
only the command answers it, and it ends its children.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Self, TypeVar

from proper_model.errors import ProperError, TrainingError

Result = TypeVar("Result")
PRELOAD = [
    "transformers.models.llama.modeling_llama",
    "benchmarks.measuring.preload",
    "benchmarks.contenders",
]
STOP_S = 30.0
LONGEST = 200  # characters of a cause; a library's text may fill a page


def cause_of(error: BaseException) -> str:
    """`RuntimeError: out of memory`, or the name alone where the exception says nothing."""
    name, text = type(error).__name__, " ".join(str(error).split())
    if not text:
        return name
    return f"{name}: {text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}"


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """What is started while open never receives Ctrl-C, nor do its children.

    For this process it only waits: one that comes meanwhile is raised when this closes.
    """
    # Multiprocessing's helper lifts the block where it has to be started first.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Child:
    """A process that calls functions when it is asked, and this end of its pipe.

    It is forked from a server that has imported everything and computed nothing.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there,), daemon=True)
        with without_ctrl_c():
            self._process.start()
        there.close()  # else the pipe stays open when the child dies

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """`function(*arguments)`, computed over there; all of it travels by pickle.

        Raises the function's own ProperError, and TrainingError if it raised something else or the
        process was ended from outside.
        """
        try:
            self._here.send((function, arguments))
            found = self._here.recv()
        except (EOFError, OSError):
            self._process.join(STOP_S)
            raise TrainingError(
                f"Killed: a measuring process ended (exit code {self._process.exitcode})",
                hint="most likely the system ended it for its memory; leave out the largest setting",
            ) from None
        if isinstance(found, ProperError):
            raise found
        result: Result = found
        return result

    def end(self, wait_s: float = STOP_S) -> None:
        """Have the process end by itself, for so long, and then be ended; again does nothing."""
        self._here.close()  # ends a process that waits
        self._process.join(wait_s)
        self._process.terminate()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After Ctrl-C it is in the middle of its work.
        self.end(STOP_S if kind is None else 0.0)


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """As `Child.call`, by a process that is gone afterwards."""
    with Child() as child:
        return child.call(function, *arguments)


def _serve(there: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            function, arguments = there.recv()
            try:
                answer = function(*arguments)
            except ProperError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - told to the parent, whatever it is
                answer = TrainingError(cause_of(error))
            there.send(answer)
