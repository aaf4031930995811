"""Seconds by phase: the coordinator's steps and the launcher's phases, in one file of a run."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from proper_model.errors import ReportError
from proper_model.files import write_atomic
from proper_model.runplan import RunPlan
from simulations.sources import Progress

COORDINATOR_FILE = "timings.json"
PHASES_FILE = "phases.json"
# Stages 1, 2 and 3a-3b as the coordinator names them; together with signing its step "release".
POOLED_PHASES = ("population", "group", "router")


class PhaseClock:
    """A progress callback that also notes how long each phase was the current one."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._phase, self._since = "", time.monotonic()

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Pass on, and on a change of phase close the one before."""
        if phase != self._phase:
            now = time.monotonic()
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._since
            self._phase, self._since = phase, now
        self.progress(phase, done, total)


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
    return sum(_read(out / COORDINATOR_FILE).values())


def read_timings(out: Path, plans: Sequence[RunPlan]) -> dict[str, float]:
    """Seconds by phase, none counted twice; folds are summed. Empty for folders nobody timed."""
    total: dict[str, float] = {}
    for folder in dict.fromkeys((out, *(plan.out for plan in plans))):
        for name in (COORDINATOR_FILE, PHASES_FILE):
            for phase, seconds in _read(folder / name).items():
                total[phase] = total.get(phase, 0.0) + seconds
    if "release" in total:
        inside = sum(total.get(phase, 0.0) for phase in POOLED_PHASES)
        total["release"] = max(0.0, total["release"] - inside)
    return total


def _read(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    try:
        return {str(k): float(v) for k, v in json.loads(path.read_text()).items()}
    except (ValueError, AttributeError, TypeError):
        raise ReportError(f"{path}: expected seconds by phase") from None
