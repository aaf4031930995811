"""A writer that is stopped at each of its syncs in turn, every one a point where state may last."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest


class StoppedError(BaseException):
    """Stands for a kill: no cleanup code that catches Exception sees it."""


def stopped_at_every_sync(
    patch: pytest.MonkeyPatch,
    begin: Callable[[int], Callable[[], object]],
    stop: Callable[[], BaseException] = StoppedError,
) -> Iterator[tuple[int, BaseException]]:
    """Do what `begin(step)` gives with its step-th sync stopped, until that ends of itself.

    Yields (step, what was raised) after each stop.

    Nothing is flushed to the disk meanwhile, which only a power cut would tell, and takes long.
    """
    patch.setattr(os, "fsync", lambda _: None)
    for step in itertools.count():
        act, calls = begin(step), itertools.count()

        def fsync(_: int, calls: Iterator[int] = calls, step: int = step) -> None:
            if next(calls) == step:
                raise stop()

        with patch.context() as stopping:
            stopping.setattr(os, "fsync", fsync)
            try:
                act()
            except (Exception, StoppedError) as error:  # noqa: BLE001 - the caller judges it
                raised = error
            else:
                return
        yield step, raised
