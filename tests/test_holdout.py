"""How a user's own items are cut, and how folds become one choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proper_model.engine.checkpoint import Checkpoint
from proper_model.engine.folds import combine, kept_epochs, split_items, train_and_choose
from proper_model.engine.trials import Trial, TrialResult
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


class Trainer:
    """Trains nothing: a result and a number for every trial, by learning rate; notes the trials."""

    def __init__(self, curves: dict[float, list[float]], *, refit_fails: bool = False) -> None:
        self.curves, self.refit_fails = curves, refit_fails
        self.calls: list[tuple[list[Trial], list[int], Checkpoint | None]] = []

    def __call__(
        self, trials: Sequence[Trial], owners: Sequence[int], checkpoint: Checkpoint | None
    ) -> tuple[list[TrialResult], list[torch.Tensor]]:
        self.calls.append((list(trials), list(owners), checkpoint))
        again = len(self.calls) == 2
        results = []
        for trial in trials:
            losses = [] if again else self.curves[trial.learning_rate]
            failed = any(math.isnan(loss) for loss in losses) or (again and self.refit_fails)
            results.append(TrialResult(list(losses), len(losses) - 1 if losses else 0, failed))
        return results, [torch.arange(len(trials))]


TWO = [
    split_items(samples(6, seed=1), fraction=0.5, folds=2, minimum=4, seed=1),
    split_items(samples(2, seed=2), fraction=0.5, folds=2, minimum=4, seed=2),  # too few: no fold
]


def test_the_best_rate_is_trained_again_on_everything(tmp_path: Path) -> None:
    train = Trainer({0.1: [3.0, 2.0], 0.2: [3.0, 2.5, 1.0], 0.9: [3.0, math.nan]})
    chosen, states = train_and_choose(
        TWO, [0.1, 0.2, 0.9], train, refit=True, checkpoint=tmp_path / "state"
    )
    (first, owners, place), (again, _, place_again) = train.calls
    assert [(t.learning_rate, len(t.held_back)) for t in first] == [
        (rate, 3) for rate in (0.1, 0.1, 0.2, 0.2, 0.9, 0.9)
    ]
    assert owners == [0] * 6
    assert (place, place_again) == (tmp_path / "state", tmp_path / "state.refit")
    assert [(t.train, t.learning_rate, t.seed, t.stop_epoch) for t in again] == [
        (TWO[0].items, 0.2, 1, 2),
        (TWO[1].items, 0.1, 2, 0),  # without held-back items there is nothing to choose by
    ]
    assert [c.learning_rate for c in chosen] == [0.2, 0.1]
    assert [c.trials for c in chosen] == [[0], [1]]
    assert states[0].tolist() == [0, 1]


def test_without_a_refit_the_states_are_of_the_folds() -> None:
    train = Trainer({0.1: [3.0, 2.0], 0.2: [3.0, 1.0]})
    chosen, states = train_and_choose(TWO, [0.1, 0.2], train, refit=False, checkpoint=None)
    assert len(train.calls) == 1
    assert [c.trials for c in chosen] == [[2, 3], []]
    assert len(states[0]) == 4


def test_a_rate_that_diverges_is_chosen_only_if_all_do_and_trains_no_epoch() -> None:
    train = Trainer({0.1: [1.0, math.nan], 0.2: [1.0, math.nan]})
    (choice,), _ = train_and_choose(TWO[:1], [0.1, 0.2], train, refit=True, checkpoint=None)
    assert (choice.learning_rate, choice.result.failed) == (0.1, True)
    assert train.calls[1][0][0].stop_epoch == 0


def test_a_refit_that_diverges_leaves_no_state() -> None:
    train = Trainer({0.1: [5.0, 1.0]}, refit_fails=True)
    (choice,), _ = train_and_choose(TWO[:1], [0.1], train, refit=True, checkpoint=None)
    assert train.calls[1][0][0].stop_epoch == 1
    assert (choice.trials, kept_epochs(choice.result)) == ([], 0)
