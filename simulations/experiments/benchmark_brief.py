"""Benchmarks of several data sets in small tables, for a page that a person reads at one sitting."""

from __future__ import annotations

import math
from collections.abc import Sequence

from client.terminal.tables import Table
from proper_model.evaluation import LOWER_IS_BETTER
from simulations.experiments.benchmark_schema import BenchmarkResult, Comparison, LengthPoint, Row
from simulations.experiments.benchmark_summary import LOSS, main_metrics
from simulations.experiments.benchmark_tables import metrics_of
from simulations.outcome.results import improvement
from simulations.reporting.tables import NONE

# What is claimed of each stage, against what it must beat.
CLAIMS = (
    ("stage2", "stage1"),
    ("stage3", "stage1"),
    ("stage3", "stage2"),
    ("stage3", "oppu-mlp"),
)
BY_LENGTH = (("stage3", "stage1"), ("stage3", "oppu-mlp"))
MARKS = {True: " +", False: " −", None: ""}
HOW = "+ better, − worse: the 95% interval over people is clear of zero"


def brief_tables(results: Sequence[BenchmarkResult]) -> list[Table]:
    """Means of all methods, the differences that matter, and these by length of the history."""
    return mean_tables(results) + claim_tables(results)


def claim_tables(results: Sequence[BenchmarkResult]) -> list[Table]:
    """The differences that stages are claimed for, and these by length of the history."""
    found = (brief_differences(results), brief_lengths(results))
    return [table for table in found if table.rows]


def mean_tables(results: Sequence[BenchmarkResult]) -> list[Table]:
    """Means over people: a table for all sets of one main metric, a row a method, two columns a set."""
    kinds: dict[tuple[str, ...], list[BenchmarkResult]] = {}
    for result in results:
        kinds.setdefault(main_metrics(metrics_of(result)), []).append(result)
    return [_means(metrics, sets) for metrics, sets in kinds.items()]


def _means(metrics: Sequence[str], results: Sequence[BenchmarkResult]) -> Table:
    names = list(dict.fromkeys(name for result in results for name in result.rows))
    header, columns = ["method"], []
    for result, base in zip(results, _bases(results), strict=True):
        task = f"{result.task} ({base})" if base else result.task
        for metric in metrics:
            header.append(f"{task}, {_direction(metric)}")
            columns.append([_mean(result.rows.get(name), metric) for name in names])
    rows = [(name, *(column[n] for column in columns)) for n, name in enumerate(names)]
    return Table(f"Means over people: {', '.join(metrics)}", tuple(header), tuple(rows))


def brief_differences(results: Sequence[BenchmarkResult]) -> Table:
    """A row a set and metric, a column a claim."""
    rows = []
    for result, named in zip(results, _sets(results), strict=True):
        found = {(row.a, row.b, row.metric): row for row in result.comparisons}
        for metric in main_metrics(metrics_of(result)):
            cells = [_difference(found.get((a, b, metric))) for a, b in CLAIMS]
            if set(cells) != {NONE}:
                rows.append((named, _direction(metric), *cells))
    header = ("set", "metric", *(f"{a} − {b}" for a, b in CLAIMS))
    return Table(f"Differences, paired by person ({HOW})", header, tuple(rows), labels=2)


def brief_lengths(results: Sequence[BenchmarkResult]) -> Table:
    """A row a set and claim in the loss, a column a length to which histories were cut."""
    cut = [[point for point in result.lengths if point.cut] for result in results]
    counts = sorted({point.items for points in cut for point in points})
    rows = []
    for named, points in zip(_sets(results), cut, strict=True):
        for a, b in BY_LENGTH:
            own = {p.items: p for p in points if (p.a, p.b, p.metric) == (a, b, LOSS)}
            if own:
                cells = (_difference(own.get(count)) for count in counts)
                rows.append((named, f"{a} − {b}", *cells))
    header = ("set", f"difference in {_direction(LOSS)}", *(f"n = {count}" for count in counts))
    return Table(f"Histories cut to the newest items ({HOW})", header, tuple(rows), labels=2)


def cost_table(results: Sequence[BenchmarkResult]) -> Table:
    """A row a method that learned from the person's items: what that took, and the loss it came to."""
    rows = []
    for result, base in zip(results, _bases(results), strict=True):
        people = result.users * len(result.seeds)
        task = f"{result.task} ({base})" if base else result.task
        for name, row in result.rows.items():
            if row.training is not None and row.training.trained_tokens:
                cost = row.training
                rows.append(
                    (
                        f"{task}, {result.configuration[:8]}",
                        name,
                        f"{cost.trained_tokens / people:,.0f}",
                        f"{cost.judged_tokens / people:,.0f}",
                        f"{cost.cpu_seconds / people:.2f}",
                        _mean(row, LOSS),
                    )
                )
    header = ("set, configuration", "method", "trained tokens", "judged tokens", "CPU seconds")
    title = "What learning from a person's items takes, by person"
    return Table(title, (*header, _direction(LOSS)), tuple(rows), labels=2)


def _sets(results: Sequence[BenchmarkResult]) -> list[str]:
    """What every result is about: task and people, trainings and base where they are not the same."""
    named = []
    for result, base in zip(results, _bases(results), strict=True):
        seeds = f", {len(result.seeds)} seeds" if len(result.seeds) > 1 else ""
        named.append(f"{result.task} ({result.users} people{seeds}{base and f', {base}'})")
    return named


def _bases(results: Sequence[BenchmarkResult]) -> list[str]:
    """Each result's base, or nothing where all have the same."""
    several = len({result.base for result in results}) > 1
    return [result.base if several else "" for result in results]


def _direction(metric: str) -> str:
    return f"{metric} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def _mean(row: Row | None, metric: str) -> str:
    """Over people."""
    found = None if row is None else row.metrics.get(metric)
    return NONE if found is None or not math.isfinite(found.user_mean) else f"{found.user_mean:.3f}"


def _difference(row: Comparison | LengthPoint | None) -> str:
    """The difference, marked where its interval is clear of zero."""
    if row is None or not math.isfinite(row.delta):
        return NONE
    return f"{row.delta:+.3f}{MARKS[improvement(row.metric, row.low, row.high)]}"
