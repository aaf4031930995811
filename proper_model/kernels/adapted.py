"""A whole adapted linear as one function with hand-written gradients, by PyTorch's routines.

    h = W_p x + c + sum_n s' w_n B_n A_n (k*x) + s B_u A_u (k*x)          (PROPER eq. 7, 8, 11-13)
    w = softmax(W_t x + W_e e_u + (W_l B_u) A_u (k*x) / kept)             `model.routing`, merged by sum

It is the choice on a CPU, where a tiny base and one person alone are bound by how many operations there are,
and by autograd's own work for each. `ops` computes the same in two parts around any routing, and
`kernels.gpu` by kernels.

Letters: M tokens, R rows, N experts, r rank, E = N r, i input width, o output width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from proper_model.kernels import rows
from proper_model.kernels.layout import Layout
from proper_model.kernels.ops import add_masked
from proper_model.kernels.products import linear, transposed_product


@dataclass(frozen=True)
class Routing:
    """What routes besides the text.

    Attributes:
        through: W_l B_u of every row, [R, N, r] in routing precision, or None.
        user: W_e e_u of every row, [R, N] in routing precision, or None.
        detached: no gradient flows through the LoRA-aware router.
    """

    through: Tensor | None
    user: Tensor | None
    detached: bool = False


@dataclass(frozen=True)
class Scales:
    """s of a private LoRA, s' of experts, and the share of inputs that dropout keeps."""

    own: float
    experts: float
    kept: float


def adapted_linear(
    base: torch.nn.Linear,
    x: Tensor,
    layout: Layout,
    mask: Tensor | None,
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
        mask: what dropout keeps of x, 0 or 1, [M, i], or None.
        user_a, user_b: every row's own [R, r, i] and [R, o, r], or None.
        expert_a, expert_b: [N, r, i] and [N, o, r], or None.
        text: W_t [N, i] in routing precision, or None; it never sees the mask.
    """
    if user_a is not None and user_b is not None:
        user_a, user_b = user_a.to(x.dtype), user_b.to(x.dtype).transpose(1, 2)  # [R, r, o]
    flat_a = flat_b = None
    if expert_a is not None and expert_b is not None:
        flat_a = expert_a.to(x.dtype).flatten(0, 1)  # [E, i]
        flat_b = expert_b.to(x.dtype).transpose(1, 2).flatten(0, 1)  # [E, o]
    h: Tensor = _Adapted.apply(  # type: ignore[no-untyped-call]
        x, base.weight, base.bias, layout, mask, scales, routing.detached,
        routing.through, routing.user, user_a, user_b, flat_a, flat_b, text,
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
        mask: Tensor | None,
        scales: Scales,
        detached: bool,
        through: Tensor | None,
        user: Tensor | None,
        user_a: Tensor | None,
        user_b: Tensor | None,
        flat_a: Tensor | None,
        flat_b: Tensor | None,
        text: Tensor | None,
    ) -> Tensor:
        dropped = x if mask is None else x * mask
        h = linear(x, weight, bias)
        low_u = low_e = weights = None
        if user_a is not None and user_b is not None:
            low_u = rows.times(dropped, user_a.transpose(1, 2), layout)  # A_u x, [M, r]
            if scales.kept != 1:
                low_u.div_(scales.kept)
            rows.add_times(h, low_u * scales.own, user_b, layout)
        if flat_a is not None and flat_b is not None:
            low_e, logits = _into_low(x, dropped, flat_a, text)
            weights = _weights(logits, low_u, through, user, layout)  # [M, N]
            h.addmm_(_weighted(low_e, weights, scales), flat_b)
        # x is the widest of all: an embedding that trains alone does not need it.
        *_, wants_user_a, _, wants_a, _, wants_text = ctx.needs_input_grad
        kept_x = x if wants_user_a or wants_a or wants_text else None
        ctx.save_for_backward(
            kept_x, weight, mask, low_u, low_e, weights, through, user_a, user_b, flat_a, flat_b, text
        )  # fmt: skip
        ctx.about = layout, scales, detached
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (
            x, weight, mask, low_u, low_e, weights, through, user_a, user_b, flat_a, flat_b, text
        ) = ctx.saved_tensors  # fmt: skip
        layout, scales, detached = ctx.about
        (
            wants_x, _, _, _, _, _, _, wants_through, wants_user, wants_user_a, wants_user_b,
            wants_a, wants_b, wants_text,
        ) = ctx.needs_input_grad  # fmt: skip
        d_h = grads[0].contiguous()
        d_low_u = d_low_e = d_logits = None
        d_through = d_user = d_user_a = d_user_b = d_a = d_b = d_text = d_x = None
        if low_e is not None:
            d_low_e, d_logits = _routed_back(d_h, low_e, weights, flat_b, scales)
        if low_u is not None:
            d_low_u = rows.times(d_h, user_b.transpose(1, 2), layout).mul_(scales.own)
            if d_logits is not None and through is not None and not detached:
                rows.add_times(
                    d_low_u, d_logits.to(d_low_u.dtype), through.to(d_low_u.dtype), layout
                )
                if wants_through:
                    d_through = rows.outer(d_logits, low_u.to(d_logits.dtype), layout)
            if wants_user_b:
                d_user_b = rows.outer(low_u * scales.own, d_h, layout)
            if scales.kept != 1:
                d_low_u.div_(scales.kept)
        if wants_user and d_logits is not None:
            d_user = rows.sums(d_logits, layout)
        if wants_x:
            d_x = _back_from_low(
                linear(d_h, weight.T), mask, layout, (d_low_u, user_a), (d_low_e, flat_a), (d_logits, text)
            )  # fmt: skip
        if wants_user_a or wants_a:
            dropped = x if mask is None else x * mask
            if wants_user_a and d_low_u is not None:
                d_user_a = rows.outer(d_low_u, dropped, layout)
            if wants_a and d_low_e is not None:
                d_a = transposed_product(d_low_e, dropped)
        if wants_b:
            d_b = transposed_product(_weighted(low_e, weights, scales), d_h)
        if wants_text and d_logits is not None:
            d_text = transposed_product(d_logits, x.to(d_logits.dtype))
        fixed = (None,) * 6  # from the weight to `detached`
        return d_x, *fixed, d_through, d_user, d_user_a, d_user_b, d_a, d_b, d_text


def _into_low(
    x: Tensor, dropped: Tensor, flat_a: Tensor, text: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A_n (k*x) [M, E] and W_t x [M, N]; one product makes both where both read the same."""
    if text is None:
        return linear(dropped, flat_a), None
    if dropped is x and text.dtype is x.dtype:
        low = linear(x, torch.cat([flat_a, text]))
        return low[:, : len(flat_a)], low[:, len(flat_a) :]
    return linear(dropped, flat_a), linear(x.to(text.dtype), text)


def _weights(
    logits: Tensor | None,
    low_u: Tensor | None,
    through: Tensor | None,
    user: Tensor | None,
    layout: Layout,
) -> Tensor:
    """w [M, N]: a softmax over the sum of what there is of a text's, a user's and a LoRA's logits."""
    if user is not None:
        own = user.index_select(0, layout.rows)
        logits = own if logits is None else own.add_(logits)
    if through is not None and low_u is not None:
        narrow = low_u.to(through.dtype)
        if logits is None:
            logits = rows.times(narrow, through.transpose(1, 2), layout)
        else:
            logits = rows.add_times(logits.contiguous(), narrow, through.transpose(1, 2), layout)
    assert logits is not None
    return normalize(logits)


def normalize(logits: Tensor) -> Tensor:
    """Softmax over experts, [..., N] -> [..., N].

    Along the first of two dimensions: PyTorch's softmax along a last dimension of five takes four
    times as long on a CPU.
    """
    weights = logits.transpose(-1, -2).contiguous().softmax(-2)
    return weights.transpose(-1, -2)


def _weighted(low_e: Tensor, weights: Tensor, scales: Scales) -> Tensor:
    """s' w_n A_n x, [M, E]."""
    share = (weights * scales.experts).to(low_e.dtype)
    weighted = low_e.view(*weights.shape, -1) * share[..., None]
    return weighted.view(len(low_e), -1)


def _routed_back(
    d_h: Tensor, low_e: Tensor, weights: Tensor, flat_b: Tensor, scales: Scales
) -> tuple[Tensor, Tensor]:
    """Gradients of A_n x [M, E] and of the logits [M, N]."""
    d_c = linear(d_h, flat_b).view(*weights.shape, -1)  # [M, N, r]
    d_w = (d_c * low_e.view(d_c.shape)).sum(-1).to(weights.dtype).mul_(scales.experts)
    d_w.sub_((d_w * weights).sum(1, keepdim=True)).mul_(weights)
    share = (weights * scales.experts).to(low_e.dtype)
    return d_c.mul_(share[..., None]).view(low_e.shape), d_w


def _back_from_low(
    d_x: Tensor,
    mask: Tensor | None,
    layout: Layout,
    user: tuple[Tensor | None, Tensor | None],
    experts: tuple[Tensor | None, Tensor | None],
    text: tuple[Tensor | None, Tensor | None],
) -> Tensor:
    """d_x [M, i] plus what comes back through A_u [R, r, i], A_n [E, i] and W_t [N, i]; writes into d_x."""
    (d_low_u, user_a), (d_low_e, flat_a), (d_logits, w) = user, experts, text
    if w is not None and d_logits is not None:
        # In the dtype of x, as every part of its gradient.
        narrow, w = d_logits.to(d_x.dtype), w.to(d_x.dtype)
        if mask is None and flat_a is not None:
            d_low_e, flat_a = torch.cat([d_low_e, narrow], 1), torch.cat([flat_a, w])  # type: ignore[list-item]
        else:
            d_x.addmm_(narrow, w)
    back = add_masked(d_x, mask, layout, d_low_u, d_low_e, user_a, flat_a, grouped=False)
    assert back is not None
    return back
