"""How long a training still takes, from what has been seen of it and what was expected before.

    left = steps left in this phase * seconds a step + sum of what later phases were expected to take * r

r corrects the expectation by the phases so far: seconds they are taking, over seconds that were
expected of them. Seconds a step come from the later half of the steps seen, so that a slow start
(loading, compiling) fades. Where training may stop early nobody knows how many steps are left, between
none and all; then a phase counts with the geometric mean of its fastest and its slowest, which is at
most a factor sqrt(slowest / fastest) off either.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEAST_STEPS = 3  # the first one warms up, and two make no pace
LEAST_S = 2.0
JUMP = 4.0  # a step that counts for so many others is trials that stopped, not work
TRUSTED = (0.1, 10.0)  # r stays within: a phase of a few steps says little of others


@dataclass(frozen=True)
class ExpectedPhase:
    """A phase to come, and between which times it is expected to take.

    Attributes:
        stops_early: whether it may end before its steps are done; else how many it has is known
            once it has begun.
    """

    name: str
    fastest_s: float
    slowest_s: float
    stops_early: bool = False

    @property
    def expected_s(self) -> float:
        """One time for both: as many times the fastest as it is times shorter than the slowest."""
        return math.sqrt(self.fastest_s * self.slowest_s)


@dataclass(frozen=True)
class Mark:
    """So many steps of `total` were done so many seconds after the phase began."""

    seconds: float
    done: int
    total: int


def seconds_a_step(marks: Sequence[Mark]) -> float | None:
    """The pace of the later half of a phase's marks; None: too few to tell.

    Steps that were skipped, because a training stopped early, took no time and do not count.
    """
    if len(marks) < LEAST_STEPS or marks[-1].seconds < LEAST_S:
        return None
    seen = marks[max(0, (len(marks) - 1) // 2) :]
    steps = [max(0, b.done - a.done) for a, b in zip(seen, seen[1:], strict=False)]
    usual = sorted(steps)[len(steps) // 2]
    worked = sum(min(step, JUMP * usual) for step in steps) if usual else sum(steps)
    passed = seen[-1].seconds - seen[0].seconds
    return passed / worked if worked else None


def phase_left(marks: Sequence[Mark], expected: ExpectedPhase | None = None) -> float | None:
    """Seconds that a phase still takes; None: too little is seen of it.

    A phase that was expected to perhaps stop early is taken to do so in the mean.
    """
    pace = seconds_a_step(marks)
    if pace is None:
        return None
    last = marks[-1]
    left = max(0, last.total - last.done)
    share = 1.0
    if expected is not None and expected.stops_early and expected.fastest_s > 0:
        share = expected.expected_s / expected.slowest_s
    return left * pace * share


def time_left(
    marks: Sequence[Mark],
    now: int,
    expected: Sequence[ExpectedPhase],
    spent_s: Sequence[float | None],
) -> float | None:
    """Seconds until the end; None: too little is known.

    Args:
        marks: of the phase that runs.
        now: its place in `expected`, which is as long as there are phases.
        spent_s: what each phase before it took; None of one that did not come.
    """
    here = expected[now] if now < len(expected) else None
    left = phase_left(marks, here)
    came = [(phase, spent) for phase, spent in zip(expected, spent_s, strict=False) if spent]
    told = sum(phase.expected_s for phase, _ in came)
    took = sum(spent for _, spent in came)
    if left is None:
        if here is None:
            return None
        passed = marks[-1].seconds if marks else 0.0
        left = max(here.expected_s * _within(took, told) - passed, 0.0)
    else:
        took += marks[-1].seconds + left
        told += here.expected_s if here is not None else 0.0
    return left + sum(phase.expected_s for phase in expected[now + 1 :]) * _within(took, told)


def _within(took: float, told: float) -> float:
    """By what factor phases take longer than was expected of them; 1 where nothing is known."""
    if took <= 0 or told <= 0:
        return 1.0
    return min(max(took / told, TRUSTED[0]), TRUSTED[1])


class Watch:
    """Follows the progress of a training through its phases.

    Args:
        expected: the phases to come, filled in before the first of them begins. A phase that starts
            counting anew is the next one of its name.
    """

    def __init__(
        self,
        expected: Sequence[ExpectedPhase],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.expected, self.clock = expected, clock
        self._name = ""
        self._place = -1
        self._spent: list[float | None] = []
        self._marks: list[Mark] = []
        self._begun = clock()

    def step(self, name: str, done: int, total: int) -> float | None:
        """Note how far it is. Returns the seconds that are left, None where too little is known."""
        now = self.clock()
        again = bool(self._marks) and done < self._marks[-1].done
        if name != self._name or again:
            self._enter(name, now)
        if total:
            self._marks.append(Mark(now - self._begun, done, total))
        place = self._place if self._is_here(name) else len(self.expected)
        return time_left(self._marks, place, self.expected, self._spent)

    def _enter(self, name: str, now: float) -> None:
        """Another phase begins, or the same one counts anew."""
        later = range(self._place + 1, len(self.expected))
        found = next((place for place in later if self.expected[place].name == name), None)
        if found is not None:
            if self._is_here(self._name):
                self._spent.append(now - self._begun)
            self._spent += [None] * (found - len(self._spent))  # expected, and did not come
            self._place = found
        self._name, self._marks, self._begun = name, [], now

    def _is_here(self, name: str) -> bool:
        return 0 <= self._place < len(self.expected) and self.expected[self._place].name == name


def readable_seconds(seconds: float) -> str:
    """95 -> '1 min 35 s'; hours beyond."""
    whole = max(1, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def readable_range(low_s: float, high_s: float) -> str:
    """'10 s to 1 min 35 s'; one time where both read alike."""
    low, high = readable_seconds(low_s), readable_seconds(high_s)
    return low if low == high else f"{low} to {high}"
