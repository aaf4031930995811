"""What a difference is worth: against simulation, hand-made people, and planted gains."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from proper_model.evaluation.intervals import user_values
from proper_model.evaluation.metrics import Scored
from simulations.experiments.benchmark_schema import Comparison
from simulations.experiments.benchmark_summary import bands, only
from simulations.experiments.comparing import (
    compare,
    detectable,
    gains,
    sentence,
    shares,
    stacked,
)
from simulations.reporting.score import Resampling

DRAWN = Resampling(2000)


def scored(values: dict[str, list[float]], metric: str = "nll") -> Scored:
    """A table with each person's values, one a query."""
    rows = [(user, f"{user}{n}", v) for user, own in values.items() for n, v in enumerate(own)]
    users, queries, numbers = zip(*rows, strict=True)
    return Scored("t", (metric,), users, queries, {metric: numbers}, (), (), (), 0, lenient=False)


def people(values: np.ndarray) -> Scored:
    return scored({f"u{n:03d}": [float(value)] for n, value in enumerate(values)})


def test_a_gain_is_above_zero_whatever_direction_is_better() -> None:
    assert gains({"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 2.5}, "nll") == [1.0, -0.5]
    assert gains({"a": 1.0}, {"a": 0.5}, "accuracy") == [0.5]


def test_shares_count_who_changes_by_more_than_the_threshold() -> None:
    found = shares([0.5, 0.02, 0.01, -0.01, -0.02, 0.0, 0.005, -0.9])
    assert (found.helped, found.hurt, found.same) == (2 / 8, 2 / 8, 4 / 8)
    assert math.isnan(shares([]).helped)
    assert math.isnan(shares([0.1, math.nan]).hurt)


def test_four_of_five_samples_show_the_detectable_difference() -> None:
    """The oracle is the test itself: samples with that true difference, the interval of each."""
    generator, users, spread = np.random.default_rng(0), 50, 0.7
    samples = generator.normal(0, spread, size=(400, users))
    effect = float(np.mean([detectable(list(own)) for own in samples]))
    found = 0
    for own in samples[:150]:
        table = people(own + effect)
        row = DRAWN.difference(table, people(np.zeros(users)), "nll", "user")
        found += row.low > 0
    assert found / 150 == pytest.approx(0.8, abs=0.08)
    assert effect == pytest.approx((1.959964 + 0.841621) * spread / math.sqrt(users), rel=0.02)


@pytest.mark.parametrize("same", [[], [0.3], [0.2, 0.2, 0.2], [0.1, math.nan]])
def test_nothing_is_detectable_without_a_spread(same: list[float]) -> None:
    assert math.isnan(detectable(same))


def test_comparisons_are_corrected_over_the_whole_table() -> None:
    generator = np.random.default_rng(1)
    noise = generator.normal(0, 0.1, 40)
    tables = {"a": people(1.0 + noise), "b": people(np.ones(40)), "c": people(0.95 + noise)}
    rows = compare(tables, [("a", "b"), ("c", "b"), ("a", "c")], DRAWN)
    by_p = sorted(rows, key=lambda row: row.p)
    assert [row.p_holm for row in by_p] == pytest.approx(
        [3 * by_p[0].p, max(3 * by_p[0].p, 2 * by_p[1].p), max(2 * by_p[1].p, by_p[2].p)]
    )
    (gain,) = (row for row in rows if (row.a, row.b) == ("c", "b"))
    assert gain.improvement is True
    assert (gain.helped, gain.people) == (np.mean(noise < 0.04), 40)


def test_seeds_are_averaged_by_person_and_resampled_together() -> None:
    """Two seeds that are far apart: the interval is that of people's means, not of runs."""
    one, two = {"a": [1.0, 2.0], "b": [3.0]}, {"a": [2.0, 5.0], "b": [4.0]}
    both = stacked([scored(one), scored(two)])
    assert user_values(both, "nll") == {"a": 2.5, "b": 3.5}
    means = {user: [(x + y) / 2 for x, y in zip(one[user], two[user], strict=True)] for user in one}
    ours, theirs = (DRAWN.summary(table, "nll") for table in (both, scored(means)))
    assert (ours.user_mean, ours.user_low, ours.user_high) == pytest.approx(
        (theirs.user_mean, theirs.user_low, theirs.user_high)
    )
    with pytest.raises(AssertionError):
        stacked([scored(one), scored({"a": [1.0]})])


def test_every_seed_has_its_own_difference_beside_the_mean() -> None:
    """By hand: people weigh the same in every seed, whatever number of queries they have."""
    none = scored({"a": [0.0, 0.0], "b": [0.0]})
    some = [scored({"a": [1.0, 2.0], "b": [3.0]}), scored({"a": [2.0, 4.0], "b": [5.0]})]
    tables = {"a": stacked(some), "b": stacked([none, none])}
    (found,) = compare(tables, [("a", "b")], DRAWN, seeds=2)
    assert found.by_seed == [(1.5 + 3) / 2, (3 + 5) / 2]
    assert found.delta == pytest.approx(sum(found.by_seed) / 2)
    (single,) = compare({"a": some[0], "b": none}, [("a", "b")], DRAWN)
    assert single.by_seed == []


def row(**changes: float) -> Comparison:
    numbers = {"delta": -0.5, "low": -0.7, "high": -0.2, "p": 0.001, "p_holm": 0.01}
    shown = {"people": 40, "helped": 0.8, "hurt": 0.1, "detectable": 0.3}
    return Comparison(
        **{"a": "stage3", "b": "oppu-mlp", "metric": "nll", "level": "user"}
        | numbers
        | shown
        | changes
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            "stage3 is better than oppu-mlp in nll: -0.5000, 95 % interval -0.7000 to -0.2000, 40",
        ),
        ({"p_holm": 0.4}, "not after Holm's correction over the table's comparisons (p 0.400)"),
        ({"delta": 0.5, "low": 0.2, "high": 0.7}, "stage3 is worse than oppu-mlp"),
        ({"high": 0.1}, "cannot be told apart from oppu-mlp in nll"),
        ({"high": 0.1}, "with as many people 0.3000 would be seen in four of five samples"),
        ({"delta": 0, "low": 0, "high": 0}, "stage3 does as oppu-mlp does in nll for each of 40"),
    ],
)
def test_sentences_follow_from_the_numbers(changes: dict[str, float], words: str) -> None:
    assert words in sentence(row(**changes))


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ([8, 8, 12, 20, 30], [(8, 8), (12, 12), (20, 20), (30, 30)]),
        ([5], [(5, 5)]),
        (list(range(1, 9)), [(1, 2), (3, 4), (5, 6), (7, 8)]),
        ([1, 1, 1, 1, 1, 1, 2, 3, 4, 9], [(1, 2), (3, 9)]),
    ],
)
def test_histories_fall_into_bands(counts: list[int], found: list[tuple[int, int]]) -> None:
    assert bands(counts) == found
    assert all(sum(low <= count <= high for low, high in found) == 1 for count in counts)


def test_some_people_are_taken_out_of_a_table() -> None:
    table = replace(scored({"a": [1.0, 2.0], "b": [3.0]}), gold=(0, 1, 2), predicted=(0, 0, 2))
    part = only(table, {"b"})
    assert (part.user_ids, part.query_ids) == (("b",), ("b0",))
    assert (part.values["nll"], part.gold, part.predicted) == ((3.0,), (2,), (2,))
