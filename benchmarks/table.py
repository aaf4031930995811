"""`python -m benchmarks.table`: the CPU targets of docs/performance.md 5 and what was measured for them.

A row is a setting of the files; who stands in it is chosen in `benchmarks.targets`. Ratios are the
stored ones, made round by round in one run. What was not raced is a dash: a ratio between two runs
would compare two states of a machine. With `--growth`, what users gain by how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import start
from benchmarks.growth import growth_table
from benchmarks.notes import notes, rate
from benchmarks.schema import Ratio
from benchmarks.schema_memory import MemoryReport
from benchmarks.show import times
from benchmarks.sources import read_sources
from benchmarks.targets import TARGETS, USERS, Row, target_rows
from client.terminal.console import print_line, print_table, say
from client.terminal.tables import Table
from proper_model.errors import ReportError

HEADER = (
    "setting",
    "engine, samples/s",
    "× naive loop, batch 1",
    "× the same, logits at answers",
    "× naive loop, its best",
    "× PEFT loop, its best",
    "of the frozen base's rate",
    "must",
    "aim",
)
NONE = "–"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def target_table(rows: Sequence[Row]) -> Table:
    """Ratios of CPU seconds, the one that the target is about with its range over rounds."""
    title = f"The engine with experts and router, {USERS} users, one sample a step"
    return Table(title, HEADER, tuple(_cells(row) for row in rows))


def _cells(row: Row) -> tuple[str, ...]:
    race, got = row.race, row.race.engine.measured
    share, first = race.ratio(race.limit), race.ratio(race.naive)
    return (
        row.name,
        rate(got.samples_a_second.median) if got else f"{race.engine.status}",
        times(first) if first else NONE,
        _times(race.ratio(race.naive_answer)),
        _times(race.ratio(race.naive_best)),
        _times(race.ratio(race.peft_best)),
        f"{share.cpu.median:.0%}" if share else NONE,
        f"{row.target.must:g}",
        f"{row.target.aim:g}",
    )


def _times(ratio: Ratio | None) -> str:
    return f"{ratio.cpu.median:.2f}" if ratio else NONE


@app.command()
def run(
    sources: Annotated[list[Path], typer.Argument(help="JSON of benchmarks.engine and .memory.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="For a README.")] = False,
    growth: Annotated[bool, typer.Option("--growth", help="By number of users instead.")] = False,
) -> None:
    """Print targets and measured ratios for the settings in SOURCES."""
    found = read_sources(sources, say)
    reports = [source.report for source in found]
    if growth:
        by_users = growth_table(found)
        if by_users is None:
            raise ReportError(
                "no file holds several numbers of users with engine and naive loop",
                hint="measure them with several --users",
            )
        print_table(by_users, markdown=markdown)
        return
    rows = target_rows(found)
    if not rows and not any(isinstance(report, MemoryReport) for report in reports):
        raise ReportError(
            "none of the settings has a row in this table",
            hint="rows are: " + "; ".join(target.name for target in TARGETS) + f"; {USERS} users",
        )
    if rows:
        print_table(target_table(rows), markdown=markdown)
        print_line()
    for line in notes(rows, reports):
        print_line(f"* {line}" if markdown else line)


if __name__ == "__main__":
    start(app)
