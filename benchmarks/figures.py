"""`python -m benchmarks.figures`: figures of a benchmark's JSON, as SVG and PNG.

`growth`: samples a second by number of users, one line a contender, one figure for every family of
settings that differ in users alone. `ratios`: how many times the naive LoRA-MoE loop, one bar a
contender, with the range over rounds. `foretold`: the memory model's peaks against measured ones.
Every mark is a stored figure of the file. `benchmarks.report` puts the same into a page.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.command import start
from benchmarks.outputs import ready_file, ready_folder
from benchmarks.schema import ContenderResult, Setting, Spread
from benchmarks.schema_memory import MemoryPeak, MemoryReport
from benchmarks.show import best_of
from benchmarks.sources import read_sources
from client.terminal.console import say
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
BASELINE = "naive-moe"
FORMATS = ("svg", "png")
MEMORY_BAND = 0.15  # how far the memory model may be off, either way

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Bar:
    """One contender's rate as a multiple of the baseline's."""

    result: ContenderResult
    times: Spread


def families(settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    """Settings that differ in users alone, by a name fit for a file; each sorted by users."""
    found: dict[str, list[Setting]] = defaultdict(list)
    for setting in settings:
        name = f"{setting.size}-{setting.lengths}-{setting.tokens}x{setting.samples}"
        found[name].append(setting)
    return {name: sorted(group, key=lambda s: s.users) for name, group in found.items()}


def growth_lines(group: Sequence[Setting]) -> dict[str, list[tuple[int, Spread]]]:
    """By contender: users, and samples a second."""
    lines: dict[str, list[tuple[int, Spread]]] = defaultdict(list)
    for setting in group:
        for result in setting.contenders:
            if result.measured is not None:
                lines[result.label].append((setting.users, result.measured.samples_a_second))
    return lines


def growth(group: Sequence[Setting], title: str) -> Figure:
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
    axes.set_title(title)
    axes.legend(fontsize=8, frameon=False)
    return figure


def ratio_bars(setting: Setting) -> list[Bar]:
    """Every contender against the naive loop at its best, slowest first; none without that loop."""
    baseline = best_of(setting, BASELINE)
    if baseline is None:
        return []
    bars = [Bar(baseline, Spread(median=1.0, low=1.0, high=1.0))]
    for result in setting.contenders:
        against = result.measured.against.get(baseline.label) if result.measured else None
        if against is not None:
            bars.append(Bar(result, against.cpu))
    return sorted(bars, key=lambda bar: bar.times.median)


def ratios(setting: Setting, title: str) -> Figure | None:
    """How many times the naive loop's rate each contender has; None without the naive loop."""
    bars, baseline = ratio_bars(setting), best_of(setting, BASELINE)
    if baseline is None:
        return None
    figure = Figure(figsize=(6.4, 0.9 + 0.32 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    ink = mpl.rcParams["text.color"]  # a page reads it as the colour of its own text
    medians = [bar.times.median for bar in bars]
    below = [bar.times.median - bar.times.low for bar in bars]
    above = [bar.times.high - bar.times.median for bar in bars]
    colours = [ORANGE if bar.result.kind.startswith("ours") else BLUE for bar in bars]
    places = range(len(bars))
    axes.barh(places, medians, xerr=[below, above], color=colours, ecolor=ink, height=0.7)
    axes.set_yticks(places, [bar.result.label for bar in bars])
    axes.axvline(1.0, color=ink, linewidth=0.8, linestyle=":")
    figure.supxlabel(f"tokens a CPU second, as a multiple of\n{baseline.label}", fontsize="medium")
    axes.set_title(title)
    return figure


def foretold(peaks: Sequence[MemoryPeak], title: str) -> Figure | None:
    """Foretold against measured peaks with the band of MEMORY_BAND; None if none was measured."""
    known = [peak for peak in peaks if peak.deviation is not None]
    if not known:
        return None
    figure = Figure(figsize=(4.8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    measured = [peak.measured_bytes / 2**20 for peak in known]
    ends = [min(measured) * 0.8, max(measured) * 1.25]
    low, high = ([end * (1 + sign * MEMORY_BAND) for end in ends] for sign in (-1, 1))
    axes.fill_between(ends, low, high, color=GREY, alpha=0.25, linewidth=0)
    axes.plot(ends, ends, color=mpl.rcParams["text.color"], linewidth=0.8)
    for recompute, colour, marker in ((False, BLUE, "o"), (True, ORANGE, "s")):
        chosen = [p for p in known if p.recompute is recompute]
        if chosen:
            axes.scatter(
                [p.measured_bytes / 2**20 for p in chosen],
                [p.predicted_bytes / 2**20 for p in chosen],
                color=colour,
                marker=marker,
                s=22,
                label="activations recomputed" if recompute else "activations kept",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measured, MiB beyond the base")
    axes.set_ylabel("predicted, MiB")
    axes.set_title(title)
    axes.legend(fontsize=8, frameon=False)
    return figure


def draw(source: Path, folder: Path) -> list[Path]:
    """Write all figures of one file.

    Raises ReportError if it is none of ours or holds nothing to draw, StorageError for a folder
    that cannot be written.
    """
    (found,) = read_sources([source], say)
    ready_folder(folder)
    made: list[tuple[str, Figure | None]] = []
    with mpl.rc_context(STYLE):
        if isinstance(found.report, MemoryReport):
            made.append(("memory", foretold(found.report.peaks, "memory model")))
        else:
            for name, group in families(found.report.settings).items():
                if len(group) > 1:
                    made.append((f"growth-{name}", growth(group, name)))
                for setting in group:
                    title = f"{name}, {setting.users} users"
                    made.append((f"ratios-{name}-{setting.users}", ratios(setting, title)))
        drawn = [(folder / name, figure) for name, figure in made if figure]
        if not drawn:
            raise ReportError(
                f"{source}: nothing to draw",
                hint="figures need several --users, the naive loop, or a measured peak of memory",
            )
        return [path for stem, figure in drawn for path in save(figure, stem)]


def draw_growth(source: Path, path: Path) -> list[Path]:
    """Write the growth curve of one file alone, as SVG.

    Raises ReportError if the file is none of ours or holds no growth curve or several.
    """
    (found,) = read_sources([source], say)
    settings = [] if isinstance(found.report, MemoryReport) else found.report.settings
    curves = [group for group in families(settings).values() if len(group) > 1]
    if len(curves) != 1:
        raise ReportError(
            f"{source}: expected one family of settings that differ in users alone, found "
            f"{len(curves)}; measure it with several --users of one size"
        )
    ready_file(path)
    first = curves[0][0]
    lengths = f"{first.tokens} tokens" if first.lengths == "fixed" else f"{first.lengths} lengths"
    title = f"size {first.size}, {lengths}, {first.samples} samples a user"
    with mpl.rc_context(STYLE):
        return save(growth(curves[0], title), path.with_suffix(""), ("svg",))


def save(figure: Figure, stem: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure as stem.svg and so on; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    paths = []
    for kind in formats:
        path = stem.with_name(f"{stem.name}.{kind}")
        image = io.BytesIO()
        # Without a date the same JSON gives the same bytes.
        date = {"Date": None} if kind == "svg" else {}
        figure.savefig(image, format=kind, dpi=160, metadata=date)
        write_atomic(path, image.getvalue())
        paths.append(path)
    return paths


@app.command()
def run(
    source: Annotated[Path, typer.Argument(help="JSON of benchmarks.engine or .memory.")],
    out: Annotated[Path | None, typer.Option(help="Folder for all figures.")] = None,
    growth_svg: Annotated[
        Path | None, typer.Option(help="The growth curve alone, into this SVG file.")
    ] = None,
) -> None:
    """Draw a benchmark's figures and print their paths."""
    if growth_svg is not None:
        paths = draw_growth(source, growth_svg)
    elif out is not None:
        paths = draw(source, out)
    else:
        raise typer.BadParameter("give --out FOLDER or --growth-svg FILE")
    for path in paths:
        typer.echo(path)


if __name__ == "__main__":
    start(app)
