"""Synthetic populations: the planted truth is in the data, in the formats of real data."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from proper_model.data.users import read_population, write_oppu
from proper_model.errors import ConfigError
from proper_model.tasks.task import load_task
from simulations.synthetic.people import make_synthetic
from simulations.synthetic.settings import KINDS
from simulations.synthetic.text import THINGS_SEEN

# The truth, the text and the oracle do not depend on how much a base is pretrained on.
QUICK = {"pretrain": 20}


@pytest.fixture(scope="module", params=KINDS)
def easy(request):
    return make_synthetic(request.param, **QUICK)


@pytest.fixture(scope="module")
def films():
    return make_synthetic("synth_tag", **QUICK)


def all_users(synthetic):
    return synthetic.population.pooled + synthetic.population.test


def query_texts(synthetic, user):
    task = load_task(synthetic.task)
    return [task.query_text(query)["text"] for query in user.queries]


def test_same_seed_same_population(easy):
    again = make_synthetic(easy.task, **QUICK)
    assert again == easy
    other = make_synthetic(easy.task, seed=1, **QUICK)
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
    synthetic = make_synthetic(kind, **QUICK)
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
    rules = make_synthetic("synth_tag", preset="hard", **QUICK).truth["rules"]
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
    synthetic = make_synthetic("synth_rate", **QUICK)
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
    synthetic = make_synthetic("synth_text", **QUICK)
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
    rules = make_synthetic("synth_text", **QUICK).truth["rules"]
    words = [word for rule in rules for word in rule.values()]
    assert len(set(words)) == len(words) == 5 * 21
    assert not set(words) & set(rules[0])


def test_lognormal_sizes():
    synthetic = make_synthetic("synth_tag", sizes="lognormal", **QUICK)
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
