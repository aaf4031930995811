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
from types import TracebackType
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
    """A process and this end of its pipe; the other end is the target's first argument.

    It is forked from a server that has imported everything and computed nothing.
    """

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._here, there = context.Pipe()
        self._process = context.Process(target=target, args=(there, *arguments), daemon=True)
        with without_ctrl_c():
            self._process.start()
        there.close()  # else the pipe stays open when the child dies

    def send(self, word: str) -> None:
        """Raises OSError if the process has gone."""
        self._here.send(word)

    def receive(self) -> object:
        """Wait for the next answer. Raises EOFError or OSError if the process has gone."""
        return self._here.recv()

    def exit_code(self) -> int | None:
        """Of a process that is ending."""
        self._process.join(STOP_S)
        return self._process.exitcode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            with contextlib.suppress(OSError):
                self._here.send("stop")
            self._process.join(STOP_S)
        if self._process.is_alive():  # on Ctrl-C it is in the middle of its work
            self._process.terminate()
            self._process.join()
        self._here.close()


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """`function(*arguments)`, computed by a process that is gone afterwards.

    Function, arguments and result travel by pickle. Raises the function's own ProperError, and
    TrainingError if it raised something else or its process was ended from outside.
    """
    with Child(_call, function, arguments) as child:
        try:
            found = child.receive()
        except EOFError:
            raise TrainingError(
                f"a measuring process ended by itself (exit code {child.exit_code()})",
                hint="most likely the system ended it for its memory; leave out the largest setting",
            ) from None
    if isinstance(found, ProperError):
        raise found
    result: Result = found  # type: ignore[assignment]
    return result


def _call(
    there: Connection, function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    answer: object
    try:
        answer = function(*arguments)
    except ProperError as error:
        answer = error
    except Exception as error:  # noqa: BLE001 - told to the parent, whatever it is
        answer = TrainingError(f"a measuring process failed: {cause_of(error)}")
    there.send(answer)
