"""User-level privacy: whole users are clipped and drawn, the noise is as large as said, nothing else leaks."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from proper_model.engine.factor_cores import FactorCores
from proper_model.engine.pooled_settings import PooledSettings
from proper_model.engine.private_training import PrivateTraining
from proper_model.engine.user_privacy import (
    ClippedSum,
    SeededChance,
    SystemChance,
    draw_items,
    normal,
    poisson_sample,
)
from proper_model.kernels.packing import Batch, Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import group_pass
from proper_model.settings.privacy import PrivacySettings
from proper_model.stages.group import experts_b, group_parameters, router_parameters
from tests.tiny import adapted, batch_of, embeddings_of, encoder, samples

EXACT = PrivacySettings(
    delta=1e-3,
    sampling_rate=1.0,
    clip_norm=0.05,
    population_steps=4,
    group_steps=4,
    noise_multiplier=0.0,
    items_per_user=100,
    reproducible=True,
)
SETTINGS = PooledSettings(
    epochs=1,
    batch_size=1,
    warmup_ratio=0.1,
    max_grad_norm=0.3,
    tokens_per_step=60,
    patience=1,
    seed=5,
)
COUNTS = (1, 3, 10, 0, 2)  # items of every user


class Made:
    """A private training over a tiny model whose experts have learned something."""

    def __init__(
        self,
        privacy: PrivacySettings = EXACT,
        counts: tuple[int, ...] = COUNTS,
        *,
        dropout: float = 0.0,
        checkpoint: Path | None = None,
        core: bool = False,
    ) -> None:
        self.model: AdaptedModel = adapted().double()
        torch.manual_seed(1)
        with torch.no_grad():
            for number in range(len(self.model.sites)):
                self.model.expert(number).b.normal_(std=0.1)
        self.embeddings = embeddings_of(self.model, len(counts))
        self.parameters: list[Tensor] = [*group_parameters(self.model)]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.cores = None
        if core:
            self.cores = FactorCores(experts_b(self.model), seed=3)
            self.cores.push()
            self.parameters = [*self.cores.cores, *router_parameters(self.model)]
        self.dropout = dropout
        # A user's items are the same however many others have.
        self.pairs: list[tuple[int, Encoded]] = [
            (u, item) for u, count in enumerate(counts) for item in samples(count, seed=u)
        ]
        self.training = PrivateTraining(
            encoder(),
            self.pairs,
            torch.optim.AdamW(self.parameters, lr=1e-2),
            self.losses,
            never,
            SETTINGS,
            device=torch.device("cpu"),
            checkpoint=checkpoint,
            checkpoint_every_s=0.0,
            privacy=privacy,
            steps=4,
            owners=[u for u, _ in self.pairs],
            users=len(counts),
            cores=self.cores,
        )

    def losses(self, batch: Batch) -> tuple[Tensor, None]:
        now = group_pass(batch.slots, self.embeddings)
        now.dropout = self.dropout
        return self.model.answer_loss(batch, now), None

    def step(self) -> Tensor:
        """What one step hands to the optimizer, all parameters in one line."""
        self.training._gradients(self.training._rows())
        return flat([p.grad for p in self.parameters])


def never(_: Any) -> Tensor:
    raise AssertionError("a private stage is judged by nobody")


def flat(tensors: list[Any]) -> Tensor:
    return torch.cat([t.detach().flatten().double() for t in tensors])


def looped(made: Made) -> list[Tensor]:
    """Every user's gradient of the mean loss over the own items, an item at a time."""
    found = []
    for u in range(len(COUNTS)):
        total = torch.zeros(sum(p.numel() for p in made.parameters), dtype=torch.float64)
        own = [item for owner, item in made.pairs if owner == u]
        for item in own:
            losses, _ = made.losses(batch_of((item,), [u]))
            gradients = torch.autograd.grad(losses.sum(), made.parameters, allow_unused=True)
            total += flat(
                [
                    torch.zeros_like(p) if g is None else g
                    for p, g in zip(made.parameters, gradients, strict=True)
                ]
            ) / len(own)
        found.append(total)
    return found


# -- what a user adds --------------------------------------------------------------------------


def test_the_sum_of_clipped_users_is_that_of_a_loop_in_float64():
    made = Made()
    users = looped(made)
    norms = [float(g.norm()) for g in users]
    clip = sum(norms) / 4  # of those with items: some are clipped, some are not
    assert min(n for n in norms if n) < clip < max(norms)
    made = Made(dataclasses.replace(EXACT, clip_norm=clip))
    expected = sum(g * min(1.0, clip / max(n, 1e-30)) for g, n in zip(users, norms, strict=True))
    difference = made.step() * len(COUNTS) - expected
    assert float(difference.norm() / expected.norm()) < 1e-6  # a base's norms compute in float32


@pytest.mark.parametrize("count", [1, 10, 100])
def test_nobody_adds_more_than_the_clip_norm_however_many_items(count: int):
    made = Made(counts=(count, 0))
    assert float(made.step().norm()) * 2 == pytest.approx(EXACT.clip_norm, rel=1e-9)


def test_taking_one_users_data_away_leaves_what_all_others_add():
    """Dropout too: a row's seed is its user's, so the sum moves by that one user's part, at most C."""
    whole, without = (Made(counts=c, dropout=0.3) for c in (COUNTS, (1, 3, 0, 0, 2)))
    alone = Made(counts=(0, 0, 10, 0, 0), dropout=0.3)
    torch.testing.assert_close(whole.step() - without.step(), alone.step(), rtol=1e-9, atol=1e-13)
    assert float(alone.step().norm()) * len(COUNTS) <= EXACT.clip_norm * (1 + 1e-12)


def test_a_users_items_are_drawn_anew_and_never_more_than_the_cap():
    few = dataclasses.replace(EXACT, items_per_user=2)
    training, seen = Made(few).training, set()
    for step in range(6):
        training.taken = step
        rows = training._rows()
        own = [row for row in rows if row.slot == 2]
        assert len(own) == 2 == own[0].count
        seen |= {row.sample.tokens for row in own}
        assert [row.slot for row in rows] == sorted(row.slot for row in rows)
    assert len(seen) > 3
    assert sorted(draw_items(SystemChance(), range(5), 3)) != []
    assert draw_items(SystemChance(), (4, 7), 3) == [4, 7]


def test_a_gradient_that_is_no_number_counts_as_nothing():
    p = torch.zeros(3, requires_grad=True)
    total = ClippedSum([p], 1.0)
    for gradient in ([math.nan, 0, 0], [0, 3.0, 4.0], [math.inf, 1, 1]):
        p.grad = torch.tensor(gradient)
        total.add()
        assert p.grad is None
    torch.testing.assert_close(total.sums[0], torch.tensor([0, 0.6, 0.8], dtype=torch.float64))


# -- cores -------------------------------------------------------------------------------------


def test_a_cores_gradient_is_that_through_the_fixed_factors() -> None:
    torch.manual_seed(0)
    factors = [torch.zeros(9, 4, dtype=torch.float64), torch.zeros(3, 8, 2, dtype=torch.float64)]
    cores = FactorCores([b.requires_grad_(True) for b in factors], seed=5)
    weights = [torch.randn_like(b) for b in factors]

    def loss(made: list[Tensor]) -> Tensor:
        return sum(((b + w) ** 3).sum() for b, w in zip(made, weights, strict=True))  # type: ignore[return-value]

    loss(factors).backward()
    cores.pull()
    made = [f @ core for f, core in zip(cores.fixed, cores.cores, strict=True)]
    expected = torch.autograd.grad(loss(made), cores.cores)
    for core, gradient, b, fixed in zip(cores.cores, expected, factors, cores.fixed, strict=True):
        torch.testing.assert_close(core.grad, gradient)
        assert b.grad is None
        r, o = b.shape[-1], b.shape[-2]
        squares = fixed.mT @ fixed
        torch.testing.assert_close(squares, (o / r * torch.eye(r)).expand_as(squares).to(squares))
    with torch.no_grad():
        cores.cores[0].copy_(torch.eye(4))
    cores.push()
    torch.testing.assert_close(factors[0], cores.fixed[0])


def test_cores_are_clipped_and_trained_in_place_of_the_factors(tmp_path: Path) -> None:
    made = Made(core=True)
    cores = made.cores
    assert cores is not None
    assert float(made.step().norm()) <= EXACT.clip_norm * (1 + 1e-9)
    noisy = dataclasses.replace(EXACT, noise_multiplier=1.0)
    whole = Made(noisy, core=True, checkpoint=tmp_path / "checkpoint")
    whole.training.run()
    assert whole.cores is not None
    for b, fixed, core in zip(
        whole.cores.factors, whole.cores.fixed, whole.cores.cores, strict=True
    ):
        assert bool(core.any())
        assert torch.equal(b, torch.einsum("...or,...rs->...os", fixed, core))
    # Somebody who goes on from a checkpoint has the factors that belong to the cores.
    again = Made(noisy, core=True, checkpoint=tmp_path / "checkpoint")
    assert again.training._restore()
    assert (again.training.taken, again.cores is None) == (4, False)
    assert torch.equal(flat(again.cores.factors), flat(whole.cores.factors))  # type: ignore[union-attr]


# -- chance ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", [SystemChance(), SeededChance(3)])
def test_noise_is_normal_with_the_deviation_that_is_stated(chance: Any):
    """z C / (q U) on every number, independent of how many were drawn: here nobody."""
    parameters = [torch.zeros(150, 200), torch.zeros(9_999)]
    ClippedSum(parameters, 0.5).release(chance, noise_multiplier=3.0, expected=20.0)
    noise = flat([p.grad for p in parameters]).numpy()
    stated = 3.0 * 0.5 / 20.0
    # Five standard errors of a deviation over so many numbers: it fails once in two million times.
    assert abs(noise.std() / stated - 1) < 5 / math.sqrt(2 * len(noise))
    assert stats.kstest(noise / stated, "norm").pvalue > 1e-6
    half = len(noise) // 2  # of one parameter, and of the halves that Box and Muller pair
    assert abs(np.corrcoef(noise[:half], noise[half : 2 * half])[0, 1]) < 5 / math.sqrt(half)


def test_users_are_drawn_by_poisson_not_so_many_at_a_time():
    chance, users, rate, times = SystemChance(), 40, 0.3, 4000
    drawn = np.zeros((times, users))
    for row in drawn:
        row[poisson_sample(chance, users, rate)] = 1
    sizes = drawn.sum(1)
    assert abs(sizes.mean() - rate * users) < 5 * math.sqrt(users * rate * (1 - rate) / times)
    # Of a fixed number of users the variance would be 0; it is that of independent draws.
    assert sizes.var() == pytest.approx(users * rate * (1 - rate), rel=0.15)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 5 / math.sqrt(times)
    assert poisson_sample(chance, 5, 1.0) == [0, 1, 2, 3, 4]


def test_the_systems_chance_does_not_repeat_and_a_seeds_does():
    assert not np.array_equal(normal(SystemChance(), 7), normal(SystemChance(), 7))
    assert np.array_equal(normal(SeededChance(1), 7), normal(SeededChance(1), 7))
    assert not np.array_equal(normal(SeededChance(1), 7), normal(SeededChance(2), 7))


# -- training ----------------------------------------------------------------------------------


def test_a_step_without_anybody_is_noise_alone_over_the_same_denominator():
    nobody = dataclasses.replace(EXACT, sampling_rate=1e-12, noise_multiplier=2.0)
    made = Made(nobody)
    assert made.training._rows() == []
    stated = 2.0 * EXACT.clip_norm / (1e-12 * len(COUNTS))
    assert float(made.step().std()) == pytest.approx(stated, rel=0.1)
    made.training.run()
    assert made.training.taken == 4


def test_real_runs_differ_and_steps_are_as_many_as_asked_for():
    noisy = dataclasses.replace(EXACT, noise_multiplier=1.0, sampling_rate=0.5)
    real = dataclasses.replace(noisy, reproducible=False)
    ends = []
    for privacy in (real, real, noisy, noisy):
        made = Made(privacy)
        report = made.training.run()
        assert made.training.taken == 4
        assert (report.held_back, report.training) == ([], [])  # losses of people are told nowhere
        ends.append(flat(made.parameters))
    assert not torch.equal(ends[0], ends[1])
    assert torch.equal(ends[2], ends[3])


def test_a_killed_seeded_run_goes_on_to_the_same_bits(tmp_path: Path):
    noisy = dataclasses.replace(EXACT, noise_multiplier=1.0, sampling_rate=0.5)
    whole = Made(noisy, dropout=0.1)
    whole.training.run()

    class KilledError(Exception):
        pass

    def kill(done: int, _: int) -> None:
        if done == 2:
            raise KilledError

    first = Made(noisy, dropout=0.1, checkpoint=tmp_path / "checkpoint")
    with pytest.raises(KilledError):
        first.training.run(kill)
    second = Made(noisy, dropout=0.1, checkpoint=tmp_path / "checkpoint")
    steps: list[int] = []
    second.training.run(lambda done, _: steps.append(done))
    assert steps[0] == 3
    assert torch.equal(flat(second.parameters), flat(whole.parameters))
