"""Whether two arms differ on a handful of items: an exact test where a bootstrap is too bold.

Under "the arms are alike" each item's two results may change places. The share of all such swaps
whose difference is at least as large as the observed one is an honest probability at any number
of items, also for metrics that are no means (macro F1, RMSE); percentile intervals over five items
miss the truth several times as often as they say. Source: Fisher's randomization test.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from proper_model.errors import MetricError
from proper_model.evaluation.intervals import metric_sums
from proper_model.evaluation.metrics import Scored

EXACT_UP_TO = 13  # 2^13 swaps
_BLOCK = 500  # bounds memory; the result does not depend on it


def swap_probability(a: Scored, b: Scored, metric: str, *, seed: int, draws: int = 8191) -> float:
    """Two-sided probability of the observed difference where a and b are alike.

    Users are what is swapped. Exact up to 13 users, from `draws` random swaps beyond; the smallest
    value is then 1 / (draws + 1), and for n users 2 / 2^n. NaN where the metric is not defined.

    Raises MetricError unless both hold the same queries and the task reports the metric.
    """
    if (a.user_ids, a.query_ids) != (b.user_ids, b.query_ids):
        raise MetricError("a paired comparison needs the same queries in the same order")
    first, second = metric_sums(a, metric), metric_sums(b, metric)
    change = second.rows - first.rows  # [U, K]
    users = len(change)
    if users <= EXACT_UP_TO:
        every = np.arange(2**users)
        swaps = ((every[:, None] >> np.arange(users)) & 1).astype(float)  # [2^U, U]
    else:
        drawn = np.random.default_rng(seed).integers(0, 2, size=(draws, users))
        swaps = np.vstack([np.zeros(users), drawn])  # what was observed counts as one of them
    differences = np.concatenate(
        [
            first.value(first.rows.sum(0) + part @ change)
            - second.value(second.rows.sum(0) - part @ change)
            for part in _blocks(swaps)
        ]
    )
    if not np.isfinite(differences).all():
        return math.nan
    # Sums in another order round otherwise: what ties with the observed difference counts.
    slack = 1e-9 * max(1.0, float(np.abs(differences).max()))
    return float(np.mean(np.abs(differences) >= abs(differences[0]) - slack))


def _blocks(swaps: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return [swaps[start : start + _BLOCK] for start in range(0, len(swaps), _BLOCK)]
