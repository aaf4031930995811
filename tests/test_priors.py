"""A trial's quadratic prior around its start: against a plain loop, and against ridge regression."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from proper_model.engine.cohort import Cohort
from proper_model.engine.optimizer import linear_schedule
from proper_model.engine.trials import Trial
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.packing import Encoded
from proper_model.model.passes import base_pass
from proper_model.text.encoding import epoch_order
from tests.test_cohort import (
    SETTINGS,
    TOLERANCE,
    KilledError,
    assert_same,
    cohort,
    trial,
)
from tests.tiny import encoder


def pulled(user: int, prior: float) -> Trial:
    return dataclasses.replace(trial(user), prior=prior)


def plain_loop(one: Trial) -> list[Tensor]:
    """The trial alone, with torch's own AdamW and clipping, and the prior written into the loss."""
    made = cohort([0], [one])
    model, parameters = made.model, made.parameters
    with torch.no_grad():
        for p, best in zip(parameters, made.best, strict=True):
            p.copy_(best)
    begin = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=SETTINGS.weight_decay)
    each = -(-len(one.train) // SETTINGS.batch_size)
    total = each * SETTINGS.epochs
    for step in range(total):
        epoch, place = divmod(step, each)
        order = epoch_order(len(one.train), seed=one.seed, epoch=epoch)
        picked = order[place * SETTINGS.batch_size : (place + 1) * SETTINGS.batch_size]
        seeds = [mix_seed(one.seed, step, k) for k in range(len(picked))]
        items = [one.train[i] for i in picked]
        batch = encoder().batch(items, [0] * len(picked), seeds=seeds)
        now = made.make_pass(batch.slots, torch.tensor([0]))
        now.dropout = SETTINGS.dropout
        with model.attached():
            loss = model.answer_loss(batch, now).mean()
        away = sum(
            ((p - b).square().sum() for p, b in zip(parameters, begin, strict=True)),
            start=torch.zeros((), dtype=torch.float64),
        )
        optimizer.zero_grad()
        (loss + one.prior / len(one.train) * away / 2).backward()
        torch.nn.utils.clip_grad_norm_(parameters, SETTINGS.max_grad_norm)
        rate = linear_schedule(step, total, int(SETTINGS.warmup_ratio * total))
        optimizer.param_groups[0]["lr"] = one.learning_rate * rate
        optimizer.step()
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("prior", [0.0, 0.7, 40.0])
def test_the_prior_is_what_it_adds_to_the_loss(prior: float) -> None:
    one = dataclasses.replace(pulled(0, prior), held_back=())
    made = cohort([0], [one])
    made.run()
    for ours, theirs in zip(made.best, plain_loop(one), strict=True):
        assert torch.allclose(ours, theirs, atol=TOLERANCE, rtol=0)


def test_without_a_prior_nothing_is_held() -> None:
    assert cohort([0, 1]).anchors is None
    assert cohort([0, 1], [trial(0), pulled(1, 2.0)]).anchors is not None


def test_neighbours_and_slots_change_nothing() -> None:
    """A slot given on to a trial with another start and another prior is anchored anew."""
    trials = [pulled(0, 3.0), trial(1), pulled(2, 50.0)]
    together = cohort([0, 1, 2], trials, slots=2)
    together.run()
    for user, one in enumerate(trials):
        alone = cohort([user], [one])
        alone.run()
        assert_same(together, user, alone, 0)


def test_a_killed_cohort_with_priors_resumes_to_the_same_bits(tmp_path: Path) -> None:
    trials = [pulled(0, 3.0), trial(1), pulled(2, 50.0)]
    whole = cohort([0, 1, 2], trials, slots=2)
    whole.run()
    first = cohort([0, 1, 2], trials, slots=2, checkpoint=tmp_path / "cohort")

    def kill(_done: int, _total: int) -> None:
        if first.taken == 7:
            raise KilledError

    with pytest.raises(KilledError):
        first.run(kill)
    second = cohort([0, 1, 2], trials, slots=2, checkpoint=tmp_path / "cohort")
    second.run()
    for ours, theirs in zip(second.best, whole.best, strict=True):
        assert torch.equal(ours, theirs)


@dataclasses.dataclass
class Linear:
    """Stands for a model: the loss of sample i is `(x_i p - y_i)^2 / 2`, i its first token."""

    x: Tensor
    y: Tensor
    p: Tensor
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        yield

    def answer_loss(self, batch: Any, _now: Any) -> Tensor:
        rows = batch.input_ids[batch.position_ids == 0]
        return (self.x[rows] @ self.p[0] - self.y[rows]).square() / 2


def test_the_optimum_is_ridge_regression_around_the_start() -> None:
    """Minimum of sum of losses + prior |p - start|^2 / 2, by the normal equations."""
    generator = torch.Generator().manual_seed(5)
    count, width, prior = 3, 4, 0.5  # more numbers than items: without the prior no one optimum
    x = torch.linalg.qr(torch.randn(width, count, generator=generator, dtype=torch.float64))[0].T
    y = torch.randn(count, generator=generator, dtype=torch.float64)
    begin = torch.randn(width, generator=generator, dtype=torch.float64)
    p = begin[None].clone().requires_grad_(True)
    items = tuple(Encoded((i, 1, 1), 1) for i in range(count))
    settings = dataclasses.replace(
        SETTINGS, epochs=200, batch_size=count, dropout=0, weight_decay=0, max_grad_norm=1e6
    )
    made = Cohort(
        Linear(x, y, p),  # type: ignore[arg-type]
        encoder(),
        [Trial(items, (), 5e-2, 1, prior=prior)],
        [p],
        lambda _: [begin],
        lambda rows, _: base_pass(rows),
        settings,
    )
    made.run()
    eye = torch.eye(width, dtype=torch.float64)
    expected = begin + torch.linalg.solve(x.T @ x + prior * eye, x.T @ (y - x @ begin))
    assert torch.allclose(made.best[0][0], expected, atol=1e-3)
