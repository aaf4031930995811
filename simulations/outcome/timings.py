"""Phases of a run: their names for people, and seconds by phase.

The coordinator's steps lie in `timings.json`, the launcher's phases in `phases.json`, a node's in
`nodes/<k>/timings.json`. Coordinator and launcher together are the run's wall-clock seconds, each
counted once. Nodes play at the same time, so their seconds are a sum of their own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from client.terminal import console
from proper_model.federation.protocol import Kind
from proper_model.federation.run_plan import RunPlan
from proper_model.federation.step_clock import (
    TIMINGS_FILE,
    add_seconds,
    read_seconds,
    write_seconds,
)
from proper_model.progress import Progress

# Names of phases for people. Messages, journals and timings keep the short ones.
NAMES = {
    "coordinator": "starting the coordinator",
    "base": "loading the base",
    "tokenize": "tokenizing",
    "release": "making the release",
    "population": "stage 1, population",
    "group": "stage 2, groups",
    "router": "stage 3, router",
    "starts": "stage 3, common start",
    "calibration": "stage 3, calibration",
    Kind.HAVE: "asking devices what they lack",
    Kind.STORE: "sending the bundle",
    Kind.INSTALL: "installing the bundle",
    "personalize": "personalizing",
    Kind.PERSONALIZE: "personalizing",
    Kind.EVALUATE: "predicting",
}
PHASES_FILE = "phases.json"
START, END = "flower-start", "flower-end"


class FlowerClock:
    """A progress callback that notes what Flower itself takes, beside the coordinator's steps.

    The start ends with the coordinator's first progress and is written then, so that a kill loses
    only the end: what is neither the start nor a step.
    """

    def __init__(self, out: Path, progress: Progress) -> None:
        self.out, self.progress = out, progress
        self._start, self._steps = time.monotonic(), coordinator_seconds(out)
        self._noted: float | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Pass on; the first call is the end of the start."""
        if self._noted is None:
            self._noted = time.monotonic() - self._start
            add_seconds(self.out / PHASES_FILE, START, self._noted)
        self.progress(phase, done, total)

    def finish(self) -> None:
        """Add what is neither the start nor a step."""
        steps = coordinator_seconds(self.out) - self._steps
        rest = time.monotonic() - self._start - steps - (self._noted or 0.0)
        add_seconds(self.out / PHASES_FILE, END, max(0.0, rest))


@contextlib.contextmanager
def timed(out: Path, phase: str, *, anew: bool = False) -> Iterator[None]:
    """Add the seconds of a phase to the run's file; a resumed phase adds to what it had.

    With `anew` they replace it: scoring once more is not part of the run.
    """
    start = time.monotonic()
    yield
    known = read_seconds(out / PHASES_FILE)
    before = 0.0 if anew else known.get(phase, 0.0)
    write_seconds(out / PHASES_FILE, {**known, phase: before + time.monotonic() - start})


def coordinator_seconds(out: Path) -> float:
    """Sum over the coordinator's finished steps."""
    return sum(read_seconds(out / TIMINGS_FILE).values())


def read_timings(out: Path, plans: Sequence[RunPlan]) -> dict[str, float]:
    """Wall-clock seconds by phase, none counted twice; folds are summed. Empty if nobody timed."""
    folders = dict.fromkeys((out, *(plan.out for plan in plans)))
    return _summed([folder / name for folder in folders for name in (PHASES_FILE, TIMINGS_FILE)])


def read_node_timings(plans: Sequence[RunPlan]) -> dict[str, float]:
    """Seconds by step, summed over nodes and folds; nodes that play together count each."""
    nodes = [plan.node_folder(k) for plan in plans for k in range(plan.node_count)]
    return _summed([node / TIMINGS_FILE for node in nodes])


def _summed(paths: Sequence[Path]) -> dict[str, float]:
    total: dict[str, float] = {}
    for path in paths:
        for phase, seconds in read_seconds(path).items():
            total[phase] = total.get(phase, 0.0) + seconds
    return total


def phase_name(phase: str) -> str:
    """What a person reads for a phase; parts before and after it, such as a fold, stay."""
    return ": ".join(NAMES.get(part, part) for part in phase.split(": "))


def progress_bars() -> contextlib.AbstractContextManager[Progress]:
    """Bars or lines for the phases of a run, under their names for people."""
    return console.progress_bars(phase_name)
