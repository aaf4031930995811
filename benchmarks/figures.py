"""The growth curve: samples a second by number of users, one line a contender, for settings that differ
in users alone.
"""

from __future__ import annotations

import io
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.command import ready_file
from benchmarks.results import read_report
from benchmarks.results.schema import EngineReport, Report, Setting, Spread
from benchmarks.results.tables import families, lengths_of
from proper_model.errors import ReportError
from proper_model.storage.files import write_atomic
from simulations.reporting.figures import BLUE, GREEN, GREY, ORANGE

STYLE = {
    # Text stays text, and element names do not depend on the run: figures can be compared.
    "svg.fonttype": "none",
    "svg.hashsalt": "proper",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# Okabe and Ito's further colours; contenders beyond them have another marker.
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00", GREY)
MARKERS = ("o", "s", "^")


def curves(report: Report) -> list[list[Setting]]:
    """Families of settings that differ in users alone, each of several."""
    found = families(report.settings) if isinstance(report, EngineReport) else []
    return [group for group in found if len(group) > 1]


def growth_lines(group: Sequence[Setting]) -> dict[str, list[tuple[int, Spread]]]:
    """By contender: users, and samples a second."""
    lines: dict[str, list[tuple[int, Spread]]] = defaultdict(list)
    for setting in group:
        for result in setting.contenders:
            if result.measured is not None:
                lines[result.label].append((setting.users, result.measured.samples_a_second))
    return lines


def growth(group: Sequence[Setting]) -> Figure:
    """Samples a second of each contender against the number of users, both axes logarithmic."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    looks = itertools.product(MARKERS, COLOURS)
    for (label, line), (marker, colour) in zip(growth_lines(group).items(), looks, strict=False):
        users, spreads = zip(*line, strict=True)
        middle, low, high = zip(*spreads, strict=True)
        axes.plot(users, middle, marker=marker, color=colour, label=label)
        axes.fill_between(users, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([s.users for s in group], [str(s.users) for s in group])
    axes.set_xlabel("users trained together")
    axes.set_ylabel("samples a second (wall)")
    axes.set_title(growth_title(group))
    axes.legend(fontsize=8, frameon=False)
    return figure


def growth_title(group: Sequence[Setting]) -> str:
    """What all settings of a family have in common."""
    one = group[0]
    return f"size {one.size}, {lengths_of(one)}, {one.samples} samples a user"


def draw_growth(source: Path, path: Path) -> None:
    """Write the growth curve of one file as SVG; the same file gives the same bytes.

    Raises ReportError if it is no benchmark's or holds no growth curve or several.
    """
    found = curves(read_report(source))
    if len(found) != 1:
        raise ReportError(
            f"{source}: expected one family of settings that differ in users alone, found "
            f"{len(found)}",
            hint="measure it with several --users of one size",
        )
    ready_file(path)
    with mpl.rc_context(STYLE):
        figure, image = growth(found[0]), io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(image, format="svg", dpi=160, metadata={"Date": None})
    write_atomic(path, image.getvalue())
