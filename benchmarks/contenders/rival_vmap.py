"""Rival: torch.func.vmap of one user's gradient over stacked user LoRAs.

The textbook way to train many small models at once: write the loss of one user, let `grad` and
`vmap` batch it. Experts, routers and their arithmetic are the stacked loop's. Rows are taken from the
engine's own shared passes and the optimizer is the engine's, so what differs is how the passes are
computed. Logits are taken at answers only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmarks.contenders.measure import Stopwatch
from benchmarks.contenders.rival_stacked import routed, stacked_linears
from benchmarks.contenders.world import (
    LEARNING_RATE,
    Factors,
    World,
    own_steps,
    padded_nll,
    shared_steps,
    start_of,
)
from proper_model.engine.optimizer import StackedAdamW, linear_schedule
from proper_model.text.encoding import PaddedBatch


class Vmap:
    """Stacked LoRAs, one user's gradient mapped over the rows of a shared pass."""

    def __init__(self, world: World) -> None:
        if world.spec.attention is None:
            # Fused attention has no batching rule: vmap would run it row by row.
            world.base.set_attn_implementation("eager")
        self.world, self.widths = world, world.widths()
        self.linears = stacked_linears(world)
        for path, linear in self.linears.items():
            world.base.set_submodule(path, linear)
        self.trained: dict[int, Factors] = {}

    def round(self, clock: Stopwatch) -> None:
        """Train all users together, once from the start."""
        world, settings = self.world, self.world.settings
        with clock.setup():
            stacked, fixed = self._stacked(), self._routed()
            optimizer = StackedAdamW(
                list(stacked.values()),
                weight_decay=settings.weight_decay,
                max_grad_norm=settings.max_grad_norm,
            )
            totals = [len(own_steps(user, settings)) for user in world.users]
        with clock.train():
            for number, step in enumerate(shared_steps(world.users, settings)):
                rates = torch.zeros(len(world.users), dtype=torch.float64)
                for weight in stacked.values():
                    weight.grad = torch.zeros_like(weight)
                for rows in step:
                    shares = [row.share for row in rows]
                    self._add_gradients(stacked, fixed, world.padded(rows), shares)
                    for slot in {row.slot for row in rows}:
                        rates[slot] = LEARNING_RATE * linear_schedule(number, totals[slot], 0)
                rates = rates.to(world.device)
                optimizer.step(rates, rates > 0, optimizer.gradient_norms())
        if world.keep:
            a, b = list(stacked.values())[::2], list(stacked.values())[1::2]
            self.trained = {
                u: [(x[u].clone(), y[u].clone()) for x, y in zip(a, b, strict=True)]
                for u in range(len(world.users))
            }

    def _stacked(self) -> dict[str, Tensor]:
        """Parameter name -> all users' tensors [U, ...], A and B of each site in turn."""
        starts = [start_of(self.widths, self.world, user) for user in self.world.users]
        return {
            f"{path}.{name}": torch.stack([start[site][which] for start in starts])
            for site, path in enumerate(self.linears)
            for which, name in enumerate(("a", "b"))
        }

    def _routed(self) -> dict[str, Tensor]:
        """Buffer name -> what routers make of all users' embeddings, [U, N]."""
        users = [
            routed(self.world, self.linears, number) for number in range(len(self.world.users))
        ]
        return {
            f"{path}.of_user": torch.stack(own)
            for path, own in zip(self.linears, zip(*users, strict=True), strict=True)
        }

    def _add_gradients(
        self,
        stacked: dict[str, Tensor],
        fixed: dict[str, Tensor],
        batch: PaddedBatch,
        shares: list[float],
    ) -> None:
        keep = batch.answer_width + 1
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": _causal(batch.attention_mask, self.world.base.dtype),
            "position_ids": batch.position_ids,
        }
        per_row = vmap(grad(self._loss), in_dims=(0, 0, 0, 0, 0, None), randomness="different")
        found = per_row(
            {name: weight[batch.slots] for name, weight in stacked.items()},
            {name: value[batch.slots] for name, value in fixed.items()},
            inputs,
            batch.labels[:, -keep:],
            torch.tensor(shares, device=self.world.device),
            keep,
        )
        for name, weight in stacked.items():
            assert weight.grad is not None
            weight.grad.index_add_(0, batch.slots, found[name])

    def _loss(
        self,
        own: dict[str, Tensor],
        fixed: dict[str, Tensor],
        inputs: dict[str, Tensor],
        labels: Tensor,
        share: Tensor,
        keep: int,
    ) -> Tensor:
        """Of one row of a pass, its share in the user's mean loss."""
        given: dict[str, Any] = {name: value[None] for name, value in inputs.items()}
        given |= {"logits_to_keep": keep, "use_cache": False}
        output: Any = functional_call(self.world.base, own | fixed, kwargs=given)
        loss = padded_nll(output.logits, labels[None])[0]
        return loss / (labels != -100).sum() * share


def _causal(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask [B, 1, T, T] of left-padded rows [B, T].

    Made outside of vmap: Hugging Face's own way looks at the mask's values, which vmap forbids.
    """
    tokens = mask.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=mask.device).tril()
    # A padding row sees itself, or its softmax would be of nothing at all.
    seen = (causal & mask[:, None, :].bool()) | torch.eye(
        tokens, dtype=torch.bool, device=mask.device
    )
    # Far below any score, and finite in every dtype even where attention adds to it.
    hidden = torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(~seen, -1e4)
    return hidden[:, None]
