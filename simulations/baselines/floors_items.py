"""Floors for texts that several people rated: the item's frequencies, and these plus an own offset.

An item is a text, whoever rated it: the same after folding case and blanks. Its label frequencies
have the pooled ones as a Dirichlet prior (`floors_counts`), so that a text nobody rated has those.

Whoever rates higher than others has an offset b_u, which shrinks to 0 with few items:

    r_ui = m_i + b_u + e      b_u ~ N(0, t^2)   e ~ N(0, s^2)
    b_u = sum_i (r_ui - m_i) / (n_u + s^2 / t^2)

s and t are estimated on pooled users (one-way analysis of variance), each rating against the mean
of the others' ratings of that text, since two raters always agree with a mean of the two. How a
normal prediction becomes probabilities, here and in the floors that learn more about a person, is
said at `reshaped`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

from simulations.baselines.floors import Answers, Array, Guess, Person
from simulations.baselines.floors_counts import pooled_frequencies, strength

# Bounds how much one label's ratio may say where both normals all but exclude it.
_TAIL = 1e-3


class Items:
    """What pooled users answered to every text.

    Attributes:
        prior: pooled label frequencies, [K].
        weight: how many answers the prior is worth.
        raters: how many answers a text has.
    """

    def __init__(self, answers: Answers) -> None:
        self.values, self.prior = answers.values, pooled_frequencies(answers)
        empty = np.zeros(len(answers.names))
        self._counts: dict[str, Array] = defaultdict(empty.copy)
        for person in answers.pooled:
            for text, label in zip(person.texts, person.labels, strict=True):
                self._counts[text][label] += 1.0
        self._counts = dict(self._counts)
        self.weight = strength(np.array(list(self._counts.values())), self.prior)
        self.raters = {text: int(counts.sum()) for text, counts in self._counts.items()}

    def frequencies(self, texts: Sequence[str]) -> Array:
        """Label frequencies of every text, [T, K]."""
        nothing = np.zeros(len(self.prior))
        counts = np.array([self._counts.get(text, nothing) for text in texts])
        return self._shrunken(counts.reshape(len(texts), len(self.prior)))

    def deviations(self, person: Person) -> Array:
        """A person's ratings minus the items' means, [n]; the person is no pooled user."""
        means = self.frequencies(person.texts) @ self.values
        return np.asarray(self.values[list(person.labels)] - means)

    def own_deviations(self, person: Person) -> Array:
        """The same of a pooled user, each rating against the mean of the others' ratings, [n]."""
        others = np.array([self._counts[text] for text in person.texts])
        others = others.reshape(len(person.texts), len(self.prior))
        others[np.arange(len(others)), list(person.labels)] -= 1.0
        means = self._shrunken(others) @ self.values
        return np.asarray(self.values[list(person.labels)] - means)

    def _shrunken(self, counts: Array) -> Array:
        total = self.weight + counts.sum(1, keepdims=True)
        return np.asarray((self.weight * self.prior + counts) / total)


def item_mean(answers: Answers) -> list[Guess]:
    """The item's label frequencies; the expected score is the item's mean."""
    items = Items(answers)
    return [Guess(items.frequencies(person.asked)) for person in answers.users]


def item_offset(answers: Answers) -> list[Guess]:
    """The item's label frequencies, moved by what the person rates higher or lower than others."""
    items = Items(answers)
    offsets = Offsets([items.own_deviations(person) for person in answers.pooled])
    return [offset_guess(items, offsets, person) for person in answers.users]


def own_mean(answers: Answers) -> list[Guess]:
    """Pooled label frequencies, moved by the person's own mean: the same without any text."""
    prior = pooled_frequencies(answers)
    center = float(prior @ answers.values)
    spread = Offsets([answers.values[list(person.labels)] - center for person in answers.pooled])
    found = []
    for person in answers.users:
        own = answers.values[list(person.labels)] - center
        one = np.ones(len(person.asked))
        found.append(
            Guess(
                reshaped(
                    np.tile(prior, (len(one), 1)),
                    answers.values,
                    before=(center * one, spread.deviation(0) * one),
                    after=((center + spread.mean(own)) * one, spread.deviation(len(own)) * one),
                )
            )
        )
    return found


class Offsets:
    """How people differ in level: one number a person, normal around 0.

    Attributes:
        within: s^2, variance of one person's deviations around their own level.
        between: t^2, variance of the levels.
    """

    def __init__(self, groups: Sequence[Array]) -> None:
        self.within, self.between = variance_components(groups)

    def mean(self, deviations: Array) -> float:
        """A person's level from their deviations; 0 without any."""
        if not self.between:
            return 0.0
        return float(deviations.sum() / (len(deviations) + self.within / self.between))

    def deviation(self, count: int) -> float:
        """Standard deviation of a person's next rating around it, after `count` of them."""
        left = self.between * self.within / (self.within + count * self.between)
        return float(np.sqrt(self.within + left))


def offset_guess(items: Items, offsets: Offsets, person: Person) -> Guess:
    """One person's probabilities from item frequencies and the own offset."""
    frequencies = items.frequencies(person.asked)
    means, one = frequencies @ items.values, np.ones(len(person.asked))
    moved = means + offsets.mean(items.deviations(person))
    return Guess(
        reshaped(
            frequencies,
            items.values,
            before=(means, offsets.deviation(0) * one),
            after=(moved, offsets.deviation(len(person.labels)) * one),
        )
    )


def variance_components(groups: Sequence[Array]) -> tuple[float, float]:
    """Variance within and between groups of unequal size, by one-way analysis of variance.

    Two groups of two values or more are the least that says something: (1, 0) without them, and
    `between` is 0 where groups differ less than chance makes them.
    """
    groups = [group for group in groups if len(group)]
    sizes = np.array([len(group) for group in groups], dtype=float)
    total, count = sizes.sum(), len(groups)
    if count < 2 or total <= count:
        return 1.0, 0.0
    means = np.array([group.mean() for group in groups])
    center = float((sizes * means).sum() / total)
    squares = sum(float(((g - m) ** 2).sum()) for g, m in zip(groups, means, strict=True))
    within = max(squares / (total - count), 1e-6)  # everybody rates all alike
    size = (total - (sizes**2).sum() / total) / (count - 1)
    spread = float((sizes * (means - center) ** 2).sum()) / (count - 1)
    return within, max((spread - within) / size, 0.0)


def reshaped(
    frequencies: Array,
    values: Array,
    *,
    before: tuple[Array, Array],
    after: tuple[Array, Array],
) -> Array:
    """Label frequencies of items, multiplied by what is known about a person.

    With two normals for the score, one for anybody (`before`) and one for this person (`after`),

        P(k) ~ f_i(k) N_after(k) / N_before(k)

    where N(k) is a normal's mass between the middles of neighbouring labels. The items' skewed
    frequencies stay what they are where nothing is known: both normals are then the same.

    Args:
        frequencies: [Q, K], rows sum to 1.
        values: [K], ascending.
        before, after: means and standard deviations, [Q] each.
    """
    ratio = (discretized(*after, values) + _TAIL) / (discretized(*before, values) + _TAIL)
    weights = frequencies * ratio
    return np.asarray(weights / weights.sum(1, keepdims=True))


def discretized(means: Array, deviations: Array, values: Array) -> Array:
    """A normal's mass on every label, [Q, K]: cut at the middles between labels, the ends open."""
    cuts = (values[1:] + values[:-1]) / 2
    below = ndtr((cuts[None] - means[:, None]) / deviations[:, None])
    edge = np.ones((len(means), 1))
    return np.diff(np.concatenate([0 * edge, below, edge], axis=1), axis=1)
