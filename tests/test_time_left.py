"""The time left: right within a factor of two on traces made by a clock of the test's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.terminal.console import plain_progress
from client.terminal.time_left import (
    LEAST_S,
    LEAST_STEPS,
    ExpectedPhase,
    Mark,
    Watch,
    phase_left,
    readable_range,
    readable_seconds,
    seconds_a_step,
    time_left,
)

FACTOR = 2.0


@dataclass(frozen=True)
class Run:
    """A phase as it will go: seconds of every step, and what was expected of it."""

    name: str
    steps: Sequence[float]
    expected: ExpectedPhase


def phase(name: str, steps: Sequence[float], told: float) -> Run:
    """One of a known length that was expected to take `told` seconds."""
    return Run(name, steps, ExpectedPhase(name, told, told))


def told_and_true(runs: Sequence[Run]) -> list[tuple[float, float, float | None]]:
    """(seconds so far, seconds left in truth, what was said) after every step."""
    now = [0.0]
    watch = Watch([run.expected for run in runs], lambda: now[0])
    whole = sum(sum(run.steps) for run in runs)
    found = []
    for run in runs:
        watch.step(run.name, 0, 0)
        for done, seconds in enumerate(run.steps, start=1):
            now[0] += seconds
            left = watch.step(run.name, done, len(run.steps))
            found.append((now[0], whole - now[0], left))
    return found


def worst(runs: Sequence[Run], *, after_s: float = 0.0) -> float:
    """The largest factor between what was said and what is true.

    From `after_s` on and while a tenth of the whole is left: the last steps may be of any length.
    """
    whole = sum(sum(run.steps) for run in runs)
    factors = [1.0]
    for so_far, true, said in told_and_true(runs):
        if so_far >= max(after_s, LEAST_S) and true > whole / 10:
            assert said is not None
            factors.append(max(said / true, true / said) if said > 0 else math.inf)
    return max(factors)


def test_an_even_pace_is_told_exactly() -> None:
    marks = [Mark(n * 2.0, n, 10) for n in range(1, 6)]
    assert seconds_a_step(marks) == 2.0
    assert phase_left(marks) == 10.0
    assert time_left(marks, 0, [ExpectedPhase("a", 20, 20), ExpectedPhase("b", 5, 5)], []) == 15.0


def test_before_a_pace_is_known_what_was_expected_counts() -> None:
    assert seconds_a_step([Mark(1.0, n, 9) for n in range(LEAST_STEPS - 1)]) is None
    expected = [ExpectedPhase("a", 10, 40), ExpectedPhase("b", 5, 5)]
    assert time_left([Mark(4.0, 1, 9)], 0, expected, []) == 20 - 4 + 5
    assert time_left([], 7, expected, []) is None


def test_a_phase_that_may_stop_early_counts_between_its_ends() -> None:
    marks = [Mark(float(n), n, 100) for n in range(1, 11)]
    early = ExpectedPhase("a", 25, 100, stops_early=True)
    assert phase_left(marks, early) == 90 * 0.5
    assert phase_left(marks, ExpectedPhase("a", 25, 100)) == 90.0


def test_steps_that_a_stop_saved_are_no_pace() -> None:
    """40 of 100 steps fall away at once; the others go on at one a second."""
    marks = [Mark(float(n), n + 40 * (n > 8), 100) for n in range(1, 11)]
    assert seconds_a_step(marks) == pytest.approx(5 / 8, rel=0.5)
    assert phase_left(marks) == pytest.approx(50, rel=0.5)


def test_a_slow_start_fades() -> None:
    steps = [12.0, 3.0, *[0.5] * 100]
    assert worst([phase("adapter", steps, 50)], after_s=16.0) <= FACTOR


def test_a_step_at_an_epochs_end_that_judges_is_averaged() -> None:
    steps = [4.0 if n % 10 == 9 else 0.5 for n in range(100)]
    assert worst([phase("adapter", steps, 90)], after_s=14.0) <= FACTOR


@pytest.mark.parametrize("slower", [0.3, 1.0, 4.0])
def test_later_phases_are_corrected_by_those_so_far(slower: float) -> None:
    """The machine is `slower` times slower than was measured before, in every phase."""
    runs = [
        phase("embedding", [0.5 * slower] * 40, 20),
        phase("adapter", [1.0 * slower] * 60, 60),
        phase("adapter", [1.0 * slower] * 20, 20),
    ]
    assert worst(runs, after_s=4 * slower) <= FACTOR


def test_a_phase_that_turns_out_slower_than_the_one_before() -> None:
    runs = [phase("embedding", [0.5] * 40, 20), phase("adapter", [1.5] * 60, 60)]
    assert worst(runs, after_s=3.0) <= FACTOR


def test_a_phase_that_slows_down_while_it_runs() -> None:
    steps = [0.5] * 50 + [0.9] * 50
    assert worst([phase("adapter", steps, 50)], after_s=3.0) <= FACTOR


@given(
    pace=st.floats(0.1, 3.0),
    steps=st.integers(30, 120),
    start=st.floats(1.0, 8.0),
    measured=st.floats(0.6, 1.6),
    wobble=st.lists(st.floats(0.75, 1.3), min_size=1, max_size=7),
)
def test_within_a_factor_of_two_whatever_the_trace(
    pace: float, steps: int, start: float, measured: float, wobble: list[float]
) -> None:
    """A first step `start` times slower, steps that wobble, a speed that was measured wrongly."""
    runs = []
    for name, count in (("embedding", steps // 2), ("adapter", steps), ("adapter", steps // 3)):
        walk = [pace * wobble[n % len(wobble)] for n in range(count)]
        walk[0] *= start
        runs.append(phase(name, walk, sum(walk) * measured))
    assert worst(runs, after_s=sum(runs[0].steps[:5])) <= FACTOR


def test_what_is_not_expected_is_told_by_its_own_pace() -> None:
    now = [0.0]
    watch = Watch((), lambda: now[0])
    said = []
    for done in range(1, 9):
        now[0] += 1.0
        said.append(watch.step("stage 1", done, 10))
    assert said[-1] == pytest.approx(2.0)
    assert said[0] is None


def test_phases_that_were_expected_and_did_not_come_are_skipped() -> None:
    now = [0.0]
    expected = [ExpectedPhase(name, 10, 10) for name in ("embedding", "without", "adapter")]
    watch = Watch(expected, lambda: now[0])
    watch.step("loading the model", 0, 0)
    watch.step("embedding", 0, 0)
    now[0] = 10.0
    assert watch.step("adapter", 0, 0) == pytest.approx(10.0)


def test_a_log_says_how_much_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    watch = Watch([ExpectedPhase("adapter", 100, 100)], lambda: now[0])
    show = plain_progress(str, lambda: now[0], watch)
    for second in range(62):
        now[0] = float(second)
        show("adapter", second, 100)
    assert capsys.readouterr().err.splitlines() == [
        "proper: adapter",
        "proper: adapter 30/100, about 1 min 10 s left",
        "proper: adapter 60/100, about 40 s left",
    ]


def test_times_in_words() -> None:
    assert [readable_seconds(s) for s in (0.2, 95, 3700)] == ["1 s", "1 min 35 s", "1 h 1 min"]
    assert readable_range(10, 95) == "10 s to 1 min 35 s"
    assert readable_range(10.1, 10.2) == "10 s"
