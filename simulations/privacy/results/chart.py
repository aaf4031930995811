"""One figure for attacks that are measured line by line: success with its interval, beside guessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulations.privacy.results.leaving import CALLED, TONES
from simulations.privacy.results.rates import Rate
from simulations.privacy.statistics.shares import Control
from simulations.reporting.charts import Mark, Row, intervals
from simulations.reporting.figures import Figure, charted


@dataclass(frozen=True)
class Line:
    """One attack or control: what it reached, and what it is compared with, such as guessing."""

    label: str
    control: Control
    reached: Rate
    beside: float


def chart(
    lines: Sequence[Line],
    *,
    key: str,
    title: str,
    measure: str,
    limits: tuple[float, float],
    beside: str = "guessing",
) -> Figure:
    """Every line's value with its interval, the first on top.

    `measure` is what is measured, with its unit, `beside` what it is compared with, both in words.
    """
    rows = []
    for line in lines:
        found = line.reached
        words = f"{CALLED[line.control]} {found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
        mark = Mark(found.value, found.low, found.high, words, TONES[line.control])
        rows.append(Row(line.label, (mark,), line.beside))
    said = "; ".join(
        f"{line.label}: {line.reached.value:.3f} [{line.reached.low:.3f}, "
        f"{line.reached.high:.3f}], {beside} {line.beside:.3f}"
        for line in lines
    )
    note = (
        f"With 95% intervals over people; the bar is {beside}. A disc is an attack, a diamond a control that "
        "must succeed, a ring one that must not."
    )
    chart = intervals(rows, measure, limits=limits)
    return charted(key, title, f"{measure}, with intervals. {said}", chart, note)
