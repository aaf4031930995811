"""Choosing from losses of newcomers, on numbers made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from proper_model.stages.calibration_choice import (
    NOTHING,
    Amount,
    Training,
    Way,
    amounts,
    choose_amounts,
    choose_start,
    choose_temperature,
    choose_training,
    excess,
    within_one_error,
)

SLOW, FAST = Way(False, 1e-3, 0.0), Way(False, 3e-3, 0.0)
COMMON = Way(True, 1e-3, 0.0)


def around(*means: float, apart: float = 0.0) -> Tensor:
    """Losses of four people [4, len(means)] with these means; `apart`: deviation of column 1."""
    losses = torch.tensor(means, dtype=torch.float64).repeat(4, 1)
    losses[:, 1] += torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64) * apart
    return losses


def test_the_error_is_of_paired_differences() -> None:
    a = torch.tensor([1.0, 2.0, 6.0])
    mean, error = excess(a, torch.tensor([0.0, 0.0, 0.0]))
    assert mean == pytest.approx(3.0)
    assert error == pytest.approx(math.sqrt(7) / math.sqrt(3))  # variance (4 + 1 + 9) / 2
    assert excess(a, a - 1) == (1.0, 0.0)  # all differ alike
    assert excess(a[:1], a[:1])[1] == math.inf
    assert within_one_error(a, a)
    assert not within_one_error(a * float("nan"), a)


def test_amounts_begin_with_none_and_grow() -> None:
    assert amounts((0.0, 0.5, 1.0), (0.0, 0.5, 1.0)) == [
        NOTHING,
        Amount(0.5, 0.5),
        Amount(0.5, 1.0),  # as much as the next, in one pass
        Amount(1.0, 0.5),
        Amount(1.0, 1.0),
    ]


def test_the_best_way_and_the_fewest_epochs_that_serve_as_well() -> None:
    curves = {
        SLOW: {4: around(1.0, 0.9, 0.9), 20: around(1.0, 0.95, 0.9)},
        FAST: {4: around(1.0, 0.8, 0.79, apart=0.05), 20: around(1.0, 0.6, 0.5)},
    }
    # At 4 the second epoch is better by less than the error, 0.05 * 2 / sqrt(3) / 2 = 0.029.
    assert choose_training(curves) == {4: Training(FAST, 1), 20: Training(FAST, 2)}


def test_no_training_is_not_among_the_ways() -> None:
    """Whether to adapt at all is decided by amounts, which may use a little of what harms whole."""
    curves = {SLOW: {4: around(1.0, 1.2, 1.4)}}
    assert choose_training(curves) == {4: Training(SLOW, 1)}


def test_a_way_that_diverged_is_not_taken() -> None:
    nan = float("nan")
    curves = {SLOW: {4: around(1.0, 1.2)}, FAST: {4: around(1.0, nan)}}
    assert choose_training(curves)[4].way == SLOW


def test_neighbouring_lengths_steady_a_noisy_one() -> None:
    """At 8 the other way happens to be better by 0.01; at 4 and 20 it is worse by 0.1."""
    curves = {
        SLOW: {n: around(1.0, 0.8) for n in (4, 8, 20)},
        FAST: {4: around(1.0, 0.9), 8: around(1.0, 0.79), 20: around(1.0, 0.9)},
    }
    assert {one.way for one in choose_training(curves).values()} == {SLOW}


@pytest.mark.parametrize(("gain", "helps"), [(0.2, True), (0.01, False), (-0.1, False)])
def test_a_common_start_must_help_beyond_one_error(gain: float, helps: bool) -> None:
    plain = {n: around(1.0, 0.8) for n in (4, 8)}
    common = {n: around(1.0, 0.8 - gain, apart=0.05) for n in (4, 8)}
    assert choose_start({SLOW: plain, COMMON: common}) is helps
    assert not choose_start({SLOW: plain})


CHOICES = amounts((0.5, 1.0), (1.0,))  # nothing, half, whole


def test_more_is_used_of_longer_histories() -> None:
    losses = {
        1: around(1.0, 1.1, 1.3),
        8: around(1.0, 0.8, 0.9),
        40: around(1.0, 0.7, 0.5),
    }
    assert choose_amounts(losses, CHOICES) == {
        1: NOTHING,
        8: Amount(0.5, 1.0),
        40: Amount(1.0, 1.0),
    }


def test_amounts_never_shrink_as_histories_grow() -> None:
    """Alone, 8 would take all and 40 nothing; together nothing costs 0.1 and half costs more."""
    losses = {8: around(1.0, 0.95, 0.9), 40: around(1.0, 1.3, 1.6)}
    assert choose_amounts(losses, CHOICES) == {8: NOTHING, 40: NOTHING}


def test_the_least_within_one_error_is_used() -> None:
    losses = {8: around(1.0, 0.9, 0.89, apart=0.05)}
    assert choose_amounts(losses, CHOICES) == {8: Amount(0.5, 1.0)}
    losses = {8: around(1.0, 0.9, 0.8, apart=0.05)}
    assert choose_amounts(losses, CHOICES) == {8: Amount(1.0, 1.0)}


def test_what_carries_nothing_is_not_used() -> None:
    losses = {n: around(1.0, 1.0, 1.0, apart=0.1) for n in (1, 8, 40)}
    assert set(choose_amounts(losses, CHOICES).values()) == {NOTHING}


def test_the_temperature_nearest_to_one_that_serves_as_well() -> None:
    temperatures = (0.8, 1.0, 1.5)
    assert choose_temperature(around(1.0, 0.9, 0.7), temperatures) == 1.5
    assert choose_temperature(around(0.8, 0.9, 0.9), temperatures) == 0.8
    assert choose_temperature(around(0.9, 0.9, 0.89, apart=0.05), temperatures) == 1.0
    assert choose_temperature(around(*[float("nan")] * 3), temperatures) == 1.0


def test_what_serves_as_well_stays_below_the_path() -> None:
    """At 4 a quarter of the whole adapter serves as well as half of it unmixed; at 20 that half alone."""
    candidates = amounts((0.5, 1.0), (0.25, 0.5, 1.0))
    half, quarter = Amount(0.5, 1.0), Amount(1.0, 0.25)
    means = {4: {half: 0.5, quarter: 0.5}, 20: {half: 0.5}}
    losses = {
        length: around(*(best.get(one, 1.0) for one in candidates))
        for length, best in means.items()
    }
    assert choose_amounts(losses, candidates) == {4: half, 20: half}
