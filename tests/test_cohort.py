"""Cohort training: each user's result equals training alone, whatever the company (float64)."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proper_model.cohort import Cohort
from proper_model.model import AdaptedModel
from proper_model.passes import Pass
from proper_model.personal import personal_pass
from proper_model.structure import UserRouting
from proper_model.trials import Trial, TrialSettings
from tests.tiny import adapted, embeddings_of, encoder, samples

SETTINGS = TrialSettings(
    epochs=3,
    batch_size=2,
    dropout=0.1,
    weight_decay=0.01,
    warmup_ratio=0.1,
    max_grad_norm=0.05,
    tokens_per_step=40,
    patience=5,
)
# Hugging Face's RMSNorm computes in float32 inside, so rounding differs with the batch's shape.
TOLERANCE = 2e-6


def trial(user: int) -> Trial:
    """User u has 3 + 2u items, its own seed and learning rate."""
    return Trial(
        train=samples(3 + 2 * user, seed=100 + user),
        held_back=samples(2, seed=200 + user),
        learning_rate=1e-2 * (1 + user),
        seed=300 + user,
    )


def prepared(users: list[int]) -> tuple[AdaptedModel, list[torch.Tensor], torch.Tensor]:
    model = adapted(users=len(users))
    model.lora = model.new_user_lora([300 + u for u in users]).double()
    parameters = [*model.lora.a, *model.lora.b]
    embeddings = embeddings_of(model, 6)[users]
    return model, parameters, embeddings


def cohort(
    users: list[int], trials: list[Trial] | None = None, checkpoint: Path | None = None
) -> tuple[Cohort, list[torch.Tensor]]:
    model, parameters, embeddings = prepared(users)

    def make_pass(slots: torch.Tensor) -> Pass:
        return personal_pass(slots, embeddings=embeddings, routing=UserRouting.SUMMED, experts=True)

    made = Cohort(
        model,
        encoder(),
        trials or [trial(u) for u in users],
        parameters,
        make_pass,
        SETTINGS,
        checkpoint=checkpoint,
        checkpoint_every=3,
    )
    return made, parameters


@settings(max_examples=4, deadline=None)
@given(order=st.permutations([0, 1, 2, 3]), size=st.integers(2, 4))
def test_a_user_in_any_cohort_equals_the_user_alone(order: list[int], size: int) -> None:
    users = order[:size]
    together, stacked = cohort(users)
    results = together.run()
    alone, single = cohort([users[0]])
    expected = alone.run()[0]
    assert results[0].losses == pytest.approx(expected.losses, abs=TOLERANCE)
    assert results[0].best_epoch == expected.best_epoch
    for ours, theirs in zip(stacked, single, strict=True):
        assert torch.allclose(ours[0], theirs[0], atol=TOLERANCE, rtol=0)


def test_training_lowers_the_loss_and_keeps_the_best_epoch() -> None:
    made, parameters = cohort([0], [dataclasses.replace(trial(0), held_back=trial(0).train)])
    result = made.run()[0]
    assert result.best_loss < result.losses[0]
    assert result.best_loss == min(result.losses)
    assert any(p.abs().sum() > 0 for p in parameters[len(parameters) // 2 :])


def test_a_user_whose_loss_is_not_finite_leaves_and_others_do_not_notice() -> None:
    expected_cohort, expected = cohort([1, 2])
    expected_cohort.run()
    made, parameters = cohort([1, 2])
    with torch.no_grad():
        parameters[0][1] = float("nan")  # user 2's adapter is broken
    results = made.run()
    assert results[1].failed
    assert not results[0].failed
    for ours, theirs in zip(parameters, expected, strict=True):
        assert torch.equal(ours[0], theirs[0])


def test_a_user_without_training_items_is_left_as_it_was() -> None:
    empty = Trial((), (), 1e-2, 5)
    made, parameters = cohort([0, 1], [trial(0), empty])
    before = [p.detach()[1].clone() for p in parameters]
    results = made.run()
    assert results[1].losses == []
    assert math.isnan(results[1].best_loss)
    assert all(torch.equal(p[1], b) for p, b in zip(parameters, before, strict=True))


def test_a_killed_cohort_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole, expected = cohort([0, 1])
    whole.run()

    class KilledError(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 7:
            raise KilledError

    path = tmp_path / "cohort"
    first, _ = cohort([0, 1], checkpoint=path)
    with pytest.raises(KilledError):
        first.run(kill)
    second, parameters = cohort([0, 1], checkpoint=path)
    steps: list[int] = []
    results = second.run(lambda done, total: steps.append(done))
    assert steps[0] == 7  # steps 1 to 6 were checkpointed and are not run again
    assert [r.losses for r in results] == [r.losses for r in whole.results]
    for ours, theirs in zip(parameters, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_stop_epoch_trains_part_of_the_schedule() -> None:
    made, _ = cohort([0], [dataclasses.replace(trial(0), held_back=(), stop_epoch=1)])
    made.run()
    assert made.step == 2  # 3 items in batches of 2


def test_an_infinite_gradient_under_a_finite_loss_poisons_nobody() -> None:
    made, parameters = cohort([0, 1])
    step = made.optimizer.gradient_norms

    def spoiled() -> torch.Tensor:
        norms = step()
        norms[1] = float("inf")
        return norms

    made.optimizer.gradient_norms = spoiled  # type: ignore[method-assign]
    results = made.run()
    assert results[1].failed
    assert not results[0].failed
    assert all(p.isfinite().all() for p in parameters)
