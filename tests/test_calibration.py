"""Calibration on planted people: more of the own adapter the more own items say, none if they say nothing."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from proper_model.engine.judging import held_back_losses
from proper_model.engine.trials import Trial
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, group_pass
from proper_model.settings.presets import UserRouting, preset
from proper_model.settings.profile import (
    CalibrationSettings,
    GroupSettings,
    StageSettings,
    UserSettings,
)
from proper_model.stages import calibration as calibration_module
from proper_model.stages.calibration import Found, calibrate, newcomers, schedule
from proper_model.stages.inferred_embedding import (
    InferredEmbedding,
    infer_embeddings,
    inferred_shapes,
)
from proper_model.stages.pooled_users import PooledUser
from proper_model.stages.private_lora import LoraTrials
from tests.tiny import adapted, encoder, exact_norms, passes, samples

SETTINGS = StageSettings(
    "planted",
    tokens_per_step=2000,
    weight_decay=0.0,
    warmup_ratio=0.0,
    max_grad_norm=1.0,
    group=GroupSettings(),
    user=UserSettings(
        dropout=0.0, learning_rates=(2e-2,), batch_size=4, embedding_epochs=1, held_back_folds=1
    ),
    calibration=CalibrationSettings(
        people=10,
        lengths=(1, 12),
        epochs=3,
        shrinkages=(0.0,),
        scales=(0.0, 0.5, 1.0),
        weights=(0.0, 0.5, 1.0),
        temperatures=(1.0, 1.5),
    ),
)


def people(*, speaks: bool, count: int = 10) -> list[PooledUser]:
    """Everybody answers one question, each with a word of the own, in the history mostly; or
    never there, where one other word stands.

    Answers have no end of text: learning that one comes would be a gain that is not personal.
    """
    rng = random.Random(4)
    made = []
    for person in range(count):
        own = 20 + person % 10
        other = [rng.randrange(40, 60) for _ in range(12)]
        history = [own if rng.random() < 0.6 else word for word in other] if speaks else [59] * 12
        made.append(
            PooledUser(
                tuple(Encoded((7, 8, 9, answer), 3) for answer in history),
                (Encoded((7, 8, 9, own), 3),),
            )
        )
    return made


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    real = AdaptedModel.new_user_lora
    monkeypatch.setattr(
        AdaptedModel, "new_user_lora", lambda *given, **how: real(*given, **how).double()
    )


def run(
    pooled: list[PooledUser],
    settings: StageSettings = SETTINGS,
    checkpoint: Path | None = None,
    *,
    starts: bool = False,
) -> Found:
    model = adapted(noisy=False)
    exact_norms(model.base)
    mean = torch.zeros(model.tables, model.structure.embedding_dim, dtype=torch.float64)
    fresh = model.new_user_lora([1])
    factors = [factor.detach()[0] for factor in (*fresh.a, *fresh.b)]
    return calibrate(
        model,
        encoder(),
        pooled,
        mean=mean,
        prototypes=mean[None][:0],
        starts={"stage3": factors} if starts else {},
        settings=settings,
        seed=7,
        checkpoint=checkpoint,
    )


def test_more_is_changed_the_more_own_items_say() -> None:
    found = run(people(speaks=True))
    for rows in (found.calibration.stage3, found.calibration.oppu_mlp):
        one, many = rows
        assert (one.items, many.items) == (1, 12)
        assert many.adapts
        assert many.scale * many.weight >= one.scale * one.weight
        assert many.weight > 0.5
    stage3 = found.notes["stage3"]
    assert [own["people"] for own in stage3] == [10, 10]
    gains = [own["loss_below"] - own["loss_chosen"] for own in stage3]
    assert gains[1] > 1.5 * gains[0] >= 0
    assert found.starts == ()


def test_items_that_say_nothing_of_the_queries_change_nothing() -> None:
    found = run(people(speaks=False))
    for rows in (found.calibration.stage3, found.calibration.oppu_mlp):
        assert all((row.epochs, row.scale, row.weight) == (0, 0.0, 0.0) for row in rows)


def test_too_few_people_calibrate_nothing() -> None:
    found = run(people(speaks=True, count=9))
    assert found == Found(found.calibration, (), {})
    assert not found.calibration.covers("stage3")


def test_a_length_that_few_have_is_left_out_and_the_newest_items_count() -> None:
    pooled = people(speaks=True)
    pooled[3] = dataclasses.replace(pooled[3], history=pooled[3].history[:11])
    assert {one.length for one in newcomers(pooled, SETTINGS, 0)} == {1}
    first = dataclasses.replace(pooled[0], history=samples(12, seed=1))
    one = newcomers([first, *people(speaks=True)], SETTINGS, 0)[0]
    assert one.items == first.history[-1:]


def test_the_losses_are_those_of_the_adapters_that_a_device_would_train() -> None:
    """Oracle: one person's adapter at the chosen row, trained alone, and its loss whole."""
    pooled = people(speaks=True)
    settings = dataclasses.replace(
        SETTINGS,
        calibration=dataclasses.replace(
            SETTINGS.calibration, scales=(1.0,), weights=(1.0,), lengths=(6,), epochs=1
        ),
    )
    found = run(pooled, settings)
    (row,) = found.calibration.stage3
    model = adapted(noisy=False)
    exact_norms(model.base)
    total, below = 0.0, 0.0
    for one in newcomers(pooled, settings, 7):
        own = calibration_module.embedding_split(one.items, settings.user, seed=one.seed)
        mean = torch.zeros(model.tables, model.structure.embedding_dim, dtype=torch.float64)
        fitted, _ = calibration_module.fit_embeddings(
            model,
            encoder(),
            [own],
            mean=mean,
            prototypes=mean[None][:0],
            learning_rate=settings.user.embedding_learning_rate,
            settings=calibration_module.fit_settings(settings, epochs=1),
        )
        stage = LoraTrials(
            model,
            encoder(),
            fitted,
            model.structure.user_routing,
            True,
            calibration_module.schedule(settings),
            None,
            None,
        )
        trial = Trial(one.items, (), row.learning_rate, one.seed, stop_epoch=row.epochs)
        _, states = stage.run([trial], [0], None)
        stage.hold([[state[0] for state in states]])

        def loss(make: Callable[[Tensor], Pass], query: Encoded = one.queries[0]) -> float:
            return float(held_back_losses(model, encoder(), [(0, query)], make, 100))

        total += loss(lambda rows, s=stage, e=fitted: s.personal(rows, e))  # type: ignore[misc]
        below += loss(lambda rows, e=fitted: group_pass(rows, e))  # type: ignore[misc]
    (notes,) = found.notes["stage3"]
    assert notes["loss_adapted"] == pytest.approx(total / 10, abs=1e-9)
    assert notes["loss_below"] == pytest.approx(below / 10, abs=1e-9)


def test_newcomers_whose_embedding_is_inferred_fit_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are compared with is stage 2 under the embedding that a device infers."""
    pooled, model = people(speaks=True), adapted(preset("calibrated"))
    exact_norms(model.base)
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
        for name, shape in inferred_shapes(model.structure, 12).items()
    }
    inferred = InferredEmbedding.from_tensors(drawn).requires_grad_(False)
    short = dataclasses.replace(SETTINGS.calibration, lengths=(6,), epochs=1)
    monkeypatch.setattr(calibration_module, "fit_embeddings", None)
    nobody = torch.zeros(1, 8, dtype=torch.float64)
    found = calibrate(
        model,
        encoder(),
        pooled,
        mean=nobody,
        prototypes=nobody[None][:0],
        inferred=inferred,
        starts={},
        settings=dataclasses.replace(SETTINGS, calibration=short),
        seed=7,
    )
    losses = []
    for one in pooled:
        own, _ = infer_embeddings(model, encoder(), inferred, [one.history[-6:]], passes(2000))
        make = partial(group_pass, embeddings=own)
        losses += held_back_losses(model, encoder(), [(0, one.queries[0])], make, 100).tolist()
    (notes,) = found.notes["stage3"]
    assert notes["loss_below"] == pytest.approx(sum(losses) / len(losses), abs=1e-9)
    assert len({round(loss, 6) for loss in losses}) == len(losses)  # everybody has an own one


@pytest.mark.parametrize(
    ("name", "scaled"),
    [("default", False), ("paper", False), ("released", False), ("device", True)],
)
def test_an_adapter_that_experts_are_routed_by_is_used_whole_or_not_at_all(
    name: str, scaled: bool
) -> None:
    def scales(*, experts: bool) -> tuple[float, ...]:
        routing = UserRouting.USER_AWARE
        trials = (adapted(name), encoder(), None, routing, experts, schedule(SETTINGS), None, None)
        return calibration_module._Arm(LoraTrials(*trials), [], None, SETTINGS, None).scales()

    assert scales(experts=True) == ((0.0, 0.5, 1.0) if scaled else (0.0, 1.0))
    assert scales(experts=False) == (0.0, 0.5, 1.0)


def test_without_groups_both_arms_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(preset("default").without_groups(), noisy=False)
    exact_norms(model.base)
    short = dataclasses.replace(SETTINGS.calibration, lengths=(6,))
    nobody = torch.zeros(1, 1, dtype=torch.float64)
    seen: list[bool] = []
    real = LoraTrials.run

    def watched(self: LoraTrials, *given: object) -> object:
        seen.append(self.experts)
        return real(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(LoraTrials, "run", watched)
    found = calibrate(
        model,
        encoder(),
        people(speaks=True),
        mean=nobody,
        prototypes=nobody[None][:0],
        starts={},
        settings=dataclasses.replace(SETTINGS, calibration=short),
        seed=7,
    )
    (row,) = found.calibration.stage3
    assert row.adapts
    assert found.calibration.oppu_mlp == found.calibration.stage3
    assert seen == [True, True]  # the one way, and what was chosen, once for both


def test_killed_in_between_it_goes_on_to_the_same_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(SETTINGS.calibration, lengths=(2,), epochs=1)
    settings = dataclasses.replace(SETTINGS, calibration=short)
    whole = run(people(speaks=True), settings, starts=True)
    real, calls = LoraTrials.run, []

    def counted(self: LoraTrials, *given: object) -> object:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(LoraTrials, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        run(people(speaks=True), settings, tmp_path / "checkpoint", starts=True)
    assert run(people(speaks=True), settings, tmp_path / "checkpoint", starts=True) == whole
