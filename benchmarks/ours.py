"""The project's engine as a contender: a `Cohort` of all users, with or without experts.

Without experts it trains what a PEFT loop trains (the baseline OPPU-mlp); with experts and routers
what PROPER's stage 3 trains. Nothing is held back, so a round is training and nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.measure import Stopwatch
from benchmarks.world import (
    LEARNING_RATE,
    Factors,
    World,
    embedding_of,
    packed_steps,
    shared_model,
)
from proper_model.engine.cohort import Cohort
from proper_model.engine.trials import Trial
from proper_model.kernels.ops import Backend
from proper_model.model.passes import Pass, personal_pass


class Ours:
    """The engine. `experts` switches experts and routers on."""

    def __init__(self, world: World, *, experts: bool) -> None:
        self.world, self.experts = world, experts
        self.model = shared_model(world)
        self.model.backend = Backend(world.spec.backend)
        self.embeddings: Tensor | None = None
        if experts:
            drawn = [embedding_of(world, self.model.tables, user) for user in world.users]
            self.embeddings = torch.stack(drawn)
        self.trained: dict[int, Factors] = {}

    def round(self, clock: Stopwatch) -> None:
        """Train all users together, once from the start."""
        with clock.setup():
            cohort = self._cohort()
        with clock.train():
            results = cohort.run()
        assert not any(result.failed for result in results)
        if self.world.keep:
            half = len(cohort.best) // 2  # A of every linear, then B
            factors = list(zip(cohort.best[:half], cohort.best[half:], strict=True))
            self.trained = {
                u: [(a[u], b[u]) for a, b in factors] for u in range(len(self.world.users))
            }

    def train_once(self) -> None:
        """One round without a clock."""
        self.round(Stopwatch(self.world.device))

    def _fresh_lora(self) -> list[Tensor]:
        seeds = [user.seed for user in self.world.users]
        self.model.lora = self.model.new_user_lora(seeds).to(self.world.adapter_dtype)
        return [*self.model.lora.a, *self.model.lora.b]

    def _cohort(self) -> Cohort:
        parameters = self._fresh_lora()
        trials = [Trial(user.samples, (), LEARNING_RATE, user.seed) for user in self.world.users]

        def start(trial: int) -> list[Tensor]:
            fresh = self.model.new_user_lora([trials[trial].seed]).to(self.world.adapter_dtype)
            return [factor.detach()[0] for factor in (*fresh.a, *fresh.b)]

        return Cohort(
            self.model,
            self.world.encoder,
            trials,
            parameters,
            start,
            self._pass,
            self.world.settings,
        )

    def _pass(self, slots: Tensor, residents: Tensor) -> Pass:
        return personal_pass(
            slots,
            embeddings=None if self.embeddings is None else self.embeddings[residents],
            routing=self.model.structure.user_routing,
            experts=self.experts,
        )


class OursForward(Ours):
    """The same passes without gradient, beside PEFT's mixed batches, which only do inference."""

    def round(self, clock: Stopwatch) -> None:
        """Loss of every sample once, with each user's own adapter."""
        with clock.setup():
            self._fresh_lora()
            residents = torch.arange(len(self.world.users), device=self.world.device)
        with clock.train(), torch.no_grad():
            for rows in packed_steps(self.world.users, self.world.settings):
                batch = self.world.encoder.batch(
                    [row.sample for row in rows],
                    [row.slot for row in rows],
                    device=self.world.device,
                )
                self.model.answer_loss(batch, self._pass(batch.slots, residents))
