"""Privacy of single items in an adapter: what one item adds, the noise, and that nothing else has a say."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from proper_model.accounting import account
from proper_model.accounting.accountant import interpreter
from proper_model.engine.item_training import ItemTraining
from proper_model.engine.optimizer import linear_schedule
from proper_model.engine.user_privacy import Chance, SeededChance, normal
from proper_model.errors import ConfigError
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass, personal_pass
from proper_model.model.user_lora import GivenLora
from proper_model.settings.privacy import ItemPrivacy
from tests.tiny import adapted, batch_of, embeddings_of, encoder, passes, randomize, samples

PRIVACY = ItemPrivacy(8.0, steps=3, clip_norm=0.05, noise_multiplier=1.0)
ITEMS = samples(7, seed=3)
RATE = 1e-2


class Scripted:
    """Draws as they are written down; noise is zero, as Box and Muller's of zeros is."""

    def __init__(self, *drawn: Sequence[int]) -> None:
        self.drawn = list(drawn)

    def uniform(self, count: int) -> np.ndarray:
        if self.drawn and count == len(ITEMS):
            found = np.ones(count)
            found[list(self.drawn.pop(0))] = 0
            return found
        return np.zeros(count)


class Made:
    """A training over a tiny model whose experts have learned something, in float64."""

    def __init__(
        self,
        items: Sequence[Encoded] = ITEMS,
        chance: Chance | None = None,
        *,
        preset: str = "default",
        privacy: ItemPrivacy = PRIVACY,
        tokens: int = 60,
        slots: int | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        self.model: AdaptedModel = adapted(preset).double()
        for number in range(len(self.model.sites)):
            randomize([self.model.expert(number).b], seed=number, std=0.1)
        self.embeddings = embeddings_of(self.model, 1)
        lora = self.model.new_user_lora([5]).double()
        randomize(lora.b, seed=9, std=0.1)  # else A has no gradient
        self.factors = [factor.detach()[0] for factor in lora.flat()]
        settings = dataclasses.replace(passes(tokens, slots=slots), weight_decay=0.01)
        self.training = ItemTraining(
            self.model,
            encoder(),
            items,
            self.factors,
            self.make_pass,
            settings,
            privacy,
            RATE,
            chance=chance,
            checkpoint=checkpoint,
        )

    def make_pass(self, slots: Tensor) -> Pass:
        return personal_pass(
            slots,
            embeddings=self.embeddings[[0] * len(slots)],
            routing=self.model.structure.user_routing,
            experts=True,
        )

    def sum(self) -> Tensor:
        """The sum of clipped gradients of one step, before noise."""
        with self.model.attached():
            self.training._gradients(self.training._rows())
        return flat(self.training.total.sums)

    def gradient(self, item: Encoded, factors: Sequence[Tensor]) -> list[Tensor]:
        """One item's gradient by plain autograd, a pass for itself."""
        leaves = [factor.clone().requires_grad_(True) for factor in factors]
        stacks, sites = [leaf[None] for leaf in leaves], len(self.model.sites)
        self.model.lora = GivenLora(stacks[:sites], stacks[sites : 2 * sites], stacks[2 * sites :])
        with self.model.attached():
            loss = self.model.answer_loss(batch_of((item,), [0]), self.make_pass(torch.tensor([0])))
        return list(torch.autograd.grad(loss.sum(), leaves))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors])


def clipped(gradients: Sequence[Tensor], clip: float) -> Tensor:
    whole = flat(gradients)
    return whole * min(1.0, clip / float(whole.norm()))


# -- what an item adds -------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "device"])
@pytest.mark.parametrize(("tokens", "slots"), [(10_000, None), (30, None), (10_000, 2)])
def test_the_sum_of_clipped_items_is_that_of_a_loop_in_float64(
    preset: str, tokens: int, slots: int | None
) -> None:
    """However a step is cut into passes; A, B and all sites are under one norm."""
    made = Made(preset=preset)
    every = [made.gradient(item, made.factors) for item in ITEMS]
    norms = sorted(float(flat(one).norm()) for one in every)
    clip = norms[3]  # some items are cut, some are not
    assert norms[0] < clip < norms[-1]
    privacy = dataclasses.replace(PRIVACY, clip_norm=clip)
    drawn = [0, 2, 3, 6]
    ours = Made(
        preset=preset, privacy=privacy, tokens=tokens, slots=slots, chance=Scripted(drawn)
    ).sum()
    expected = torch.stack([clipped(every[i], clip) for i in drawn]).sum(0)
    assert float((ours - expected).norm() / expected.norm()) < 1e-6  # a base's norms are float32


def test_a_run_is_adamw_over_those_sums() -> None:
    """The oracle is torch's own, over a loop of single items, with the noise set to zero."""
    draws = [[0, 1, 4], [], [2, 3, 4, 5, 6]]
    made = Made(chance=Scripted(*draws))
    ended = made.training.run()
    oracle, clip = Made(), PRIVACY.clip_norm
    factors = [torch.nn.Parameter(factor.clone()) for factor in oracle.factors]
    optimizer = torch.optim.AdamW(factors, lr=RATE, betas=(0.9, 0.999), weight_decay=0.01)
    settings = oracle.training.settings
    for step, drawn in enumerate(draws):
        whole = torch.zeros(sum(f.numel() for f in factors), dtype=torch.float64)
        for i in drawn:
            now = [factor.detach() for factor in factors]
            whole += clipped(oracle.gradient(ITEMS[i], now), clip) / clip
        for factor, part in zip(factors, whole.split([f.numel() for f in factors]), strict=True):
            factor.grad = part.view_as(factor)
        warmup = int(settings.warmup_ratio * PRIVACY.steps)
        for group in optimizer.param_groups:
            group["lr"] = RATE * linear_schedule(step, PRIVACY.steps, warmup)
        optimizer.step()
    moved = flat(factors) - flat(oracle.factors)
    assert float((flat(ended) - flat(factors)).norm() / moved.norm()) < 1e-4


def test_taking_an_item_away_moves_a_step_by_the_clip_norm_at_most() -> None:
    """Wherever it stands: all others add to the bit what they add without it, but for rounding."""
    for gone in (0, 3, 6):
        left = ITEMS[:gone] + ITEMS[gone + 1 :]
        whole, without = Made(chance=Scripted()).sum(), Made(left, chance=Scripted()).sum()
        alone = Made(ITEMS[gone : gone + 1], chance=Scripted()).sum()
        torch.testing.assert_close(whole - without, alone, rtol=1e-5, atol=1e-9)
        assert float((whole - without).norm()) <= PRIVACY.clip_norm * (1 + 1e-6)


def test_an_item_whose_loss_is_no_number_adds_nothing_and_spoils_no_other() -> None:
    total = Made().training.total
    gradients = [torch.zeros(3, *p.shape, dtype=p.dtype) for p in total.parameters]
    gradients[0][0, 0, 0, 0] = math.nan
    gradients[0][1, 0, 0, 0] = 3.0
    gradients[1][1, 0, 0, 0] = 4.0
    total.add_each(gradients)
    added = flat(total.sums)
    assert float(added.norm()) == pytest.approx(PRIVACY.clip_norm)
    assert float(total.sums[1][0, 0, 0]) == pytest.approx(0.8 * PRIVACY.clip_norm)


# -- chance ------------------------------------------------------------------------------------


def test_the_gradient_that_moves_the_adapter_has_noise_of_z_in_units_of_the_clip_norm() -> None:
    """Also in a step that nobody is drawn for, and whatever the number of items."""
    privacy = dataclasses.replace(PRIVACY, noise_multiplier=3.0, sampling_rate=1e-12)
    training = Made(privacy=privacy).training
    assert training._rows() == []
    training._clear()
    training.total.release(training.chance, noise_multiplier=privacy.z, expected=privacy.clip_norm)
    noise = flat([p.grad for p in training.parameters if p.grad is not None]).numpy()
    assert abs(noise.std() / 3.0 - 1) < 5 / math.sqrt(2 * len(noise))
    assert abs(noise.mean()) < 5 * 3.0 / math.sqrt(len(noise))


def test_noise_comes_from_the_system_and_not_from_a_seed() -> None:
    ends = [flat(Made().training.run()) for _ in range(2)]
    assert not torch.equal(*ends)
    seeded = [flat(Made(chance=SeededChance(1)).training.run()) for _ in range(2)]
    assert torch.equal(*seeded)


def test_what_moves_is_mostly_noise_where_the_noise_is_large() -> None:
    """The direction of the step itself, not only of the sum, has the noise in it."""

    class NoiseAlone:
        def __init__(self) -> None:
            self.seeded = SeededChance(4)

        def uniform(self, count: int) -> np.ndarray:
            return np.zeros(count) if count == len(ITEMS) else self.seeded.uniform(count)

    privacy = dataclasses.replace(PRIVACY, noise_multiplier=50.0, steps=1)
    made = Made(privacy=privacy, chance=NoiseAlone())
    moved = flat(made.training.run()) - flat(made.factors)
    source = NoiseAlone()
    noise = [normal(source, factor.numel()) for factor in made.factors]
    expected = -np.concatenate(noise)
    cosine = np.dot(np.sign(moved.numpy()), np.sign(expected)) / len(expected)
    assert cosine > 0.95


# -- a run that is killed ----------------------------------------------------------------------


def test_a_killed_run_goes_on_with_the_steps_that_are_left(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(done: int, _: int) -> None:
        if done == 2:
            raise KilledError

    place = tmp_path / "checkpoint"
    first = Made(checkpoint=place, chance=Scripted())
    first.training.checkpoint_every_s = 0.0
    with pytest.raises(KilledError):
        first.training.run(kill)
    whole = flat(Made(chance=Scripted()).training.run())
    steps: list[int] = []
    second = Made(checkpoint=place, chance=Scripted())
    ended = second.training.run(lambda done, _: steps.append(done))
    assert steps == [3]
    assert torch.equal(flat(ended), whole)


# -- settings and accounting -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": math.nan}, "epsilon"),
        ({"delta": 1.0}, "delta"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"steps": 0}, "steps"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
    ],
)
def test_settings_that_promise_nothing_are_refused(changes: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        dataclasses.replace(PRIVACY, **changes)


def test_a_delta_that_allows_an_item_to_be_given_away_is_refused() -> None:
    PRIVACY.check_items(99_999)
    with pytest.raises(ConfigError, match="100000 items") as error:
        PRIVACY.check_items(100_000)
    assert "--private-delta" in str(error.value.hint)


def test_z_of_an_epsilon_is_that_of_one_gaussian_where_everybody_is_drawn() -> None:
    """T steps with noise z are one with z / sqrt(T): the exact curve of arXiv 1805.06530, theorem 8."""
    try:
        interpreter()
    except ConfigError:
        pytest.skip("needs make accountant")
    steps, delta, epsilon = 20, 1e-5, 8.0

    def excess(z: float) -> float:
        mu = math.sqrt(steps) / z
        reached = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(
            -mu / 2 - epsilon / mu
        )
        return float(reached) - delta

    found = account(sampling_rate=1.0, steps=steps, delta=delta, epsilon=epsilon)
    assert found.noise_multiplier == pytest.approx(brentq(excess, 0.5, 20), rel=2e-3)
    assert found.epsilon <= epsilon
