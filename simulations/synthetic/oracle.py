"""What the best possible learner of each stage reaches on a synthetic population.

Ideal estimators read the planted structure (topic numbers, not words): pooled counts for stage 1,
a mixture over users fitted by EM for stage 2, the mixture plus the user's own counts for stage 3,
population plus own counts for one adapter a user without groups. A trained model is judged
against these, not against 1. Source: docs/method.md 5.2.

Legend: U users, Z situations (a topic, a word to rewrite), V possible answers, K groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from simulations.synthetic.settings import Member

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

# Counts every answer starts with, and how much a group's rule weighs against one own item.
SMOOTHING, PRIOR_WEIGHT = 0.05, 1.5
RESTARTS, STEPS = 8, 60


@dataclass(frozen=True)
class Question:
    """`user` asks about `situation`; `answer` is right, and `level` says what decides it."""

    user: int
    situation: int
    answer: int
    level: str


def categorical_oracle(
    counts: Array,
    members: Sequence[Member],
    questions: Sequence[Question],
    rng: np.random.Generator,
) -> dict[str, dict[str, float]]:
    """Accuracy by stage and level on the unseen users, and how well pooled users group.

    Args:
        counts: `[U, Z, V]`, how often each user's history answers a situation this way.
        members: the users; the estimators learn from histories of pooled ones and are scored on
            the others.
        questions: queries of all users; those of pooled ones are left out.
        rng: starts of the mixture.
    """
    learn = np.array([not member.test for member in members])
    planted = np.array([member.group for member in members])
    known, unseen = counts[learn], counts[~learn]
    population = _normalize(known.sum(0) + SMOOTHING)  # [Z, V]
    rules, membership, share = fit_mixture(known, int(planted.max()) + 1, rng)
    fit = np.einsum("uzv,kzv->uk", unseen, np.log(rules)) + np.log(share)
    assigned = softmax(fit)  # [U_test, K]
    group = np.einsum("uk,kzv->uzv", assigned, rules)
    estimates = {
        "stage1": np.broadcast_to(population, unseen.shape),
        "stage2": group,
        "oppu-mlp": unseen + PRIOR_WEIGHT * population,
        "stage3": unseen + PRIOR_WEIGHT * group,
        "own-history": unseen + 1e-3,
    }
    row = {user: i for i, user in enumerate(np.flatnonzero(~learn).tolist())}
    asked = [q for q in questions if q.user in row]
    scores = {
        stage: _by_level([(q.level, _right(estimate[row[q.user]], q)) for q in asked])
        for stage, estimate in estimates.items()
    }
    scores["grouping"] = {
        "ari_pooled": adjusted_rand(planted[learn], membership.argmax(1)),
        "ari_unseen": adjusted_rand(planted[~learn], assigned.argmax(1)),
    }
    return scores


def _right(estimate: Array, question: Question) -> float:
    return float(int(estimate[question.situation].argmax()) == question.answer)


def _by_level(outcomes: Sequence[tuple[str, float]]) -> dict[str, float]:
    scores = {
        level: round(float(np.mean([value for name, value in outcomes if name == level])), 4)
        for level in dict.fromkeys(name for name, _ in outcomes)
    }
    return scores | {"all": round(float(np.mean([value for _, value in outcomes])), 4)}


def fit_mixture(
    counts: Array, components: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """EM for users who share one of `components` answer tables; the best of several starts.

    Returns:
        Answer tables `[K, Z, V]`, membership `[U, K]` and the components' shares `[K]`.
    """
    flat = counts.reshape(len(counts), -1)  # [U, Z * V]
    best: tuple[float, Array, Array, Array] | None = None
    for restart in range(RESTARTS):
        # Random starts alone miss the groups when histories are short (docs/method.md 5.2).
        membership = (
            _spectral_start(flat, components, rng)
            if restart % 2
            else rng.dirichlet(np.full(components, 0.5), len(counts))
        )
        for _ in range(STEPS):
            pooled = (membership.T @ flat).reshape(components, *counts.shape[1:])
            tables = _normalize(pooled + SMOOTHING)
            share = _normalize(membership.mean(0) + 1e-9)
            fit = flat @ np.log(tables).reshape(components, -1).T + np.log(share)
            membership = softmax(fit)
        likelihood = log_likelihood(fit)
        if best is None or likelihood > best[0]:
            best = (likelihood, tables, membership, share)
    assert best is not None
    return best[1:]


def _spectral_start(flat: Array, components: int, rng: np.random.Generator) -> Array:
    seen = (flat > 0).astype(float)
    seen -= seen.mean(0)
    directions = np.linalg.svd(seen, full_matrices=False)[2][: max(1, components - 1)]
    nearest = k_means(seen @ directions.T, components, rng)
    return np.eye(components)[nearest] * 0.9 + 0.1 / components


def k_means(points: Array, clusters: int, rng: np.random.Generator, steps: int = 30) -> Labels:
    """Nearest-centre label of every point `[U, D]` after `steps` of Lloyd's algorithm."""
    centres = points[[rng.integers(len(points))]]
    while len(centres) < clusters:
        # Starts far from each other: with starts anywhere two often share a cluster.
        distance = ((points[:, None] - centres) ** 2).sum(-1).min(1) + 1e-12
        centres = np.vstack([centres, points[rng.choice(len(points), p=_normalize(distance))]])
    nearest = np.zeros(len(points), np.int64)
    for _ in range(steps):
        nearest = ((points[:, None] - centres) ** 2).sum(-1).argmin(1)
        for k in range(clusters):
            mine = points[nearest == k]
            centres[k] = mine.mean(0) if len(mine) else points[rng.integers(len(points))]
    return nearest


def adjusted_rand(a: Labels, b: Labels) -> float:
    """Adjusted Rand index of two labelings: 1 the same partition, 0 what chance gives."""
    return round(float(adjusted_rand_score(a, b)), 4)


def _normalize(x: Array) -> Array:
    return np.asarray(x / x.sum(-1, keepdims=True))


def softmax(x: Array) -> Array:
    """Over the last dimension."""
    return _normalize(np.exp(x - x.max(-1, keepdims=True)))


def log_likelihood(fit: Array) -> float:
    """Of all users, whose log weights by component are `[U, K]`."""
    top = fit.max(1, keepdims=True)
    return float((top[:, 0] + np.log(np.exp(fit - top).sum(1))).sum())
