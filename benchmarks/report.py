"""`python -m benchmarks.report`: one self-contained HTML page from any set of benchmark files.

Everything is inline, as in `simulations.reporting.report`, whose tables and styles it shares:
nothing is fetched, nothing is executed, and every number comes from a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer

from benchmarks.command import ready_file, start
from benchmarks.figures import growth, growth_lines, growth_title
from benchmarks.results import read_sources, shown
from benchmarks.results.schema import EngineReport, GpuReport, Report, Setting, Source
from benchmarks.results.tables import commits_of, families, machine
from client.terminal.console import print_line
from client.terminal.tables import Table
from proper_model.storage.files import write_atomic
from simulations.reporting.figures import STYLE, Figure, inline
from simulations.reporting.report import TEMPLATES as SHARED_TEMPLATES
from simulations.reporting.report import page_environment

TEMPLATES = Path(__file__).resolve().parent / "templates"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Section:
    """One file: where it was measured, then what."""

    title: str
    anchor: str
    facts: tuple[tuple[str, str], ...]
    parts: list[tuple[Table, list[str]]]
    figures: tuple[Figure, ...]


def write_page(paths: Sequence[Path], target: Path) -> None:
    """Read benchmark files and write the page. Raises ReportError for a foreign file, StorageError for
    a page that cannot be written.
    """
    sources = read_sources(paths)
    ready_file(target, "<!DOCTYPE html>")
    write_atomic(target, render(sources).encode())


def render(sources: Sequence[Source]) -> str:
    """The page as text."""
    with mpl.rc_context(STYLE):
        sections = [section(source, f"file{number}") for number, source in enumerate(sources)]
    page = page_environment(TEMPLATES, SHARED_TEMPLATES).get_template("bench.html.j2")
    return page.render(sections=sections)


def section(source: Source, anchor: str) -> Section:
    """Tables and figures of one file."""
    report = source.report
    groups = families(report.settings) if isinstance(report, EngineReport) else []
    drawn = (
        growth_figure(group, f"{anchor}-growth{number}")
        for number, group in enumerate(groups)
        if len(group) > 1
    )
    return Section(source.name, anchor, facts(report), shown([source]), tuple(drawn))


def facts(report: Report) -> tuple[tuple[str, str], ...]:
    """What was run where."""
    found = {
        "hardware": machine(report.hardware),
        "code": ", ".join(commits_of(report)),
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "seed": str(report.seed),
    }
    if isinstance(report, EngineReport):
        turns = "contenders in turn" if report.interleaved else "one contender after another"
        found |= {
            "device": report.device,
            "rounds": f"{report.rounds} after {report.warmup} to warm up, {turns}",
            "load before": f"{report.load_before:.2f}",
        }
    if isinstance(report, GpuReport):
        used = report.accelerator
        if used is not None:
            memory = f"{used.memory_bytes / 2**30:.1f} GiB, compute capability {used.capability}"
            found["GPU"] = f"{used.name}, {memory}, driver {used.driver}, CUDA {used.cuda}"
        found |= {
            "engine": "; ".join(f"{name}: {what}" for name, what in report.variants.items()),
            "seconds": f"{report.elapsed_s:.0f} of at most {report.seconds:g}",
        }
    return tuple(found.items())


def growth_figure(group: Sequence[Setting], key: str) -> Figure:
    """The growth curve for the inside of the page, and in words."""
    said = "; ".join(
        f"{label}: " + ", ".join(f"{rate.median:,.4g} with {users} users" for users, rate in line)
        for label, line in growth_lines(group).items()
    )
    title = "Samples a second by number of users trained together"
    return inline(growth(group), key, title, f"{title}. {growth_title(group)}. {said}.")


@app.command()
def run(
    sources: Annotated[list[Path], typer.Argument(help="JSON of any benchmark.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
) -> None:
    """Write the page and print its path."""
    write_page(sources, out)
    print_line(str(out))


if __name__ == "__main__":
    start(app)
