"""Measures for tests on planted groups: accuracy by level, and whether routing found the groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from proper_model.evaluation import Prediction


def level_accuracy(predictions: Sequence[Prediction], truth: Mapping[str, Any]) -> dict[str, float]:
    """Share of right answers by the level that decides the query, and of `all`."""
    return _shares(predictions, truth, lambda p: (truth["level"][p.query_id], "all"))


def user_accuracy(
    predictions: Sequence[Prediction], truth: Mapping[str, Any], level: str
) -> dict[str, float]:
    """User id to the share of right answers on the user's queries of one level."""
    return _shares(
        predictions, truth, lambda p: (p.user_id,) if truth["level"][p.query_id] == level else ()
    )


def _shares(
    predictions: Sequence[Prediction],
    truth: Mapping[str, Any],
    names: Callable[[Prediction], tuple[str, ...]],
) -> dict[str, float]:
    assert len({p.query_id for p in predictions}) == len(predictions) > 0
    right: dict[str, list[bool]] = defaultdict(list)
    for prediction in predictions:
        for name in names(prediction):
            right[name].append(prediction.output.strip() == truth["gold"][prediction.query_id])
    return {name: sum(hits) / len(hits) for name, hits in sorted(right.items())}


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
