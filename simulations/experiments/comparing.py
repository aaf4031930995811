"""What a difference between two methods is worth: for how many people, and would it be seen at all?

    gain of a person   how much better a's metric is than b's, whatever direction is better
    helped, hurt       people whose gain is above, or below minus, a threshold
    detectable         (z_{1 - alpha/2} + z_{power}) sd(differences) / sqrt(people): the smallest true
                       difference that as many people would show in `power` of all samples

The normal quantiles are those of the intervals: a percentile bootstrap of a mean is as wide as a
normal interval. p-values are corrected by Holm over all comparisons of a table in one metric.
Source: docs/method.md 1.9, 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, stdev

from proper_model.evaluation import (
    CORPUS_METRICS,
    LOWER_IS_BETTER,
    Level,
    Scored,
    holm,
    user_values,
)
from simulations.experiments.benchmark_schema import Comparison
from simulations.reporting.score import CONFIDENCE, Resampling

POWER = 0.8
# Below this a person's change is no change: a numeric metric never ties exactly. Of the others a
# single answer that differs is more.
THRESHOLD = 0.01
UNUSED = frozenset({"parse_failure_rate"})  # a difference in it says nothing


@dataclass(frozen=True)
class Shares:
    """Shares of people, summing to one."""

    helped: float
    hurt: float
    same: float


def gains(a: Mapping[str, float], b: Mapping[str, float], metric: str) -> list[float]:
    """How much better every person fares under a than under b, in a's order; above 0 is better."""
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    return [sign * (value - b[person]) for person, value in a.items()]


def shares(values: Sequence[float], *, threshold: float = THRESHOLD) -> Shares:
    """Who is helped and who is hurt, of gains. All NaN without a person or with one undefined."""
    if not values or not all(map(math.isfinite, values)):
        return Shares(math.nan, math.nan, math.nan)
    helped = sum(value > threshold for value in values) / len(values)
    hurt = sum(value < -threshold for value in values) / len(values)
    return Shares(helped, hurt, 1 - helped - hurt)


def detectable(
    differences: Sequence[float], *, power: float = POWER, confidence: float = CONFIDENCE
) -> float:
    """The smallest true mean difference that would be found.

    NaN for fewer than two people, and where nobody differs from anybody: that is no certainty.
    """
    if len(set(differences)) < 2 or not all(map(math.isfinite, differences)):
        return math.nan
    normal = NormalDist()
    quantiles = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)
    return quantiles * stdev(differences) / math.sqrt(len(differences))


def compare(
    tables: Mapping[str, Scored],
    pairs: Sequence[tuple[str, str]],
    drawn: Resampling,
    *,
    seeds: int = 1,
) -> list[Comparison]:
    """Every pair in every metric that both report, with Holm's correction over all of a metric.

    At user level, where every person weighs the same; macro F1, which has none, over all answers.
    Of tables in which several seeds are `stacked`, every seed's difference stands by itself too.
    """
    found = [
        _one(tables[a], tables[b], a, b, metric, drawn, seeds)
        for a, b in pairs
        for metric in tables[a].metrics
        if metric in tables[b].metrics and metric not in UNUSED
    ]
    corrected: dict[tuple[str, str], float] = {}
    for metric in dict.fromkeys(row.metric for row in found):
        family = {str(n): row.p for n, row in enumerate(found) if row.metric == metric}
        corrected |= {(metric, place): p for place, p in holm(family).items()}
    return [
        row.model_copy(update={"p_holm": corrected[row.metric, str(place)]})
        for place, row in enumerate(found)
    ]


def _one(
    a: Scored, b: Scored, first: str, second: str, metric: str, drawn: Resampling, seeds: int
) -> Comparison:
    level: Level = "query" if metric in CORPUS_METRICS else "user"
    row = drawn.difference(a, b, metric, level)
    own = gains(user_values(a, metric), user_values(b, metric), metric)
    who = shares(own)
    return Comparison(
        a=first,
        b=second,
        metric=metric,
        level=level,
        delta=row.delta,
        low=row.low,
        high=row.high,
        p=row.p,
        p_holm=row.p,
        people=row.n_users,
        helped=who.helped,
        hurt=who.hurt,
        detectable=detectable(own),
        by_seed=_by_seed(a, b, metric, seeds) if level == "user" and seeds > 1 else [],
    )


def _by_seed(a: Scored, b: Scored, metric: str, seeds: int) -> list[float]:
    """Every seed's mean over people of a minus b."""
    found = []
    for one, other in zip(unstacked(a, seeds), unstacked(b, seeds), strict=True):
        values, others = user_values(one, metric), user_values(other, metric)
        found.append(math.fsum(v - others[person] for person, v in values.items()) / len(values))
    return found


def stacked(tables: Sequence[Scored]) -> Scored:
    """The scores of several seeds as one table: a person's rows of all seeds stay together.

    A mean over a person's rows is then the mean over seeds, and resampling people leaves the seeds
    of a person together. RMSE and macro F1 are over all seeds' answers. The tables hold the same
    queries.
    """
    first = tables[0]
    assert all(table.query_ids == first.query_ids for table in tables)
    metrics = tuple(m for m in first.metrics if all(m in table.metrics for table in tables))
    return replace(
        first,
        metrics=metrics,
        user_ids=sum((table.user_ids for table in tables), ()),
        query_ids=sum((table.query_ids for table in tables), ()),
        values={
            name: sum((table.values[name] for table in tables), ())
            for name in first.values
            if all(name in table.values for table in tables)
        },
        gold=sum((table.gold for table in tables), ()),
        predicted=sum((table.predicted for table in tables), ()),
        non_finite_outputs=sum(table.non_finite_outputs for table in tables),
    )


def unstacked(table: Scored, seeds: int) -> list[Scored]:
    """The tables that `stacked` put into one."""
    count, left = divmod(len(table.query_ids), seeds)
    assert not left
    return [
        replace(
            table,
            user_ids=table.user_ids[part],
            query_ids=table.query_ids[part],
            values={name: values[part] for name, values in table.values.items()},
            gold=table.gold[part],
            predicted=table.predicted[part],
        )
        for part in (slice(n * count, (n + 1) * count) for n in range(seeds))
    ]


def sentence(row: Comparison) -> str:
    """What a comparison says, in words that follow from its numbers."""
    if row.delta == row.low == row.high == 0:
        return f"{row.a} does as {row.b} does in {row.metric} for each of {row.people} people."
    verdict = {True: "is better than", False: "is worse than", None: "cannot be told apart from"}
    numbers = f"{row.delta:+.4f}, 95 % interval {row.low:+.4f} to {row.high:+.4f}"
    text = f"{row.a} {verdict[row.improvement]} {row.b} in {row.metric}: {numbers}, {row.people} people"
    if row.improvement is not None and row.p_holm >= 1 - CONFIDENCE:
        text += f"; not after Holm's correction over the table's comparisons (p {row.p_holm:.3f})"
    if row.improvement is None and math.isfinite(row.detectable):
        text += f"; with as many people {row.detectable:.4f} would be seen in four of five samples"
    return text + "."
