"""Measures for tests on planted groups: accuracy by level, and whether routing found the groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from proper_model.errors import MetricError
from proper_model.evaluation import Prediction


def level_accuracy(
    predictions: Sequence[Prediction],
    truth: Mapping[str, Any],
    *,
    users: Collection[str] | None = None,
) -> dict[str, float]:
    """Share of right answers by level, and `all`; `users` restricts whose predictions count.

    Raises:
        MetricError: a query the truth does not know, one answered twice, or no prediction at all.
    """
    outcomes: dict[str, list[bool]] = defaultdict(list)
    for prediction in _known(predictions, truth, users):
        right = prediction.output.strip() == truth["gold"][prediction.query_id]
        outcomes[truth["level"][prediction.query_id]].append(right)
        outcomes["all"].append(right)
    return {level: sum(hits) / len(hits) for level, hits in sorted(outcomes.items())}


def user_accuracy(
    predictions: Sequence[Prediction], truth: Mapping[str, Any], level: str
) -> dict[str, float]:
    """User id to the share of right answers on the user's queries of one level.

    Raises MetricError as `level_accuracy` does.
    """
    outcomes: dict[str, list[bool]] = defaultdict(list)
    for prediction in _known(predictions, truth, None):
        if truth["level"][prediction.query_id] == level:
            right = prediction.output.strip() == truth["gold"][prediction.query_id]
            outcomes[prediction.user_id].append(right)
    return {user: sum(hits) / len(hits) for user, hits in sorted(outcomes.items())}


def slot_accuracy(predictions: Sequence[Prediction], truth: Mapping[str, Any]) -> dict[str, float]:
    """For synth_text: share of the group's and of the user's own words that an answer contains.

    Raises MetricError as `level_accuracy` does, and if the truth has no slots.
    """
    found: dict[str, list[bool]] = defaultdict(list)
    for prediction in _known(predictions, truth, None):
        slots = truth["detail"][prediction.query_id].get("slots")
        if slots is None:
            raise MetricError(f"slot accuracy does not apply to {truth['kind']}, only synth_text")
        words = set(prediction.output.split())
        for word, level in slots.items():
            found[level].append(word in words)
    return {level: sum(hits) / len(hits) for level, hits in sorted(found.items())}


def _known(
    predictions: Sequence[Prediction], truth: Mapping[str, Any], users: Collection[str] | None
) -> Iterator[Prediction]:
    chosen = [p for p in predictions if users is None or p.user_id in users]
    if not chosen:
        raise MetricError("no predictions to score against the truth")
    if len({p.query_id for p in chosen}) < len(chosen):
        raise MetricError("a query of the synthetic population was answered twice")
    for prediction in chosen:
        if prediction.query_id not in truth["level"]:
            raise MetricError("a predicted query is not part of this synthetic population")
        yield prediction


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
