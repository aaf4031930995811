"""A lower bound of epsilon from one training run (Steinke, Nasr, Jagielski 2023, arXiv 2305.08846).

Each of m canaries (records; for a promise to persons, whole persons) is in the training set by a fair
coin of its own. The auditor scores all of them, guesses r of the coins, abstains from the others, and
has v right. If training is (epsilon, delta)-differentially private for adding or removing a canary,

    P[v or more right] <= beta + 2 m delta alpha,    B ~ Binomial(r, e^epsilon / (1 + e^epsilon))
    beta = P[B >= v],    alpha = max over 1 <= i <= v of P[v - i <= B < v] / i

The bound is the epsilon at which this is 1 - confidence: of every smaller one, what was seen would be
rarer than that. It says nothing of attacks that were not tried, so it is no estimate of epsilon; and r
guesses that are all right cannot show more than `ceiling`.

How many to guess is named before the scores are seen, in a plan. Of a plan with several entries the
best is taken, each at (1 - confidence) / entries: choosing without that correction is wrong more often
than promised, as `tests/test_privacy_one_run_audit.py` shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, expit

from proper_model.errors import MetricError
from simulations.privacy.statistics.measures import CONFIDENCE

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

PLAN_SHARES = (0.1, 0.3, 1.0)  # surest tenth for a strong attack, all for a weak one
_MOST = 36.0  # above, e^epsilon / (1 + e^epsilon) rounds to 1


@dataclass(frozen=True)
class Guesses:
    """How many of the highest scores are guessed to be in, and of the lowest to be out."""

    inside: int
    outside: int

    def __post_init__(self) -> None:
        if min(self.inside, self.outside) < 0 or not self.number:
            raise MetricError(
                f"{self.inside} guesses in and {self.outside} out, expected none below 0, one in all"
            )

    @property
    def number(self) -> int:
        """r: both together."""
        return self.inside + self.outside


@dataclass(frozen=True)
class OneRunBound:
    """What one run shows of epsilon.

    Attributes:
        epsilon: it is at least this, with `confidence`; 0 if nothing is shown.
        ceiling: what would have been shown with every guess right.
        guesses: the entry of the plan that shows most.
        correct: v, how many of these were right.
        entries: of the plan; the confidence is corrected for them.
    """

    epsilon: float
    ceiling: float
    guesses: Guesses
    correct: int
    canaries: int
    entries: int
    delta: float
    confidence: float


def even_plan(canaries: int, shares: Sequence[float] = PLAN_SHARES) -> tuple[Guesses, ...]:
    """For every share of the canaries one entry, half of it guessed in and half out."""
    halves = {max(1, math.floor(share * canaries / 2)) for share in shares}
    return tuple(Guesses(half, half) for half in sorted(halves))


def audit(
    score: Floats,
    included: Flags,
    plan: Sequence[Guesses],
    *,
    delta: float,
    rng: np.random.Generator,
    confidence: float = CONFIDENCE,
) -> OneRunBound:
    """The bound from scores `[m]`, larger = more likely in, and the coins `included` `[m]`.

    Equal scores are ordered by `rng`: the order of the canaries must not tell who was in. Raises
    MetricError on scores that are not finite, on a plan that guesses more than m, and as
    `epsilon_lower_bound` does.
    """
    _check_confidence(confidence)
    score, included = np.asarray(score, dtype=np.float64), np.asarray(included)
    if score.ndim != 1 or included.shape != score.shape or included.dtype != np.bool_:
        raise MetricError(
            f"scores are {score.shape}, coins {included.dtype} {included.shape}",
            hint="give [m] scores and [m] bools, one a canary",
        )
    broken = int(np.count_nonzero(~np.isfinite(score)))
    if broken:
        raise MetricError(f"{broken} of {len(score)} scores of canaries are not finite")
    most = max((entry.number for entry in plan), default=0)
    if not 0 < most <= len(score):
        raise MetricError(
            f"the plan has {len(plan)} entries, the largest with {most} guesses, for {len(score)} canaries",
            hint="name one entry or more, each with at most as many guesses as there are canaries",
        )
    coins = included[np.lexsort((rng.random(len(score)), score))]
    each = 1 - (1 - confidence) / len(plan)
    found = []
    for place, entry in enumerate(plan):
        right = ~coins[: entry.outside], coins[len(coins) - entry.inside :]
        correct = sum(int(np.count_nonzero(part)) for part in right)
        numbers = entry.number, len(score)
        bound = epsilon_lower_bound(correct, *numbers, delta=delta, confidence=each)
        best = epsilon_lower_bound(entry.number, *numbers, delta=delta, confidence=each)
        found.append((bound, -place, best, entry, correct))
    epsilon, _, _, entry, correct = max(found, key=lambda one: one[:2])
    ceiling = max(one[2] for one in found)
    return OneRunBound(epsilon, ceiling, entry, correct, len(score), len(plan), delta, confidence)


def epsilon_lower_bound(
    correct: int, guesses: int, canaries: int, *, delta: float, confidence: float = CONFIDENCE
) -> float:
    """The largest epsilon that `correct` of `guesses` refute, at least 0; the number of guesses fixed.

    Raises MetricError as `p_value` does, or if `confidence` is not in (0, 1).
    """
    _check_confidence(confidence)

    def excess(epsilon: float) -> float:
        return p_value(epsilon, correct, guesses, canaries, delta=delta) - (1 - confidence)

    if excess(0.0) >= 0:
        return 0.0
    return float(brentq(excess, 0.0, _MOST, xtol=1e-9))


def p_value(epsilon: float, correct: int, guesses: int, canaries: int, *, delta: float) -> float:
    """Most that the probability of `correct` or more of `guesses` can be under (epsilon, delta).

    It grows with epsilon, since it is the maximum of beta (1 - c / i) + (c / i) P[B >= v - i] over i
    with c = 2 m delta <= 1, and both tails grow. Raises MetricError if the counts contradict each
    other, epsilon is negative or NaN, or c is outside [0, 1].
    """
    if not 0 <= correct <= guesses <= canaries:
        raise MetricError(
            f"{correct} right of {guesses} guesses on {canaries} canaries, expected none larger than "
            "the next"
        )
    if not epsilon >= 0:
        raise MetricError(f"epsilon is {epsilon}, expected 0 or more")
    if not 0 <= 2 * canaries * delta <= 1:
        raise MetricError(
            f"delta is {delta} with {canaries} canaries, expected 0 to {1 / (2 * max(1, canaries)):.2g}",
            hint="a delta near 1 / canaries allows whole records to be published: name a smaller one",
        )
    if not correct:
        return 1.0
    q, at_least = expit(epsilon), np.arange(1, correct + 1)
    tails = np.r_[1.0, betainc(at_least, guesses - at_least + 1, q)]  # P[B >= 0 ... v]
    beta = tails[-1]
    alpha = float(np.max((tails[-2::-1] - beta) / at_least))
    return float(min(1.0, beta + 2 * canaries * delta * alpha))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise MetricError(f"confidence is {confidence}, expected between 0 and 1")
