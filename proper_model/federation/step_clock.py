"""Seconds by step in a small JSON file, added up over all starts of a run.

A step is written as it ends, so that a kill loses the time of one step at most.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Self

from proper_model.progress import Progress
from proper_model.storage.documents import parse_object
from proper_model.storage.files import read_regular, write_atomic

TIMINGS_FILE = "timings.json"
MAX_TIMINGS_BYTES = 1024 * 1024


class StepClock:
    """One step at a time: `enter` ends the one before, and so does leaving the block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._step: str | None = None
        self._since = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
            add_seconds(self.path, step, time.monotonic() - self._since)

    def watch(self, progress: Progress, steps: Collection[str], *, rest: str) -> Progress:
        """A callback that also enters the step it is told, or `rest` if it is none of `steps`."""

        def told(phase: str, done: int, total: int) -> None:
            self.enter(phase if phase in steps else rest)
            progress(phase, done, total)

        return told


def add_seconds(path: Path, step: str, seconds: float) -> None:
    """Add to a step of the file, which need not exist."""
    known = read_seconds(path)
    known[step] = known.get(step, 0.0) + seconds
    write_seconds(path, known)


def write_seconds(path: Path, seconds: dict[str, float]) -> None:
    """Replace the file."""
    write_atomic(path, (json.dumps(seconds, indent=1) + "\n").encode())


def read_seconds(path: Path) -> dict[str, float]:
    """Seconds by step; none where the file is missing or damaged, since times decide nothing."""
    try:
        stored = parse_object(read_regular(path, limit_bytes=MAX_TIMINGS_BYTES))
        return {str(step): float(seconds) for step, seconds in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
