"""Rival: one user after another in a plain loop that does nothing it need not.

The experts of a linear lie stacked as one factor pair of rank N*r around an elementwise weighting,
the user's own factors beside them; the LoRA router reads (W_l B_u)(A_u x), never B_u A_u x; logits
are taken at answers only; autograd does the rest. It may have the decoder's blocks compiled, which
are alike, so that one compilation serves all.

It trains in a base that others use in turn: what it swaps in is there during a round only.

Letters: B rows, T tokens of a row, N experts, r rank, i input width, o output width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders.rival_peft import Loop
from benchmarks.contenders.world import World, embedding_of, experts_of, row_losses, shared_model
from proper_model.kernels.layout import routing_dtype
from proper_model.kernels.packing import Encoded
from proper_model.model.adapters import Experts, Router

# Compiled attention wants the width of a mask to be a multiple of this.
ALIGNED = 8


class StackedLinear(torch.nn.Module):
    """h = W_p x + s * [B_u, B_1 .. B_N] (w * [A_u; A_1 .. A_N] x), where A_u x has weight 1."""

    expert_a: Tensor
    expert_b: Tensor
    by_text: Tensor
    by_lora: Tensor
    by_user: Tensor
    of_user: Tensor
    table: int = 0  # of a user's embeddings

    def __init__(
        self, base: torch.nn.Linear, experts: Experts, router: Router, scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, scale, dropout
        count, rank, width = experts.a.shape
        self.count, self.rank = count, rank
        assert router.text is not None
        assert router.user is not None
        assert router.lora is not None
        dtype = base.weight.dtype
        for name, tensor in (
            ("expert_a", experts.a.detach().flatten(0, 1).to(dtype)),  # [N*r, i]
            ("expert_b", experts.b.detach().transpose(1, 2).flatten(0, 1).T.to(dtype)),  # [o, N*r]
            ("by_text", router.text.detach()),
            ("by_lora", router.lora.detach()),
            ("by_user", router.user.detach()),
            ("of_user", router.text.new_zeros(count)),  # W_e e_u, the same at every token
        ):
            self.register_buffer(name, tensor.contiguous())
        zeros = router.text.new_zeros  # adapters are of the routers' dtype, not of the base's
        self.a = torch.nn.Parameter(zeros(rank, width))
        self.b = torch.nn.Parameter(zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, i] -> [B, T, o]."""
        wide = routing_dtype(x)
        dropped = F.dropout(x, self.dropout) if self.dropout else x
        low = F.linear(dropped, torch.cat([self.a.to(x.dtype), self.expert_a]))  # [B, T, r + N*r]
        own, others = low.split([self.rank, self.count * self.rank], -1)
        logits = (
            F.linear(x.to(wide), self.by_text)
            + F.linear(own.to(wide), self.by_lora @ self.b)
            + self.of_user
        )
        weights = logits.softmax(-1).to(x.dtype)
        others = others.unflatten(-1, (self.count, self.rank)) * weights[..., None]
        weighted = torch.cat([own, others.flatten(-2)], -1) * self.scale
        up = torch.cat([self.b.to(x.dtype), self.expert_b], 1)  # [o, r + N*r]
        h: Tensor = self.base(x)
        return torch.addmm(h.flatten(0, 1), weighted.flatten(0, 1), up.T).view(h.shape)


def stacked_linears(world: World) -> dict[str, StackedLinear]:
    """By path, with the engine's own experts and routers; the base does not hold them yet."""
    shared = shared_model(world)
    made = {}
    for number, site in enumerate(shared.sites):
        made[site.path] = StackedLinear(
            world.base.get_submodule(site.path),
            experts_of(shared, number),
            shared.router(number),
            world.structure.scale,
            world.settings.dropout,
        )
        made[site.path].table = 0 if shared.tables == 1 else site.layer
    return made


def routed(world: World, linears: dict[str, StackedLinear], number: int) -> list[Tensor]:
    """What every linear's router makes of user `number`'s embedding, [N] each."""
    tables = 1 + max(linear.table for linear in linears.values())
    embedding = embedding_of(world, tables, world.users[number])
    return [linear.by_user @ embedding[linear.table] for linear in linears.values()]


class StackedLoop(Loop):
    """One user after another over a base that stays as it was found."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.model, self.linears = world.base, stacked_linears(world)
        self.factors = [(linear.a, linear.b) for linear in self.linears.values()]
        blocks = world.base.get_decoder().layers
        self.compiled: list[Any] = []
        if world.spec.compile:
            lengths = {len(sample.tokens) for user in world.users for sample in user.samples}
            # One length is worth a program of its own; many share one.
            self.compiled = [torch.compile(block, dynamic=len(lengths) > 1) for block in blocks]

    def enter(self, number: int) -> None:
        """The user's LoRA, and what the router makes of the user's embedding."""
        super().enter(number)
        for linear, own in zip(
            self.linears.values(), routed(self.world, self.linears, number), strict=True
        ):
            linear.of_user.copy_(own)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Linears and compiled blocks in the base; both are put back on the way out."""
        base, blocks = self.world.base, self.world.base.get_decoder().layers
        plain = list(blocks)
        try:
            for path, linear in self.linears.items():
                base.set_submodule(path, linear)
            for number, block in enumerate(self.compiled):
                blocks[number] = block
            yield
        finally:
            for number, block in enumerate(plain):
                blocks[number] = block
            for path, linear in self.linears.items():
                base.set_submodule(path, linear.base)

    def losses(self, samples: Sequence[Encoded]) -> Tensor:
        """As Hugging Face's own forward makes them, without mask where nothing is padded."""
        batch = self.world.encoder.padded(samples, [0] * len(samples), device=self.world.device)
        ids = batch.input_ids
        where: dict[str, Any] = {}
        # Told by the lengths here: looking at the mask would wait for the device.
        if len({len(sample.tokens) for sample in samples}) > 1:
            more = -ids.shape[1] % ALIGNED if self.compiled else 0
            ids = F.pad(ids, (more, 0), value=self.world.encoder.pad)
            where["attention_mask"] = F.pad(batch.attention_mask, (more, 0))
            where["position_ids"] = F.pad(batch.position_ids, (more, 0))
        start = self.model.get_input_embeddings()(ids)
        if self.compiled:
            # Else the first block, whose input needs no gradient, would be a program of its own.
            start.requires_grad_()
        return row_losses(self.model, batch, inputs_embeds=start, **where)
