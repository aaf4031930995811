"""Synthetic populations: the planted truth is in the data, in the form of real data, and separates the
stages for ideal estimators (docs/method.md 5.2-5.4).
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from proper_model.data.users import read_population, write_oppu
from proper_model.errors import ConfigError
from proper_model.evaluation.metrics import Prediction
from proper_model.tasks.task import load_task
from simulations.synthetic.people import make_synthetic
from simulations.synthetic.settings import KINDS
from simulations.synthetic.text import THINGS_SEEN
from tests.made_people import QUICK, all_users, made, query_texts
from tests.planted import level_accuracy, user_accuracy


@pytest.fixture(scope="module", params=KINDS)
def easy(request):
    return made(request.param)


@pytest.fixture(scope="module")
def films():
    return made("synth_tag")


def test_same_seed_same_population(easy):
    again = make_synthetic(easy.task, **QUICK)
    assert again == easy
    other = made(easy.task, seed=1)
    assert other.truth["quirks"] != easy.truth["quirks"]
    assert other.population != easy.population


def test_sizes_and_ids(easy):
    s = easy.settings
    assert len(easy.population.pooled) == s.groups * s.users_per_group
    assert len(easy.population.test) == s.groups * s.test_users_per_group
    for users, count in (
        (easy.population.pooled, s.users_per_group),
        (easy.population.test, s.test_users_per_group),
    ):
        groups = Counter(easy.truth["groups"][user.user_id] for user in users)
        assert groups == dict.fromkeys(range(s.groups), count)
    users = all_users(easy)
    assert all(len(u.history) == s.items and len(u.queries) == 18 for u in users)
    names = [x.id for u in users for x in (*u.history, *u.queries)]
    assert len(set(names)) == len(names)
    assert set(easy.truth["level"]) == {q.id for u in users for q in u.queries}


def test_neither_id_nor_place_tells_the_group(easy):
    groups = [easy.truth["groups"][u.user_id] for u in easy.population.pooled]
    changes = sum(a != b for a, b in itertools.pairwise(groups))
    # 149 neighbours, of which four fifths differ in a random order; sorted, four would.
    assert 100 < changes < 140


@pytest.mark.parametrize("kind", ["synth_tag", "synth_text"])
def test_levels_are_balanced(kind):
    synthetic = made(kind)
    for user in all_users(synthetic):
        levels = Counter(synthetic.truth["level"][q.id] for q in user.queries)
        assert levels == {"pop": 6, "group": 6, "user": 6}


def test_levels_say_what_decides_a_tag(films):
    truth = films.truth
    for user in all_users(films):
        group, quirks = truth["groups"][user.user_id], truth["quirks"][user.user_id]
        assert len(quirks) == 2
        for query in user.queries:
            topic = truth["detail"][query.id]["topic"]
            rules = [rule[topic] for rule in truth["rules"]]
            level = truth["level"][query.id]
            if level == "user":
                assert query.gold == quirks[topic]
                assert query.gold not in rules
                continue
            assert topic not in quirks
            assert query.gold == rules[group]
            assert len(set(rules)) == (1 if level == "pop" else len(rules))


def test_hard_shares_candidates_between_groups():
    rules = made("synth_tag", preset="hard").truth["rules"]
    candidates = {len({rule[topic] for rule in rules}) for topic in rules[0]}
    assert candidates == {1, 3}


def test_history_holds_the_quirks_and_little_noise(films):
    truth = films.truth
    odd = total = 0
    for user in all_users(films):
        seen = Counter(truth["detail"][item.id]["topic"] for item in user.history)
        own = truth["rules"][truth["groups"][user.user_id]] | truth["quirks"][user.user_id]
        assert all(seen[topic] >= 2 for topic in truth["quirks"][user.user_id])
        for item in user.history:
            odd += item.fields["tag"] != own[truth["detail"][item.id]["topic"]]
            total += 1
    # A random tag is the right one once in 15.
    assert odd / total == pytest.approx(0.03 * 14 / 15, abs=0.008)


def test_scores_follow_taste_and_leniency():
    synthetic = made("synth_rate")
    truth = synthetic.truth
    for user in all_users(synthetic):
        taste = truth["rules"][truth["groups"][user.user_id]]
        offset = truth["quirks"][user.user_id]["offset"]
        for query in user.queries:
            said = truth["detail"][query.id]["aspects"]
            assert sorted(map(abs, said.values())) == [0, 0, 0, 1, 1, 1]
            meant = 3 + sum(taste[name] * said[name] for name in said) + offset
            assert int(query.gold) == min(5, max(1, round(meant)))
    for group in range(5):
        mine = [
            u.user_id for u in synthetic.population.pooled if truth["groups"][u.user_id] == group
        ]
        offsets = Counter(truth["quirks"][user]["offset"] for user in mine)
        assert offsets == {-1: 10, 0: 10, 1: 10}


def test_rewriting_follows_the_tables():
    synthetic = made("synth_text")
    truth = synthetic.truth
    for user in all_users(synthetic):
        rule = truth["rules"][truth["groups"][user.user_id]]
        quirk = truth["quirks"][user.user_id]
        table = {k: v for k, v in rule.items() if k != "opener"}
        table[quirk["nicknamed"]] = quirk["nickname"]
        for plain, tweet in [
            *zip(query_texts(synthetic, user), (q.gold for q in user.queries), strict=True),
            *((item.fields["plain"], item.fields["text"]) for item in user.history),
        ]:
            rewritten = " ".join(table.get(word, word) for word in plain.split())
            assert tweet == f"{rule['opener']} {rewritten} {quirk['sign_off']}"
        seen = {w for item in user.history for w in item.fields["plain"].split()} & set(table)
        # docs/method.md 5.4: a history shows at most 40 % of the table.
        assert len(seen) <= THINGS_SEEN == 0.4 * len(table)


def test_synonyms_are_disjoint():
    rules = made("synth_text").truth["rules"]
    words = [word for rule in rules for word in rule.values()]
    assert len(set(words)) == len(words) == 5 * 21
    assert not set(words) & set(rules[0])


def test_lognormal_sizes():
    synthetic = made("synth_tag", sizes="lognormal")
    sizes = [len(u.history) for u in all_users(synthetic)]
    assert min(sizes) >= 12
    assert max(sizes) <= 200
    assert len(set(sizes)) > 20
    assert np.median(sizes) == pytest.approx(24, abs=3)


LAMP = {"synth_tag": "LaMP_2M", "synth_rate": "LaMP_3", "synth_text": "LaMP_7"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_population_is_as_its_task_and_lamps_read_it(kind, tmp_path):
    """The shipped LaMP task cuts the same text and the same labels out of the queries."""
    population = make_synthetic(kind, preset="smoke").population
    ours, theirs = load_task(kind), load_task(LAMP[kind])
    for user in (*population.pooled, *population.test):
        for query in user.queries:
            assert theirs.query_text(query) == ours.query_text(query)
            assert theirs.labels_for(query) == ours.labels_for(query)
    write_oppu(population, tmp_path)
    read = read_population(tmp_path, ours)
    assert (read.pooled, read.test) == (population.pooled, population.test)


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="unknown preset 'big'"):
        make_synthetic("synth_tag", preset="big")
    with pytest.raises(ConfigError, match="unknown setting colour"):
        make_synthetic("synth_tag", colour=3)
    with pytest.raises(ConfigError, match="kind must be one of"):
        make_synthetic("synth_music")
    with pytest.raises(ConfigError, match="groups must be 2 to 5"):
        make_synthetic("synth_tag", groups=6)
    with pytest.raises(ConfigError, match="items must exceed"):
        make_synthetic("synth_tag", items=4)


# Ideal estimators


def oracle(kind, **knobs):
    return {k: v[kind] for k, v in made(kind, **knobs).truth["oracle"].items()}


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
    by_user = user_accuracy(right, films.truth, "group")
    assert {user for user, share in by_user.items() if share == 1} == {one}
    assert len(by_user) == 40
