"""`python -m benchmarks.figures`: figures of a benchmark's JSON, as SVG and PNG.

`growth`: samples a second by number of users, one line a contender, one figure for every family of
settings that differ in users alone. `ratios`: how many times the naive LoRA-MoE loop, one bar a
contender, with the range over rounds. Every mark is a stored figure of the file.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.schema import ContenderResult, Setting, read_report
from benchmarks.show import best_of
from simulations.figures import BLUE, GREEN, GREY, ORANGE

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "proper",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# Okabe and Ito's further colours; contenders beyond repeat them with another marker.
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00", GREY)
MARKERS = ("o", "s", "^")
BASELINE = "naive-moe"
FORMATS = ("svg", "png")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def families(settings: list[Setting]) -> dict[str, list[Setting]]:
    """Settings that differ in users alone, by a name fit for a file; each sorted by users."""
    found: dict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        name = f"{setting.size}-{setting.lengths}-{setting.tokens}x{setting.samples}"
        found[name].append(setting)
    return {name: sorted(group, key=lambda s: s.users) for name, group in found.items()}


def growth(group: list[Setting], title: str) -> Figure:
    """Samples a second of each contender against the number of users, both axes logarithmic."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    points: dict[str, list[tuple[int, float, float, float]]] = defaultdict(list)
    for setting in group:
        for result in setting.contenders:
            if result.measured is not None:
                rate = result.measured.samples_a_second
                points[result.label].append((setting.users, rate.median, rate.low, rate.high))
    for number, (label, line) in enumerate(points.items()):
        users, median, low, high = zip(*line, strict=True)
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number // len(COLOURS) % len(MARKERS)]
        axes.plot(users, median, marker=marker, color=colour, label=label)
        axes.fill_between(users, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([s.users for s in group], [str(s.users) for s in group])
    axes.set_xlabel("users trained together")
    axes.set_ylabel("samples a second (wall)")
    axes.set_title(title)
    axes.legend(fontsize=8)
    return figure


def ratios(setting: Setting, title: str) -> Figure | None:
    """How many times the naive loop's rate each contender has; None without the naive loop."""
    baseline = best_of(setting, BASELINE)
    if baseline is None:
        return None
    bars: list[tuple[ContenderResult, float, float, float]] = [(baseline, 1.0, 1.0, 1.0)]
    for result in setting.contenders:
        against = result.measured.against.get(baseline.label) if result.measured else None
        if against is not None:
            bars.append((result, against.cpu.median, against.cpu.low, against.cpu.high))
    bars.sort(key=lambda bar: bar[1])
    figure = Figure(figsize=(6.4, 0.9 + 0.32 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    medians = [bar[1] for bar in bars]
    below = [bar[1] - bar[2] for bar in bars]
    above = [bar[3] - bar[1] for bar in bars]
    colours = [ORANGE if bar[0].kind.startswith("ours") else BLUE for bar in bars]
    axes.barh(range(len(bars)), medians, xerr=[below, above], color=colours, height=0.7)
    axes.set_yticks(range(len(bars)), [bar[0].label for bar in bars])
    axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel(f"times {baseline.label}, tokens a CPU second")
    axes.set_title(title)
    return figure


def draw(source: Path, folder: Path) -> list[Path]:
    """Write all figures of one file. Raises ReportError if it is none of ours."""
    report = read_report(source)
    folder.mkdir(parents=True, exist_ok=True)
    made: list[tuple[str, Figure]] = []
    with mpl.rc_context(STYLE):
        for name, group in families(report.settings).items():
            if len(group) > 1:
                made.append((f"growth-{name}", growth(group, name)))
            for setting in group:
                title = f"{name}, {setting.users} users"
                figure = ratios(setting, title)
                if figure is not None:
                    made.append((f"ratios-{name}-{setting.users}", figure))
        return [path for name, figure in made for path in _save(figure, folder / name)]


def _save(figure: Figure, stem: Path) -> list[Path]:
    FigureCanvasAgg(figure)
    paths = []
    for kind in FORMATS:
        path = stem.with_name(f"{stem.name}.{kind}")
        # Without a date the same JSON gives the same bytes.
        figure.savefig(path, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {})
        paths.append(path)
    return paths


@app.command()
def run(
    source: Annotated[Path, typer.Argument(help="JSON of benchmarks.engine.")],
    out: Annotated[Path, typer.Option(help="Folder for the figures.")],
) -> None:
    """Draw a benchmark's figures and print their paths."""
    for path in draw(source, out):
        typer.echo(path)


if __name__ == "__main__":
    app()
