"""The limit: the frozen base alone, forward and backward to its inputs, nothing trained.

Any engine must carry every sample through the base and the gradient back through all its blocks;
what an engine takes beyond this is the price of adapters, routing and optimizers. Logits are taken
at answers only and passes are cut by the same token budget as the engine's.
"""

from __future__ import annotations

import torch

from benchmarks.measure import Stopwatch
from benchmarks.world import Factors, World, shared_steps
from proper_model.model import sequence_nll


class Limit:
    """Forward and input gradients of the frozen base over the engine's own batches."""

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
                    batch = world.encoder.batch(
                        [row.sample for row in rows],
                        [row.slot for row in rows],
                        device=world.device,
                    )
                    # Gradients of inputs make autograd walk all blocks although nothing trains.
                    inputs = embed(batch.input_ids).requires_grad_()
                    keep = batch.answer_width + 1
                    output = world.base(
                        inputs_embeds=inputs,
                        attention_mask=batch.attention_mask,
                        position_ids=batch.position_ids,
                        logits_to_keep=keep,
                        use_cache=False,
                    )
                    losses = sequence_nll(output.logits, batch.labels[:, -keep:])
                    torch.autograd.grad(losses.sum(), inputs)
