"""One frozen linear with group experts and stacked private adapters around it.

h = W_p x + s * c * sum_n w_n(x, u) B_n A_n x + s * B_u A_u x      (PROPER eq. 7, 10, 11, 13)

c is 1 but in the preset `released` (docs/method.md 1.10).
The sum over experts is dense, and they lie stacked: one pair of products around an elementwise
weighting, never a loop. `routing` makes w_n (eq. 8 and 12), `ops` the products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proper_model.kernels.dropout import row_masks
from proper_model.kernels.ops import add_low_rank, project
from proper_model.kernels.products import frozen_linear, serves
from proper_model.model.adapters import Adapters
from proper_model.model.routing import route, text_weight


class AdaptedLinear(torch.nn.Module):
    """A frozen linear plus whatever the current pass switches on. x [..., i] -> [..., o].

    The leading dimensions are those of the pass: [1, M] packed, [R, T] while text is generated.

    Args:
        base: the frozen linear.
        adapters: the parameters of all sites, and the current pass.
        number: of this linear among the sites.
    """

    def __init__(self, base: torch.nn.Module, adapters: Adapters, number: int) -> None:
        super().__init__()
        self.base = base
        # Not registered as a submodule: it holds this module already.
        object.__setattr__(self, "adapters", adapters)
        self.number = number

    adapters: Adapters

    def forward(self, x: Tensor) -> Tensor:
        adapters, number, now = self.adapters, self.number, self.adapters.current
        # A release of stage 1 alone has no experts: every pass goes without.
        with_experts = now is not None and now.experts and len(adapters.experts) > 0
        if now is None or not (with_experts or now.lora):
            return self._plain(x)
        layout = now.layout_of(x)
        flat = x.reshape(-1, x.shape[-1])  # [M, i]
        mask, kept = None, 1.0
        if now.seeds is not None and now.dropout > 0:
            mask = row_masks(flat, now.dropout, now.seeds, layout, number)
            kept = 1 - now.dropout
        user_a = user_b = user_w = None
        if now.lora:
            user_a = adapters.lora.a[number].index_select(0, now.slots)  # [R, r, i]
            user_b = adapters.lora.b[number].index_select(0, now.slots)  # [R, o, r]
            if len(adapters.lora.w):
                user_w = adapters.lora.w[number].index_select(0, now.slots)  # [R, N, o]
        experts = adapters.expert(number) if with_experts else None
        low = project(
            adapters.backend,
            self.base,
            flat,
            mask,
            layout,
            user_a=user_a,
            expert_a=None if experts is None else experts.a,
            text=text_weight(adapters, number, now, flat) if with_experts else None,
        )
        scale = adapters.structure.scale
        user_low, expert_low = low.user_low, low.expert_low  # A_u x [M, r], A_n x [M, N, r]
        if user_low is not None and mask is not None:
            user_low = user_low / kept
        if user_low is not None and now.gate is not None:
            user_low = user_low * now.gate(number, flat, layout)
        if expert_low is not None:
            weights = route(
                adapters, number, now, layout, flat, low.text_logits, user_low, user_b, user_w
            )  # w_n, [M, N]
            share = scale * adapters.structure.expert_factor / kept
            expert_low = expert_low * (weights * share).to(expert_low.dtype)[..., None]
        h = add_low_rank(
            adapters.backend,
            low.base_out,
            layout,
            user_low=None if user_low is None else user_low * scale,
            expert_low=expert_low,
            user_b=user_b,
            expert_b=None if experts is None else experts.b,
        )
        return h.view(*x.shape[:-1], -1)

    def _plain(self, x: Tensor) -> Tensor:
        if type(self.base) is torch.nn.Linear and serves(x):
            return frozen_linear(x, self.base.weight, self.base.bias)
        plain: Tensor = self.base(x)
        return plain
