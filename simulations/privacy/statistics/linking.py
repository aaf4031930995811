"""Attacks on one vector a person: which group somebody is of, and who is the same in two sets.

`groups_named` trains a linear classifier on some people and names the groups of the others.
`linked` compares every person of one set with all of another by cosine; `linked_aligned` does so after a
linear map that it learns from people who are known in both sets: trainings with other seeds have
directions of their own, which no cosine compares.

Letters: P people, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proper_model.errors import MetricError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FOLDS = 5
SPLITS = 6  # draws of who is known
PENALTIES = tuple(10.0**power for power in range(-3, 4))


def folds_of(people: int, folds: int, rng: np.random.Generator) -> Iterator[Integers]:
    """People in `folds` parts of about the same size."""
    yield from np.array_split(rng.permutation(people), folds)


def scaled(vectors: Floats) -> Floats:
    """[P, D] -> [P, at most P]: centred, mean squared length 1, in their principal directions.

    Angles and distances stay; directions in which nobody differs are dropped.
    """
    centred = vectors - vectors.mean(0)
    gram = centred @ centred.T
    values, directions = np.linalg.eigh(gram)
    kept = values > max(values.max(), 0) * 1e-10
    if not kept.any():
        return np.zeros((len(vectors), 1))
    found = directions[:, kept] * np.sqrt(values[kept])
    return np.asarray(found / np.sqrt(values[kept].sum() / len(vectors)))


def groups_named(vectors: Floats, group: Integers, *, rng: np.random.Generator) -> Floats:
    """[P] 1 where a person's group is named right by a classifier that was trained on others.

    A ridge classifier, whose penalty its training people choose by generalized cross-validation.

    Raises MetricError with fewer people than folds, or one group only.
    """
    from sklearn.linear_model import RidgeClassifierCV

    if len(group) < FOLDS or len(np.unique(group)) < 2:
        raise MetricError(
            f"{len(group)} people in {len(np.unique(group))} groups, expected {FOLDS} in two or more"
        )
    points = scaled(vectors)
    right = np.zeros(len(group))
    for held in folds_of(len(group), FOLDS, rng):
        known = np.setdiff1d(np.arange(len(group)), held)
        if len(np.unique(group[known])) < 2:
            named = np.full(len(held), group[known][0])
        else:
            model = RidgeClassifierCV(alphas=PENALTIES).fit(points[known], group[known])
            named = model.predict(points[held])
        right[held] = named == group[held]
    return right


def largest_share(group: Integers) -> float:
    """How often whoever names the largest group is right."""
    return float(np.bincount(group).max() / len(group))


@dataclass(frozen=True)
class Linked:
    """How well people were found in a second set.

    Attributes:
        hit: `[P]` share of a person's trials in which the right one came first; ties share it.
        rank: `[P]` mean place of the right one, ties half way.
        ranked: among how many, hence a chance of 1 / ranked.
    """

    hit: Floats
    rank: Floats
    ranked: int


def linked(first: Floats, second: Floats) -> Linked:
    """Person p of `first` [P, D] among all of `second` [P, D], by cosine.

    Each set is centred on its own mean, which whoever holds a set knows.
    """
    hit, rank = _found(first - first.mean(0), second - second.mean(0))
    return Linked(hit, rank, len(first))


def linked_aligned(first: Floats, second: Floats, *, rng: np.random.Generator) -> Linked:
    """As `linked`, of unknown people among each other, after a linear map from as many known ones.

    The mean over SPLITS draws of who is known; the sets may differ in D. Of an odd number of people one
    is left out of each draw. Raises MetricError with fewer than four people.
    """
    from sklearn.linear_model import RidgeCV

    people = len(first)
    if people < 4:
        raise MetricError(f"{people} people, expected four or more: half of them must be known")
    one, two = scaled(first), scaled(second)
    hit, rank, times = np.zeros(people), np.zeros(people), np.zeros(people)
    for _ in range(SPLITS):
        order = rng.permutation(people)
        halves = order[: people // 2], order[people // 2 : 2 * (people // 2)]
        for known, unknown in (halves, halves[::-1]):
            mapped = RidgeCV(alphas=PENALTIES).fit(one[known], two[known]).predict(one[unknown])
            centre = two[known].mean(0)
            found = _found(mapped.reshape(len(unknown), -1) - centre, two[unknown] - centre)
            hit[unknown] += found[0]
            rank[unknown] += found[1]
            times[unknown] += 1
    times = np.maximum(times, 1)
    return Linked(hit / times, rank / times, people // 2)


def _found(asked: Floats, among: Floats) -> tuple[Floats, Floats]:
    """Whether row p of `among` is the most similar one to row p of `asked`, and its place."""
    similarity = _unit(asked) @ _unit(among).T
    own = np.diagonal(similarity)[:, None]
    near = np.isclose(similarity, own, rtol=0, atol=1e-9)
    above, equal = ((similarity > own) & ~near).sum(1), near.sum(1)
    return (above == 0) / equal, 1 + above + (equal - 1) / 2


def _unit(rows: Floats) -> Floats:
    """Rows of length 1; what has no length stays zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-12))
