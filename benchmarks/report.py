"""`python -m benchmarks.report`: one self-contained HTML page from any set of benchmark files.

Everything is inline, as in `simulations.reporting.report`, whose tables and styles it shares:
nothing is fetched, nothing is executed, and every number comes from a file. A name in .svg asks for the
growth curve of one file instead.
"""

from __future__ import annotations

import io
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from benchmarks.command import ready_file, start
from benchmarks.results import read_report, read_sources, shown
from benchmarks.results.schema import EngineReport, GpuReport, Report, Setting, Source, Spread
from benchmarks.results.tables import commits_of, families, lengths_of, machine
from client.terminal.console import print_line
from proper_model.errors import ConfigError, ReportError
from proper_model.storage.files import write_atomic
from simulations.reporting.figures import BLUE, GREEN, GREY, ORANGE, STYLE, Figure, inline
from simulations.reporting.report import TEMPLATES as SHARED_TEMPLATES
from simulations.reporting.report import page_environment

FILE_STYLE = {
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
# In the beginning of what this command writes, see `ready_file`.
PAGE_MARK, CURVE_MARK = "<title>PROPER benchmarks</title>", "PROPER benchmarks: growth"
TEMPLATES = Path(__file__).resolve().parent / "templates"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def write_page(paths: Sequence[Path], target: Path) -> None:
    """Read benchmark files and write the page. Raises ReportError for a foreign file, StorageError for
    a page that cannot be written.
    """
    sources = read_sources(paths)
    ready_file(target, PAGE_MARK)
    write_atomic(target, render(sources).encode())


def render(sources: Sequence[Source]) -> str:
    """The page as text."""
    with mpl.rc_context(STYLE):
        sections = [section(source, f"file{number}") for number, source in enumerate(sources)]
    page = page_environment(TEMPLATES, SHARED_TEMPLATES).get_template("bench.html.j2")
    return page.render(sections=sections)


def section(source: Source, anchor: str) -> dict[str, Any]:
    """One file: where it was measured, then what."""
    drawn = [growth_figure(g, f"{anchor}-growth{n}") for n, g in enumerate(curves(source.report))]
    return {
        "title": source.name,
        "anchor": anchor,
        "facts": facts(source.report),
        "parts": shown([source]),
        "figures": drawn,
    }


def facts(report: Report) -> dict[str, str]:
    """What was run where."""
    found = {
        "hardware": machine(report.hardware),
        "code": ", ".join(commits_of(report)),
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "seed": str(report.seed),
    }
    if isinstance(report, EngineReport):
        turns = f"{report.rounds} after {report.warmup} to warm up, contenders in turn"
        found |= {"device": report.device, "rounds": turns}
        found["load before"] = f"{report.load_before:.2f}"
    if isinstance(report, GpuReport):
        used = report.accelerator
        if used is not None:
            memory = f"{used.memory_bytes / 2**30:.1f} GiB, compute capability {used.capability}"
            found["GPU"] = f"{used.name}, {memory}, driver {used.driver}, CUDA {used.cuda}"
        found |= {
            "engine": "; ".join(f"{name}: {what}" for name, what in report.variants.items()),
            "seconds": f"{report.elapsed_s:.0f} of at most {report.seconds:g}",
        }
    return found


def growth_figure(group: Sequence[Setting], key: str) -> Figure:
    """The growth curve for the inside of the page, and in words."""
    said = "; ".join(
        f"{label}: " + ", ".join(f"{rate.median:,.4g} with {users} users" for users, rate in line)
        for label, line in growth_lines(group).items()
    )
    title = "Samples a second by number of users trained together"
    return inline(growth(group), key, title, f"{title}. {growth_title(group)}. {said}.")


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


def growth(group: Sequence[Setting]) -> Canvas:
    """Samples a second of each contender against the number of users, both axes logarithmic."""
    figure = Canvas(figsize=(6.4, 4.0), layout="constrained")
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
    ready_file(path, CURVE_MARK)
    with mpl.rc_context(FILE_STYLE):
        figure, image = growth(found[0]), io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(image, format="svg", dpi=160, metadata={"Date": None, "Title": CURVE_MARK})
    write_atomic(path, image.getvalue())


@app.command()
def run(
    sources: Annotated[list[Path], typer.Argument(help="JSON of any benchmark.")],
    out: Annotated[Path, typer.Option(help="HTML file to write, or SVG.")],
) -> None:
    """Write the page, or the growth curve of one file, and print its path."""
    if out.suffix.lower() == ".svg":
        if len(sources) > 1:
            raise ConfigError(
                f"{out}: a curve is of one file, got {len(sources)}", hint="a page shows several"
            )
        draw_growth(sources[0], out)
    else:
        write_page(sources, out)
    print_line(str(out))


if __name__ == "__main__":
    start(app)
