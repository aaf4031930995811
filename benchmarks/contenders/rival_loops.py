"""Rivals that train one user after another in a plain PyTorch loop.

`PeftLoop`: PEFT's LoRA, AdamW, clipping and a linear schedule, one sample a step, as OPPU trains
its personal adapters. `NaiveMoe`: LoRA-MoE as LoRAMoE's code writes it, a Python loop over frozen
experts at every linear, plus the LoRA-aware router and the user LoRA in its literal form
`W_l (B_u A_u x)`. Both share one training loop and may take logits at answers only.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders.measure import Stopwatch
from benchmarks.contenders.world import (
    LEARNING_RATE,
    Factors,
    World,
    embedding_of,
    experts_of,
    own_steps,
    row_losses,
    shared_model,
    start_of,
    step_count,
)
from proper_model.base.sites import find_sites
from proper_model.engine.optimizer import linear_schedule
from proper_model.kernels.layout import routing_dtype
from proper_model.kernels.packing import Encoded
from proper_model.settings.profile import FFN_TARGETS


def with_peft(world: World) -> tuple[Any, Any]:
    """The base wrapped by PEFT and its configuration: the engine's sites, rank and scale."""
    from peft import LoraConfig, get_peft_model

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
        return get_peft_model(world.base, config), config


def peft_factors(model: Any, paths: Sequence[str], adapter: str = "default") -> Factors:
    """One adapter's own parameters in site order."""
    found = []
    for path in paths:
        module = model.get_submodule(f"base_model.model.{path}")
        found.append((module.lora_A[adapter].weight, module.lora_B[adapter].weight))
    return found


@torch.no_grad()
def load_factors(targets: Factors, values: Factors) -> None:
    """Write a user's start into a model's parameters."""
    for (a, b), (new_a, new_b) in zip(targets, values, strict=True):
        a.copy_(new_a)
        b.copy_(new_b)


def copied(factors: Factors) -> Factors:
    """Factors as they are now."""
    return [(a.detach().clone(), b.detach().clone()) for a, b in factors]


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

    def enter(self, number: int) -> None:
        """Make user `number`'s start the model's state."""
        load_factors(self.factors, start_of(self.widths, self.world, self.world.users[number]))

    def ready(self) -> AbstractContextManager[None]:
        """The model made ready to train while open; it may stay so."""
        self.model.train()
        return nullcontext()

    def losses(self, samples: Sequence[Encoded]) -> Tensor:
        """Mean loss an answer token of every sample, [B]."""
        world = self.world
        batch = world.encoder.padded(samples, [0] * len(samples), device=world.device)
        return row_losses(self.model, batch, all_logits=world.spec.logits == "all")

    def round(self, clock: Stopwatch) -> None:
        """Train all users, one after another."""
        world = self.world
        with self.ready():
            for number, user in enumerate(world.users):
                with clock.setup():
                    self.enter(number)
                    update = Update(world, self.factors, step_count(user, world.settings))
                with clock.train():
                    for samples in own_steps(user, world.settings):
                        self.losses(samples).mean().backward()
                        update.step()
                if world.keep:
                    self.trained[number] = copied(self.factors)


class PeftLoop(Loop):
    """PEFT's own modules; wrapping the base once and reloading weights favours this rival."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        paths = [site.path for site in find_sites(world.base)]
        self.model, _ = with_peft(world)
        self.factors = peft_factors(self.model, paths)


class NaiveMoeLinear(torch.nn.Module):
    """h = W_p x + s * sum_n w_n B_n A_n x + s * B_u A_u x, each term as the equation has it."""

    def __init__(
        self,
        base: torch.nn.Linear,
        experts: Factors,
        routers: tuple[Tensor, Tensor, Tensor],
        rank: int,
        scale: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.base, self.experts, self.scale, self.dropout = base, experts, scale, dropout
        self.by_text, self.by_user, self.by_lora = routers
        zeros = self.by_text.new_zeros  # adapters are of the routers' dtype, not of the base's
        self.a = torch.nn.Parameter(zeros(rank, base.in_features))
        self.b = torch.nn.Parameter(zeros(base.out_features, rank))
        self.embedding = self.by_user.new_zeros(self.by_user.shape[1])

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, i] -> [B, T, o]."""
        h: Tensor = self.base(x)
        dropped = F.dropout(x, self.dropout, self.training) if self.dropout else x
        own = F.linear(F.linear(dropped, self.a.to(x.dtype)), self.b.to(x.dtype))
        wide = routing_dtype(x)
        logits = (
            F.linear(x.to(wide), self.by_text)
            + F.linear(self.embedding, self.by_user)
            + F.linear(own.to(wide), self.by_lora)
        )
        weights = logits.softmax(-1).to(x.dtype)
        for n, (a, b) in enumerate(self.experts):
            low = F.linear(F.linear(dropped, a.to(x.dtype)), b.to(x.dtype))
            h = h + self.scale * weights[..., n : n + 1] * low
        return h + self.scale * own


class NaiveMoe(Loop):
    """Experts and routers are the engine's own tensors; only the arithmetic differs."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        shared = shared_model(world)
        self.tables = shared.tables
        self.linears: list[tuple[int, NaiveMoeLinear]] = []
        for number, site in enumerate(shared.sites):
            router, experts = shared.router(number), experts_of(shared, number)
            assert router.text is not None
            assert router.user is not None
            assert router.lora is not None
            linear = NaiveMoeLinear(
                world.base.get_submodule(site.path),
                list(zip(experts.a.unbind(0), experts.b.unbind(0), strict=True)),
                (router.text, router.user, router.lora),
                world.structure.rank,
                world.structure.scale,
                world.settings.dropout,
            )
            self.linears.append((site.layer, linear))
            world.base.set_submodule(site.path, linear)
        self.model = world.base
        self.factors = [(linear.a, linear.b) for _, linear in self.linears]

    def enter(self, number: int) -> None:
        """The user's LoRA and embedding."""
        super().enter(number)
        embedding = embedding_of(self.world, self.tables, self.world.users[number])
        for layer, linear in self.linears:
            linear.embedding = embedding[0 if self.tables == 1 else layer]
