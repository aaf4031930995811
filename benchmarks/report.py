"""`python -m benchmarks.report`: one self-contained HTML page from any set of benchmark files.

Everything is inline, as in `simulations.reporting.report`, whose tables and styles it shares: nothing is
fetched, nothing is executed, and every number is a stored one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer
from matplotlib.figure import Figure as Canvas

from benchmarks import figures
from benchmarks.command import start
from benchmarks.notes import machine, notes
from benchmarks.outputs import ready_file
from benchmarks.schema import BenchReport, Setting
from benchmarks.schema_memory import MemoryPeak, MemoryReport
from benchmarks.show import cause_lines, peak_lines, setting_name, setting_table
from benchmarks.sources import Source, read_sources
from benchmarks.table import target_table
from benchmarks.targets import target_rows
from client.terminal.console import print_line, say
from client.terminal.tables import Table
from proper_model.storage.files import write_atomic
from simulations.reporting.figures import STYLE, Figure, inline
from simulations.reporting.report import TEMPLATES as SHARED_TEMPLATES
from simulations.reporting.report import page_environment

TEMPLATES = Path(__file__).resolve().parent / "templates"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Part:
    """What was measured in one setting, or over several."""

    title: str
    table: Table | None
    remarks: tuple[str, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Section:
    """One file: where it was measured, then what."""

    title: str
    anchor: str
    facts: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]


def write_page(paths: Sequence[Path], target: Path) -> None:
    """Read benchmark files and write the page. Raises ReportError for a foreign file, StorageError for
    a page that cannot be written.
    """
    sources = read_sources(paths, say)
    ready_file(target)
    write_atomic(target, render(sources).encode())


def render(sources: Sequence[Source]) -> str:
    """The page as text."""
    reports = [source.report for source in sources]
    rows = target_rows(sources)
    with mpl.rc_context(STYLE):
        sections = [section(source, f"file{number}") for number, source in enumerate(sources)]
    page = page_environment(TEMPLATES, SHARED_TEMPLATES).get_template("bench.html.j2")
    return page.render(
        sections=sections,
        targets=target_table(rows) if rows else None,
        remarks=notes(rows, reports),
    )


def section(source: Source, anchor: str) -> Section:
    """Tables and figures of one file."""
    report = source.report
    facts = [
        ("hardware", machine(report.hardware)),
        ("code", report.commit),
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        ("seed", str(report.seed)),
    ]
    if isinstance(report, MemoryReport):
        facts.append(("tokens a sample", str(report.sample_tokens)))
        parts = [memory_part(report.peaks, anchor)]
    else:
        facts += [
            ("device", report.device),
            ("rounds", f"{report.rounds} after {report.warmup} to warm up, {_turns(report)}"),
            ("dropout", str(report.dropout)),
            ("load before", f"{report.load_before:.2f}"),
        ]
        parts = engine_parts(report, anchor)
    return Section(f"{report.benchmark}: {source.name}", anchor, tuple(facts), tuple(parts))


def _turns(report: BenchReport) -> str:
    return "contenders in turn within each round" if report.interleaved else "one after another"


def engine_parts(report: BenchReport, anchor: str) -> list[Part]:
    """One part a setting, and one for every family that differs in users."""
    parts = []
    for number, setting in enumerate(report.settings):
        drawn = _ratio_figure(setting, f"{anchor}-ratios{number}")
        parts.append(
            Part(
                title=setting_name(setting),
                table=setting_table(setting),
                remarks=(*peak_lines(setting), *cause_lines(setting)),
                figures=(drawn,) if drawn else (),
            )
        )
    for name, group in figures.families(report.settings).items():
        if len(group) > 1:
            drawn = _growth_figure(group, name, f"{anchor}-growth-{name}")
            parts.append(Part(f"Growth with users: {name}", None, (), (drawn,)))
    return parts


def _ratio_figure(setting: Setting, key: str) -> Figure | None:
    title = setting_name(setting)
    canvas = figures.ratios(setting, title)
    said = "; ".join(
        f"{bar.result.label}: {bar.times.median:.2f} times, "
        f"from {bar.times.low:.2f} to {bar.times.high:.2f}"
        for bar in reversed(figures.ratio_bars(setting))
    )
    caption = "Rates against the naive LoRA-MoE loop at its best, with the range over rounds"
    return _inline(canvas, key, caption, f"{caption}. {title}. {said}.")


def _growth_figure(group: Sequence[Setting], name: str, key: str) -> Figure:
    said = "; ".join(
        f"{label}: " + ", ".join(f"{rate.median:,.4g} with {users} users" for users, rate in line)
        for label, line in figures.growth_lines(group).items()
    )
    caption = "Samples a second by number of users trained together"
    drawn = _inline(figures.growth(group, name), key, caption, f"{caption}. {name}. {said}.")
    assert drawn is not None
    return drawn


def memory_part(peaks: Sequence[MemoryPeak], anchor: str) -> Part:
    """Foretold and measured peaks, with whether they agree within the band."""
    band = figures.MEMORY_BAND
    header = ("size", "dtype", "activations", "users", "tokens a pass", "base, MiB")
    rows = [
        (
            peak.size,
            peak.dtype,
            "recomputed" if peak.recompute else "kept",
            f"{peak.users:,}",
            f"{peak.tokens_per_step:,}",
            _mib(peak.base_bytes),
            _mib(peak.predicted_bytes),
            _mib(peak.measured_bytes),
            "–" if peak.deviation is None else f"{peak.deviation:+.1%}",
        )
        for peak in peaks
    ]
    known = [(peak, peak.deviation) for peak in peaks if peak.deviation is not None]
    inside = sum(abs(deviation) <= band for _, deviation in known)
    remark = f"{inside} of {len(known)} measured settings lie within ±{band:.0%}."
    said = "; ".join(
        f"{peak.size}, {peak.users} users, {peak.tokens_per_step:,} tokens a pass: {deviation:+.1%}"
        for peak, deviation in known
    )
    caption = f"Foretold and measured peaks; the band is ±{band:.0%}"
    title = "The memory model against a process's peak"
    canvas = figures.foretold(peaks, "memory model")
    drawn = _inline(canvas, f"{anchor}-memory", caption, f"{caption}. {remark} {said}.")
    table = Table(title, (*header, "predicted", "measured", "deviation"), tuple(rows), labels=3)
    return Part(title, table, (remark,), (drawn,) if drawn else ())


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f}"


def _inline(canvas: Canvas | None, key: str, title: str, alt: str) -> Figure | None:
    return inline(canvas, key, title, alt) if canvas is not None else None


@app.command()
def run(
    sources: Annotated[list[Path], typer.Argument(help="JSON of benchmarks.engine and .memory.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
) -> None:
    """Write the page and print its path."""
    write_page(sources, out)
    print_line(str(out))


if __name__ == "__main__":
    start(app)
