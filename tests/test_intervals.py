"""Intervals against a plain loop, exact enumeration, and cases with known answers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from proper_model.errors import MetricError
from proper_model.evaluation import intervals
from proper_model.evaluation.intervals import (
    bootstrap,
    holm,
    paired_bootstrap,
    summarize,
    user_values,
)
from proper_model.evaluation.metrics import Prediction, score
from proper_model.tasks.records import Query, User
from proper_model.tasks.task import load_task

RATING = load_task("LaMP_3")
CITATION = load_task("LaMP_1", template="lamp")
# gold 3 everywhere; what each user is answered
ANSWERS = {"a": ["3", "4", "5"], "b": ["1"], "c": ["3", "3"]}


def ratings(answers, task=RATING, gold="3"):
    """Scores of what each user is answered."""
    users, predictions = [], []
    for user, outputs in answers.items():
        queries = tuple(Query(f"{user}{i}", "x", gold) for i in range(len(outputs)))
        users.append(User(user, (), queries))
        predictions += [Prediction(user, f"{user}{i}", o, 1.0, 1) for i, o in enumerate(outputs)]
    return score(task, users, predictions)


def choices(answers):
    return ratings(answers, CITATION, "[1]")


def test_means_over_queries_and_over_users_by_hand():
    result = ratings(ANSWERS)
    mae = summarize(result, "mae")  # errors a: 0 1 2, b: 2, c: 0 0
    assert mae.mean == pytest.approx(5 / 6)
    assert mae.user_mean == pytest.approx((1 + 2 + 0) / 3)
    assert (mae.n_users, mae.n_queries) == (3, 6)
    rmse = summarize(result, "rmse")
    assert rmse.mean == pytest.approx(math.sqrt(9 / 6))
    assert rmse.user_mean == pytest.approx((math.sqrt(5 / 3) + 2 + 0) / 3)
    assert user_values(result, "mae") == pytest.approx({"a": 1, "b": 2, "c": 0})


def resampled(answers, value):
    """Metric of every possible resample of the users, each equally likely."""
    return [value(draw) for draw in itertools.product(answers, repeat=len(answers))]


@pytest.mark.parametrize("metric", ["mae", "rmse"])
@pytest.mark.parametrize("level", ["query", "user"])
def test_interval_is_that_of_all_resamples_of_whole_users(metric, level):
    errors = {user: [abs(float(o) - 3) for o in out] for user, out in ANSWERS.items()}

    def value(users):
        groups = [errors[user] for user in users]
        if level == "query":
            groups = [list(itertools.chain(*groups))]
        power = 2 if metric == "rmse" else 1
        own = [(sum(e**power for e in g) / len(g)) ** (1 / power) for g in groups]
        return sum(own) / len(own)

    interval = bootstrap(ratings(ANSWERS), metric, seed=1, resamples=20_000, confidence=0.8)
    low, high = np.quantile(resampled(list(ANSWERS), value), [0.1, 0.9])
    got = {
        "query": (interval.low, interval.high),
        "user": (interval.user_low, interval.user_high),
    }
    assert got[level] == pytest.approx((low, high), abs=1e-9)


def test_macro_f1_is_resampled_by_confusion_counts():
    answers = {"a": ["[1]", "[2]", "?"], "b": ["[1]", "[1]"], "c": ["?"]}
    result = choices(answers)
    outputs = {"[1]": 0, "[2]": 1, "?": -1}

    def value(users):
        predicted = [outputs[o] for user in users for o in answers[user]]
        gold = [0] * len(predicted)
        return f1_score(gold, predicted, labels=[0, 1], average="macro", zero_division=0)

    interval = bootstrap(result, "f1_macro", seed=2, resamples=20_000, confidence=0.8)
    assert interval.mean == pytest.approx(value(["a", "b", "c"]))
    low, high = np.quantile(resampled(list(answers), value), [0.1, 0.9])
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)
    assert math.isnan(interval.user_mean)
    assert math.isnan(interval.user_low)


def test_the_seed_alone_decides_and_memory_blocks_do_not(monkeypatch):
    result = ratings(ANSWERS)
    one = bootstrap(result, "mae", seed=1, resamples=1000)
    assert bootstrap(result, "mae", seed=1, resamples=1000) == one
    monkeypatch.setattr(intervals, "_BLOCK", 77)
    assert bootstrap(result, "mae", seed=1, resamples=1000) == one


def test_paired_difference_uses_the_same_users_in_both_arms():
    rng = np.random.default_rng(0)
    better = {f"u{i}": [str(rng.integers(2, 6)) for _ in range(4)] for i in range(30)}
    # Arm b is worse by exactly one for everybody: unpaired noise would widen this interval.
    worse = {user: [str(int(o) + 1) for o in out] for user, out in better.items()}
    a, b = ratings(better, gold="1"), ratings(worse, gold="1")
    for level in ("query", "user"):
        difference = paired_bootstrap(a, b, "mae", level=level, seed=3, resamples=2000)
        assert difference.delta == pytest.approx(-1)
        assert (difference.low, difference.high) == pytest.approx((-1, -1))
        assert difference.p == pytest.approx(2 / 2001)
        assert not difference.all_tied
        assert (difference.n_users, difference.n_queries) == (30, 120)


def test_all_tied_arms_are_no_finding():
    a = ratings(ANSWERS)
    difference = paired_bootstrap(a, ratings(ANSWERS), "mae", level="user", seed=0, resamples=500)
    assert (difference.delta, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert difference.p == 1.0
    assert difference.all_tied


def test_a_heavy_user_moves_the_query_level_only():
    heavy = {"heavy": ["3"] * 98} | {f"u{i}": ["5"] for i in range(2)}
    means = summarize(ratings(heavy), "mae")
    assert means.mean == pytest.approx(0.04)
    assert means.user_mean == pytest.approx(4 / 3)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        answers = {
            f"u{i}": ["[1]" if rng.random() < share else "[2]" for _ in range(5)]
            for i, share in enumerate(rng.choice([0.4, 0.8], size=40))
        }
        interval = bootstrap(choices(answers), "accuracy", seed=trial, resamples=400)
        covered += interval.low <= 0.6 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_one_user_has_no_interval():
    result = ratings({"a": ["3", "5"]})
    interval = bootstrap(result, "mae", seed=0, resamples=100)
    assert interval.mean == 1.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.user_high)
    worse = ratings({"a": ["5", "5"]})
    assert math.isnan(paired_bootstrap(result, worse, "mae", level="query", seed=0).p)


def test_a_rating_that_is_not_finite_has_a_mean_and_interval_of_nan():
    broken = ratings(ANSWERS | {"b": ["inf"]})
    interval = bootstrap(broken, "rmse", seed=0, resamples=50)
    assert all(math.isnan(x) for x in (interval.mean, interval.low, interval.user_high))
    assert math.isfinite(bootstrap(broken, "accuracy", seed=0, resamples=50).low)
    difference = paired_bootstrap(broken, ratings(ANSWERS), "mae", level="query", seed=0)
    assert math.isnan(difference.delta)
    assert math.isnan(difference.p)


def test_what_cannot_be_compared_is_refused():
    a = ratings(ANSWERS)
    with pytest.raises(MetricError, match="no metric 'rouge1' for task LaMP_3"):
        summarize(a, "rouge1")
    with pytest.raises(MetricError, match="same queries"):
        paired_bootstrap(a, ratings({"a": ["3"]}), "mae", level="query", seed=0)
    with pytest.raises(MetricError, match="unknown level"):
        paired_bootstrap(a, a, "mae", level="token", seed=0)
    with pytest.raises(MetricError, match="resamples must be positive"):
        bootstrap(a, "mae", seed=0, resamples=0)
    with pytest.raises(MetricError, match="confidence"):
        bootstrap(a, "mae", seed=0, confidence=95)


def test_holm_by_hand():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": math.nan})
    assert math.isnan(corrected.pop("e"))
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == pytest.approx({"a": 1.0, "b": 1.0})


def test_draws_that_are_kept_are_those_that_would_be_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = [block.copy() for block in intervals._counts(7, 3, 1200)]
    assert intervals._counts(7, 3, 1200) is intervals._counts(7, 3, 1200)
    monkeypatch.setattr(intervals, "_KEPT_BYTES", 0)
    fresh = list(intervals._counts(7, 3, 1200))
    assert [len(block) for block in fresh] == [500, 500, 200]
    assert all(np.array_equal(a, b) for a, b in zip(kept, fresh, strict=True))
    assert all((block.sum(1) == 7).all() for block in fresh)
    other = next(iter(intervals._counts(7, 4, 1200)))
    assert not np.array_equal(other, fresh[0])
