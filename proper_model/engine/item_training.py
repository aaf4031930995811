"""Training one person's adapter so that it tells little of any single item (docs/method.md 1.13).

DP-SGD (arXiv 1607.00133) over the person's items. In a step every item i takes part with probability q, by a
draw of its own; its gradient g_i, over all tensors of the adapter together, is shortened to norm C at most, and

    g = (sum over those drawn of g_i min(1, C / |g_i|)  +  z C N(0, I)) / C

goes to AdamW. The denominator is fixed, so it says neither who was drawn nor how many items there are; what it
is does not matter to AdamW. There is no dropout, a fixed number of steps is taken, no loss is looked at and
the last state is kept. Every row of a pass has the adapter in a slot of its own, so that the gradient of the
sum of losses holds each item's own.

Letters: R rows of a pass, one an item; S sites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint
from proper_model.engine.optimizer import StackedAdamW, linear_schedule
from proper_model.engine.pooled_settings import PassTokens
from proper_model.engine.recompute import recomputing
from proper_model.engine.training_loop import Row, TrainingLoop
from proper_model.engine.trials import TrialSettings
from proper_model.engine.user_privacy import Chance, ClippedSum, SystemChance, poisson_sample
from proper_model.kernels.packing import Encoded
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass
from proper_model.model.user_lora import GivenLora
from proper_model.progress import Steps
from proper_model.settings.privacy import ItemPrivacy
from proper_model.text.encoding import Encoder

MOST_ROWS = 64  # of a pass: each has a gradient as large as the adapter


class ItemTraining(TrainingLoop[None]):
    """One adapter's training under the Poisson-sampled Gaussian mechanism over its items.

    Args:
        items: of one person and task; each is encoded without any other.
        factors: where the adapter begins, A of every site, then B, then any W. They must not depend on
            the items.
        make_pass: from row slots [R], each row its own, to a pass with the model's private LoRAs.
        settings: what bounds a pass, weight decay and warm-up; rates and epochs are not read.
        privacy: with a noise multiplier.
        chance: where draws and noise come from; None: the operating system's random source.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        items: Sequence[Encoded],
        factors: Sequence[Tensor],
        make_pass: Callable[[Tensor], Pass],
        settings: TrialSettings,
        privacy: ItemPrivacy,
        learning_rate: float,
        *,
        chance: Chance | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        # A slot's tensors, as the optimizer has them.
        parameters = [factor.detach().to(model.device, copy=True)[None] for factor in factors]
        super().__init__(
            encoder,
            parameters,
            device=model.device,
            tokens=PassTokens.of(settings.tokens_per_step),
            checkpoint=checkpoint,
        )
        self.model, self.items, self.make_pass = model, tuple(items), make_pass
        self.settings, self.privacy, self.learning_rate = settings, privacy, learning_rate
        self.chance: Chance = SystemChance() if chance is None else chance
        # The items' gradients are clipped, one by one; that of a step holds noise and is taken as it is.
        self.optimizer = StackedAdamW(
            self.parameters, weight_decay=settings.weight_decay, max_grad_norm=float("inf")
        )
        self.total = ClippedSum(self.parameters, privacy.clip_norm)

    def run(self, progress: Steps | None = None) -> list[Tensor]:
        """Take all steps; the adapter, in the order of `factors`."""
        self._restore()
        with self.model.attached(), recomputing(self.model, active=self.settings.recompute):
            self._train(progress)
        self._save()
        return [parameter[0].clone() for parameter in self.parameters]

    def _done(self) -> tuple[int, int]:
        return self.taken, self.privacy.steps

    def _step_is_left(self) -> bool:
        return self.taken < self.privacy.steps

    def _rows(self) -> list[Row]:
        """The items that are drawn for this step: now more of them, now fewer, maybe none."""
        drawn = poisson_sample(self.chance, len(self.items), self.privacy.sampling_rate)
        return [Row(0, self.items[i], 0, 1) for i in drawn]

    def _clear(self) -> None:
        super()._clear()
        self.total = ClippedSum(self.parameters, self.privacy.clip_norm)

    def _parts(self, rows: Sequence[Row]) -> list[list[Row]]:
        most = min(self.settings.slots or MOST_ROWS, MOST_ROWS)
        return [
            part[first : first + most]
            for part in super()._parts(rows)
            for first in range(0, len(part), most)
        ]

    def _backward(self, part: Sequence[Row]) -> None:
        """One pass of a step: adds its items' clipped gradients."""
        count, sites = len(part), len(self.model.sites)
        # A view of the one adapter for every row; only its gradient is R times as large.
        stacks = [
            parameter.expand(count, *parameter.shape[1:]).requires_grad_(True)
            for parameter in self.parameters
        ]
        self.model.lora = GivenLora(stacks[:sites], stacks[sites : 2 * sites], stacks[2 * sites :])
        batch = self.encoder.batch([row.sample for row in part], range(count), device=self.device)
        losses = self.model.answer_loss(batch, self.make_pass(batch.slots))
        # Rows share no slot, so the gradient of the sum holds each row's own.
        self.total.add_each(torch.autograd.grad(losses.sum(), stacks))

    def _update(self, found: Sequence[None]) -> None:
        del found  # no loss is looked at
        steps, norm = self.privacy.steps, self.privacy.clip_norm
        self.total.release(self.chance, noise_multiplier=self.privacy.z, expected=norm)
        warmup = int(self.settings.warmup_ratio * steps)
        rate = self.learning_rate * linear_schedule(self.taken, steps, warmup)
        one = torch.ones(1, device=self.device)
        self.optimizer.step(rate * one.double(), one.bool(), self.optimizer.gradient_norms())

    def _after_step(self) -> None:
        """Nobody judges."""

    def _extent(self, meta: Mapping[str, Any]) -> str:
        return f"{meta.get('steps')} steps under privacy of items"

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        named = {
            f"{name}.{number}": tensor
            for name, group in (
                ("parameter", self.parameters),
                ("first", self.optimizer.first),
                ("second", self.optimizer.second),
            )
            for number, tensor in enumerate(group)
        }
        meta = {"taken": self.taken, "steps": self.privacy.steps}
        return {**named, "counted": self.optimizer.steps}, meta

    def _resume(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        for name, tensor in self._state()[0].items():
            tensor.copy_(tensors[name])
        self.taken = int(meta["taken"])
