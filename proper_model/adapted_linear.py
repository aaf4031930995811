"""One frozen linear with group experts and stacked private adapters around it.

h = W_p x + s * sum_n w_n(x, u) B_n A_n x + s * B_u A_u x          (PROPER eq. 7, 10, 11, 13)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from proper_model import ops
from proper_model.dropout import row_masks

if TYPE_CHECKING:
    from proper_model.model import AdaptedModel


class AdaptedLinear(torch.nn.Module):
    """A frozen linear plus whatever the current pass switches on. x [B, T, i] -> [B, T, o]."""

    def __init__(self, base: torch.nn.Module, owner: AdaptedModel, number: int) -> None:
        super().__init__()
        self.base = base
        # Not registered as a submodule: the owner holds this module already.
        object.__setattr__(self, "owner", owner)
        self.number = number

    owner: AdaptedModel

    def forward(self, x: Tensor) -> Tensor:
        owner, now = self.owner, self.owner.current
        if now is None or not (now.experts or now.lora):
            plain: Tensor = self.base(x)
            return plain
        mask, kept = None, 1.0
        if now.seeds is not None and now.dropout > 0:
            mask = row_masks(x, now.dropout, now.seeds, now.lengths, self.number)
            kept = 1 - now.dropout
        user_a = user_b = p = None
        if now.lora:
            user_a = owner.lora.a[self.number].index_select(0, now.slots)  # [B, r, i]
            user_b = owner.lora.b[self.number].index_select(0, now.slots)  # [B, o, r]
        experts = owner.expert(self.number) if now.experts else None
        y, hidden, q = ops.down(
            owner.backend, self.base, x, mask, user_a, None if experts is None else experts.a
        )
        scale = owner.structure.scale
        if hidden is not None:
            hidden = hidden / kept  # A_u x, [B, T, r]
            p = hidden * scale
        if q is not None:
            weights = owner.route(self.number, x, hidden, user_b)  # [B, T or 1, N]
            q = q * (weights * (scale / kept)).to(q.dtype)[..., None]  # [B, T, N, r]
        return ops.up(owner.backend, y, p, q, user_b, None if experts is None else experts.b)
