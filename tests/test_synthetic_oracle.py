"""Synthetic populations separate the stages: ideal estimators (docs/method.md 5.2-5.4) and scores by level."""

from __future__ import annotations

import numpy as np
import pytest

from proper_model.errors import MetricError
from proper_model.evaluation.metrics import Prediction
from simulations.synthetic.oracle import adjusted_rand
from simulations.synthetic.people import make_synthetic
from simulations.synthetic.scores import level_accuracy, slot_accuracy, user_accuracy

# The truth, the text and the oracle do not depend on how much a base is pretrained on.
QUICK = {"pretrain": 20}


@pytest.fixture(scope="module")
def films():
    return make_synthetic("synth_tag", **QUICK)


def oracle(kind, **knobs):
    return {k: v[kind] for k, v in make_synthetic(kind, **QUICK, **knobs).truth["oracle"].items()}


def test_ideal_stages_separate_on_tags():
    scores = oracle("synth_tag")
    assert scores["grouping"]["ari_pooled"] > 0.95
    assert scores["stage1"]["pop"] > 0.95
    assert scores["stage1"]["group"] < 0.35
    assert scores["stage1"]["user"] < 0.1
    assert scores["stage2"]["group"] > 0.95
    assert scores["stage2"]["user"] < 0.1
    assert scores["stage3"]["all"] > 0.95
    assert 0.5 < scores["oppu-mlp"]["group"] < 0.75
    assert scores["own-history"]["all"] < scores["oppu-mlp"]["all"] < scores["stage3"]["all"]


def test_short_histories_are_a_negative_control():
    assert oracle("synth_tag", preset="sparse")["grouping"]["ari_pooled"] < 0.2


def test_hard_is_harder():
    """Median over seeds of grouping with 16 items: five candidates a topic against three."""
    seeds = range(3)
    plain = [oracle("synth_tag", items=16, seed=s)["grouping"]["ari_pooled"] for s in seeds]
    hard = [
        oracle("synth_tag", preset="hard", items=16, seed=s)["grouping"]["ari_pooled"]
        for s in seeds
    ]
    assert np.median(hard) < np.median(plain) - 0.05


def test_ideal_stages_separate_on_scores():
    scores = oracle("synth_rate")
    # The groups are found, and leniency does not pass for taste.
    assert scores["grouping"]["ari_pooled"] > 0.95
    assert abs(scores["grouping"]["ari_offset"]) < 0.05
    assert scores["stage1"]["mae"] > scores["stage2"]["mae"] > scores["oppu-mlp"]["mae"]
    assert scores["stage3"]["mae"] < 0.15
    assert scores["oppu-mlp"]["mae"] > 0.5


def test_ideal_stages_separate_on_sentences():
    scores = oracle("synth_text")
    assert scores["stage1"]["group"] < 0.3
    assert scores["stage2"]["group"] > 0.95 > scores["oppu-mlp"]["group"]
    assert scores["stage2"]["user"] < 0.1
    assert scores["stage3"]["all"] > 0.95


def test_demo_shows_every_stage():
    scores = oracle("synth_tag", preset="demo")
    assert scores["stage1"]["all"] + 0.15 < scores["stage2"]["all"]
    assert scores["stage2"]["all"] + 0.2 < scores["stage3"]["all"]
    assert scores["oppu-mlp"]["group"] + 0.1 < scores["stage3"]["group"]


def test_adjusted_rand_equals_sklearn():
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(4, size=30), rng.integers(3, size=30)
        assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b), abs=1e-4)
    assert adjusted_rand(a, a) == 1


# Scores by level


def answers(synthetic, say):
    return [
        Prediction(user.user_id, query.id, say(query), nll=0.0, answer_tokens=1)
        for user in synthetic.population.test
        for query in user.queries
    ]


def test_level_accuracy(films):
    level = films.truth["level"]
    partly = answers(films, lambda q: f" {q.gold} " if level[q.id] == "group" else "nonsense")
    assert level_accuracy(partly, films.truth) == pytest.approx(
        {"all": 1 / 3, "group": 1, "pop": 0, "user": 0}
    )
    one = films.population.test[0].user_id
    own = {query.id for query in films.population.test[0].queries}
    right = answers(films, lambda q: q.gold if q.id in own else "nonsense")
    assert level_accuracy(right, films.truth)["all"] == pytest.approx(1 / 40)
    assert level_accuracy(right, films.truth, users=[one])["all"] == 1
    by_user = user_accuracy([p for p in partly if p.user_id == one], films.truth, "group")
    assert by_user == {one: 1.0}


def test_level_accuracy_wants_each_query_once(films):
    right = answers(films, lambda q: q.gold)
    with pytest.raises(MetricError, match="twice"):
        level_accuracy([*right, right[0]], films.truth)
    with pytest.raises(MetricError, match="not part"):
        level_accuracy([Prediction("u", "nowhere", "", nll=0.0, answer_tokens=1)], films.truth)
    with pytest.raises(MetricError, match="no predictions"):
        level_accuracy([], films.truth)
    with pytest.raises(MetricError, match="only synth_text"):
        slot_accuracy(right, films.truth)


def test_slot_accuracy():
    synthetic = make_synthetic("synth_text", **QUICK)
    right = answers(synthetic, lambda q: q.gold)
    assert slot_accuracy(right, synthetic.truth) == {"group": 1, "user": 1}
    unsigned = answers(synthetic, lambda q: " ".join(q.gold.split()[:-1]))
    scores = slot_accuracy(unsigned, synthetic.truth)
    # Every answer is signed, and one in three holds the nickname.
    assert scores["group"] == 1
    assert scores["user"] == pytest.approx(1 / 4)
