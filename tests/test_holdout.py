"""How a user's own items are cut, and how folds become one choice."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proper_model.engine.folds import combine, kept_epochs, split_items
from proper_model.engine.trials import TrialResult
from tests.tiny import samples


def test_one_fold_holds_back_the_most_recent_items() -> None:
    items = samples(10, seed=0)
    cut = split_items(items, fraction=0.2, folds=1, minimum=4, seed=7)
    assert len(cut.folds) == 1
    assert cut.folds[0].train == items[:8]
    assert cut.folds[0].held_back == cut.judged == items[8:]
    assert cut.items == items


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_items_train_nothing_and_all_judge(count: int) -> None:
    items = samples(count, seed=0)
    cut = split_items(items, fraction=0.2, folds=1, minimum=4, seed=7)
    assert cut.folds == ()
    assert cut.judged == items


@given(count=st.integers(4, 30), folds=st.integers(2, 5))
def test_folds_hold_every_item_back_exactly_once(count: int, folds: int) -> None:
    items = samples(count, seed=1)
    cut = split_items(items, fraction=0.2, folds=folds, minimum=4, seed=7)
    assert len(cut.folds) == min(folds, count)
    assert sorted(s.tokens for s in cut.judged) == sorted(s.tokens for s in items)
    for fold in cut.folds:
        assert len(fold.train) + len(fold.held_back) == count
        assert fold.held_back


def test_the_mean_curve_of_the_folds_chooses_the_epoch() -> None:
    a = TrialResult([3.0, 1.0, 2.0, 2.5], 1)
    b = TrialResult([3.0, 2.5, 1.0], 2)  # stopped early: its last loss goes on
    both = combine([(a, 1), (b, 1)])
    assert both.losses == [3.0, 1.75, 1.5, 1.75]
    assert both.best_epoch == 2
    assert both.best_loss == 1.5
    assert not both.failed
    heavier = combine([(a, 3), (b, 1)])
    assert heavier.losses[1] == (3 * 1.0 + 2.5) / 4


def test_a_diverged_fold_fails_the_rate_and_nan_is_never_best() -> None:
    both = combine(
        [(TrialResult([2.0, math.nan], 0, failed=True), 2), (TrialResult([2.0, 1.0], 1), 2)]
    )
    assert both.failed
    assert both.best_epoch == 0
    assert kept_epochs(both) == 0


def test_nothing_to_combine() -> None:
    assert combine([]).losses == []
    assert combine([(TrialResult(), 0)]).best_epoch == 0
