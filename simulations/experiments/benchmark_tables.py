"""A benchmark as tables and sentences: methods beside the paper's numbers, comparisons, sizes, times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from client.terminal.tables import Table, to_markdown
from simulations.experiments.benchmark_schema import BenchmarkResult, Row
from simulations.experiments.benchmark_summary import bands, main_metrics
from simulations.experiments.comparing import UNUSED, sentence
from simulations.experiments.paper_numbers import (
    DISCREPANCIES,
    counterpart,
    paper_value,
)
from simulations.outcome.results import METRICS
from simulations.reporting.tables import NONE, by_person, difference

WAY = ("item-mean", "gaussian")
PROPER_ARMS = ("stage2", "stage3")
# What a paper's experiment is called in prose.
TITLES = {
    "table1": "All methods",
    "table2": "The least active people",
    "table3": "What each part brings",
    "fig3": "One person's texts",
    "fig45": "Routing with and without the user's half",
    "fig6-efficiency": "Parameters and time",
    "fig6-experts": "The number of experts",
}


def title(result: BenchmarkResult) -> str:
    """What was compared, on whom."""
    seeds = ", ".join(map(str, result.seeds))
    folds = f", {result.folds} folds" if result.folds > 1 else ""
    return (
        f"{TITLES[result.experiment]}: {result.task}, profile {result.profile}, base {result.base}, "
        f"split {result.split}{folds}, {'seeds' if len(result.seeds) > 1 else 'seed'} {seeds}, "
        f"{result.users} people"
    )


def metrics_of(result: BenchmarkResult) -> list[str]:
    """What tables show: the metrics of the rows, but how many answers could not be read."""
    found = result.metric_names()
    return [metric for metric in METRICS if metric in found and metric not in UNUSED]


def method_table(result: BenchmarkResult) -> Table:
    """A row a method: metrics with intervals over people, the paper's numbers where it has some."""
    beside = counterpart(result.task)
    columns, rows = ["method"], [[name] for name in result.rows]
    for metric in metrics_of(result):
        columns.append(metric)
        paper = [
            paper_value(result.experiment, result.task, metric, row.arm, row.variant)
            for row in result.rows.values()
        ]
        if beside is not None and any(value is not None for value in paper):
            columns.append(f"{beside.said}, {metric}")
        else:
            paper = []
        for place, row in enumerate(result.rows.values()):
            rows[place].append(by_person(row.metrics.get(metric)))
            rows[place] += [_number(paper[place])] if paper else []
    columns += ["seconds a person", "trained tokens a person"]
    for place, row in enumerate(result.rows.values()):
        rows[place] += list(_costs(result, row))
    return Table(title(result), tuple(columns), tuple(tuple(row) for row in rows))


def comparison_table(result: BenchmarkResult) -> Table:
    """Every comparison in the task's main metric, the loss and macro F1; the file holds all metrics."""
    shown, several = (*main_metrics(metrics_of(result)), "f1_macro"), len(result.seeds) > 1
    rows = [
        (
            f"{row.a} − {row.b}",
            row.metric,
            *difference(row),
            _number(row.p_holm),
            _share(row.helped),
            _share(row.hurt),
            _number(row.detectable, 4),
            *([_each(row.by_seed)] if several else []),
        )
        for row in result.comparisons
        if row.metric in shown
    ]
    header = (
        *("methods", "metric", "difference", "interval", "verdict", "p, Holm"),
        *("helped", "hurt", "detectable"),
        *(["each seed"] if several else []),
    )
    return Table(f"{result.task}: comparisons, paired by person", header, tuple(rows), labels=2)


def length_table(result: BenchmarkResult) -> Table | None:
    """Gains by history length; None without any."""
    rows = [
        (
            f"{point.a} − {point.b}",
            point.metric,
            "cut to" if point.cut else "own, about",
            str(point.items),
            str(point.people),
            f"{point.delta:+.4f}",
            f"[{point.low:+.4f}, {point.high:+.4f}]",
        )
        for point in result.lengths
    ]
    if not rows:
        return None
    header = ("methods", "metric", "histories", "items", "people", "difference", "interval")
    return Table(f"{result.task}: by length of the history", header, tuple(rows), labels=3)


def band_table(result: BenchmarkResult) -> Table | None:
    """Every method among people with about as many items of their own, in the task's main metric.

    Where the table has both floors, in brackets how much of the way from `item-mean`, which knows
    nothing of the person, to `gaussian`, which knows how all answers go together, a method covers.
    None where all histories are about as long.
    """
    metric = main_metrics(metrics_of(result))[0]
    parts = bands(sorted(result.items))
    if len(parts) < 2:
        return None
    rows = {}
    for name, values in result.people.items():
        if metric in values:
            groups = [
                [v for v, n in zip(values[metric], result.items, strict=True) if low <= n <= high]
                for low, high in parts
            ]
            rows[name] = [math.fsum(group) / len(group) for group in (*groups, values[metric])]
    ends = [rows.get(name) for name in WAY]
    shown = [
        (name, *(_with_way(mean, ends, place) for place, mean in enumerate(means)))
        for name, means in rows.items()
    ]
    names = [str(low) if low == high else f"{low} to {high}" for low, high in parts]
    header = ("method", *(f"{name} items" for name in names), "everybody")
    return Table(f"{result.task}: {metric} by people's own history", header, tuple(shown))


def _with_way(mean: float, ends: Sequence[Sequence[float] | None], place: int) -> str:
    """A mean, and how much of the way between two others it covers."""
    start, goal = ends
    if start is None or goal is None or start[place] == goal[place]:
        return _number(mean)
    covered = (start[place] - mean) / (start[place] - goal[place])
    return f"{_number(mean)} ({covered:.0%})"


def size_table(result: BenchmarkResult) -> Table:
    """Numbers that each part trains or ships, and seconds of the pooled phases, a column a variant."""
    names = list(result.variants)
    parts = list(dict.fromkeys(p for v in result.variants.values() for p in v.parameters))
    phases = list(dict.fromkeys(p for v in result.variants.values() for p in v.seconds))
    rows = [
        (f"{part.replace('_', ' ')}, numbers", *(_count(result, n, part) for n in names))
        for part in parts
    ]
    rows += [
        (f"{phase}, minutes", *(_minutes(result.variants[n].seconds.get(phase)) for n in names))
        for phase in phases
    ]
    return Table(f"{result.task}: parameters and time", ("part", *names), tuple(rows))


def joined_table(results: Sequence[BenchmarkResult]) -> Table:
    """A row a data set and metric, a column a method; beneath each the paper's of its kind of task."""
    names = list(dict.fromkeys(name for result in results for name in result.rows))
    rows: list[tuple[str, ...]] = []
    for result in results:
        beside = counterpart(result.task)
        for metric in metrics_of(result):
            found = {name: row.metrics.get(metric) for name, row in result.rows.items()}
            cells = (by_person(found.get(name)) for name in names)
            rows.append((f"{result.task}, {result.users} people", metric, *cells))
            paper = [
                None
                if name not in result.rows
                else paper_value(
                    result.experiment,
                    result.task,
                    metric,
                    result.rows[name].arm,
                    result.rows[name].variant,
                )
                for name in names
            ]
            if beside is not None and any(value is not None for value in paper):
                rows.append((beside.said, metric, *map(_number, paper)))
    kinds = ", ".join(dict.fromkeys(TITLES[result.experiment] for result in results))
    return Table(f"{kinds}, beside the paper", ("set", "metric", *names), tuple(rows), labels=2)


def tables_of(result: BenchmarkResult) -> list[Table]:
    """All tables of one result, the methods' first."""
    found = (
        method_table(result),
        comparison_table(result),
        band_table(result),
        length_table(result),
        size_table(result),
    )
    return [table for table in found if table is not None]


def sentences(result: BenchmarkResult) -> list[str]:
    """One sentence a comparison in the task's main metric and the loss."""
    shown = main_metrics(metrics_of(result))
    return [sentence(row) for row in result.comparisons if row.metric in shown]


@dataclass(frozen=True)
class Standing:
    """How PROPER's stages 2 and 3 fare: in a line, and the comparisons lost and undecided."""

    tally: str
    lost: tuple[str, ...]
    undecided: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """All of it."""
        return (self.tally, *self.lost, *self.undecided)


def standing(result: BenchmarkResult) -> Standing:
    """Of all comparisons whose first is stage 2 or 3, in the task's main metric and the loss."""
    shown = main_metrics(metrics_of(result))
    rows = [
        row
        for row in result.comparisons
        if row.metric in shown and result.rows[row.a].arm in PROPER_ARMS
    ]
    lost = tuple(sentence(row) for row in rows if row.improvement is False)
    undecided = tuple(sentence(row) for row in rows if row.improvement is None)
    won = len(rows) - len(lost) - len(undecided)
    tally = (
        f"Of {len(rows)} comparisons of stage 2 or 3 with something else in {' and '.join(shown)}, "
        f"{won} are won, {len(lost)} are lost and {len(undecided)} cannot be told apart."
    )
    return Standing(tally, lost, undecided)


def beside_the_paper(results: Sequence[BenchmarkResult]) -> list[str]:
    """What must stand beside any of the paper's numbers."""
    said = []
    for task in dict.fromkeys(result.task for result in results):
        found = counterpart(task)
        if found is None:
            said.append(f"{task}: the paper has no task of this kind")
        elif found.same:
            said.append(f"{task}: the paper's task, over another base and with other people")
        else:
            said.append(
                f"{task} is no LaMP task: it has the shape of {found.task}, whose numbers stand "
                "beside it to show directions"
            )
    return [*said, *(f"in the paper, {fault}" for fault in DISCREPANCIES)]


def markdown(result: BenchmarkResult) -> str:
    """The whole result as a Markdown document."""
    parts = [f"# {title(result)}", to_markdown(method_table(result))]
    lists = [("Where PROPER does not win", list(standing(result).lines))]
    parts += ["## Comparisons", to_markdown(comparison_table(result))]
    for table in tables_of(result)[2:]:
        parts += [f"## {table.title.partition(': ')[2]}", to_markdown(table)]
    lists += [("In words", sentences(result)), ("Notes", list(result.notes))]
    lists += [("Beside the paper", beside_the_paper([result]))]
    for heading, lines in lists:
        parts += [f"## {heading}", "\n".join(f"- {line}" for line in lines) or "- nothing"]
    parts.append(f"Configuration {result.configuration}, code {result.commit}.")
    return "\n\n".join(parts) + "\n"


def _costs(result: BenchmarkResult, row: Row) -> tuple[str, str]:
    """Of learning and answering together, by person and seed."""
    known = [cost for cost in (row.training, row.answering) if cost is not None]
    if not known:
        return NONE, NONE
    people = result.users * len(result.seeds)
    seconds = math.fsum(cost.seconds for cost in known) / people
    tokens = sum(cost.trained_tokens for cost in known) / people
    return f"{seconds:.2f}", f"{tokens:,.0f}"


def _number(value: float | None, digits: int = 3) -> str:
    return NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _each(values: Sequence[float]) -> str:
    """The differences of single seeds, in their order."""
    return ", ".join(f"{value:+.4f}" for value in values) or NONE


def _share(value: float) -> str:
    return NONE if not math.isfinite(value) else f"{value:.0%}"


def _count(result: BenchmarkResult, variant: str, part: str) -> str:
    count = result.variants[variant].parameters.get(part)
    return NONE if count is None else f"{count:,}"


def _minutes(seconds: float | None) -> str:
    return NONE if seconds is None else f"{seconds / 60:.2f}"
