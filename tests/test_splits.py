"""Who is a test user: deterministic, disjoint, everyone once over the folds."""

from __future__ import annotations

import pytest

from proper_model.data.splits import apply_split, check_pool, effective_split
from proper_model.errors import ConfigError, DataError
from proper_model.tasks.records import HistoryItem, Population, Query, User


def person(name, *, items=3, queries=1):
    return User(
        name,
        tuple(HistoryItem(str(i), {"text": f"{name} {i}"}) for i in range(items)),
        tuple(Query(f"{name}-{i}", "x", "1") for i in range(queries)),
    )


POPULATION = Population(
    "data",
    tuple(person(f"p{i:02}", items=20 - i) for i in range(20)),
    tuple(person(f"t{i}") for i in range(5)),
)


def ids(users):
    return [user.user_id for user in users]


def test_given_is_what_the_data_say():
    assert apply_split(POPULATION, "given") == POPULATION


def test_given_folds_make_everyone_a_test_user_exactly_once():
    everyone = ids(POPULATION.pooled + POPULATION.test)
    seen = []
    for fold in range(4):
        split = apply_split(POPULATION, "given", fold=fold, folds=4, seed=3)
        assert sorted(ids(split.pooled + split.test)) == sorted(everyone)
        seen += ids(split.test)
    assert sorted(seen) == sorted(everyone)


def test_random_is_disjoint_seeded_and_nested():
    small = apply_split(POPULATION, "random:4", seed=1)
    assert len(small.test) == 4
    assert len(small.pooled) == 21
    assert not set(ids(small.test)) & set(ids(small.pooled))
    assert apply_split(POPULATION, "random:4", seed=1) == small
    assert ids(apply_split(POPULATION, "random:4", seed=2).test) != ids(small.test)
    assert set(ids(small.test)) < set(ids(apply_split(POPULATION, "random:8", seed=1).test))


def test_random_choice_does_not_depend_on_the_order_of_the_file():
    turned = Population("data", POPULATION.pooled[::-1], POPULATION.test)
    a, b = (apply_split(p, "random:4", seed=1) for p in (POPULATION, turned))
    assert set(ids(a.test)) == set(ids(b.test))


def test_random_folds_take_other_users_each_time():
    tests = [ids(apply_split(POPULATION, "random:6", fold=f, folds=4).test) for f in range(4)]
    assert all(len(test) == 6 for test in tests)
    assert len({user for test in tests for user in test}) == 24
    with pytest.raises(ConfigError, match="random:7 with 4 folds"):
        apply_split(POPULATION, "random:7", folds=4)
    with pytest.raises(ConfigError, match="random:25"):
        apply_split(POPULATION, "random:25")


def test_inactive_takes_the_shortest_histories_of_the_pool_and_removes_them():
    split = apply_split(POPULATION, "inactive:3")
    assert ids(split.test) == ["p17", "p18", "p19"]
    assert len(split.pooled) == 17
    assert not any(user.startswith("t") for user in ids(split.pooled + split.test))


def test_inactive_is_at_most_a_fifth_and_needs_history_and_query():
    assert ids(apply_split(POPULATION, "inactive:100").test) == ["p16", "p17", "p18", "p19"]
    odd = (person("none", items=0), person("mute", items=1, queries=0))
    population = Population("data", POPULATION.pooled + odd, ())
    assert ids(apply_split(population, "inactive:1").test) == ["p19"]


def test_the_effective_split_names_the_number_that_inactive_takes():
    assert effective_split(POPULATION, "inactive:100") == "inactive:4"
    assert effective_split(POPULATION, "inactive:100:in-population") == "inactive:4:in-population"
    for spec in ("inactive:3", "random:100", "given"):
        assert effective_split(POPULATION, spec) == spec
    with pytest.raises(ConfigError, match="a fifth of the 4 pooled users"):
        apply_split(Population("data", POPULATION.pooled[:4], ()), "inactive:2")


def test_a_pool_that_cannot_be_trained_on_is_refused():
    check_pool(POPULATION.pooled[:3])
    with pytest.raises(DataError, match="2 pooled users; .* at least 3"):
        check_pool(POPULATION.pooled[:2])
    with pytest.raises(DataError, match="no pooled user has a query"):
        check_pool([person(name, queries=0) for name in "abcd"])


def test_inactive_ties_are_broken_by_id():
    users = tuple(person(name) for name in ("c", "a", "b", "e", "d"))
    assert ids(apply_split(Population("data", users, ()), "inactive:5").test) == ["a"]


def test_inactive_in_population_leaves_them_in_the_pool():
    split = apply_split(POPULATION, "inactive:3:in-population")
    assert ids(split.test) == ["p17", "p18", "p19"]
    assert split.pooled == POPULATION.pooled


def test_caps_keep_order_are_nested_and_keep_recent_items():
    split = apply_split(POPULATION, "given", pooled_users=6, users=2, max_items=2, seed=5)
    assert ids(split.pooled) == sorted(ids(split.pooled))
    assert len(split.pooled) == 6
    assert len(split.test) == 2
    assert [item.id for item in split.test[0].history] == ["1", "2"]
    assert all(len(user.history) <= 2 for user in split.pooled)
    more = apply_split(POPULATION, "given", pooled_users=9, seed=5)
    assert set(ids(split.pooled)) < set(ids(more.pooled))
    assert apply_split(POPULATION, "given", pooled_users=99, users=99, max_items=99) == POPULATION


def test_inactive_looks_at_whole_histories_before_items_are_cut():
    assert ids(apply_split(POPULATION, "inactive:3", max_items=1).test) == ["p17", "p18", "p19"]


def test_users_without_a_query_are_never_test_users():
    population = Population("data", POPULATION.pooled, (person("mute", queries=0), person("t")))
    assert ids(apply_split(population, "given").test) == ["t"]
    tested = [
        user
        for fold in range(7)
        for user in ids(apply_split(population, "given", fold=fold, folds=7).test)
    ]
    assert "mute" not in tested
    assert len(tested) == 21


@pytest.mark.parametrize(
    "spec",
    [
        *("", "random", "random:", "random:0", "random:-1", "random:x", "random:٣", "given:3"),
        *("random:5:in-population", "inactive", "inactive:3:other", "inactive:3:in-population:x"),
    ],
)
def test_unknown_specs_are_refused(spec):
    with pytest.raises(ConfigError, match="unknown split"):
        apply_split(POPULATION, spec)


@pytest.mark.parametrize(
    "options",
    [{"fold": 1}, {"folds": 0}, {"fold": -1, "folds": 3}]
    + [{"pooled_users": 0}, {"users": -1}, {"max_items": 0}, {"folds": 26}],
)
def test_contradictory_options_are_refused(options):
    with pytest.raises(ConfigError):
        apply_split(POPULATION, "given", **options)
    with pytest.raises(ConfigError, match="no folds"):
        apply_split(POPULATION, "inactive:2", folds=2)


def test_a_split_that_leaves_nobody_says_what_to_do():
    with pytest.raises(DataError, match="leaves no test user") as caught:
        apply_split(Population("data", POPULATION.pooled, ()), "given")
    assert "random:N" in (caught.value.hint or "")
    with pytest.raises(DataError, match="leaves no pooled user") as pooled:
        apply_split(Population("data", (), POPULATION.test), "given")
    assert "user_others.json" in (pooled.value.hint or "")
    assert "a test user needs" not in (pooled.value.hint or "")
