"""`python -m benchmarks.figures`: the growth curve of a benchmark's JSON, as SVG.

Samples a second by number of users, one line a contender, for settings that differ in users alone.
`benchmarks.report` puts the same into its page.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.command import ready_file, start
from benchmarks.results import read_report
from benchmarks.results.schema import EngineReport, Setting, Spread
from benchmarks.results.tables import families
from client.terminal.console import print_line
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
# Okabe and Ito's further colours; contenders beyond repeat them with another marker.
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00", GREY)
MARKERS = ("o", "s", "^")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


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
    for number, (label, line) in enumerate(growth_lines(group).items()):
        users = [count for count, _ in line]
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number // len(COLOURS) % len(MARKERS)]
        axes.plot(users, [r.median for _, r in line], marker=marker, color=colour, label=label)
        low, high = [r.low for _, r in line], [r.high for _, r in line]
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
    first = group[0]
    lengths = f"{first.tokens} tokens" if first.lengths == "fixed" else f"{first.lengths} lengths"
    return f"size {first.size}, {lengths}, {first.samples} samples a user"


def draw_growth(source: Path, path: Path) -> None:
    """Write the growth curve of one file as SVG; the same file gives the same bytes.

    Raises ReportError if it is no benchmark's or holds no growth curve or several.
    """
    report = read_report(source)
    settings = report.settings if isinstance(report, EngineReport) else []
    curves = [group for group in families(settings) if len(group) > 1]
    if len(curves) != 1:
        raise ReportError(
            f"{source}: expected one family of settings that differ in users alone, found "
            f"{len(curves)}",
            hint="measure it with several --users of one size",
        )
    ready_file(path, "<svg")
    with mpl.rc_context(STYLE):
        figure, image = growth(curves[0]), io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(image, format="svg", dpi=160, metadata={"Date": None})
    write_atomic(path, image.getvalue())


@app.command()
def run(
    source: Annotated[Path, typer.Argument(help="JSON of benchmarks.engine.")],
    growth_svg: Annotated[Path, typer.Option(help="The SVG file to write.")],
) -> None:
    """Draw the growth curve and print its path."""
    draw_growth(source, growth_svg)
    print_line(str(growth_svg))


if __name__ == "__main__":
    start(app)
