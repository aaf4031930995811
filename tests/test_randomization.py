"""The randomization test: against every swap by hand, and how often it finds what is not there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from proper_model.errors import MetricError
from proper_model.evaluation.intervals import summarize
from proper_model.evaluation.metrics import Scored
from proper_model.evaluation.randomization import swap_probability


def table(values: list[float], *, metric: str = "rouge1") -> Scored:
    """One user a value."""
    none = [0] * len(values)
    return dataclasses.replace(
        classes(none, none), metrics=(metric,), values={metric: tuple(values)}, classes=()
    )


def classes(gold: list[int], predicted: list[int]) -> Scored:
    """One user an answer."""
    names = tuple(map(str, range(len(gold))))
    of_class = (("a", "b", "c"), tuple(gold), tuple(predicted))
    return Scored("t", ("f1_macro",), names, names, {}, *of_class, 0, lenient=False)


def by_hand(a: Scored, b: Scored, metric: str) -> float:
    """Every swap as two tables of its own."""

    def difference(swapped: tuple[bool, ...]) -> float:
        def mixed(one: Scored, other: Scored) -> Scored:
            def pick(first: Sequence[Any], second: Sequence[Any]) -> tuple[Any, ...]:
                pairs = zip(first, second, swapped, strict=True)
                return tuple(y if swap else x for x, y, swap in pairs)

            return dataclasses.replace(
                one,
                values={m: pick(one.values[m], other.values[m]) for m in one.values},
                predicted=pick(one.predicted, other.predicted),
            )

        return summarize(mixed(a, b), metric).mean - summarize(mixed(b, a), metric).mean

    swaps = list(itertools.product((False, True), repeat=len(a.user_ids)))
    observed = abs(difference(swaps[0]))
    return float(np.mean([abs(difference(s)) >= observed - 1e-9 for s in swaps]))


@pytest.mark.parametrize("metric", ["rouge1", "rmse"])
def test_means_and_roots_against_every_swap(metric: str) -> None:
    draw = np.random.default_rng(3)
    for users in (1, 2, 5, 7):
        a, b = (table(list(draw.random(users)), metric=metric) for _ in range(2))
        assert swap_probability(a, b, metric, seed=0) == pytest.approx(by_hand(a, b, metric))


def test_macro_f1_against_every_swap() -> None:
    gold = [0, 0, 1, 1, 2, 2]
    a, b = classes(gold, [0, 0, 1, 1, 2, 0]), classes(gold, [0, 1, 2, 1, 0, 0])
    got = swap_probability(a, b, "f1_macro", seed=0)
    assert got == pytest.approx(by_hand(a, b, "f1_macro"))
    assert 0 < got < 1


def test_five_items_can_show_nothing_and_six_can() -> None:
    for users, least in ((2, 0.5), (5, 1 / 16), (6, 1 / 32)):
        a, b = table([1.0] * users), table([0.0] * users)
        assert swap_probability(a, b, "rouge1", seed=0) == least
    assert swap_probability(a, a, "rouge1", seed=0) == 1


def test_many_items_are_drawn_and_agree_with_the_normal_law() -> None:
    """20 equal differences, 14 one way: the sign test's 0.115 within what 8,191 draws allow."""
    a, b = table([1.0] * 14 + [0.0] * 6), table([0.0] * 14 + [1.0] * 6)
    assert swap_probability(a, b, "rouge1", seed=5) == pytest.approx(0.1153, abs=0.015)


@pytest.mark.parametrize("users", [2, 4, 6, 8, 16])
def test_where_arms_are_alike_it_says_so(users: int) -> None:
    """In at most 5 % of 400 experiments without any effect the probability is below 5 %."""
    draw = np.random.default_rng(users)
    wrong = 0
    for _ in range(400):
        a, b = (table(list(draw.random(users))) for _ in range(2))
        wrong += swap_probability(a, b, "rouge1", seed=0, draws=999) < 0.05
    assert wrong <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


def test_other_queries_are_refused() -> None:
    with pytest.raises(MetricError, match="same queries"):
        swap_probability(table([1.0]), table([1.0, 2.0]), "rouge1", seed=0)
