"""One frozen linear with group experts and stacked private adapters around it.

h = W_p x + s * sum_n w_n(x, u) B_n A_n x + s * B_u A_u x          (PROPER eq. 7, 10, 11, 13)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from proper_model.kernels import ops
from proper_model.kernels.dropout import row_masks
from proper_model.kernels.products import frozen_linear, serves
from proper_model.model.routing import route, text_weight

if TYPE_CHECKING:
    from proper_model.model.adapted_model import AdaptedModel


class AdaptedLinear(torch.nn.Module):
    """A frozen linear plus whatever the current pass switches on. x [..., i] -> [..., o].

    The leading dimensions are those of the pass: [1, M] packed, [B, T] while text is generated.
    """

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
            return self._plain(x)
        layout = now.layout_of(x)
        flat = x.reshape(-1, x.shape[-1])  # [M, i]
        mask, kept = None, 1.0
        if now.seeds is not None and now.dropout > 0:
            mask = row_masks(flat, now.dropout, now.seeds, layout, self.number)
            kept = 1 - now.dropout
        user_a = user_b = p = q = None
        if now.lora:
            user_a = owner.lora.a[self.number].index_select(0, now.slots)  # [B, r, i]
            user_b = owner.lora.b[self.number].index_select(0, now.slots)  # [B, o, r]
        experts = owner.expert(self.number) if now.experts else None
        low = ops.down(
            owner.backend,
            self.base,
            flat,
            mask,
            layout,
            user_a=user_a,
            expert_a=None if experts is None else experts.a,
            text=text_weight(owner, self.number, flat),
        )
        scale = owner.structure.scale
        hidden = low.p  # A_u x, [M, r]
        if hidden is not None:
            hidden = hidden / kept if mask is not None else hidden
            p = hidden * scale
        if low.q is not None:
            weights = route(owner, self.number, layout, flat, low.t, hidden, user_b)  # [M, N]
            q = low.q * (weights * (scale / kept)).to(low.q.dtype)[..., None]  # [M, N, r]
        h = ops.up(
            owner.backend,
            low.y,
            layout,
            p=p,
            q=q,
            user_b=user_b,
            expert_b=None if experts is None else experts.b,
        )
        return h.view(*x.shape[:-1], -1)

    def _plain(self, x: Tensor) -> Tensor:
        if type(self.base) is torch.nn.Linear and serves(x):
            return frozen_linear(x, self.base.weight, self.base.bias)
        plain: Tensor = self.base(x)
        return plain
