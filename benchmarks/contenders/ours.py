"""The project's engine as a contender, and the frozen base that no engine over it can pass.

`Ours` is a `Cohort` of all users. Without experts it trains what a PEFT loop trains (the baseline
OPPU-mlp); with experts and routers what PROPER's stage 3 trains. Nothing is held back, so a round is
training and nothing else. `Steady` is the same engine in the middle of a long run. `Limit` carries the same packed rows through the same frozen base, forward
and backward to its inputs, and trains nothing: what an engine takes beyond it is the cost of
adapters, routing and optimizers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.contenders.measure import Stopwatch
from benchmarks.contenders.world import (
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
from proper_model.kernels.packing import Batch, packed_inputs
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.answer_loss import FrozenHeadLoss
from proper_model.model.passes import Pass, personal_pass
from proper_model.model.user_lora import GivenLora, UserLora
from proper_model.settings.presets import UserRouting

C = TypeVar("C", bound=Cohort)


class Ours:
    """The engine. `experts` switches experts and routers on.

    Attributes:
        around: opened around the training of every round; what a variant of the engine changes in
            the base or in a library belongs in there.
        fused_optimizer: how the optimizer computes (`StackedAdamW.fused`); None: its own choice.
    """

    def __init__(self, world: World, *, experts: bool) -> None:
        self.world, self.experts = world, experts
        self.model = shared_model(world)
        self.model.backend = Backend(world.spec.backend)
        self.embeddings: Tensor | None = None
        if experts:
            drawn = [embedding_of(world, self.model.tables, user) for user in world.users]
            self.embeddings = torch.stack(drawn)
        self.trained: dict[int, Factors] = {}
        self.around: Callable[[], AbstractContextManager[object]] = nullcontext
        self.fused_optimizer: bool | None = None

    def round(self, clock: Stopwatch) -> None:
        """Train all users together, once from the start."""
        with clock.setup():
            cohort = self._cohort()
        with self.around(), clock.train():
            results = cohort.run()
        assert not any(result.failed for result in results)
        if self.world.keep:
            half = len(cohort.best) // 2  # A of every linear, then B
            factors = list(zip(cohort.best[:half], cohort.best[half:], strict=True))
            self.trained = {
                u: [(a[u], b[u]) for a, b in factors] for u in range(len(self.world.users))
            }

    def _fresh_lora(self) -> list[Tensor]:
        seeds = [user.seed for user in self.world.users]
        self.model.lora = self.model.new_user_lora(seeds).to(self.world.adapter_dtype)
        return [*self.model.lora.a, *self.model.lora.b]

    def _cohort(self) -> Cohort:
        trials = [Trial(user.samples, (), LEARNING_RATE, user.seed) for user in self.world.users]

        def start(trial: int) -> list[Tensor]:
            fresh = self.model.new_user_lora([trials[trial].seed]).to(self.world.adapter_dtype)
            return [factor.detach()[0] for factor in (*fresh.a, *fresh.b)]

        return self._set_up(
            Cohort(
                self.model,
                self.world.encoder,
                trials,
                self._fresh_lora(),
                start,
                self._pass,
                self.world.settings,
            )
        )

    def _set_up(self, cohort: C) -> C:
        if self.fused_optimizer is not None:
            cohort.slots.optimizer.fused = self.fused_optimizer
        return cohort

    def _pass(self, slots: Tensor, residents: Tensor) -> Pass:
        return personal_pass(
            slots,
            embeddings=None if self.embeddings is None else self.embeddings[residents],
            routing=self.model.structure.user_routing,
            experts=self.experts,
        )


class _SteadyCohort(Cohort):
    """All users are in their slots from the first step, and no state of theirs is kept."""

    def ready(self) -> None:
        """Fill the slots."""
        self.slots.fill()
        self.slots.best = []  # as large as all adapters, and on the device here

    def _step_is_left(self) -> bool:
        for slot, u in self.slots.occupied():
            if self.steps[u] >= self._last_step(u):
                self.slots.leave(slot)
        return bool(self.slots.occupied())

    def _after_step(self) -> None:
        return


class Steady(Ours):
    """The engine's steps alone, as in the middle of a long run.

    A user enters a slot once and leaves it once, however many samples there are. A round here has a
    few samples of each, so that entering and leaving would weigh as much as the steps themselves.
    Everybody begins where the first user does: speed depends on no value. `trained` stays empty.
    """

    def round(self, clock: Stopwatch) -> None:
        """Train all users together, once from the start."""
        world = self.world
        try:
            with clock.setup():
                cohort = self._steady()
            with self.around(), clock.train():
                results = cohort.run()
        finally:
            self.model.lora = UserLora([], 0, world.structure.rank, [])
        assert not any(result.failed for result in results)

    def _steady(self) -> _SteadyCohort:
        world, users = self.world, self.world.users
        fresh = self.model.new_user_lora([users[0].seed]).to(world.adapter_dtype)
        start = [factor.detach()[0] for factor in (*fresh.a, *fresh.b)]
        trials = [Trial(user.samples, (), LEARNING_RATE, user.seed) for user in users]
        # The states of all users are made on the device: copies through the host take seconds.
        with torch.device(world.device):
            stacks = [
                torch.zeros(len(users), *one.shape, dtype=one.dtype, requires_grad=True)
                for one in start
            ]
            cohort = _SteadyCohort(
                self.model,
                world.encoder,
                trials,
                stacks,
                lambda _: start,
                self._pass,
                world.settings,
            )
            self._set_up(cohort).ready()
        half = len(stacks) // 2
        self.model.lora = GivenLora(cohort.parameters[:half], cohort.parameters[half:])
        return cohort


class Limit:
    """Forward and input gradients of the engine's frozen base over the engine's own batches."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.model = AdaptedModel(
            world.base, world.structure, generator=torch.Generator().manual_seed(0)
        )
        self.trained: dict[int, Factors] = {}

    def round(self, clock: Stopwatch) -> None:
        """Every sample once through the base and back."""
        world, base = self.world, self.world.base
        embed, head = base.get_input_embeddings(), base.get_output_embeddings()
        with clock.train(), self.model.attached():
            for rows in packed_steps(world.users, world.settings):
                batch = world.packed(rows)
                inputs = packed_inputs(batch)
                # Gradients of inputs make autograd walk all blocks although nothing trains.
                start = embed(inputs.pop("input_ids")).requires_grad_()
                with self.model.running(_nothing(batch)):
                    output = base.get_decoder()(inputs_embeds=start, **inputs)
                picked = output.last_hidden_state[0].index_select(0, batch.answer_at)
                nll = FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
                    picked, head.weight, head.bias, batch.answers
                )
                torch.autograd.grad(nll.sum(), start)


def _nothing(batch: Batch) -> Pass:
    """A packed pass with neither experts nor adapters."""
    routing = UserRouting.USER_AWARE
    now = Pass(batch.slots, experts=False, lora=False, embeddings=None, routing=routing)
    now.layout = batch.layout
    return now
