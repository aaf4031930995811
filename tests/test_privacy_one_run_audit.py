"""The audit's bound against closed formulas, a loop, exact coverage, and mechanisms of known epsilon."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import beta, binom, norm

from proper_model.errors import MetricError
from simulations.privacy.statistics.one_run_audit import (
    Guesses,
    audit,
    epsilon_lower_bound,
    even_plan,
    p_value,
)

# --- the bound from counts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "known"), [(100, 3.49), (1000, 5.81), (8932, 8.0)]
)  # docs/privacy.md
def test_all_right_has_a_closed_formula(right: int, known: float) -> None:
    q = 0.05 ** (1 / right)
    bound = epsilon_lower_bound(right, right, right, delta=0)
    assert bound == pytest.approx(math.log(q / (1 - q)), abs=1e-6)
    assert bound == pytest.approx(known, abs=0.005)


@pytest.mark.parametrize(("correct", "guesses"), [(9, 10), (55, 60), (610, 1000)])
def test_without_delta_it_is_clopper_and_pearsons(correct: int, guesses: int) -> None:
    for confidence in (0.95, 0.99):
        q = beta.ppf(1 - confidence, correct, guesses - correct + 1)
        bound = epsilon_lower_bound(correct, guesses, 2000, delta=0, confidence=confidence)
        assert bound == pytest.approx(max(0, math.log(q / (1 - q))), abs=1e-6)


@pytest.mark.parametrize("correct", [0, 1, 30, 36])
def test_nothing_is_shown_by_guesses_that_chance_makes(correct: int) -> None:
    assert epsilon_lower_bound(correct, 60, 60, delta=0) == 0.0  # 37 of 60 have p = .046


@pytest.mark.parametrize("delta", [0.0, 1e-5, 4e-3])
def test_p_is_that_of_a_loop_and_grows_with_epsilon(delta: float) -> None:
    m, r = 120, 50
    for v in (0, 1, 26, 44, 50):
        before = 0.0
        for epsilon in np.linspace(0, 6, 13):
            law = binom(r, 1 / (1 + math.exp(-epsilon)))
            masses = law.pmf(range(r + 1))
            likely = [sum(masses[v - i : v]) / i for i in range(1, v + 1)]
            expected = min(1, law.sf(v - 1) + 2 * m * delta * max(likely, default=0))
            found = p_value(epsilon, v, r, m, delta=delta)
            assert found == pytest.approx(expected, abs=1e-12)
            assert found >= before - 1e-14
            before = found


def test_delta_and_more_canaries_weaken_the_bound() -> None:
    bounds = [epsilon_lower_bound(90, 100, 1000, delta=d) for d in (0.0, 1e-6, 1e-4, 5e-4)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > bounds[-1] + 0.1
    fewer = epsilon_lower_bound(90, 100, 100, delta=1e-4)
    assert bounds[0] > fewer > bounds[2]


def test_coverage_is_exact_for_randomized_response() -> None:
    """Each coin is told rightly with probability e^eps / (1 + e^eps): the worst that eps allows."""
    for epsilon in (0.5, 2.0):
        law = binom(60, 1 / (1 + math.exp(-epsilon)))
        bounds = [epsilon_lower_bound(v, 60, 60, delta=0) for v in range(61)]
        wrong = sum(law.pmf(v) for v, bound in enumerate(bounds) if bound > epsilon)
        assert 0.02 < wrong <= 0.05


# --- from scores ---------------------------------------------------------------------------------


def test_hand_computed_audit() -> None:
    score = np.array([5.0, 4, 3, 2, 1, 0])
    coins = np.array([True, False, True, True, False, False])
    rng = np.random.default_rng(0)
    found = audit(score, coins, [Guesses(1, 2)], delta=0, rng=rng)
    assert (found.guesses, found.correct, found.canaries) == (Guesses(1, 2), 3, 6)
    found = audit(score, coins, [Guesses(2, 3)], delta=0, rng=rng)
    assert (found.correct, found.epsilon) == (3, 0.0)
    q = 0.05 ** (1 / 5)
    assert found.ceiling == pytest.approx(math.log(q / (1 - q)), abs=1e-6)
    assert even_plan(100, (0.01, 0.5, 1.0)) == (Guesses(1, 1), Guesses(25, 25), Guesses(50, 50))


def test_each_entry_of_a_plan_of_three_is_tested_at_a_third_of_the_level() -> None:
    coins = np.arange(100) % 2 == 0
    plan, rng = [Guesses(5, 5), Guesses(50, 50), Guesses(20, 20)], np.random.default_rng(0)
    found = audit(coins.astype(float), coins, plan, delta=0, rng=rng)
    q = (0.05 / 3) ** (1 / 100)
    assert (found.guesses, found.correct, found.entries) == (plan[1], 100, 3)
    assert found.epsilon == found.ceiling == pytest.approx(math.log(q / (1 - q)), abs=1e-6)


def test_equal_scores_say_nothing_in_whatever_order_the_canaries_stand() -> None:
    coins = np.arange(200) < 100
    for included in (coins, ~coins):
        found = audit(
            np.zeros(200), included, [Guesses(100, 100)], delta=0, rng=np.random.default_rng(0)
        )
        assert found.epsilon == 0.0
        assert 70 < found.correct < 130


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """Epsilon of one release of a number of sensitivity 1 (Balle and Wang 2018)."""

    def excess(e: float) -> float:
        above, below = 0.5 / sigma - e * sigma, -0.5 / sigma - e * sigma
        return norm.cdf(above) - math.exp(e) * norm.cdf(below) - delta

    return float(brentq(excess, 0, 60))


def test_a_planted_gaussian_mechanism() -> None:
    """Every canary adds 1 to a number of its own, released with noise: bounds stay below epsilon."""
    rng, delta, m = np.random.default_rng(0), 1e-5, 1000
    means, wrong = [], {}
    for sigma in (0.4, 1.0, 20.0):
        truth, bounds = gaussian_epsilon(sigma, delta), []
        for _ in range(10):
            coins = rng.random(m) < 0.5
            score = coins + sigma * rng.normal(size=m)
            bounds.append(audit(score, coins, even_plan(m), delta=delta, rng=rng).epsilon)
        wrong[sigma] = sum(bound > truth for bound in bounds)
        assert min(bounds) > {0.4: 3.0, 1.0: 0.5, 20.0: -1}[sigma]
        means.append(np.mean(bounds))
    assert means[0] > means[1] + 1 > means[2] + 1
    assert means[2] < 0.1
    # Of 10 bounds half a one may be wrong; with less noise epsilon is far above what guesses can show.
    assert (wrong[0.4], wrong[1.0]) == (0, 0) and wrong[20.0] <= 2


def test_a_plan_chosen_after_looking_is_wrong_and_the_corrected_one_is_not() -> None:
    """Noise of Laplace is worst among all with its epsilon: the surest guesses are right just as
    often as epsilon allows, so that every entry of the plan is wrong as often as promised.
    """
    rng, epsilon, m, draws = np.random.default_rng(0), 1.0, 300, 100
    plan = [Guesses(k, k) for k in (5, 10, 20, 30, 40)]
    wrong = looked = 0
    for _ in range(draws):
        coins = rng.random(m) < 0.5
        score = coins + rng.laplace(scale=1 / epsilon, size=m)
        wrong += audit(score, coins, plan, delta=0, rng=rng).epsilon > epsilon
        order = coins[np.argsort(score)]
        right = np.cumsum(~order)[:45] + np.cumsum(order[::-1])[:45]
        p = binom.sf(right - 1, 2 * np.arange(1, 46), 1 / (1 + math.exp(-epsilon)))
        looked += bool((p <= 0.05).any())
    assert (
        wrong <= 8
    )  # 5 at most are expected; nine or more have probability 6 %, for this seed none
    assert looked > 12


# --- what goes in --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: p_value(1, 3, 2, 9, delta=0), "3 right of 2 guesses on 9 canaries"),
        (lambda: p_value(1, 1, 3, 2, delta=0), "1 right of 3 guesses on 2 canaries"),
        (lambda: p_value(math.nan, 1, 2, 3, delta=0), "epsilon is nan"),
        (
            lambda: p_value(1, 1, 2, 50, delta=0.011),
            "delta is 0.011 with 50 canaries, .* 0 to 0.01",
        ),
        (lambda: p_value(1, 1, 2, 50, delta=math.nan), "delta is nan"),
        (lambda: epsilon_lower_bound(1, 2, 3, delta=0, confidence=1), "confidence is 1"),
        (lambda: Guesses(0, 0), "0 guesses in and 0 out"),
        (lambda: Guesses(-1, 3), "-1 guesses in and 3 out"),
        (lambda: tried(confidence=-0.5), "confidence is -0.5"),
        (lambda: tried(plan=[]), "the plan has 0 entries"),
        (lambda: tried(plan=[Guesses(2, 2)]), "the largest with 4 guesses, for 3 canaries"),
        (lambda: tried(score=[1, math.nan, 3]), "1 of 3 scores of canaries are not finite"),
        (lambda: tried(score=[1, 2]), r"scores are \(2,\), coins bool \(3,\)"),
    ],
)
def test_what_cannot_be_audited_is_refused(call, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        call()


def tried(*, score=(1, 2, 3), plan=None, confidence=0.95):
    coins, rng = np.array([True, False, True]), np.random.default_rng(0)
    plan = [Guesses(1, 1), Guesses(1, 0)] if plan is None else plan
    return audit(np.array(score), coins, plan, delta=0, rng=rng, confidence=confidence)
