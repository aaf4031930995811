"""One figure for attacks that are measured line by line: success with its interval, beside guessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulations.privacy.results.leaving import COLOURS
from simulations.privacy.results.rates import Rate
from simulations.privacy.statistics.shares import Control
from simulations.reporting.figures import INK, Figure, drawing, inline


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
    with drawing(7.8, 0.9 + 0.2 * len(lines)) as (canvas, axes):
        for place, line in enumerate(reversed(lines)):
            colour, found = COLOURS[line.control], line.reached
            axes.plot([found.low, found.high], [place, place], color=colour, linewidth=2)
            axes.plot([found.value], [place], marker="o", color=colour, markersize=4)
            axes.plot([line.beside], [place], marker="|", color=INK, markersize=6)
        axes.set_yticks(range(len(lines)), [line.label for line in reversed(lines)], fontsize=7)
        axes.set_xlim(*limits)
        axes.set_xlabel(
            f"{measure} (bar: {beside}; blue: attack, orange: must succeed, grey: must not)"
        )
        said = "; ".join(
            f"{line.label}: {line.reached.value:.3f} [{line.reached.low:.3f}, "
            f"{line.reached.high:.3f}], {beside} {line.beside:.3f}"
            for line in lines
        )
        return inline(canvas, key, title, f"{title}: {measure}, with intervals. {said}.")
