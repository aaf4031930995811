"""How long a command may take, and an end to what takes longer."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


class OutOfTimeError(Exception):
    """What was going on would have taken too long."""


class Budget:
    """Seconds of a whole command, from `began` on (of `time.monotonic`)."""

    def __init__(self, seconds: float, began: float) -> None:
        self.seconds, self.began = seconds, began

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        return self.seconds - self.elapsed

    @contextmanager
    def at_most(self, seconds: float = float("inf")) -> Iterator[None]:
        """Raise OutOfTimeError in what runs inside, after so many seconds or when the budget is used.

        By a signal, so that a compilation that does not end is ended as well. Main thread only; a
        kernel that runs is waited for.
        """
        allowed = min(seconds, self.left)
        if allowed <= 0:
            raise OutOfTimeError("no time left")

        def ring(*_: object) -> None:
            raise OutOfTimeError(f"more than {allowed:.0f} s")

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, allowed)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
