"""Steps that bound a user: means by hand, a user who shouts, and what does not change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from coordinator.phase_keys import PhaseInputs
from proper_model.engine.robust_mean import RobustMean
from proper_model.engine.training_loop import Row
from proper_model.errors import ConfigError
from proper_model.kernels.packing import Batch
from proper_model.model.passes import group_pass
from proper_model.release.recipe import Recipe, parse_recipe
from proper_model.settings import (
    RobustSettings,
    StageSettings,
    from_mapping,
    load_profile,
    preset,
    to_mapping,
)
from proper_model.stages.group import train_group
from tests.test_group import SETTINGS as GROUP
from tests.test_group import people
from tests.test_training import make
from tests.tiny import adapted, embeddings_of, encoder, samples

HONEST = [[3.0, 4.0], [4.0, 3.0], [0.0, 5.0], [5.0, 0.0]]


def mean_of(
    gradients: list[list[float]], settings: RobustSettings, weights: list[float] | None = None
) -> torch.Tensor:
    """Of one parameter's gradients, a user each."""
    parameter = torch.zeros(2, requires_grad=True)
    mean = RobustMean([parameter], [], settings)
    for gradient, weight in zip(gradients, weights or [1.0] * len(gradients), strict=True):
        parameter.grad = torch.tensor(gradient)
        mean.take(weight)
        assert parameter.grad is None
    mean.write()
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize(
    ("gradients", "settings", "expected"),
    [
        (HONEST, (0.0, 0.0), [3.0, 3.0]),
        # The median of 5, 5, 5, 5 and 50 is 5, so the fifth is cut to a tenth.
        ([*HONEST, [30.0, 40.0]], (1.0, 0.0), [3.0, 3.2]),
        ([*HONEST, [30.0, 40.0]], (2.0, 0.0), [3.6, 4.0]),
        # Of 0 3 4 5 30 and 0 3 4 5 40 the ends are left out.
        ([*HONEST, [30.0, 40.0]], (0.0, 0.2), [4.0, 4.0]),
        ([*HONEST, [-30.0, 40.0]], (0.0, 0.2), [(0 + 3 + 4) / 3, 4.0]),
        # Four users: a fifth of them is nobody.
        (HONEST, (0.0, 0.2), [3.0, 3.0]),
        ([[0.0, 0.0], [0.0, 0.0]], (1.0, 0.0), [0.0, 0.0]),
    ],
)
def test_means_by_hand(
    gradients: list[list[float]], settings: tuple[float, float], expected: list[float]
) -> None:
    found = mean_of(gradients, RobustSettings(*settings))
    assert found.tolist() == pytest.approx(expected)


def test_however_loud_one_user_moves_the_mean_by_a_bounded_step() -> None:
    calm = mean_of(HONEST, RobustSettings())
    for volume in (1e2, 1e6):
        shout = [*HONEST, [-volume, volume]]
        assert (mean_of(shout, RobustSettings(clip=1.0)) - calm).norm() < 5 / 2
        assert (mean_of(shout, RobustSettings(trim=0.2)) - calm).norm() < 5 / 2
        assert (mean_of(shout, RobustSettings()) - calm).norm() > 10


def test_a_length_is_over_all_shared_parameters_and_own_rows_are_summed_as_ever() -> None:
    a, b, table = (torch.zeros(1, requires_grad=True) for _ in range(3))
    mean = RobustMean([a, b], [table], RobustSettings(clip=1.0, trim=0.4))
    for left, right, own in ((3.0, 4.0, 7.0), (6.0, 8.0, 100.0), (3.0, 4.0, 1.0)):
        a.grad, b.grad, table.grad = (torch.tensor([value]) for value in (left, right, own))
        mean.take(0.5)
    mean.write()
    assert a.grad is not None and b.grad is not None and table.grad is not None
    assert (a.grad.item(), b.grad.item()) == pytest.approx((1.5, 2.0))  # 10 is cut to 5, times 1/2
    assert table.grad.item() == 7 + 100 + 1


def gradients(rows: list[Row], robust: RobustSettings | None) -> list[torch.Tensor]:
    """What a step of the training of tests/test_training.py takes from these rows."""
    training, model = make()
    training.settings = dataclasses.replace(training.settings, robust=robust)
    embeddings = embeddings_of(model, 3)

    def losses(batch: Batch) -> tuple[torch.Tensor, None]:
        return model.answer_loss(batch, group_pass(batch.slots, embeddings)), None

    training.batch_loss = losses
    training._gradients(rows)
    return [p.grad.clone() for p in training.parameters if p.grad is not None]


def test_more_items_are_no_more_votes_and_equal_ones_give_the_mean_over_samples() -> None:
    one, other = samples(2, seed=3)

    def rows(copies: int) -> list[Row]:
        count = copies + 1
        return [
            Row(1, other, 0, count),
            *(Row(0, one, 0, count) for _ in range(copies)),
        ]

    bounded = RobustSettings()
    ordinary = gradients(rows(1), None)
    assert len(ordinary) > 5
    for found, expected in (
        (gradients(rows(1), bounded), ordinary),
        (gradients(rows(4), bounded), ordinary),
    ):
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-6)
    loud = gradients(rows(4), None)
    assert any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(loud, ordinary, strict=True))


def test_stage_2_trains_embeddings_under_a_trimmed_mean() -> None:
    """A trimmed mean over users would leave out all of a row that one user alone moves."""
    model = adapted()
    settings = dataclasses.replace(GROUP, robust=RobustSettings(clip=1.0, trim=0.4))
    model_before = model.expert(0).b.clone()
    table, _ = train_group(model, encoder(), people(4), people(2, 500), settings, seed=0)
    plain, _ = train_group(adapted(), encoder(), people(4), people(2, 500), GROUP, seed=0)
    assert (table - plain).abs().max() < 1  # trained from one start
    moved = (table[:, 0] - table[:, 0].mean(0)).std(0)
    assert bool((moved > 0).all()) and not torch.equal(model.expert(0).b, model_before)
    assert not torch.equal(table, plain)


def test_settings_are_checked_and_say_nothing_where_there_are_none(tmp_path: Path) -> None:
    bare = load_profile("demo")
    bounded = dataclasses.replace(bare, robust=RobustSettings(clip=1.0, trim=0.1))
    assert from_mapping(StageSettings, to_mapping(bounded), where="x") == bounded
    for wrong in ({"clip": -1.0}, {"trim": 0.5}, {"trim": -0.1}, {"clip": 1e9}):
        with pytest.raises(ConfigError, match="robust"):
            RobustSettings(**wrong)

    def keys(settings: StageSettings) -> list[str]:
        inputs = PhaseInputs("b", "d", preset("default"), settings, 0, "cpu", 1)
        return [str(key()) for key in (inputs.population_key, inputs.group_key, inputs.router_key)]

    assert all("robust" not in key for key in keys(bare))
    assert all("'trim': 0.1" in key for key in keys(bounded))
    for settings in (bare, bounded):
        recipe = Recipe(preset("default"), settings, "short", 0, None, {})
        assert (b"robust" in recipe.to_bytes()) == (settings is bounded)
        assert parse_recipe(recipe.to_bytes()).settings == settings
