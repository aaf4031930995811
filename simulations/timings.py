"""Seconds by phase: the coordinator's steps and the launcher's phases, each in its own file."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from coordinator.clock import POOLED_PHASES, RELEASE, TIMINGS_FILE
from proper_model.errors import ReportError
from proper_model.files import write_atomic
from proper_model.runplan import RunPlan
from simulations.sources import Progress

PHASES_FILE = "phases.json"


class FlowerClock:
    """A progress callback that notes what Flower itself takes, beside the coordinator's steps.

    The start is written with the coordinator's first word, so that a kill loses only the end.
    """

    def __init__(self, out: Path, progress: Progress) -> None:
        self.out, self.progress = out, progress
        self._start, self._steps = time.monotonic(), coordinator_seconds(out)
        self._noted: float | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Pass on; the first call is the end of the start."""
        if self._noted is None:
            self._noted = time.monotonic() - self._start
            add_seconds(self.out, "flower", self._noted)
        self.progress(phase, done, total)

    def finish(self) -> None:
        """Add what is neither the start nor a step."""
        steps = coordinator_seconds(self.out) - self._steps
        rest = time.monotonic() - self._start - steps - (self._noted or 0.0)
        add_seconds(self.out, "flower", max(0.0, rest))


@contextlib.contextmanager
def timed(out: Path, phase: str) -> Iterator[None]:
    """Add the seconds of a phase to the run's file; a resumed phase adds to what it had."""
    start = time.monotonic()
    yield
    add_seconds(out, phase, time.monotonic() - start)


def add_seconds(out: Path, phase: str, seconds: float) -> None:
    """Add to a phase of the launcher's file."""
    path = out / PHASES_FILE
    known = _read(path)
    known[phase] = known.get(phase, 0.0) + seconds
    write_atomic(path, (json.dumps(known, indent=1) + "\n").encode())


def coordinator_seconds(out: Path) -> float:
    """Sum over the coordinator's finished steps."""
    return sum(_read(out / TIMINGS_FILE).values())


def read_timings(out: Path, plans: Sequence[RunPlan]) -> dict[str, float]:
    """Seconds by phase, none counted twice; folds are summed. Empty for folders nobody timed."""
    total: dict[str, float] = {}
    for folder in dict.fromkeys((out, *(plan.out for plan in plans))):
        found = [_read(folder / name) for name in (TIMINGS_FILE, PHASES_FILE)]
        # Earlier launchers noted the pooled phases, which the coordinator's release then included.
        inside = sum(found[1].get(phase, 0.0) for phase in POOLED_PHASES)
        if inside and RELEASE in found[0]:
            found[0][RELEASE] = max(0.0, found[0][RELEASE] - inside)
        for phase, seconds in (item for phases in found for item in phases.items()):
            total[phase] = total.get(phase, 0.0) + seconds
    return total


def _read(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    try:
        return {str(k): float(v) for k, v in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError, TypeError):
        raise ReportError(f"{path}: expected seconds by phase") from None
