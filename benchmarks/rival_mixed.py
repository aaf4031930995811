"""Rival: PEFT's `adapter_names`, one adapter a row of a mixed batch.

In training mode PEFT refuses, which is recorded as the exception's name. Two things run: inference
(`peft-mixed-forward`, beside `ours-forward`), and a workaround that trains with the model in eval
mode (`peft-mixed-eval`), which gives up dropout. Logits are taken at answers only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.causes import cause_of
from benchmarks.measure import Stopwatch
from benchmarks.rival_loops import (
    copied,
    load_factors,
    optimizer_of,
    peft_factors,
    with_peft,
)
from benchmarks.world import (
    Factors,
    NotPossibleError,
    Row,
    World,
    padded_nll,
    shared_steps,
    start_of,
    step_count,
)
from proper_model.base.sites import find_sites


class PeftMixed:
    """One PEFT adapter a user in one model; every shared pass mixes rows of many users.

    Args:
        training: whether the model is in training mode, where PEFT raises.
        gradients: whether to train at all.
    """

    def __init__(self, world: World, *, training: bool, gradients: bool) -> None:
        if gradients and not training and world.settings.dropout:
            raise NotPossibleError("NoDropout: a model in eval mode has none")
        self.world, self.widths, self.gradients = world, world.widths(), gradients
        paths = [site.path for site in find_sites(world.base)]
        self.model, config = with_peft(world)
        for number in range(len(world.users)):
            self.model.add_adapter(str(number), config)
        self.factors = [
            peft_factors(self.model, paths, str(number)) for number in range(len(world.users))
        ]
        for factors in self.factors:  # PEFT leaves all adapters but the first frozen
            for pair in factors:
                for weight in pair:
                    weight.requires_grad_(gradients)
        self.model.train(training)
        self.trained: dict[int, Factors] = {}

    def round(self, clock: Stopwatch) -> None:
        """Every user's samples once. Raises NotPossibleError where PEFT refuses."""
        world, settings = self.world, self.world.settings
        with clock.setup():
            users = []
            for factors, user in zip(self.factors, world.users, strict=True):
                load_factors(factors, start_of(self.widths, world, user))
                if self.gradients:
                    users.append(optimizer_of(world, factors, step_count(user, settings)))
        with clock.train(), torch.set_grad_enabled(self.gradients):
            for step in shared_steps(world.users, settings):
                for rows in step:
                    loss = self._loss(rows)
                    if self.gradients:
                        loss.backward()
                if self.gradients:
                    for slot in {row.slot for rows in step for row in rows}:
                        self._update(slot, *users[slot])
        if world.keep:
            self.trained = {u: copied(factors) for u, factors in enumerate(self.factors)}

    def _loss(self, rows: list[Row]) -> Tensor:
        batch = self.world.encoder.padded(
            [row.sample for row in rows], [row.slot for row in rows], device=self.world.device
        )
        keep = batch.answer_width + 1
        try:
            output: Any = self.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                logits_to_keep=keep,
                use_cache=False,
                adapter_names=[str(row.slot) for row in rows],
            )
        except ValueError as error:
            if self.model.training:
                raise NotPossibleError(cause_of(error)) from error
            raise
        losses = padded_nll(output.logits, batch.labels[:, -keep:])
        losses = losses / (batch.labels != -100).sum(1)
        return (losses * losses.new_tensor([row.share for row in rows])).sum()

    def _update(
        self,
        slot: int,
        optimizer: torch.optim.AdamW,
        schedule: torch.optim.lr_scheduler.LambdaLR,
    ) -> None:
        weights = [weight for pair in self.factors[slot] for weight in pair]
        torch.nn.utils.clip_grad_norm_(weights, self.world.settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
