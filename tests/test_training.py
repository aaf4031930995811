"""Pooled training: stops early at the best state, resumes to the same bits, refuses NaN."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from coordinator.step_curves import curve_writer, read_curve
from proper_model.engine.checkpoint import save_checkpoint
from proper_model.engine.optimizer import linear_schedule
from proper_model.engine.pooled_settings import PooledSettings
from proper_model.engine.pooled_training import PooledTraining
from proper_model.errors import CheckpointError, TrainingError
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import group_pass
from proper_model.stages.group import group_parameters
from tests.tiny import adapted, embeddings_of, encoder, samples

SETTINGS = PooledSettings(
    epochs=3,
    batch_size=4,
    warmup_ratio=0.1,
    max_grad_norm=0.3,
    tokens_per_step=60,
    patience=3,
    seed=5,
)


class Count:
    """State that counts passes, of whole steps only."""

    def __init__(self) -> None:
        self.total = torch.zeros(1)
        self.passes = 0

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"count": self.total}

    def discard(self) -> None:
        self.passes = 0

    def commit(self) -> None:
        self.total += self.passes
        self.passes = 0


def of_two(mean: float) -> torch.Tensor:
    """Losses of two held-back people with this mean."""
    return torch.tensor([mean - 0.25, mean + 0.25])


def make(
    checkpoint: Path | None = None, validate: Any = None, extra: Count | None = None
) -> tuple[PooledTraining, AdaptedModel]:
    model = adapted()
    embeddings = embeddings_of(model, 3)
    parameters = group_parameters(model)
    for parameter in parameters:
        parameter.requires_grad_(True)

    def batch_loss(batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        now = group_pass(batch.slots, embeddings)
        now.dropout = 0.1
        losses = model.answer_loss(batch, now)
        if extra is not None:
            extra.passes += 1
        return losses, None

    values = iter(range(10, -10, -1))
    training = PooledTraining(
        encoder(),
        [(i % 3, item) for i, item in enumerate(samples(10, seed=3))],
        torch.optim.AdamW(parameters, lr=1e-2),
        batch_loss,
        validate or (lambda _: of_two(next(values))),
        SETTINGS,
        device=torch.device("cpu"),
        checkpoint=checkpoint,
        checkpoint_every_s=0.0,
        extra=extra,
    )
    return training, model


def test_a_killed_run_resumes_in_the_middle_of_an_epoch_to_the_same_bits(tmp_path: Path) -> None:
    whole_count = Count()
    whole, expected = make(extra=whole_count, validate=lambda _: of_two(1.0))
    whole.run()

    class KilledError(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 5:
            raise KilledError

    path = tmp_path / "state"
    first, _ = make(path, extra=Count(), validate=lambda _: of_two(1.0))
    with pytest.raises(KilledError):
        first.run(kill)
    count = Count()
    second, model = make(path, extra=count, validate=lambda _: of_two(1.0))
    steps: list[int] = []
    report = second.run(lambda done, total: steps.append(done))
    assert steps[0] == 6  # the steps before are not run again
    assert report.as_dict() == whole.report.as_dict()
    assert count.total.item() == whole_count.total.item() > 0
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_watch_sees_every_step_and_a_resumed_curve_is_whole(tmp_path: Path) -> None:
    """Losses have the report's mean an epoch, rates follow the schedule; a kill leaves no step twice."""
    flat = {"validate": lambda _: of_two(1.0)}
    whole, _ = make(**flat)
    report = whole.run(watch=curve_writer(tmp_path / "whole.jsonl"))
    curve = read_curve(tmp_path / "whole.jsonl")
    an_epoch, total = whole.steps_an_epoch, whole.steps_an_epoch * SETTINGS.epochs
    assert [step.step for step in curve] == list(range(1, total + 1))
    losses = [step.loss or 0.0 for step in curve]
    means = [sum(losses[i : i + an_epoch]) / an_epoch for i in range(0, total, an_epoch)]
    assert means == pytest.approx(report.training)
    warm = int(SETTINGS.warmup_ratio * total)
    rates = [1e-2 * linear_schedule(step, total, warm) for step in range(total)]
    assert [step.learning_rate for step in curve] == pytest.approx(rates)

    class KilledError(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 5:
            raise KilledError

    state, path = tmp_path / "state", tmp_path / "killed.jsonl"
    first, _ = make(state, **flat)
    first.checkpoint_every_s = float("inf")
    first.checkpoint_every = 3  # so that steps 4 and 5 are taken twice
    with pytest.raises(KilledError):
        first.run(kill, curve_writer(path))
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # of a machine that went down
        file.write("\n")
    second, _ = make(state, **flat)
    second.run(watch=curve_writer(path))
    assert len(path.read_text().splitlines()) == total + 3
    assert read_curve(path) == curve
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_curve(tmp_path / "gone.jsonl") == ()


def test_the_best_epoch_is_kept_and_training_stops_early() -> None:
    scores = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    training, model = make(validate=lambda _: of_two(next(scores)))
    training.settings = dataclasses.replace(SETTINGS, epochs=5, patience=2)
    snapshots: list[list[torch.Tensor]] = []

    def watch(done: int, total: int) -> None:
        if done == training.steps_an_epoch:
            snapshots.append([p.detach().clone() for p in group_parameters(model)])

    report = training.run(watch)
    assert report.best_epoch == 1
    assert len(report.held_back) == 4  # before, 1, 2, 3: two epochs without improvement
    for kept, best in zip(group_parameters(model), snapshots[0], strict=True):
        assert torch.equal(kept, best)


def test_the_curve_is_a_mean_over_people_with_the_error_of_their_difference() -> None:
    """By hand: differences of -2, 0 and -1 from before have a standard deviation of 1."""
    scores = iter([[1.0, 2.0, 6.0], [-1.0, 2.0, 5.0], [1.0, 2.0, 6.0], [1.0, 2.0, 6.0]])
    training, _ = make(validate=lambda _: torch.tensor(next(scores)))
    report = training.run()
    assert report.people == 3
    assert report.held_back == [3.0, 2.0, 3.0, 3.0]
    assert report.held_back_se == pytest.approx([0.0, 1 / 3**0.5, 0.0, 0.0])
    assert report.best_epoch == 1


def test_it_does_not_stop_before_the_epochs_it_must_have() -> None:
    """Two worse epochs would end it at once; the fourth is better than none, and kept."""
    scores = iter([3.0, 4.0, 4.0, 4.0, 2.0, 4.0])
    training, _ = make(validate=lambda _: of_two(next(scores)))
    training.settings = dataclasses.replace(SETTINGS, epochs=6, patience=1, min_epochs=4)
    report = training.run()
    assert report.held_back == [3.0, 4.0, 4.0, 4.0, 2.0, 4.0]
    assert report.best_epoch == 4


def test_without_early_stopping_the_last_epoch_is_kept() -> None:
    scores = iter([1.0, 5.0])
    training, model = make(validate=lambda _: of_two(next(scores)))
    training.settings = dataclasses.replace(SETTINGS, early_stopping=False)
    last: list[torch.Tensor] = []

    def watch(done: int, total: int) -> None:
        if done == total and not last:
            last.extend(p.detach().clone() for p in group_parameters(model))

    report = training.run(watch)
    assert report.held_back == [1.0, 5.0]  # before and after, nothing between
    assert len(report.training) == SETTINGS.epochs
    for kept, end in zip(group_parameters(model), last, strict=True):
        assert torch.equal(kept, end)


def test_a_training_step_is_the_same_however_it_is_cut() -> None:
    first, model = make(validate=lambda _: of_two(1.0))
    second, other = make(validate=lambda _: of_two(1.0))
    second.settings = dataclasses.replace(SETTINGS, tokens_per_step=10_000)
    first.run()
    second.run()
    for ours, theirs in zip(first.parameters, second.parameters, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-6)
    assert model is not other


def test_a_loss_that_is_not_finite_is_an_error_with_a_hint() -> None:
    training, model = make()
    with torch.no_grad():
        model.experts[0].b.fill_(float("nan"))
    with pytest.raises(TrainingError, match="nan") as caught:
        training.run()
    assert "learning rate" in str(caught.value.hint)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00garbage")
    training, _ = make(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        training.run()


@pytest.mark.parametrize(("meta", "found"), [({"samples": 9}, 9), ({"results": [], "taken": 3}, 0)])
def test_a_checkpoint_of_other_samples_or_of_a_cohort_is_refused(
    tmp_path: Path, meta: dict[str, Any], found: int
) -> None:
    path = tmp_path / "state"
    save_checkpoint(path, {}, meta)
    training, _ = make(path)
    with pytest.raises(TrainingError, match=f"is of {found} samples, expected 10 samples"):
        training.run()


def test_no_samples_is_an_error() -> None:
    model = adapted()
    with pytest.raises(TrainingError, match="no training samples"):
        PooledTraining(
            encoder(),
            [],
            torch.optim.AdamW(list(model.parameters())),
            lambda b: (b.answers, None),
            lambda _: of_two(0.0),
            SETTINGS,
            device=torch.device("cpu"),
        )
