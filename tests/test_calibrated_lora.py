"""One training under a calibration: what is trained, scaled, confirmed or dropped; the common start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from proper_model.engine.folds import Samples
from proper_model.engine.trials import Trial, TrialSettings
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.settings.calibration import Calibrated
from proper_model.settings.presets import preset
from proper_model.settings.profile import (
    CalibrationSettings,
    GroupSettings,
    StageSettings,
    UserSettings,
)
from proper_model.stages import calibrated_lora, common_lora
from proper_model.stages.calibrated_lora import plan_trials, train_calibrated
from proper_model.stages.common_lora import common_start
from proper_model.stages.pooled_users import PooledUser
from proper_model.stages.private_lora import LoraTrials
from tests.tiny import adapted, embeddings_of, encoder, exact_norms, samples

SETTINGS = TrialSettings(
    epochs=4,
    batch_size=2,
    dropout=0.0,
    weight_decay=0.0,
    warmup_ratio=0.0,
    max_grad_norm=1.0,
    tokens_per_step=400,
    refit=False,
)
ROW = Calibrated(3, 2e-2, 2, 1.5, 0.5, 0.75, 1.0)
USERS = [Samples(samples(4 + u, seed=u), (), 50 + u) for u in range(3)]


def stage(model: AdaptedModel, users: int = 3) -> LoraTrials:
    own = embeddings_of(model, users)
    return LoraTrials(
        model, encoder(), own, model.structure.user_routing, True, SETTINGS, None, None
    )


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters in the precision of the tiny base."""
    real = AdaptedModel.new_user_lora
    monkeypatch.setattr(
        AdaptedModel, "new_user_lora", lambda *given, **how: real(*given, **how).double()
    )


def model_of() -> AdaptedModel:
    model = adapted()
    exact_norms(model.base)
    return model


def test_a_router_of_ones_own_is_kept_beside_the_adapter() -> None:
    """W_l is drawn with A, trained with A and B, and stays as it is where B is scaled."""
    own = dataclasses.replace(preset("paper"), private_lora_router=True)
    model = adapted(own)
    exact_norms(model.base)
    trials = stage(model)
    fresh = trials.fresh(5)
    kinds = len(model.new_user_lora([0]).factors())
    assert (kinds, len(fresh)) == (3, 3 * len(model.sites))
    assert all(bool(weight.any()) for weight in fresh[-len(model.sites) :])
    trial = Trial(USERS[0].items, (), 2e-2, 5, stop_epoch=1)
    _, states = trials.run([trial], [0], None)
    trained = [state[0] for state in states]
    assert all(not torch.equal(a, b) for a, b in zip(fresh, trained, strict=True))
    held = trials.hold([trained], [0.5]).factors()
    for letter, part in zip("ABW", range(0, len(trained), len(model.sites)), strict=True):
        for stack, factor in zip(held[letter], trained[part:], strict=False):
            expected = factor * (0.5 if letter == "B" else 1)
            assert torch.allclose(stack[0], expected.to(stack)), letter


def test_each_trains_once_with_its_row_and_is_scaled() -> None:
    model = model_of()
    rows = [ROW, None, dataclasses.replace(ROW, learning_rate=1e-2, epochs=4, scale=1.0)]
    lora, fits = train_calibrated(stage(model), USERS, rows, None)
    for u, row in enumerate(rows):
        if row is None:
            assert not fits[u].trained
            assert not any(b[u].any() for b in lora.b)
            continue
        one = Trial(USERS[u].items, (), row.learning_rate, 50 + u, stop_epoch=row.epochs, prior=1.5)
        _, states = stage(model).run([one], [u], None)
        half = len(states) // 2
        for ours, theirs in zip(lora.a, states[:half], strict=True):
            assert torch.allclose(ours[u], theirs[0], atol=1e-12)
        for ours, theirs in zip(lora.b, states[half:], strict=True):
            assert torch.allclose(ours[u], row.scale * theirs[0], atol=1e-12)
            assert theirs.any()
        assert (fits[u].epochs, fits[u].scale, fits[u].judged) == (row.epochs, row.scale, 0)


@pytest.mark.parametrize("off", [{"epochs": 0}, {"scale": 0.0}, {"weight": 0.0}])
def test_a_row_that_uses_no_adapter_trains_none(off: dict[str, float]) -> None:
    rows = [dataclasses.replace(ROW, **off)] * 3  # type: ignore[arg-type]
    assert plan_trials(USERS, rows) == []


def test_long_histories_confirm_on_their_newest_items() -> None:
    short, long, longer = (Samples(samples(n, seed=n), (), 1) for n in (99, 100, 200))
    planned = plan_trials([short, long, longer], [ROW] * 3)
    assert [(one.user, len(one.trial.train), len(one.judged)) for one in planned] == [
        (0, 99, 0),
        (1, 100, 0),
        (1, 40, 10),
        (2, 200, 0),
        (2, 40, 10),
    ]
    assert planned[4].judged == longer.items[-10:]
    assert planned[4].trial.train == longer.items[-50:-10]


def same_prompt(answer: int, count: int) -> tuple[Encoded, ...]:
    return (Encoded((7, 8, 9, answer, 1), 3),) * count


@pytest.mark.parametrize("contradicted", [False, True])
def test_items_that_contradict_an_adapter_leave_stage_2(
    contradicted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older items say 20 to one question; the newest say the same, or something else."""
    monkeypatch.setattr(calibrated_lora, "CONFIRMED_FROM", 10)
    last = samples(0, seed=0) + same_prompt(30 if contradicted else 20, 2)
    # Losses of equal items differ not at all, so that the standard error is zero.
    user = Samples(same_prompt(20, 8) + last, (), 5)
    row = dataclasses.replace(ROW, epochs=4, scale=1.0, shrinkage=0.0)
    lora, (fit,) = train_calibrated(stage(model_of(), 1), [user], [row], None)
    assert fit.judged == 2
    assert fit.doubted is contradicted
    assert (fit.loss_after > fit.loss_before) is contradicted
    assert any(b.any() for b in lora.b) is not contradicted


def test_a_diverged_training_leaves_no_adapter() -> None:
    model = model_of()
    broken = dataclasses.replace(stage(model), starts=[_broken(model)] * 3)
    lora, fits = train_calibrated(broken, USERS, [ROW] * 3, None)
    assert all(fit.failed and fit.epochs == 0 for fit in fits)
    assert not any(b.any() for b in lora.b)
    assert all(a.isfinite().all() for a in lora.a)


def _broken(model: AdaptedModel) -> list[Tensor]:
    lora = model.new_user_lora([0])
    return [torch.full_like(one[0], float("nan")) for one in (*lora.a, *lora.b)]


# -- the common start ------------------------------------------------------------------------------

REPTILE = StageSettings(
    "reptile",
    tokens_per_step=400,
    weight_decay=0.0,
    warmup_ratio=0.0,
    max_grad_norm=1.0,
    group=GroupSettings(max_items_per_user=5),
    user=UserSettings(dropout=0.0, learning_rates=(2e-2, 1e-2), batch_size=2),
    calibration=CalibrationSettings(start_rounds=2, start_epochs=1),
)
COHORT = [PooledUser(samples(3, seed=u), samples(1, seed=90 + u)) for u in range(10)]


def reptile(
    model: AdaptedModel, cohort: Sequence[PooledUser], **given: Path
) -> list[Tensor] | None:
    own = embeddings_of(model, len(cohort))
    found = common_start(model, encoder(), cohort, own, REPTILE, seed=3, **given)
    return None if found is None else list(found)


def test_the_start_is_the_mean_of_where_everybody_ends_round_after_round() -> None:
    """Oracle: each user alone, from the same factors, and their mean; twice."""
    model = model_of()
    found = reptile(model, COHORT)
    assert found is not None
    settings = dataclasses.replace(SETTINGS, epochs=1)
    start = [factor.detach()[0] for factor in _fresh(model)]
    for number in range(2):
        ends = []
        for u, user in enumerate(COHORT):
            one = dataclasses.replace(stage(model, 10), settings=settings, starts=[start] * 10)
            seed = common_lora.mix_seed(3, number, u)
            _, states = one.run([Trial(user.capped(5), (), 1e-2, seed)], [u], None)
            ends.append([state[0] for state in states])
        start = [torch.stack(parts).mean(0) for parts in zip(*ends, strict=True)]
    for ours, theirs in zip(found, start, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)
    assert any(factor.any() for factor in found[len(found) // 2 :])


def _fresh(model: AdaptedModel) -> list[Tensor]:
    lora = model.new_user_lora([3])
    return [*lora.a, *lora.b]


def test_fewer_users_than_a_prototype_needs_make_no_start() -> None:
    assert reptile(model_of(), COHORT[:9]) is None
