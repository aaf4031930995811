"""Ideal estimators for `synth_rate`: linear tastes, mixed over groups, with a user's own offset.

Source: docs/method.md 5.3. A user's offset is profiled out before grouping; otherwise the clusters follow
leniency, which is larger than taste, instead of taste.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulations.synthetic.oracle import adjusted_rand

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

RIDGE, RESIDUAL_SD = 0.5, 0.45
RESTARTS, STEPS = 8, 60


@dataclass(frozen=True)
class Ratings:
    """One user's reviews: aspects `[n, A]`, scores `[n]` and, for queries, levels."""

    aspects: Array
    scores: Array
    levels: Sequence[str] = field(default_factory=tuple)


def rating_oracle(
    histories: Sequence[Ratings],
    asked: Sequence[Ratings],
    pooled: Sequence[bool],
    groups: Sequence[int],
    rng: np.random.Generator,
) -> tuple[dict[str, dict[str, float]], Labels]:
    """Mean absolute error by stage, accuracy by stage and level, and the grouping found.

    Learns from the histories of pooled users, scores the queries of the others. Also returns the
    group found for every pooled user.
    """
    known = [h for h, p in zip(histories, pooled, strict=True) if p]
    planted = np.array([g for g, p in zip(groups, pooled, strict=True) if p])
    tastes, found = fit_tastes(known, int(planted.max()) + 1, rng)
    everything = Ratings(
        np.vstack([h.aspects for h in known]), np.concatenate([h.scores for h in known])
    )
    population = _ridge(everything, np.ones(len(everything.scores)))
    guesses: dict[str, list[Array]] = {}
    for history, queries in [
        (h, q) for h, q, p in zip(histories, asked, pooled, strict=True) if not p
    ]:
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
    right = [q for q, p in zip(asked, pooled, strict=True) if not p]
    gold = np.concatenate([q.scores for q in right])
    levels = np.array([level for q in right for level in q.levels])
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
    pooled = Ratings(
        np.vstack([h.aspects for h in histories]), np.concatenate([h.scores for h in histories])
    )
    best: tuple[float, Array, Labels] | None = None
    for _ in range(RESTARTS):
        membership = rng.dirichlet(np.full(components, 0.5), len(histories))
        for _ in range(STEPS):
            tastes = np.stack([_ridge(pooled, membership[owner, k]) for k in range(components)])
            residual = pooled.scores[:, None] - _features(pooled.aspects) @ tastes.T
            offset = _sum_by(owner, residual) / sizes[:, None]
            spread = _sum_by(owner, (residual - offset[owner]) ** 2)
            fit = -spread / (2 * RESIDUAL_SD**2)
            top = fit.max(1, keepdims=True)
            membership = np.exp(fit - top)
            membership /= membership.sum(1, keepdims=True)
        likelihood = float((top[:, 0] + np.log(np.exp(fit - top).sum(1))).sum())
        if best is None or likelihood > best[0]:
            best = (likelihood, tastes, membership.argmax(1).astype(np.int64))
    assert best is not None
    return best[1:]


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
