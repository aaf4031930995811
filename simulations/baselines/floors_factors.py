"""A floor that finds what people have in common by itself: a matrix factorization with a few factors.

    r_ui = m_i + x_i . z_u + e     z_u ~ N(0, I)   x_i ~ N(x, diag(v))   e ~ N(0, s^2)

The first factor starts as the own offset (x = (t, 0, ...), `floors_items`), so that texts with few
raters, whose x_i stays near x, are answered as by that floor. Persons' z and items' x are found in
turn, each given the mean and covariance of the other, and x, v and s between (variational Bayes:
Lim and Teh 2007; the spread v of a factor that explains nothing goes to 0 by itself). A single text
that nobody else rated has x_i = x. `floors_items.reshaped` makes probabilities of the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulations.baselines.floors import Answers, Array, Guess, Person, Places
from simulations.baselines.floors_items import Items, Offsets, reshaped

FACTORS = 8  # beside the offset
_STEPS = 15
_LEAST_RATERS = 2
_START = 0.1  # how far from 0 loadings begin: with 0, no factor would ever tell people apart

# Places of items, and deviations from their means.
Deviations = tuple[Places, Array]


@dataclass(frozen=True)
class Factors:
    """What was learned of the items.

    Attributes:
        loadings: x_i, [I + 1, F]; the last row is x, of texts that are not shared.
        uncertainty: covariance of every x_i, [I + 1, F, F]; the last is diag(v).
        noise: s^2.
    """

    loadings: Array
    uncertainty: Array
    noise: float

    def person(self, own: Deviations) -> tuple[Array, Array]:
        """Mean [F] and covariance [F, F] of z given a person's deviations."""
        places, deviations = own
        x = self.loadings[places]
        precision = np.eye(x.shape[1]) + (x.T @ x + self.uncertainty[places].sum(0)) / self.noise
        covariance = np.linalg.inv(precision)
        return covariance @ (x.T @ deviations) / self.noise, covariance

    def variance(self, asked: Places, mean: Array, covariance: Array) -> Array:
        """Variance of a person's score of every item that is asked, [Q]."""
        second = self.second(asked)
        known = np.einsum("qab,ab->q", second, covariance)
        return np.asarray(
            self.noise + known + np.einsum("qab,a,b->q", self.uncertainty[asked], mean, mean)
        )

    def second(self, places: Places) -> Array:
        """E[x_i x_i'], [n, F, F]."""
        x = self.loadings[places]
        return np.asarray(x[:, :, None] * x[:, None, :] + self.uncertainty[places])


def factors(answers: Answers) -> list[Guess]:
    """Probabilities from factors that pooled people's answers show and the person's own answers."""
    items = Items(answers)
    shared = sorted(text for text, raters in items.raters.items() if raters >= _LEAST_RATERS)
    places = {text: place for place, text in enumerate(shared)}

    def located(texts: Sequence[str]) -> Places:
        return np.array([places.get(text, len(shared)) for text in texts], dtype=int)

    people = [(located(p.texts), items.own_deviations(p)) for p in answers.pooled if p.labels]
    level = Offsets([deviations for _, deviations in people])
    fitted = fit_factors(people, len(shared), offset=level.between, noise=level.within)

    def guess(person: Person) -> Guess:
        mean, covariance = fitted.person((located(person.texts), items.deviations(person)))
        asked, frequencies = located(person.asked), items.frequencies(person.asked)
        center = frequencies @ items.values
        nobody = np.zeros_like(mean), np.eye(len(mean))
        return Guess(
            reshaped(
                frequencies,
                items.values,
                before=(center, np.sqrt(fitted.variance(asked, *nobody))),
                after=(
                    center + fitted.loadings[asked] @ mean,
                    np.sqrt(fitted.variance(asked, mean, covariance)),
                ),
            )
        )

    return [guess(person) for person in answers.users]


def fit_factors(
    people: Sequence[Deviations],
    items: int,
    *,
    offset: float,
    noise: float,
    number: int = FACTORS,
    steps: int = _STEPS,
    seed: int = 0,
) -> Factors:
    """Factors of people's deviations from item means.

    Args:
        offset: variance of own offsets, where the first factor starts.
        noise: variance that the offset leaves.
        number: of factors beside the offset.
        seed: of the loadings' start.
    """
    width = 1 + number
    common, spread = np.zeros(width), np.full(width, _START)
    common[0] = np.sqrt(offset)
    start = np.random.default_rng(seed).normal(0.0, _START, (items + 1, width))
    start[:, 0] = common[0]
    start[-1] = common
    fitted = Factors(start, np.zeros((items + 1, width, width)), noise)
    for _ in range(steps):
        found = _sums(fitted, people)
        precision = found.second[:-1] / fitted.noise + np.diag(1 / spread)
        covariance = np.linalg.inv(precision)
        target = found.first[:-1] / fitted.noise + common / spread
        loadings = np.einsum("iab,ib->ia", covariance, target)
        if items:
            common = common.copy()
            common[0] = loadings[:, 0].mean()
            around = (loadings - common) ** 2 + np.einsum("iaa->ia", covariance)
            spread = np.maximum(around.mean(0), 1e-6)
        every = np.concatenate([covariance, np.diag(spread)[None]])
        fitted = Factors(np.vstack([loadings, common]), every, fitted.noise)
        fitted = replace(fitted, noise=_noise(fitted, found))
    return fitted


@dataclass(frozen=True)
class _Sums:
    """Over people, by item: E[z z'] [I + 1, F, F], E[z] r [I + 1, F], and r^2, n in all."""

    second: Array
    first: Array
    squares: float
    count: int


def _sums(fitted: Factors, people: Sequence[Deviations]) -> _Sums:
    second, first = np.zeros_like(fitted.uncertainty), np.zeros_like(fitted.loadings)
    squares, count = 0.0, 0
    for places, deviations in people:
        mean, covariance = fitted.person((places, deviations))
        np.add.at(second, places, covariance + np.outer(mean, mean))
        np.add.at(first, places, np.outer(deviations, mean))
        squares += float(deviations @ deviations)
        count += len(deviations)
    return _Sums(second, first, squares, count)


def _noise(fitted: Factors, found: _Sums) -> float:
    """E[(r - x . z)^2] over all answers."""
    every = fitted.second(np.arange(len(fitted.loadings)))
    explained = 2 * float((fitted.loadings * found.first).sum()) - float(
        (every * found.second).sum()
    )
    return max((found.squares - explained) / found.count, 1e-6)
