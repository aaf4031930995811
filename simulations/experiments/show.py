"""An experiment as tables."""

from __future__ import annotations

import math

from client.terminal.tables import Table
from simulations.experiments.schema import Condition, Experiment
from simulations.outcome.results import METRICS

# Of each task what sees most, and what people ask for; the file holds differences in every metric.
COMPARED = ("accuracy", "mae_expected", "rougeL", "nll")


def result_table(result: Experiment) -> Table:
    """A row a set and metric, a column a condition, intervals over users; costs at the end."""
    rows = []
    names = list(result.conditions)
    for on in sets(result):
        for metric in _metrics(result, on):
            cells = [_interval(result.conditions[name], on, metric) for name in names]
            rows.append((on, metric, *cells))
    for label, field, digits in (
        ("trained tokens", "trained_tokens", 0),
        ("CPU seconds", "cpu_seconds", 1),
    ):
        costs = [result.conditions[name].costs for name in names]
        cells = [
            "–" if cost is None else f"{getattr(cost, field) / result.users:,.{digits}f}"
            for cost in costs
        ]
        rows.append(("cost a user", label, *cells))
    title = (
        f"{result.experiment}: {', '.join(result.tasks)}, {result.preset}/{result.profile}, "
        f"base {result.base}, split {result.split}, seed {result.seed}, {result.users} users, "
        f"{result.confidence:.0%} intervals over users"
    )
    return Table(title, ("asked", "metric", *names), tuple(rows), labels=2)


def difference_table(result: Experiment) -> Table:
    """Paired differences in few metrics; those in which no user differs are left out."""
    verdicts = {True: "better", False: "worse", None: "not separable"}
    rows = [
        (
            f"{row.a} − {row.b}",
            row.on,
            row.metric,
            f"{row.delta:+.4f}",
            f"[{row.low:+.4f}, {row.high:+.4f}]",
            verdicts[row.improvement],
        )
        for row in result.contrasts
        if row.metric in COMPARED and not row.delta == row.low == row.high == 0
    ]
    header = ("conditions", "asked", "metric", "difference", "interval", "verdict")
    return Table("Differences", header, tuple(rows), labels=3)


def fact_table(result: Experiment) -> Table:
    """Counts and shares."""
    rows = [
        (name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.3f}")
        for name, value in result.facts.items()
    ]
    return Table("Counts", ("what", "value"), tuple(rows))


def sets(result: Experiment) -> list[str]:
    """Names of the sets of questions, in the order of the file."""
    return list(dict.fromkeys(on for c in result.conditions.values() for on in c.sets))


def _metrics(result: Experiment, on: str) -> list[str]:
    found = {m for c in result.conditions.values() if on in c.sets for m in c.sets[on].metrics}
    return [metric for metric in METRICS if metric in found]


def _interval(condition: Condition, on: str, metric: str) -> str:
    value = condition.sets[on].metrics.get(metric) if on in condition.sets else None
    if value is None:
        return "–"
    if math.isfinite(value.user_mean):
        return f"{value.user_mean:.3f} [{value.user_low:.3f}, {value.user_high:.3f}]"
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
