"""Floors that read no text: how often everybody, and how often the person, gave each label.

The person's own label frequencies have a Dirichlet prior: those of pooled users, worth as many
answers as makes the pooled users' own counts most likely,

    P_u(k) = (a P(k) + c_uk) / (a + n_u)

so that somebody without items has the pooled frequencies, and with many items their own.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from simulations.baselines.floors import Answers, Array, Guess

# A prior between a twentieth of an answer and thousands of them: no prior, and nothing but it.
_LOG_STRENGTHS = (-3.0, 9.0)


def majority(answers: Answers) -> list[Guess]:
    """Pooled users' label frequencies for everybody; the output is the most frequent label."""
    row = pooled_frequencies(answers)
    return [Guess(np.tile(row, (len(person.asked), 1))) for person in answers.users]


def own_majority(answers: Answers) -> list[Guess]:
    """Own label frequencies; the output is the own most frequent label."""
    return [
        Guess(np.tile(row, (len(person.asked), 1)))
        for row, person in zip(own_frequencies(answers), answers.users, strict=True)
    ]


def own_median(answers: Answers) -> list[Guess]:
    """As `own_majority`, but the point is the median of own answers, of nobody's else.

    Without own answers it is the pooled users' median. Between two labels the median is their
    middle, and the output the lower one.
    """
    everybody = np.concatenate([answers.values[list(person.labels)] for person in answers.pooled])
    found = []
    for guess, person in zip(own_majority(answers), answers.users, strict=True):
        own = answers.values[list(person.labels)] if person.labels else everybody
        points = np.full(len(person.asked), float(np.median(own)))
        found.append(Guess(guess.probabilities, points))
    return found


def pooled_frequencies(answers: Answers) -> Array:
    """How often pooled users gave each label, [K], each counted once more: none is impossible."""
    counts = answers.counts(answers.pooled).sum(0) + 1.0
    return np.asarray(counts / counts.sum())


def own_frequencies(answers: Answers) -> Array:
    """P_u of every test user, [users, K]."""
    prior = pooled_frequencies(answers)
    weight = strength(answers.counts(answers.pooled), prior)
    counts = answers.counts(answers.users)
    return np.asarray((weight * prior + counts) / (weight + counts.sum(1, keepdims=True)))


def strength(counts: Array, prior: Array) -> float:
    """How many answers a prior is worth: the `a` under which the rows of counts are most likely.

    The rows are Dirichlet-multinomial: P(c) = G(a) / G(a + n) prod_k G(a p_k + c_k) / G(a p_k).

    Args:
        counts: [groups, K].
        prior: [K], sums to 1, no entry 0.
    """
    counts = counts[counts.sum(1) > 0]
    totals = counts.sum(1)

    def unlikeliness(log_weight: float) -> float:
        weight = float(np.exp(log_weight))
        share = weight * prior
        by_label = (gammaln(counts + share) - gammaln(share)).sum(1)
        return -float((gammaln(weight) - gammaln(weight + totals) + by_label).sum())

    found = minimize_scalar(unlikeliness, bounds=_LOG_STRENGTHS, method="bounded")
    return float(np.exp(found.x))
