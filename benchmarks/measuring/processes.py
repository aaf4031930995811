"""A function in a fresh process of its own, whose end is noticed whatever ends it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from benchmarks.causes import cause_of
from benchmarks.deaf import deaf_children
from proper_model.errors import ProperError, TrainingError

Result = TypeVar("Result")
STOP_S = 30.0


def in_own_process(function: Callable[..., Result], *arguments: object) -> Result:
    """`function(*arguments)`, computed by a process that is gone afterwards.

    Function, arguments and result travel by pickle. Raises the function's own ProperError, and
    TrainingError if it raised something else or its process was ended from outside.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(there, function, arguments), daemon=True)
    try:
        with deaf_children():
            process.start()
        there.close()  # else the pipe stays open when the child dies
        found = here.recv()
        process.join(STOP_S)
    except EOFError:
        process.join(STOP_S)
        raise TrainingError(
            f"a measuring process ended by itself (exit code {process.exitcode})",
            hint="most likely the system ended it for its memory; leave out the largest setting",
        ) from None
    finally:
        if process.pid is not None:
            # On Ctrl-C it is in the middle of its work and would not hear of it.
            process.terminate()
            process.join(STOP_S)
        here.close()
    if isinstance(found, ProperError):
        raise found
    result: Result = found
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
