"""`python -m benchmarks.table`: the CPU targets of PERFORMANCE 5 and what was measured for them.

A row is a setting of the files. The engine and every rival stand at their quickest among those that
fit the row; ratios are the stored ones, made round by round in one run. What was not raced is a
dash: a ratio between two runs would compare two states of a machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.command import start
from benchmarks.schema import BenchReport, ContenderResult, Ratio, Setting
from benchmarks.schema_memory import MemoryPeak, MemoryReport
from benchmarks.show import quickest
from benchmarks.sources import Report, read_sources
from client.console import print_line, print_table, say
from client.tables import Table
from proper_model.errors import ReportError
from simulations.results import Hardware

ENGINE, RIVAL_DTYPE = "ours-moe", "float32"
# Enough users to share passes; what fewer gain is the growth figure's to show.
USERS = 32
HEADER = (
    "setting",
    "engine, samples/s",
    "× naive loop, batch 1",
    "× naive loop, its best",
    "× PEFT loop, its best",
    "of the frozen base's rate",
    "must",
    "aim",
)
NONE = "–"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Target:
    """What a setting is to reach against the naive LoRA-MoE loop at batch 1 in float32.

    Attributes:
        tokens: of every sample; None where lengths are drawn or real.
        dtype: of the engine. Rivals stay in float32, the arithmetic they are written for.
    """

    name: str
    size: str
    lengths: str
    tokens: int | None
    dtype: str
    must: float
    aim: float

    def fits(self, setting: Setting) -> bool:
        return (
            (setting.size, setting.lengths) == (self.size, self.lengths)
            and self.tokens in (None, setting.tokens)
            and setting.users == USERS
        )


TARGETS = (
    Target("hidden 64, 32 tokens", "overhead", "fixed", 32, "float32", 7, 12),
    Target("hidden 256, 96 tokens", "small", "fixed", 96, "float32", 1.8, 2.5),
    Target("hidden 256, 96 tokens, bf16 / fp32", "small", "fixed", 96, "bfloat16", 4.5, 8),
    Target("hidden 256, log-normal lengths", "small", "lognormal", None, "float32", 2, 2.5),
    Target("hidden 256, real lengths", "small", "real", None, "float32", 2, 2.5),
)


@dataclass(frozen=True)
class Race:
    """The engine and those it is compared with in one row; None where nobody fits.

    `naive_alike` is the naive loop at its best in the engine's own dtype, where that is another.
    """

    engine: ContenderResult
    naive: ContenderResult | None
    naive_best: ContenderResult | None
    naive_alike: ContenderResult | None
    peft_best: ContenderResult | None
    limit: ContenderResult | None

    def ratio(self, other: ContenderResult | None) -> Ratio | None:
        """The engine's stored ratio against one of them."""
        got = self.engine.measured
        return got.against.get(other.label) if got and other else None


@dataclass(frozen=True)
class Row:
    target: Target
    setting: Setting
    rounds: int
    race: Race


def race_of(setting: Setting, dtype: str) -> Race | None:
    """Who runs in a row; None if the engine did not take part in that dtype."""

    def pick(fits: Callable[[ContenderResult], bool]) -> ContenderResult | None:
        return quickest(c for c in setting.contenders if fits(c))

    # A sample a step, as the targets have it: with more, users train in fewer steps.
    engines = [c for c in setting.contenders if (c.kind, c.dtype, c.batch) == (ENGINE, dtype, 1)]
    if not engines:
        return None
    engine = quickest(engines) or engines[0]  # one that failed is said to have failed

    def rival(kind: str, computes: str = RIVAL_DTYPE) -> Callable[[ContenderResult], bool]:
        same = (kind, computes, engine.threads)
        return lambda c: (c.kind, c.dtype, c.threads) == same

    naive = rival("naive-moe")
    passes = ("limit", dtype, engine.threads, engine.batch, engine.tokens_per_step)
    return Race(
        engine=engine,
        naive=pick(lambda c: naive(c) and (c.batch, c.logits) == (1, "all")),
        naive_best=pick(naive),
        naive_alike=pick(rival("naive-moe", dtype)) if dtype != RIVAL_DTYPE else None,
        peft_best=pick(rival("peft-loop")),
        limit=pick(lambda c: (c.kind, c.dtype, c.threads, c.batch, c.tokens_per_step) == passes),
    )


def target_rows(reports: Sequence[Report]) -> list[Row]:
    """Rows in the order of the targets; only for settings that were run, on a CPU."""
    found = []
    for target in TARGETS:
        for report in reports:
            if not isinstance(report, BenchReport) or report.device != "cpu":
                continue
            for setting in filter(target.fits, report.settings):
                race = race_of(setting, target.dtype)
                if race is not None:
                    found.append(Row(target, setting, report.rounds, race))
    return found


def target_table(rows: Sequence[Row]) -> Table:
    """Ratios of CPU seconds, the one that the target is about with its range over rounds."""
    title = f"The engine with experts and router, {USERS} users, one sample a step"
    return Table(title, HEADER, tuple(_cells(row) for row in rows))


def _cells(row: Row) -> tuple[str, ...]:
    race, got = row.race, row.race.engine.measured
    share, first = race.ratio(race.limit), race.ratio(race.naive)
    return (
        row.target.name,
        _rate(got.samples_a_second.median) if got else f"{race.engine.status}",
        f"{first.cpu.median:.2f} ({first.cpu.low:.2f}–{first.cpu.high:.2f})" if first else NONE,
        _times(race.ratio(race.naive_best)),
        _times(race.ratio(race.peft_best)),
        f"{share.cpu.median:.0%}" if share else NONE,
        f"{row.target.must:g}",
        f"{row.target.aim:g}",
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _times(ratio: Ratio | None) -> str:
    return f"{ratio.cpu.median:.2f}" if ratio else NONE


def notes(rows: Sequence[Row], reports: Sequence[Report]) -> list[str]:
    """Who stands in each row, how far the memory model is off, and where all this was measured."""
    said = [_contenders(row) for row in rows]
    memory = memory_note([p for r in reports if isinstance(r, MemoryReport) for p in r.peaks])
    if memory:
        said.append(memory)
    return [*said, *machine_notes(reports)]


def _contenders(row: Row) -> str:
    race = row.race
    names = [
        f"{what} {who.label}"
        for what, who in (
            ("engine", race.engine),
            ("naive loop at its best", race.naive_best),
            ("PEFT loop at its best", race.peft_best),
        )
        if who is not None
    ]
    alike = race.ratio(race.naive_alike)
    if alike and race.naive_alike:
        names.append(f"{alike.cpu.median:.2f} × {race.naive_alike.label}")
    names.append(f"threads: {race.engine.threads}, rounds: {row.rounds}")
    return f"{row.target.name}: {'; '.join(names)}."


def memory_note(peaks: Sequence[MemoryPeak]) -> str | None:
    """The memory model's largest deviation over all settings; None if none was measured."""
    known = [(p.deviation, p) for p in peaks if p.deviation is not None]
    if not known:
        return None
    worst, peak = max(known, key=lambda pair: abs(pair[0]))
    return (
        f"Memory model, {len(known)} settings: largest deviation of a foretold from a measured peak "
        f"{worst:+.1%} ({peak.size}, {peak.users} users, {peak.tokens_per_step:,} tokens a pass, "
        f"activations {'recomputed' if peak.recompute else 'kept'})."
    )


def machine_notes(reports: Sequence[Report]) -> list[str]:
    """One line a machine, with the commits that were measured on it."""
    commits: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        commits[machine(report.hardware)].append(report.commit[:12])
    return [
        f"Measured on {name}; code {', '.join(dict.fromkeys(codes))}."
        for name, codes in commits.items()
    ]


def machine(found: Hardware) -> str:
    """Hardware in words."""
    gpu = f", {found.gpu}" if found.gpu else ""
    return (
        f"{found.cpu}, {found.cores} cores, {found.ram_bytes / 2**30:.1f} GiB{gpu}; "
        f"{found.system}, Python {found.python}, torch {found.torch}"
    )


@app.command()
def run(
    sources: Annotated[list[Path], typer.Argument(help="JSON of benchmarks.engine and .memory.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="For a README.")] = False,
) -> None:
    """Print targets and measured ratios for the settings in SOURCES."""
    reports = [source.report for source in read_sources(sources, say)]
    rows = target_rows(reports)
    said = notes(rows, reports)
    if not rows and not any(isinstance(report, MemoryReport) for report in reports):
        raise ReportError(
            "none of the settings has a row in this table",
            hint="rows are: " + "; ".join(target.name for target in TARGETS) + f"; {USERS} users",
        )
    if rows:
        print_table(target_table(rows), markdown=markdown)
        print_line()
    for line in said:
        print_line(f"* {line}" if markdown else line)


if __name__ == "__main__":
    start(app)
