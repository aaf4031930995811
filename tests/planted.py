"""Measures for tests on planted groups: accuracy by level, and whether routing found the groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from simulations.synthetic.scores import level_accuracy, slot_accuracy, user_accuracy

__all__ = ["level_accuracy", "routing_ari", "slot_accuracy", "user_accuracy"]


def routing_ari(
    weights: Mapping[str, ArrayLike],
    truth: Mapping[str, Any],
    *,
    seed: int = 0,
    permutations: int = 999,
) -> tuple[float, float]:
    """How well users' routing agrees with the planted groups.

    Args:
        weights: user id to mean routing weights, `[routers, experts]` or flat. They are
            concatenated, never averaged over routers: expert i of one router has nothing to do
            with expert i of another (docs/method.md 1.6).

    Returns:
        Adjusted Rand index of k-means on the weights (k = number of groups) with the groups, and
        the share of relabelings of users, counting the true one, that agree at least as well.
    """
    users = sorted(weights)
    points = np.stack([np.asarray(weights[user], dtype=float).ravel() for user in users])
    planted = np.array([truth["groups"][user] for user in users])
    clusters = len(set(truth["groups"].values()))
    found = KMeans(clusters, n_init=20, random_state=seed).fit_predict(points)
    index = float(adjusted_rand_score(planted, found))
    rng = np.random.default_rng(seed)
    agreement = _pairs_together(planted, found)
    as_good = sum(
        _pairs_together(rng.permutation(planted), found) >= agreement for _ in range(permutations)
    )
    return index, (1 + as_good) / (1 + permutations)


def _pairs_together(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Sum of squared cell counts: rises with the Rand index as long as the sizes stay."""
    table = np.zeros((a.max() + 1, b.max() + 1), dtype=np.int64)
    np.add.at(table, (a, b), 1)
    return int((table**2).sum())
