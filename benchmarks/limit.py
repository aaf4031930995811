"""The limit: the frozen base alone, forward and backward to its inputs, nothing trained.

Any engine must carry every sample through the base and the gradient back through all its blocks;
what an engine takes beyond this is the price of adapters, routing and optimizers. `Limit` is the
engine's own frozen base: packed rows, its products, its attention. `StockLimit` is the same base as
Hugging Face runs it, over padded batches.
"""

from __future__ import annotations

import torch

from benchmarks.measure import Stopwatch
from benchmarks.world import Factors, World, packed_steps, padded_nll, shared_steps
from proper_model.kernels.packing import packed_inputs
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.answer_loss import FrozenHeadLoss
from proper_model.model.passes import Pass
from proper_model.settings.presets import UserRouting


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
                batch = world.encoder.batch(
                    [row.sample for row in rows], [row.slot for row in rows], device=world.device
                )
                inputs = packed_inputs(batch)
                # Gradients of inputs make autograd walk all blocks although nothing trains.
                start = embed(inputs.pop("input_ids")).requires_grad_()
                with self.model.running(_nothing(batch.slots, batch.layout)):
                    output = base.get_decoder()(inputs_embeds=start, **inputs)
                picked = output.last_hidden_state[0].index_select(0, batch.answer_at)
                nll = FrozenHeadLoss.apply(  # type: ignore[no-untyped-call]
                    picked, head.weight, head.bias, batch.answers
                )
                torch.autograd.grad(nll.sum(), start)


class StockLimit:
    """The same by Hugging Face's own modules and PyTorch's own products, padded."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.trained: dict[int, Factors] = {}

    def round(self, clock: Stopwatch) -> None:
        """Every sample once through the base and back."""
        world = self.world
        embed = world.base.get_input_embeddings()
        with clock.train():
            for step in shared_steps(world.users, world.settings):
                for rows in step:
                    batch = world.encoder.padded(
                        [row.sample for row in rows],
                        [row.slot for row in rows],
                        device=world.device,
                    )
                    inputs = embed(batch.input_ids).requires_grad_()
                    keep = batch.answer_width + 1
                    output = world.base(
                        inputs_embeds=inputs,
                        attention_mask=batch.attention_mask,
                        position_ids=batch.position_ids,
                        logits_to_keep=keep,
                        use_cache=False,
                    )
                    losses = padded_nll(output.logits, batch.labels[:, -keep:])
                    torch.autograd.grad(losses.sum(), inputs)


def _nothing(slots: torch.Tensor, layout: object) -> Pass:
    """A packed pass with neither experts nor adapters."""
    now = Pass(slots, experts=False, lora=False, embeddings=None, routing=UserRouting.USER_AWARE)
    now.layout = layout  # type: ignore[assignment]
    return now
