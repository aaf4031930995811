"""The loop that trains one user after another, and the rival that people know: PEFT's LoRA in it.

AdamW, clipping and a linear schedule, as OPPU trains its personal adapters. It has neither experts nor
routers, so it trains what `ours` does, and may take logits at answers only.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.measure import Stopwatch
from benchmarks.contenders.world import (
    LEARNING_RATE,
    Factors,
    World,
    own_steps,
    row_losses,
    start_of,
)
from proper_model.base.sites import find_sites
from proper_model.engine.optimizer import linear_schedule
from proper_model.kernels.packing import Encoded
from proper_model.settings.profile import FFN_TARGETS


class Update:
    """A user's AdamW, in its quickest form, after clipping, on a linear schedule."""

    def __init__(self, world: World, factors: Factors, steps: int) -> None:
        self.weights = [weight for pair in factors for weight in pair]
        self.max_norm = world.settings.max_grad_norm
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=LEARNING_RATE, weight_decay=world.settings.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: linear_schedule(step, steps, 0)
        )

    def step(self) -> None:
        """Use the gradients and forget them."""
        torch.nn.utils.clip_grad_norm_(self.weights, self.max_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)


class Loop:
    """The training loop; a subclass says how a user enters and leaves the model."""

    model: Any
    factors: Factors

    def __init__(self, world: World) -> None:
        self.world = world
        self.widths = world.widths()
        self.trained: dict[int, Factors] = {}

    @torch.no_grad()
    def enter(self, number: int) -> None:
        """Make user `number`'s start the model's state."""
        start = start_of(self.widths, self.world, self.world.users[number])
        for (a, b), (new_a, new_b) in zip(self.factors, start, strict=True):
            a.copy_(new_a)
            b.copy_(new_b)

    def ready(self) -> AbstractContextManager[None]:
        """The model made ready to train while open; it may stay so."""
        self.model.train()
        return nullcontext()

    def losses(self, samples: Sequence[Encoded]) -> Tensor:
        """Mean loss an answer token of every sample, [B]."""
        world = self.world
        batch = world.encoder.padded(samples, [0] * len(samples), device=world.device)
        return row_losses(
            self.model,
            batch,
            all_logits=world.spec.logits == "all",
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
        )

    def round(self, clock: Stopwatch) -> None:
        """Train all users, one after another."""
        world = self.world
        with self.ready():
            for number, user in enumerate(world.users):
                with clock.setup():
                    self.enter(number)
                    steps = own_steps(user, world.settings)
                    update = Update(world, self.factors, len(steps))
                with clock.train():
                    for samples in steps:
                        self.losses(samples).mean().backward()
                        update.step()
                if world.keep:
                    self.trained[number] = [
                        (a.detach().clone(), b.detach().clone()) for a, b in self.factors
                    ]


class PeftLoop(Loop):
    """PEFT's own modules; wrapping the base once and reloading weights favours this rival."""

    def __init__(self, world: World) -> None:
        from peft import LoraConfig, get_peft_model

        super().__init__(world)
        sites = [world.base.get_submodule(site.path) for site in find_sites(world.base)]
        config = LoraConfig(
            r=world.structure.rank,
            lora_alpha=world.structure.alpha,
            lora_dropout=world.settings.dropout,
            target_modules=list(FFN_TARGETS),
            bias="none",
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            # PEFT reads an attribute that transformers renamed.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            self.model = get_peft_model(world.base, config)
        wrapped = {one.base_layer: one for one in self.model.modules() if hasattr(one, "lora_A")}
        self.factors = [
            (wrapped[site].lora_A["default"].weight, wrapped[site].lora_B["default"].weight)
            for site in sites
        ]
