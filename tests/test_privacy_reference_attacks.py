"""LiRA against the best test for planted normals, RMIA against a double loop, and hand-computed cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from proper_model.errors import MetricError
from simulations.privacy.statistics.measures import Scored, auc, swapped
from simulations.privacy.statistics.reference_attacks import (
    Observed,
    choose_offline_a,
    lira_offline,
    lira_online,
    others,
    rmia_offline,
    rmia_online,
    scaled_logit,
)


def log_p(phi):
    """log p of records of that scaled logit."""
    return -np.logaddexp(0, -np.asarray(phi, dtype=float))


class Planted:
    """Records with means of their own, each in half of the models; training raises phi by `shift`."""

    def __init__(self, *, shift: float, deviation, models: int, n: int = 1000, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.mean, self.deviation = rng.normal(0, 3, n), np.broadcast_to(deviation, n)
        self.member = rng.random(n) < 0.5
        trained = rng.random((models, n)).argsort(0) < models // 2
        self.phi = self.mean + shift * self.member + self.deviation * rng.normal(size=n)
        noise = self.deviation * rng.normal(size=(models, n))
        self.observed = Observed(
            log_p(self.phi), log_p(self.mean + shift * trained + noise), trained
        )
        # The best test of Neyman and Pearson: the true ratio of likelihoods.
        self.best = (self.phi - self.mean - shift / 2) * shift / self.deviation**2

    def auc(self, score) -> float:
        return auc(Scored(score, self.member, np.arange(len(score))))


# --- LiRA ----------------------------------------------------------------------------------------


def test_scaled_logit_is_exact_and_finite_where_p_rounds_to_one() -> None:
    phi = np.linspace(-700, 27, 200)
    assert scaled_logit(log_p(phi)) == pytest.approx(phi, rel=1e-9, abs=1e-6)
    assert scaled_logit(np.array([-1e-9])) == pytest.approx(9 * math.log(10), abs=1e-6)
    certain = scaled_logit(np.array([-1e-9, -1e-12, -1e-300, 0.0]))
    assert np.isfinite(certain).all() and (np.diff(certain) >= 0).all()


def test_lira_is_nearly_the_best_test_for_planted_normals() -> None:
    planted = Planted(shift=1.0, deviation=0.7, models=128)
    best = planted.auc(planted.best)
    assert best == pytest.approx(norm.cdf(1 / (0.7 * math.sqrt(2))), abs=0.02)
    for own in (2, 1000):  # a variance a record, or one for all
        online = lira_online(planted.observed, own_variance_from=own)
        offline = lira_offline(planted.observed, own_variance_from=own)
        assert best - 0.012 < planted.auc(online) <= best + 0.003
        assert best - 0.015 < planted.auc(offline) <= best + 0.003
        assert np.corrcoef(online, planted.best)[0, 1] > 0.95
    assert lira_online(planted.observed, own_variance_from=1000) == pytest.approx(
        planted.best, abs=1.8
    )
    assert planted.auc(planted.observed.target) < best - 0.15  # how hard a record is misleads loss


def test_own_variances_are_used_where_references_are_many() -> None:
    unequal = np.tile([0.3, 3.0], 500)
    planted = Planted(shift=1.0, deviation=unequal, models=200)
    own, shared = (lira_online(planted.observed, own_variance_from=k) for k in (64, 1000))
    assert planted.auc(own) > planted.auc(shared) + 0.05
    assert planted.auc(own) > planted.auc(planted.best) - 0.015
    assert lira_online(planted.observed) == pytest.approx(own)
    few = Planted(shift=1.0, deviation=unequal, models=100).observed
    assert lira_online(few) == pytest.approx(lira_online(few, own_variance_from=1000))


def test_hand_computed_lira() -> None:
    trained = np.array([[0, 0], [0, 0], [1, 1], [1, 1]], dtype=bool)
    phi = np.array([[0.0, 10], [2, 14], [6, 12], [8, 18]])
    observed = Observed(log_p([5.0, 13]), log_p(phi), trained)
    # Out: means 1 and 12, squares 2 and 8; in: means 7 and 15, squares 2 and 18.
    assert lira_offline(observed) == pytest.approx(np.array([4, 1]) / math.sqrt(5))
    own = lira_offline(observed, own_variance_from=2)
    assert own == pytest.approx([4 / math.sqrt(2), 1 / math.sqrt(8)])
    normal = norm.logpdf
    expected = [
        normal(5, 7, math.sqrt(10)) - normal(5, 1, math.sqrt(5)),
        normal(13, 15, math.sqrt(10)) - normal(13, 12, math.sqrt(5)),
    ]
    assert lira_online(observed) == pytest.approx(expected)


def test_swapped_members_and_swapped_references() -> None:
    planted = Planted(shift=1.0, deviation=0.7, models=16, n=300)
    seen = planted.observed
    population = Planted(shift=0.0, deviation=0.7, models=16, n=50, seed=1).observed
    for score in (lira_online(seen), rmia_offline(seen, population, a=0.5)):
        scored = Scored(score, planted.member, np.arange(300))
        assert auc(swapped(scored)) == pytest.approx(1 - auc(scored), abs=1e-12)
    back = Observed(seen.target, seen.references, ~seen.trained)
    assert lira_online(back) == pytest.approx(-lira_online(seen))


def test_nothing_is_found_where_training_changes_nothing() -> None:
    planted = Planted(shift=0.0, deviation=0.7, models=32)
    population = Planted(shift=0.0, deviation=0.7, models=32, n=200, seed=1).observed
    scores = (
        lira_offline(planted.observed),
        lira_online(planted.observed),
        rmia_offline(planted.observed, population, a=0.5),
        rmia_online(planted.observed, population, a=0.5),
    )
    for score in scores:
        assert abs(planted.auc(score) - 0.5) < 0.05  # 2.7 deviations


# --- RMIA ----------------------------------------------------------------------------------------


def looped(seen: Observed, population: Observed, a: float, gamma: float, *, online: bool):
    """RMIA pair by pair, in plain probabilities."""

    def ratio(data: Observed, i: int, both: bool) -> float:
        seen_by = list(zip(data.references[:, i], data.trained[:, i], strict=True))
        out = [math.exp(value) for value, trained in seen_by if not trained]
        inside = [math.exp(value) for value, trained in seen_by if trained]
        mean = sum(out) / len(out)
        if both:
            return math.exp(data.target[i]) / ((mean + sum(inside) / len(inside)) / 2)
        return math.exp(data.target[i]) / (((1 + a) * mean + (1 - a)) / 2)

    scores = []
    for i in range(len(seen.target)):
        won = 0
        for j in range(len(population.target)):
            won += ratio(seen, i, online) / ratio(population, j, False) >= gamma
        scores.append(won / len(population.target))
    return scores


@pytest.mark.parametrize(("a", "gamma"), [(0.0, 1.0), (0.3, 2.0), (1.0, 1.1)])
def test_rmia_is_the_double_loop(a: float, gamma: float) -> None:
    seen = Planted(shift=1.0, deviation=0.7, models=12, n=40).observed
    population = Planted(shift=1.0, deviation=0.7, models=9, n=23, seed=1).observed
    offline = rmia_offline(seen, population, a=a, gamma=gamma)
    online = rmia_online(seen, population, a=a, gamma=gamma)
    assert offline == pytest.approx(looped(seen, population, a, gamma, online=False))
    assert online == pytest.approx(looped(seen, population, a, gamma, online=True))
    assert 0 < offline.mean() < 1


def test_rmia_beats_the_loss_and_a_is_chosen_without_the_target() -> None:
    planted = Planted(shift=1.0, deviation=0.4, models=16, n=300)
    seen = planted.observed
    population = Planted(shift=0.0, deviation=0.4, models=16, n=100, seed=1).observed
    chosen = choose_offline_a(seen, population)
    score = rmia_offline(seen, population, a=chosen)
    assert planted.auc(score) > planted.auc(seen.target) + 0.1
    hidden = Observed(np.full(300, -1.0), seen.references, seen.trained)
    assert choose_offline_a(hidden, population) == chosen
    means = []
    for a in (0.0, 1.0):
        values = []
        for j in range(16):
            rest = [k for k in range(16) if k != j]
            one, z = (Observed(d.references[j], d.references[rest], d.trained[rest])
                      for d in (seen, population))  # fmt: skip
            own = Scored(rmia_offline(one, z, a=a), seen.trained[j], np.arange(300))
            values.append(auc(own))
        means.append(np.mean(values))
    assert choose_offline_a(seen, population, values=(0.0, 1.0)) == float(np.argmax(means))


# --- what goes in --------------------------------------------------------------------------------


def test_others_leaves_out_the_own_model() -> None:
    values = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert others(values, np.array([0, 2, 1])).tolist() == [[4, 2, 3], [7, 5, 9]]
    for own in ([0, 2, 3], [0, 2, -1], [0, 2]):
        with pytest.raises(MetricError, match="do not name one of 3 models for every record"):
            others(values, np.array(own))


def observed(*, target=(-1.0, -2.0), references=((-1.0, -2), (-2, -1)), trained=((0, 0), (0, 0))):
    return Observed(
        np.array(target), np.array(references, dtype=float), np.array(trained, dtype=bool)
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": (-1.0, math.nan)}, "1 of 2 log-probabilities of the target are not finite"),
        ({"references": ((-1, -math.inf), (-2, -1))}, "1 of 4 .* of the references are not finite"),
        ({"target": (1.0, -2.0)}, "1 of 2 log-probabilities of the target are above 0"),
        ({"target": (-1.0,)}, r"target is \(1,\) and references are \(2, 2\)"),
        ({"trained": ((0, 0),)}, r"bool \(1, 2\), expected bool \(2, 2\)"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(changed, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        observed(**changed)


def test_references_that_say_nothing_of_a_record_are_refused() -> None:
    in_all = observed(trained=((0, 1), (0, 1)))
    for attack in (
        lira_offline,
        lambda data: rmia_offline(data, observed(), a=0.5),
        lambda data: rmia_offline(observed(), data, a=0.5),
    ):
        with pytest.raises(MetricError, match="1 of 2 records have fewer than . references that"):
            attack(in_all)
    with pytest.raises(MetricError, match="2 of 2 records have fewer than 2 .* trained on them"):
        lira_online(observed())
    with pytest.raises(MetricError, match="2 of 2 records have fewer than 1 .* trained on them"):
        rmia_online(observed(), observed(), a=0.5)
    with pytest.raises(MetricError, match="2 of 2 records have fewer than 2 .* of 1 in all"):
        lira_offline(observed(references=((-1, -2),), trained=((0, 0),)))
    same = observed(references=((-1, -2), (-1, -2)))
    with pytest.raises(MetricError, match="of 2 of 2 records all .* exactly the same"):
        lira_offline(same)
    with pytest.raises(MetricError, match="none of 2 references has members and non-members"):
        choose_offline_a(observed(), observed())


@pytest.mark.parametrize(
    ("a", "gamma"), [(1.1, 1), (-0.1, 1), (math.nan, 1), (1, 0), (1, math.inf)]
)
def test_settings_out_of_range_are_refused(a: float, gamma: float) -> None:
    with pytest.raises(MetricError, match="RMIA's"):
        rmia_offline(observed(), observed(), a=a, gamma=gamma)
