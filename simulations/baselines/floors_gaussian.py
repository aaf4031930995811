"""A floor that knows how answers hang together: a Gaussian over people's answers to shared items.

A person is a vector of scores, one an item, drawn from N(m, S); m and S come from pooled people, of
whom each answered some of the items (expectation-maximization for missing values: Little and Rubin,
Statistical Analysis with Missing Data, 11.2). S is shrunken: as many people as there are items are
added to it whose answers vary as much and are all equally correlated. A test person's answers are then
known given their own,

    E[y_q | y_o]   = m_q + S_qo S_oo^-1 (y_o - m_o)
    Var[y_q | y_o] = S_qq - S_qo S_oo^-1 S_oq

and `floors_items.reshaped` makes probabilities of it. An item is shared if `LEAST_RATERS` pooled people
answered it; what is asked about any other text is answered by item and own offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from proper_model.errors import DataError
from simulations.baselines.floors import Answers, Array, Guess, Person, Places
from simulations.baselines.floors_items import Items, Offsets, offset_guess, reshaped

LEAST_RATERS = 20
MOST_ITEMS = 500  # the covariance has the square of it
_STEPS = 10
# Somebody who answered the very same text before may answer differently.
_LEAST_DEVIATION = 0.25

# Scores by place of the item.
Scores = tuple[Places, Array]


@dataclass(frozen=True)
class Gaussian:
    """m [I] and S [I, I]."""

    mean: Array
    covariance: Array

    def given(self, places: Places, scores: Array, asked: Places) -> tuple[Array, Array]:
        """Mean and variance of what is asked, [Q] each, given the scores of other items.

        Args:
            places, asked: indices of items.
        """
        own = self.covariance[np.ix_(places, places)]
        across = self.covariance[np.ix_(asked, places)]
        gain = np.linalg.solve(own, across.T).T if len(places) else across
        mean = self.mean[asked] + gain @ (scores - self.mean[places])
        variance = self.covariance[asked, asked] - (gain * across).sum(1)
        return mean, variance


def gaussian(answers: Answers) -> list[Guess]:
    """Probabilities from all pooled people's answers and the person's own.

    Raises DataError if no text that is asked about is shared, or fewer than two are.
    """
    items = Items(answers)
    shared = sorted(
        (t for t, n in items.raters.items() if n >= LEAST_RATERS),
        key=lambda t: (-items.raters[t], t),
    )
    places = {text: place for place, text in enumerate(shared[:MOST_ITEMS])}
    if len(places) < 2 or not any(t in places for person in answers.users for t in person.asked):
        raise DataError(
            f"gaussian: no text that is asked about was answered by {LEAST_RATERS} pooled users",
            hint="leave this arm out where people do not rate the same items",
        )
    people = [scores_of(person, places, answers.values) for person in answers.pooled]
    fitted = fit_gaussian([scores for scores in people if len(scores[0])], len(places))
    offsets = Offsets([items.own_deviations(person) for person in answers.pooled])
    return [_guess(fitted, places, items, offsets, person) for person in answers.users]


def _guess(
    fitted: Gaussian, places: Mapping[str, int], items: Items, offsets: Offsets, person: Person
) -> Guess:
    """One person's probabilities: shared items by the Gaussian, others by offset."""
    found = offset_guess(items, offsets, person).probabilities
    shared = [row for row, text in enumerate(person.asked) if text in places]
    texts = [person.asked[row] for row in shared]
    asked = np.array([places[text] for text in texts], dtype=int)
    mean, variance = fitted.given(*scores_of(person, places, items.values), asked)
    before = np.sqrt(fitted.covariance[asked, asked])
    after = np.maximum(np.sqrt(np.maximum(variance, 0.0)), _LEAST_DEVIATION)
    found[shared] = reshaped(
        items.frequencies(texts),
        items.values,
        before=(fitted.mean[asked], before),
        after=(mean, after),
    )
    return Guess(found)


def scores_of(person: Person, places: Mapping[str, int], values: Array) -> Scores:
    """A person's scores of shared items, and which items; the mean of those rated several times."""
    found: dict[int, list[float]] = {}
    for text, label in zip(person.texts, person.labels, strict=True):
        if text in places:
            found.setdefault(places[text], []).append(float(values[label]))
    own = sorted(found)
    return np.array(own, dtype=int), np.array([np.mean(found[place]) for place in own])


def fit_gaussian(people: Sequence[Scores], items: int, *, steps: int = _STEPS) -> Gaussian:
    """m and S of people who each answered some of the items; every item must have an answer."""
    count, total, squares = np.zeros(items), np.zeros(items), np.zeros(items)
    for places, scores in people:
        count[places] += 1
        total[places] += scores
        squares[places] += scores**2
    mean = total / count
    # An item that all rate alike keeps a little variance, or nothing could be divided by it.
    covariance = np.diag(np.maximum(squares / count - mean**2, 1e-2))
    for _ in range(steps):
        mean, expected = _step(people, mean, covariance)
        covariance = shrunken(expected, len(people), prior=items)
    return Gaussian(mean, covariance)


def _step(people: Sequence[Scores], mean: Array, covariance: Array) -> tuple[Array, Array]:
    """One step of expectation-maximization: the next mean and covariance, without shrinkage."""
    filled = np.empty((len(people), len(mean)))
    inverses = np.zeros_like(covariance)
    for row, (places, scores) in zip(filled, people, strict=True):
        inverse = np.linalg.inv(covariance[np.ix_(places, places)])
        inverses[np.ix_(places, places)] += inverse
        row[:] = mean + covariance[:, places] @ (inverse @ (scores - mean[places]))
    center = filled.mean(0)
    apart = filled - center
    # What stays unknown of every person: S - S_o S_oo^-1 S_o', summed over people.
    unknown = len(people) * covariance - covariance @ inverses @ covariance
    return center, (apart.T @ apart + unknown) / len(people)


def shrunken(covariance: Array, people: int, *, prior: float) -> Array:
    """A covariance of so many people, and `prior` more whose items all correlate equally."""
    deviations = np.sqrt(np.diag(covariance))
    product = np.outer(deviations, deviations)
    items = len(covariance)
    common = float(((covariance / product).sum() - items) / (items * (items - 1)))
    target = common * product
    np.fill_diagonal(target, deviations**2)
    return np.asarray((people * covariance + prior * target) / (people + prior))
