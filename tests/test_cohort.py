"""Cohort training: each user's result equals training alone, whoever trains beside it (float64)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proper_model.engine import cohort as cohort_module
from proper_model.engine.cohort import Cohort
from proper_model.engine.slots import room_for
from proper_model.engine.trials import Trial, TrialSettings
from proper_model.errors import TrainingError
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, personal_pass
from proper_model.settings.presets import UserRouting
from tests.tiny import adapted, embeddings_of, encoder, exact_norms, samples

SETTINGS = TrialSettings(
    epochs=6,
    batch_size=2,
    dropout=0.1,
    weight_decay=0.01,
    warmup_ratio=0.1,
    max_grad_norm=0.05,
    tokens_per_step=40,
    patience=9,
)
TOLERANCE = 1e-12


class KilledError(Exception):
    """Stands for a kill."""


def trial(user: int) -> Trial:
    """User u has 3 + 2u items, its own seed and learning rate; user 3 takes 30 steps."""
    return Trial(
        train=samples(3 + 2 * user, seed=100 + user),
        held_back=samples(2, seed=200 + user),
        learning_rate=1e-2 * (1 + user),
        seed=300 + user,
    )


def cohort(
    users: list[int],
    trials: list[Trial] | None = None,
    *,
    slots: int | None = None,
    settings: TrialSettings = SETTINGS,
    checkpoint: Path | None = None,
) -> Cohort:
    """Trials of these users in so many slots, with user embeddings that differ."""
    chosen = trials or [trial(u) for u in users]
    model = adapted(users=1)
    exact_norms(model.base)
    model.lora = model.new_user_lora([0] * (slots or len(users))).double()
    parameters = [*model.lora.a, *model.lora.b]
    embeddings = embeddings_of(model, 6)[users]

    def start(number: int) -> list[torch.Tensor]:
        fresh = model.new_user_lora([300 + users[number]]).double()
        return [factor.detach()[0] for factor in (*fresh.a, *fresh.b)]

    def make_pass(rows: torch.Tensor, residents: torch.Tensor) -> Pass:
        return personal_pass(
            rows, embeddings=embeddings[residents], routing=UserRouting.SUMMED, experts=True
        )

    return Cohort(
        model,
        encoder(),
        chosen,
        parameters,
        start,
        make_pass,
        settings,
        checkpoint=checkpoint,
        checkpoint_every=3,
    )


@functools.cache
def trained_alone(user: int) -> Cohort:
    """What every cohort with this user is compared with; nobody changes it."""
    made = cohort([user])
    made.run()
    return made


def assert_same(ours: Cohort, number: int, theirs: Cohort, other: int) -> None:
    found, expected = ours.results[number], theirs.results[other]
    assert found.losses == pytest.approx(expected.losses, abs=TOLERANCE)
    assert found.best_epoch == expected.best_epoch
    for a, b in zip(ours.best, theirs.best, strict=True):
        assert torch.allclose(a[number], b[other], atol=TOLERANCE, rtol=0)


@settings(max_examples=4, deadline=None)
@given(
    order=st.permutations([0, 1, 2, 3]),
    size=st.integers(1, 4),
    slots=st.integers(1, 4),
    tokens=st.sampled_from([16, 40, 400]),
)
def test_a_user_in_any_cohort_order_and_slot_equals_the_user_alone(
    order: list[int], size: int, slots: int, tokens: int
) -> None:
    users = order[:size]
    budget = dataclasses.replace(SETTINGS, tokens_per_step=tokens)
    together = cohort(users, slots=min(slots, size), settings=budget)
    together.run()
    assert together.steps == [-(-(3 + 2 * u) // 2) * 6 for u in users]
    for number, user in enumerate(users):
        assert_same(together, number, trained_alone(user), 0)


def test_clipping_is_active_in_these_tests() -> None:
    made = cohort([0, 1])
    norms: list[float] = []
    optimizer = made.slots.optimizer
    step = optimizer.step

    def watched(rates: torch.Tensor, active: torch.Tensor, found: torch.Tensor) -> None:
        norms.append(float(found.min()))
        step(rates, active, found)

    optimizer.step = watched  # type: ignore[method-assign]
    made.run()
    assert min(norms[:6]) > SETTINGS.max_grad_norm


def test_training_lowers_the_loss_and_keeps_the_best_epoch() -> None:
    made = cohort([0], [dataclasses.replace(trial(0), held_back=trial(0).train)])
    result = made.run()[0]
    assert result.best_loss < result.losses[0]
    assert result.best_loss == min(result.losses)
    assert any(b.abs().sum() > 0 for b in made.best[len(made.best) // 2 :])


def test_a_slot_is_given_on_when_its_user_ends() -> None:
    made = cohort([0, 1, 2, 3], slots=2)
    seen: list[list[int]] = []
    made.run(lambda _done, _total: seen.append(list(made.slots.resident)))
    assert seen[0] == [3, 2]  # the longest first
    assert all(len(pair) == 2 for pair in seen)
    ended = seen.index(next(pair for pair in seen if -1 in pair))
    assert {u for pair in seen[:ended] for u in pair} == {0, 1, 2, 3}
    assert all(-1 in pair for pair in seen[ended:])  # no slot waits while a user does


def test_a_user_whose_loss_is_not_finite_leaves_and_others_do_not_notice() -> None:
    expected = cohort([1, 2])
    expected.run()
    made = cohort([1, 2])
    for start in made.best:
        start[1] = float("nan")  # user 2's adapter is broken
    results = made.run()
    assert results[1].failed
    assert not results[0].failed
    assert_same(made, 0, expected, 0)


def test_a_user_without_training_items_is_left_as_it_was() -> None:
    made = cohort([0, 1], [trial(0), Trial((), (), 1e-2, 5)])
    before = [start[1].clone() for start in made.best]
    results = made.run()
    assert results[1].losses == []
    assert math.isnan(results[1].best_loss)
    assert all(torch.equal(p[1], b) for p, b in zip(made.best, before, strict=True))


def test_nobody_to_train_ends_at_once() -> None:
    made = cohort([0], [Trial((), (), 1e-2, 5)])
    assert made.run()[0].losses == []
    assert made.taken == 0


@pytest.mark.parametrize("slots", [1, 3])
def test_a_killed_cohort_resumes_to_the_same_bits(tmp_path: Path, slots: int) -> None:
    whole = cohort([0, 1, 2], slots=slots)
    whole.run()

    path = tmp_path / "cohort"
    first = cohort([0, 1, 2], slots=slots, checkpoint=path)

    def kill(_done: int, _total: int) -> None:
        if first.taken == 7:
            raise KilledError

    with pytest.raises(KilledError):
        first.run(kill)
    second = cohort([0, 1, 2], slots=slots, checkpoint=path)
    taken: list[int] = []
    results = second.run(lambda _done, _total: taken.append(second.taken))
    assert taken[0] == 7  # steps 1 to 6 were checkpointed and are not run again
    assert [r.losses for r in results] == [r.losses for r in whole.results]
    for ours, theirs in zip(second.best, whole.best, strict=True):
        assert torch.equal(ours, theirs)


def test_a_resumed_run_judges_in_passes_as_large_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses rounded in another way could choose another epoch."""
    seen: list[int] = []
    real = cohort_module.held_back_losses

    def watched(model: AdaptedModel, encoder: Any, items: Any, make: Any, tokens: int) -> Tensor:
        seen.append(tokens)
        return real(model, encoder, items, make, tokens)

    monkeypatch.setattr(cohort_module, "held_back_losses", watched)
    path = tmp_path / "cohort"
    first = cohort([0], settings=dataclasses.replace(SETTINGS, judge_tokens=30), checkpoint=path)

    def kill(_done: int, _total: int) -> None:
        if first.taken == 3:
            raise KilledError

    with pytest.raises(KilledError):
        first.run(kill)
    more_is_free = dataclasses.replace(SETTINGS, judge_tokens=3000, tokens_per_step=4000)
    second = cohort([0], settings=more_is_free, checkpoint=path)
    second.run()
    assert set(seen) == {30}
    assert second.tokens_per_step == SETTINGS.tokens_per_step


def test_a_resumed_run_keeps_its_number_of_slots(tmp_path: Path) -> None:
    path = tmp_path / "cohort"
    assert room_for(5, None, path) == 5
    assert room_for(5, 2, path) == 2
    assert room_for(0, None, None) == 1
    cohort([0, 1, 2], slots=2, checkpoint=path).run()
    assert room_for(3, 1, path) == 2  # less memory is free now than when it began


def test_a_checkpoint_of_other_trials_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cohort"
    cohort([0, 1], checkpoint=path).run()
    with pytest.raises(TrainingError, match="2 trials in 2 slots, expected 3 trials in 3 slots"):
        cohort([0, 1, 2], checkpoint=path).run()


def test_stop_epoch_trains_part_of_the_schedule() -> None:
    made = cohort([0], [dataclasses.replace(trial(0), held_back=(), stop_epoch=1)])
    made.run()
    assert made.steps == [2]  # 3 items in batches of 2


def test_an_infinite_gradient_under_a_finite_loss_poisons_nobody() -> None:
    made = cohort([0, 1])
    optimizer = made.slots.optimizer
    measure = optimizer.gradient_norms

    def spoiled() -> torch.Tensor:
        norms = measure()
        norms[made.slots.resident.index(1)] = float("inf")
        return norms

    def first_only() -> torch.Tensor:
        return spoiled() if made.taken == 0 else measure()

    optimizer.gradient_norms = first_only  # type: ignore[method-assign]
    results = made.run()
    assert results[1].failed
    assert not results[0].failed
    assert all(p.isfinite().all() for p in made.best)


def limited(model: AdaptedModel, tokens: int) -> Callable[[Batch, Pass], torch.Tensor]:
    """`answer_loss` on a machine whose memory holds so many tokens."""
    real = model.answer_loss

    def loss(batch: Batch, now: Pass) -> torch.Tensor:
        if batch.input_ids.numel() > tokens and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(batch, now)

    return loss


def test_out_of_memory_shrinks_the_batch_and_goes_on() -> None:
    expected = cohort([2, 3])
    expected.run()
    made = cohort([2, 3], settings=dataclasses.replace(SETTINGS, tokens_per_step=4000))
    made.model.answer_loss = limited(made.model, 33)  # type: ignore[method-assign]
    made.run()
    assert made.tokens_per_step <= 33
    for number in range(2):
        assert_same(made, number, expected, number)


def test_memory_too_small_for_one_sample_is_an_error() -> None:
    made = cohort([2, 3])
    made.model.answer_loss = limited(made.model, 3)  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        made.run()
