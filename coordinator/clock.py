"""Seconds by step of a run in `timings.json`, added up over all its starts.

A step is written as it ends, so that a kill loses the time of one step at most. The pooled stages
are steps of their own; "release" is what remains around them: the base, the data and signing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from proper_model.files import read_regular, write_atomic

TIMINGS_FILE = "timings.json"
MAX_TIMINGS_BYTES = 1024 * 1024
POOLED_PHASES = ("population", "group", "router")
RELEASE = "release"

Progress = Callable[[str, int, int], None]


class StepClock:
    """One step at a time: `enter` ends the one before, and so does leaving the block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._step: str | None = None
        self._since = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.leave()

    def enter(self, step: str) -> None:
        """Begin a step; the same one just goes on."""
        if step != self._step:
            self.leave()
            self._step, self._since = step, time.monotonic()

    def leave(self) -> None:
        """End the present step, if there is one, and write its seconds."""
        if self._step is not None:
            step, self._step = self._step, None
            known = self._read()
            known[step] = known.get(step, 0.0) + time.monotonic() - self._since
            write_atomic(self.path, (json.dumps(known, indent=1) + "\n").encode())

    def watch(self, progress: Progress) -> Progress:
        """A callback for the pooled stages that also enters the phase it is told."""

        def told(phase: str, done: int, total: int) -> None:
            self.enter(phase if phase in POOLED_PHASES else RELEASE)
            progress(phase, done, total)

        return told

    def _read(self) -> dict[str, float]:
        try:
            stored = json.loads(read_regular(self.path, limit_bytes=MAX_TIMINGS_BYTES))
            return {str(step): float(seconds) for step, seconds in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # none yet, or damaged: times decide nothing
