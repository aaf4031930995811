"""The low-rank part of an adapted linear, as two operations with one contract and three backends.

    down:  y = W x + c,   p = A_u (m*x),   q_n = A_n (m*x),   t = W_t x
    up:    h = y + B_u p' + sum_n B_n q'_n

Between them the caller routes: p' and q'_n are p and q_n after scaling and weighting, a few numbers
a token. `reference` says this in einsum and lets autograd differentiate; it is the oracle of the
others. `fused` computes the same with hand-written gradients: no copy of a full-width activation is
made that a matrix product could write to directly, and the frozen base gets no gradients of its
own. `grouped` is `fused` with one launch for all users' factors however ragged their rows (`rows`).

m is the dropout mask or None. Letters: M tokens, B rows, N experts, r rank, i input width, o output
width. A row's tokens stand together (`layout`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from proper_model.kernels import rows
from proper_model.kernels.layout import Layout
from proper_model.kernels.products import linear, transposed_product


class Backend(StrEnum):
    """Which implementation adapted linears use; results differ by rounding only."""

    REFERENCE = "reference"
    FUSED = "fused"
    GROUPED = "grouped"

    @classmethod
    def best_on(cls, device: torch.device) -> Backend:
        """The quickest on a device: where launches cost, one for all users."""
        return cls.GROUPED if device.type == "cuda" else cls.FUSED


@dataclass(frozen=True)
class Down:
    """What goes into low rank: y [M, o], p [M, r], q [M, N, r], t [M, N]; None for absent parts."""

    y: Tensor
    p: Tensor | None
    q: Tensor | None
    t: Tensor | None


def down(
    backend: Backend,
    base: torch.nn.Module,
    x: Tensor,
    mask: Tensor | None,
    layout: Layout,
    *,
    user_a: Tensor | None = None,
    expert_a: Tensor | None = None,
    text: Tensor | None = None,
) -> Down:
    """The frozen linear, both projections into low rank, and the text router's logits.

    Args:
        base: the frozen linear, any module from [M, i] to [M, o].
        x: [M, i]; mask: [M, i] or None.
        user_a: every row's own A_u, [B, r, i], or None.
        expert_a: [N, r, i] or None.
        text: W_t [N, i] or None; its logits come in its own dtype and never see the mask.
    """
    if backend is Backend.REFERENCE:
        return _down_reference(base, x, mask, layout, user_a, expert_a, text)
    grouped = backend is Backend.GROUPED
    user = None if user_a is None else user_a.to(x.dtype)
    flat = None if expert_a is None else expert_a.to(x.dtype).flatten(0, 1)  # [N*r, i]
    if type(base) is torch.nn.Linear:
        y, p, q, t = _Down.apply(  # type: ignore[no-untyped-call]
            x, base.weight, base.bias, mask, layout, grouped, user, flat, text
        )
    else:  # a quantized linear brings its own gradient
        y = base(x)
        _, p, q, t = _Down.apply(  # type: ignore[no-untyped-call]
            x, None, None, mask, layout, grouped, user, flat, text
        )
    if q is not None and expert_a is not None:
        q = q.view(-1, *expert_a.shape[:2])
    return Down(y, p, q, t)


def up(
    backend: Backend,
    y: Tensor,
    layout: Layout,
    *,
    p: Tensor | None = None,
    q: Tensor | None = None,
    user_b: Tensor | None = None,
    expert_b: Tensor | None = None,
) -> Tensor:
    """Add both adapters' outputs to y [M, o]; y itself may be overwritten.

    Args:
        p: [M, r] or None; q: [M, N, r] or None.
        user_b: every row's own B_u, [B, o, r], or None.
        expert_b: [N, o, r] or None.
    """
    if backend is Backend.REFERENCE:
        if p is not None and user_b is not None:
            y = y + _by_row_reference("gtr,gor->gto", p, user_b, layout)
        if q is not None and expert_b is not None:
            y = y + torch.einsum("mnr,nor->mo", q, expert_b.to(q.dtype))
        return y
    user = None if user_b is None else user_b.to(y.dtype).transpose(1, 2)  # [B, r, o]
    flat = None
    if expert_b is not None:
        flat = expert_b.to(y.dtype).permute(0, 2, 1).flatten(0, 1)  # [N*r, o]
    flat_q = None if q is None else q.flatten(1)
    out: Tensor = _Up.apply(  # type: ignore[no-untyped-call]
        y, layout, backend is Backend.GROUPED, p, flat_q, user, flat
    )
    return out


def _down_reference(
    base: torch.nn.Module,
    x: Tensor,
    mask: Tensor | None,
    layout: Layout,
    user_a: Tensor | None,
    expert_a: Tensor | None,
    text: Tensor | None,
) -> Down:
    dropped = x if mask is None else x * mask
    p = q = t = None
    if user_a is not None:
        p = _by_row_reference("gti,gri->gtr", dropped, user_a, layout)
    if expert_a is not None:
        q = torch.einsum("mi,nri->mnr", dropped, expert_a.to(x.dtype))
    if text is not None:
        t = torch.einsum("mi,ni->mn", x.to(text.dtype), text)
    return Down(base(x), p, q, t)


def _by_row_reference(equation: str, tokens: Tensor, factor: Tensor, layout: Layout) -> Tensor:
    """An einsum of every row's tokens [g, t, :] with its own factor [g, :, :]."""
    parts = [
        torch.einsum(equation, group.rectangle(tokens), factor[group.owners].to(tokens.dtype))
        for group in layout.groups
    ]
    return torch.cat([part.flatten(0, 1) for part in parts])


class _Down(torch.autograd.Function):
    """y = x W^T + c, p = (m*x) A_u^T, q = (m*x) A_g^T, t = x W_t^T; W and c are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mask: Tensor | None,
        layout: Layout,
        grouped: bool,
        user: Tensor | None,
        flat: Tensor | None,
        text: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        dropped = x if mask is None else x * mask
        y = None if weight is None else linear(x, weight, bias)
        p = None
        if user is not None:
            p = rows.times(dropped, user.transpose(1, 2), layout, grouped=grouped)
        q = None if flat is None else linear(dropped, flat)
        t = None if text is None else linear(x.to(text.dtype), text)
        ctx.save_for_backward(x, weight, mask, user, flat, text)
        ctx.layout, ctx.grouped = layout, grouped
        ctx.set_materialize_grads(False)
        return y, p, q, t

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        _dy, dp, dq, dt = grads
        x, weight, mask, user, flat, text = ctx.saved_tensors
        wants_x, *_, wants_user, wants_flat, wants_text = ctx.needs_input_grad
        d_user = d_flat = d_text = dx = None
        if wants_user or wants_flat:
            dropped = x if mask is None else x * mask
            if wants_user and dp is not None:
                d_user = rows.outer(dp, dropped, ctx.layout, grouped=ctx.grouped)  # [B, r, i]
            if wants_flat and dq is not None:
                d_flat = transposed_product(dq, dropped)  # [N*r, i]
        if wants_text and dt is not None:
            d_text = transposed_product(dt, x.to(dt.dtype))
        if wants_x:
            dx = _input_gradient(grads, weight, mask, ctx.layout, user, flat, grouped=ctx.grouped)
            if dt is not None and text is not None:
                # In x's dtype, as every other part of its gradient.
                narrow, weights = dt.to(x.dtype), text.to(x.dtype)
                dx = linear(narrow, weights.T) if dx is None else dx.addmm_(narrow, weights)
        return dx, None, None, None, None, None, d_user, d_flat, d_text


def _input_gradient(
    grads: tuple[Tensor | None, ...],
    weight: Tensor | None,
    mask: Tensor | None,
    layout: Layout,
    user: Tensor | None,
    flat: Tensor | None,
    *,
    grouped: bool,
) -> Tensor | None:
    """dy W + m*(dp A_u + dq A_g), [M, i]; what has no gradient is left out."""
    dy, dp, dq, _ = grads
    dx = None if weight is None or dy is None else linear(dy, weight.T)
    if mask is None:
        return _add_low_rank(dx, layout, dp, dq, user, flat, grouped=grouped)
    through = _add_low_rank(None, layout, dp, dq, user, flat, grouped=grouped)
    if through is None:
        return dx
    return through.mul_(mask) if dx is None else dx.addcmul_(through, mask)


def _add_low_rank(
    into: Tensor | None,
    layout: Layout,
    p: Tensor | None,
    q: Tensor | None,
    user: Tensor | None,
    flat: Tensor | None,
    *,
    grouped: bool,
) -> Tensor | None:
    """into + p U + q G for every row's own U [B, r, d] and G [N*r, d]; writes into `into`."""
    if q is not None and flat is not None:
        into = linear(q, flat.T) if into is None else into.addmm_(q, flat)
    if p is not None and user is not None:
        if into is None:
            return rows.times(p, user, layout, grouped=grouped)
        rows.add_times(into, p, user, layout, grouped=grouped)
    return into


class _Up(torch.autograd.Function):
    """y += p B_u + q B_g in place, with B_u [B, r, o] and B_g [N*r, o]."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        layout: Layout,
        grouped: bool,
        p: Tensor | None,
        q: Tensor | None,
        user: Tensor | None,
        flat: Tensor | None,
    ) -> Tensor:
        _add_low_rank(y, layout, p, q, user, flat, grouped=grouped)
        ctx.mark_dirty(y)
        ctx.save_for_backward(p, q, user, flat)
        ctx.layout, ctx.grouped = layout, grouped
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        p, q, user, flat = ctx.saved_tensors
        layout, grouped = ctx.layout, ctx.grouped
        wants_y, _, _, wants_p, wants_q, wants_user, wants_flat = ctx.needs_input_grad
        dy = dy.contiguous()
        return (
            dy if wants_y else None,
            None,
            None,
            rows.times(dy, user.transpose(1, 2), layout, grouped=grouped) if wants_p else None,
            linear(dy, flat) if wants_q else None,
            rows.outer(p, dy, layout, grouped=grouped) if wants_user else None,
            transposed_product(q, dy) if wants_flat else None,
        )
