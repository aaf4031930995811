"""Means with bootstrap intervals over users (docs/method.md 2.3: users, not queries, are the sample).

Every metric is a function of sums over queries, so one user is a short row of sums (for example
squared errors and their number) and a resample of users is a row of counts times those rows: all
resamples of a metric are one matrix product.

Two levels. `query`: the metric over all queries, so that heavy users weigh more. `user`: the mean
of the users' own values, every user weighing the same. In both, whole users are resampled. Macro F1
has no user level: over a dozen queries of one author most listed classes never occur, and the mean
of such values measures how many classes an author uses, so it is NaN there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from proper_model.errors import MetricError
from proper_model.evaluation.metrics import UNKNOWN, Scored

Level = Literal["query", "user"]
Array = NDArray[np.float64]
_Counts = NDArray[np.uint32]
RESAMPLES = 10_000
# Bounds the memory of one block of resampling counts; results do not depend on it.
_BLOCK = 500
# Draws up to this size are kept for the next interval, which mostly needs the same ones.
_KEPT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Means:
    """A metric at both levels. NaN where it is not defined or an output was not finite."""

    mean: float
    user_mean: float
    n_users: int
    n_queries: int


@dataclass(frozen=True)
class Interval:
    """A metric at both levels with percentile intervals; bounds are NaN with a single user."""

    mean: float
    low: float
    high: float
    user_mean: float
    user_low: float
    user_high: float
    n_users: int
    n_queries: int


@dataclass(frozen=True)
class Difference:
    """Arm a minus arm b on the same queries.

    Attributes:
        p: two-sided bootstrap probability, never below 2 / (resamples + 1); NaN without interval.
        all_tied: no user differs; the zero width of the interval is then no certainty.
    """

    delta: float
    low: float
    high: float
    p: float
    all_tied: bool
    n_users: int
    n_queries: int


@dataclass(frozen=True)
class Sums:
    """`[U, K]` sums a user and the function from sums `[..., K]` to the metric `[...]`."""

    rows: Array
    value: Callable[[Array], Array]
    user_level: bool


def summarize(scored: Scored, metric: str) -> Means:
    """The metric over all queries and averaged over users.

    Raises MetricError if the task does not report the metric.
    """
    sums = metric_sums(scored, metric)
    return Means(
        mean=float(sums.value(sums.rows.sum(0))),
        user_mean=float(_user_values(sums).mean()),
        n_users=len(sums.rows),
        n_queries=len(scored.query_ids),
    )


def user_values(scored: Scored, metric: str) -> dict[str, float]:
    """The metric of every user on the user's own queries; NaN for macro F1."""
    values = _user_values(metric_sums(scored, metric))
    return dict(zip(_users(scored), (float(value) for value in values), strict=True))


def bootstrap(
    scored: Scored,
    metric: str,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Interval:
    """Means at both levels with percentile intervals from resampled users.

    Raises MetricError if the task does not report the metric or a setting is out of range.
    """
    sums = metric_sums(scored, metric)
    means = summarize(scored, metric)
    query, user = _resample([sums], seed=seed, resamples=resamples, confidence=confidence)
    low, high = _percentiles(query[0], len(sums.rows), confidence)
    user_low, user_high = _percentiles(user[0], len(sums.rows), confidence)
    return Interval(low=low, high=high, user_low=user_low, user_high=user_high, **vars(means))


def paired_bootstrap(
    a: Scored,
    b: Scored,
    metric: str,
    *,
    level: Level,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Difference:
    """Difference a minus b, both arms resampled with the same users.

    Raises MetricError unless both hold the same queries and the task reports the metric.
    """
    if (a.user_ids, a.query_ids) != (b.user_ids, b.query_ids):
        raise MetricError("a paired comparison needs the same queries in the same order")
    pair = [metric_sums(a, metric), metric_sums(b, metric)]
    query, user = _resample(pair, seed=seed, resamples=resamples, confidence=confidence)
    first, second = summarize(a, metric), summarize(b, metric)
    if level == "query":
        delta, drawn = first.mean - second.mean, query[0] - query[1]
    elif level == "user":
        delta, drawn = first.user_mean - second.user_mean, user[0] - user[1]
    else:
        raise MetricError(f"unknown level '{level}'", hint="levels are query and user")
    tied = bool(np.array_equal(pair[0].rows, pair[1].rows))
    low, high = _percentiles(drawn, len(pair[0].rows), confidence)
    below = (1 + np.count_nonzero(drawn <= 0)) / (resamples + 1)
    above = (1 + np.count_nonzero(drawn >= 0)) / (resamples + 1)
    defined = math.isfinite(low) and math.isfinite(delta)
    return Difference(
        delta=delta,
        low=low,
        high=high,
        p=min(1.0, float(2 * min(below, above))) if defined else math.nan,
        all_tied=tied,
        n_users=first.n_users,
        n_queries=first.n_queries,
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction of several p-values, by name. NaN stays NaN."""
    finite = sorted((p, name) for name, p in p_values.items() if math.isfinite(p))
    corrected = dict(p_values)
    floor = 0.0
    for rank, (p, name) in enumerate(finite):
        floor = max(floor, min(1.0, (len(finite) - rank) * p))
        corrected[name] = floor
    return corrected


def _users(scored: Scored) -> list[str]:
    return list(dict.fromkeys(scored.user_ids))


def metric_sums(scored: Scored, metric: str) -> Sums:
    """Sums of every user. Raises MetricError if the task does not report the metric."""
    if metric not in scored.metrics:
        raise MetricError(
            f"no metric '{metric}' for task {scored.task}",
            hint="available: " + ", ".join(scored.metrics),
        )
    index = {user: row for row, user in enumerate(_users(scored))}
    owner = np.array([index[user] for user in scored.user_ids])
    if metric == "f1_macro":
        return Sums(_confusion(scored, owner, len(index)), _macro_f1, user_level=False)
    values = np.array(scored.values[metric], dtype=np.float64)
    # One rating of inf would turn every resample without it into 0 * inf; both read as undefined.
    values = np.where(np.isfinite(values), values, np.nan)
    totals = np.bincount(owner, weights=values, minlength=len(index))
    rows = np.stack([totals, np.bincount(owner, minlength=len(index)).astype(float)], axis=1)
    value = _root_mean if metric == "rmse" else _mean
    return Sums(rows, value, user_level=True)


def _mean(sums: Array) -> Array:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _root_mean(sums: Array) -> Array:
    return np.asarray(np.sqrt(sums[..., 0] / sums[..., 1]))


def _confusion(scored: Scored, owner: NDArray[np.int64], users: int) -> Array:
    """`[U, 3 C]`: hits, false hits and misses by class."""
    gold, predicted = np.array(scored.gold), np.array(scored.predicted)
    counts = np.zeros((users, 3, len(scored.classes)))
    right = gold == predicted
    np.add.at(counts, (owner[right], 0, gold[right]), 1.0)
    false = ~right & (predicted != UNKNOWN)
    np.add.at(counts, (owner[false], 1, predicted[false]), 1.0)
    np.add.at(counts, (owner[~right], 2, gold[~right]), 1.0)
    return counts.reshape(users, -1)


def _macro_f1(sums: Array) -> Array:
    """Mean F1 over all listed classes; a class that never occurs counts 0, as in LaMP."""
    hits, false, missed = np.split(sums, 3, axis=-1)
    total = 2 * hits + false + missed
    return np.asarray((2 * hits / np.where(total > 0, total, 1.0)).mean(-1))


def _user_values(sums: Sums) -> Array:
    return sums.value(sums.rows) if sums.user_level else np.full(len(sums.rows), np.nan)


def _resample(
    arms: list[Sums], *, seed: int, resamples: int, confidence: float
) -> tuple[list[Array], list[Array]]:
    """Metric of every resample, `[R]` an arm, at query and at user level; arms share the users."""
    if resamples < 1 or not 0 < confidence < 1:
        raise MetricError("bootstrap: resamples must be positive and confidence between 0 and 1")
    users = len(arms[0].rows)
    own = [_user_values(arm) for arm in arms]
    query: list[list[Array]] = [[] for _ in arms]
    user: list[list[Array]] = [[] for _ in arms]
    for drawn in _counts(users, seed, resamples):
        counts = drawn.astype(float)
        for place, arm in enumerate(arms):
            query[place].append(arm.value(counts @ arm.rows))
            user[place].append(counts @ own[place] / users)
    return [np.concatenate(x) for x in query], [np.concatenate(x) for x in user]


def _counts(users: int, seed: int, resamples: int) -> Iterable[_Counts]:
    """`[block, U]` how often a resample drew each user, block by block."""
    if resamples * users * np.dtype(np.uint32).itemsize > _KEPT_BYTES:
        return _draw(users, seed, resamples)
    return _kept_draw(users, seed, resamples)


def _draw(users: int, seed: int, resamples: int) -> Iterator[_Counts]:
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        drawn = generator.multinomial(users, np.full(users, 1 / users), size=size)
        yield drawn.astype(np.uint32)


@lru_cache(maxsize=1)
def _kept_draw(users: int, seed: int, resamples: int) -> tuple[_Counts, ...]:
    """Every interval of a report resamples as many users with one seed: the same draws."""
    return tuple(_draw(users, seed, resamples))


def _percentiles(drawn: Array, users: int, confidence: float) -> tuple[float, float]:
    if users < 2 or not np.isfinite(drawn).all():
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
