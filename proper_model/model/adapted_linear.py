"""One frozen linear with group experts and stacked private adapters around it.

h = W_p x + s * c * sum_n w_n(x, u) B_n A_n x + s * B_u A_u x      (PROPER eq. 7, 10, 11, 13)

c is 1 but in the preset `released` (docs/method.md 1.10).
The sum over experts is dense, and they lie stacked: one pair of products around an elementwise
weighting, never a loop. `routing` makes w_n (eq. 8 and 12), `ops` the products.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from proper_model.kernels.adapted import Routing, Scales, adapted_linear
from proper_model.kernels.dropout import row_masks, threshold
from proper_model.kernels.layout import Layout
from proper_model.kernels.ops import Backend, add_low_rank, project, runs_kernels
from proper_model.kernels.products import frozen_linear, serves
from proper_model.model.adapters import Adapters, Experts
from proper_model.model.passes import Pass
from proper_model.model.routing import is_one_sum, route, terms_of_rows, text_weight


class UserFactors(NamedTuple):
    """Of every row's user: A_u [R, r, i], B_u [R, o, r], an own W_l [R, N, o]; None for what is absent."""

    a: Tensor | None
    b: Tensor | None
    w: Tensor | None


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
        flat = x.reshape(-1, x.shape[-1])  # [M, i]
        user_a = user_b = user_w = None
        if now.lora:
            user_a = adapters.lora.a[number].index_select(0, now.slots)  # [R, r, i]
            user_b = adapters.lora.b[number].index_select(0, now.slots)  # [R, o, r]
            if len(adapters.lora.w):
                user_w = adapters.lora.w[number].index_select(0, now.slots)  # [R, N, o]
        experts = adapters.expert(number) if with_experts else None
        own = UserFactors(user_a, user_b, user_w)
        if not self._is_one_function(flat, now, experts):
            h = self._in_parts(flat, now, now.layout_of(x), own, experts)
        elif adapters.backend is Backend.KERNELS:
            h = self._by_kernels(flat, now, own, experts)
        else:
            h = self._at_once(flat, now, now.layout_of(x), own, experts)
        return h.view(*x.shape[:-1], -1)

    def _is_one_function(self, x: Tensor, now: Pass, experts: Experts | None) -> bool:
        """True where one function computes all of this (`kernels.adapted`, `kernels.gpu`)."""
        adapters = self.adapters
        if now.gate is not None or (experts is not None and not is_one_sum(adapters, now)):
            return False
        if adapters.backend is Backend.FUSED:
            return type(self.base) is torch.nn.Linear and self.base.weight.dtype is x.dtype
        if adapters.backend is not Backend.KERNELS or not runs_kernels(x.device):
            return False
        from proper_model.kernels import gpu

        n = 0 if experts is None else adapters.structure.experts
        return now.layout is not None and gpu.serves(x, self.base, n, adapters.structure.rank)

    def _by_kernels(
        self, x: Tensor, now: Pass, own: UserFactors, experts: Experts | None
    ) -> Tensor:
        """x [M, i] -> [M, o] by the kernels of a GPU."""
        from proper_model.kernels import gpu

        assert now.layout is not None
        seeds = now.seeds_on(x.device)
        mask = gpu.Mask(seeds, threshold(now.dropout), self.number)
        kept = 1.0 if seeds is None else 1 - now.dropout
        options = self._options(x, now, own, experts, kept)
        return gpu.adapted_linear(self.base, x, now.layout, mask, **options)  # type: ignore[arg-type] # `serves` has looked

    def _at_once(
        self, x: Tensor, now: Pass, layout: Layout, own: UserFactors, experts: Experts | None
    ) -> Tensor:
        """x [M, i] -> [M, o] by one function of PyTorch's routines."""
        mask, kept = self._mask(x, now, layout)
        options = self._options(x, now, own, experts, kept)
        return adapted_linear(self.base, x, layout, mask, **options)  # type: ignore[arg-type] # a plain linear

    def _options(
        self, x: Tensor, now: Pass, own: UserFactors, experts: Experts | None, kept: float
    ) -> dict[str, Any]:
        """What both such functions are told beside input and mask."""
        adapters, number = self.adapters, self.number
        scale = adapters.structure.scale
        text = through = user = None
        if experts is not None:
            text = text_weight(adapters, number, now, x)
            through, user = terms_of_rows(adapters, number, now, x, own.b, own.w)
        return {
            "scales": Scales(scale, scale * adapters.structure.expert_factor / kept, kept),
            "routing": Routing(through, user, adapters.structure.detach_lora_router),
            "user_a": own.a,
            "user_b": own.b,
            "expert_a": None if experts is None else experts.a,
            "expert_b": None if experts is None else experts.b,
            "text": text,
        }

    def _mask(self, x: Tensor, now: Pass, layout: Layout) -> tuple[Tensor | None, float]:
        """What dropout keeps of x, and which share."""
        if now.seeds is None or now.dropout == 0:
            return None, 1.0
        return row_masks(x, now.dropout, now.seeds, layout, self.number), 1 - now.dropout

    def _in_parts(
        self, flat: Tensor, now: Pass, layout: Layout, own: UserFactors, experts: Experts | None
    ) -> Tensor:
        """x [M, i] -> [M, o]: into low rank, routed, and back (`kernels.ops`)."""
        adapters, number = self.adapters, self.number
        mask, kept = self._mask(flat, now, layout)
        low = project(
            adapters.backend,
            self.base,
            flat,
            mask,
            layout,
            user_a=own.a,
            expert_a=None if experts is None else experts.a,
            text=None if experts is None else text_weight(adapters, number, now, flat),
        )
        scale = adapters.structure.scale
        user_low, expert_low = low.user_low, low.expert_low  # A_u x [M, r], A_n x [M, N, r]
        if user_low is not None and mask is not None:
            user_low = user_low / kept
        if user_low is not None and now.gate is not None:
            user_low = user_low * now.gate(number, flat, layout)
        if expert_low is not None:
            weights = route(
                adapters, number, now, layout, flat, low.text_logits, user_low, own.b, own.w
            )  # w_n, [M, N]
            share = scale * adapters.structure.expert_factor / kept
            expert_low = expert_low * (weights * share).to(expert_low.dtype)[..., None]
        return add_low_rank(
            adapters.backend,
            low.base_out,
            layout,
            user_low=None if user_low is None else user_low * scale,
            expert_low=expert_low,
            user_b=own.b,
            expert_b=None if experts is None else experts.b,
        )

    def _plain(self, x: Tensor) -> Tensor:
        if type(self.base) is torch.nn.Linear and serves(x):
            return frozen_linear(x, self.base.weight, self.base.bias)
        plain: Tensor = self.base(x)
        return plain
