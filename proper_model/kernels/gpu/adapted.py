"""A whole adapted linear as one function with hand-written gradients, over the kernels of this room.

    h = W_p x + c + sum_n s' w_n B_n A_n (k*x) + s B_u A_u (k*x)          (PROPER eq. 7, 8, 11-13)

The base's product is the vendor's. Beside it the input is read once, the output read and written
once, and nothing of full width is made in between. Backward the same holds for the gradients.

Letters: M tokens, R rows, N experts, r rank, i input width, o output width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from proper_model.kernels.adapted import Routing, Scales
from proper_model.kernels.gpu.low_rank import Mask, Thin, fits, gather, outer, scatter
from proper_model.kernels.gpu.mask import keep_mask
from proper_model.kernels.gpu.routing import Sizes, route, route_back
from proper_model.kernels.gpu.tiles import DTYPES
from proper_model.kernels.layout import Layout
from proper_model.kernels.rows import sums

MOST_LOW = 128  # N r at most: a program holds them all


def serves(x: Tensor, base: torch.nn.Module, experts: int, rank: int) -> bool:
    """True for inputs, linears and sizes that these kernels compute; `experts`: 0 for none."""
    plain = type(base) is torch.nn.Linear and base.weight.dtype is x.dtype
    if not plain or x.dtype not in DTYPES or x.stride(-1) != 1 or max(1, experts) * rank > MOST_LOW:
        return False
    return fits(experts * rank, rank, 2 * experts, x)


def adapted_linear(
    base: torch.nn.Linear,
    x: Tensor,
    layout: Layout,
    mask: Mask,
    scales: Scales,
    routing: Routing,
    *,
    user_a: Tensor | None = None,
    user_b: Tensor | None = None,
    expert_a: Tensor | None = None,
    expert_b: Tensor | None = None,
    text: Tensor | None = None,
) -> Tensor:
    """x [M, i] -> h [M, o].

    Args:
        user_a, user_b: every row's own [R, r, i] and [R, o, r], or None.
        expert_a, expert_b: [N, r, i] and [N, o, r], or None.
        text: W_t [N, i], or None.
        routing: in float32, as everything is computed here.
    """
    h: Tensor = _Adapted.apply(
        x, base.weight, base.bias, layout, mask, scales, routing.detached,
        routing.through, routing.user, user_a, user_b, expert_a, expert_b, text,
    )  # fmt: skip
    return h


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        layout: Layout,
        mask: Mask,
        scales: Scales,
        detached: bool,
        through: Tensor | None,
        user: Tensor | None,
        user_a: Tensor | None,
        user_b: Tensor | None,
        expert_a: Tensor | None,
        expert_b: Tensor | None,
        text: Tensor | None,
    ) -> Tensor:
        n, rank = (0, 0) if expert_a is None else expert_a.shape[:2]
        own = 0 if user_a is None else user_a.shape[1]
        inner = Thin.of(expert_a, user_a, text, x.dtype)
        outside = Thin.of(_out(expert_b), _out(user_b), None, x.dtype)
        sizes = Sizes(n, rank, own, inner.sizes[2])
        through = None if through is None else through.contiguous()
        user = None if user is None else user.contiguous()
        h = F.linear(x, weight, bias)
        parts = gather(x, inner, layout, mask)
        c, saved = route(parts, through, user, layout, sizes, scales, x.dtype)
        scatter(h, c, outside, layout)
        # x is the widest of all: an embedding that trains alone needs neither it nor c.
        *_, wants_user_a, wants_user_b, wants_a, wants_b, wants_text = ctx.needs_input_grad
        kept_x = x if wants_user_a or wants_a or wants_text else None
        kept_c = c if wants_user_b or wants_b else None
        ctx.save_for_backward(
            kept_x, weight, kept_c, saved, through, *inner.tensors, *outside.tensors
        )
        ctx.about = layout, mask, scales, detached, sizes
        ctx.dtypes = [None if f is None else f.dtype for f in (expert_a, expert_b, text)]
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, c, saved, through, *factors = ctx.saved_tensors
        inner, outside = Thin(*factors[:3]), Thin(*factors[3:])
        layout, mask, scales, detached, sizes = ctx.about
        (
            wants_x, _, _, _, _, _, _, wants_through, wants_user, wants_user_a, wants_user_b, *_
        ) = ctx.needs_input_grad  # fmt: skip
        d_h = grads[0].contiguous()
        e, r = sizes.experts * sizes.rank, sizes.own
        parts = gather(d_h, outside, layout)
        back = None if detached else through
        d, narrow, d_logits = route_back(parts, saved, back, layout, sizes, scales, weight.dtype)
        d_x = d_user_a = d_user_b = d_through = d_user = None
        if wants_x:
            d_x = F.linear(d_h, weight.T)
            scatter(d_x, d, inner, layout, mask, narrow)
        if inner.own is not None and wants_user_a:
            d_user_a = outer(d[:, e : e + r], x, layout, _new(inner.own), mask)
        if outside.own is not None and wants_user_b:
            rows, _, width = outside.own.shape
            d_user_b = d_h.new_empty(rows, width, r, dtype=torch.float32)
            outer(c[:, e : e + r], d_h, layout, d_user_b.transpose(1, 2))
        if wants_through and not detached:
            d_through = outer(d_logits, saved[:, e : e + r], layout, _new(through))
        if wants_user:
            d_user = sums(d_logits, layout)
        shared = _shared_gradients(ctx, x, d_h, c, d, d_logits)
        fixed = (None,) * 6  # from the weight to `detached`
        return d_x, *fixed, d_through, d_user, d_user_a, d_user_b, *shared


def _shared_gradients(
    ctx: Any, x: Tensor | None, d_h: Tensor, c: Tensor | None, d: Tensor, d_logits: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of A_n, B_n and W_t, where they are in training: products over all tokens of a pass."""
    layout, mask, _, _, sizes = ctx.about
    a, b, w = ctx.dtypes
    *_, wants_a, wants_b, wants_text = ctx.needs_input_grad
    n, rank, e = sizes.experts, sizes.rank, sizes.experts * sizes.rank
    d_a = d_b = d_text = None
    if wants_a:
        assert x is not None
        dropped = x
        if mask.seeds is not None:
            dropped = x * keep_mask(x, mask.threshold, mask.seeds, layout, mask.site)
        d_a = (d[:, :e].T @ dropped).view(n, rank, -1).to(a)
    if wants_b:
        assert c is not None
        d_b = (c[:, :e].T @ d_h).view(n, rank, -1).transpose(1, 2).to(b)
    if wants_text:
        assert x is not None
        d_text = (d_logits.T @ x.to(d_logits.dtype)).to(w)
    return d_a, d_b, d_text


def _out(factor: Tensor | None) -> Tensor | None:
    """B [.., o, r] seen from its output, [.., r, o]."""
    return None if factor is None else factor.transpose(1, 2)


def _new(like: Tensor) -> Tensor:
    return like.new_empty(like.shape, dtype=torch.float32)
