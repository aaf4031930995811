"""An experiment as tables, and as a figure of loss by condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from client.terminal.tables import Table
from simulations.experiments.schema import Condition, Experiment
from simulations.outcome.results import METRICS
from simulations.reporting.tables import NONE, by_person, difference, interval

if TYPE_CHECKING:
    from simulations.reporting.figures import Figure

# Of each task what sees most, and what people ask for; the file holds differences in every metric.
COMPARED = ("accuracy", "mae_expected", "rougeL", "nll")
LOSS = "nll"
TONES = ("one", "two", "rest")  # of conditions in turn


def result_table(result: Experiment) -> Table:
    """A row a set and metric, a column a condition, intervals over users; costs at the end."""
    names = list(result.conditions)
    rows = [
        (on, metric, *(_value(result.conditions[name], on, metric) for name in names))
        for on in sets(result)
        for metric in _metrics(result, on)
    ]
    for label, field, digits in (
        ("trained tokens", "trained_tokens", 0),
        ("CPU seconds", "cpu_seconds", 1),
    ):
        costs = [result.conditions[name].costs for name in names]
        cells = [
            NONE if cost is None else f"{getattr(cost, field) / result.users:,.{digits}f}"
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
    rows = [
        (f"{row.a} − {row.b}", row.on, row.metric, *difference(row))
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


def _value(condition: Condition, on: str, metric: str) -> str:
    return by_person(condition.sets[on].metrics.get(metric) if on in condition.sets else None)


def loss_figure(result: Experiment) -> Figure:
    """Loss per answer token of every condition on every set, with intervals over users."""
    from simulations.reporting.charts import Mark, Row, intervals
    from simulations.reporting.figures import charted  # matplotlib, which tables do without

    rows, said = [], []
    for on in sets(result):
        for place, (name, condition) in enumerate(result.conditions.items()):
            loss = condition.sets[on].metrics[LOSS]
            words = interval(loss.user_mean, loss.user_low, loss.user_high)
            mark = Mark(loss.user_mean, loss.user_low, loss.user_high, words, TONES[place % 3])
            rows.append(Row(f"{on}: {name}", (mark,)))
            said.append(f"{on}, {name}: {loss.user_mean:.3f}")
    title = f"Loss by condition: {result.experiment}, {', '.join(result.tasks)}"
    note = f"{result.confidence:.0%} intervals over {result.users} people; unit: nats a token."
    chart = intervals(rows, "loss per answer token, nats (lower is better)")
    return charted(result.experiment, title, "; ".join(said), chart, note)
