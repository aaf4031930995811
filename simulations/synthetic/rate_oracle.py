"""Ideal estimators for `synth_rate`: linear tastes, mixed over groups, with a user's own offset.

Source: docs/method.md 5.3. A user's offset is taken out before grouping; otherwise the clusters
follow leniency, which is larger than taste, instead of taste.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulations.synthetic.oracle import (
    RESTARTS,
    STEPS,
    Array,
    Labels,
    adjusted_rand,
    log_likelihood,
    softmax,
)
from simulations.synthetic.settings import Member

RIDGE, RESIDUAL_SD = 0.5, 0.45


@dataclass(frozen=True)
class Ratings:
    """One user's reviews: aspects `[n, A]`, scores `[n]` and, for queries, levels."""

    aspects: Array
    scores: Array
    levels: Sequence[str] = field(default_factory=tuple)


def rating_oracle(
    histories: Sequence[Ratings],
    asked: Sequence[Ratings],
    members: Sequence[Member],
    rng: np.random.Generator,
) -> tuple[dict[str, dict[str, float]], Labels]:
    """Mean absolute error by stage, accuracy by stage and level, and the grouping found.

    Learns from the histories of pooled users, scores the queries of the others. Also returns the
    group found for every pooled user.
    """
    known = [h for h, m in zip(histories, members, strict=True) if not m.test]
    planted = np.array([m.group for m in members if not m.test])
    tastes, found = fit_tastes(known, int(planted.max()) + 1, rng)
    everything = _together(known)
    population = _ridge(everything, np.ones(len(everything.scores)))
    unseen = [(h, q) for h, q, m in zip(histories, asked, members, strict=True) if m.test]
    guesses: dict[str, list[Array]] = {}
    for history, queries in unseen:
        residual = history.scores[:, None] - _features(history.aspects) @ tastes.T  # [n, K]
        offset = residual.mean(0)
        best = int(((residual - offset) ** 2).sum(0).argmin())
        shrink = len(history.scores) / (len(history.scores) + 1.0)
        new = _features(queries.aspects)
        away = (history.scores - _features(history.aspects) @ population).mean()
        for stage, guess in {
            "stage1": new @ population,
            "stage2": new @ tastes[best],
            "oppu-mlp": new @ population + shrink * away,
            "stage3": new @ tastes[best] + shrink * offset[best],
        }.items():
            guesses.setdefault(stage, []).append(np.clip(np.round(guess), 1, 5))
    gold = np.concatenate([queries.scores for _, queries in unseen])
    levels = np.array([level for _, queries in unseen for level in queries.levels])
    scores = {stage: _scores(np.concatenate(g), gold, levels) for stage, g in guesses.items()}
    scores["grouping"] = {"ari_pooled": adjusted_rand(planted, found)}
    return scores, found


def _scores(guess: Array, gold: Array, levels: NDArray[np.str_]) -> dict[str, float]:
    hit = guess == gold
    by_level = {
        str(level): round(float(hit[levels == level].mean()), 4) for level in np.unique(levels)
    }
    mae = round(float(np.abs(guess - gold).mean()), 4)
    return by_level | {"all": round(float(hit.mean()), 4), "mae": mae}


def fit_tastes(
    histories: Sequence[Ratings], components: int, rng: np.random.Generator
) -> tuple[Array, Labels]:
    """EM for users who share one of `components` tastes and have an offset each.

    Returns:
        Weights `[K, A + 1]`, the last one constant, and the component of every user `[U]`.
    """
    sizes = np.array([len(h.scores) for h in histories])
    owner = np.repeat(np.arange(len(histories)), sizes)
    pooled = _together(histories)
    best: tuple[float, Array, Labels] | None = None
    for _ in range(RESTARTS):
        membership = rng.dirichlet(np.full(components, 0.5), len(histories))
        for _ in range(STEPS):
            tastes = np.stack([_ridge(pooled, membership[owner, k]) for k in range(components)])
            residual = pooled.scores[:, None] - _features(pooled.aspects) @ tastes.T
            offset = _sum_by(owner, residual) / sizes[:, None]
            spread = _sum_by(owner, (residual - offset[owner]) ** 2)
            fit = -spread / (2 * RESIDUAL_SD**2)
            membership = softmax(fit)
        likelihood = log_likelihood(fit)
        if best is None or likelihood > best[0]:
            best = (likelihood, tastes, membership.argmax(1).astype(np.int64))
    assert best is not None
    return best[1:]


def _together(ratings: Sequence[Ratings]) -> Ratings:
    return Ratings(
        np.vstack([one.aspects for one in ratings]), np.concatenate([one.scores for one in ratings])
    )


def _features(aspects: Array) -> Array:
    return np.hstack([aspects, np.ones((len(aspects), 1))])


def _ridge(ratings: Ratings, weights: Array) -> Array:
    x = _features(ratings.aspects)
    weighted = x * weights[:, None]
    solved = np.linalg.solve(
        weighted.T @ x + RIDGE * np.eye(x.shape[1]), weighted.T @ ratings.scores
    )
    return np.asarray(solved)


def _sum_by(owner: Labels, values: Array) -> Array:
    return np.stack([np.bincount(owner, column) for column in values.T], 1)
