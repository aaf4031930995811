"""The low-rank part of an adapted linear, as two operations with one contract and two backends.

    down:  y = W x + c,   p = A_u (m*x),   q_n = A_n (m*x)
    up:    h = y + B_u p' + sum_n B_n q'_n

Between them the caller routes: p' and q'_n are p and q_n after scaling and weighting, a few numbers
a token. `reference` says this in einsum and lets autograd differentiate; it is the oracle of the
other one. `fused` computes the same with hand-written gradients: no copy of a full-width activation
is made that a matrix product could write to directly, and the frozen base gets no gradients of its
own.

m is the scaled dropout mask or None. Letters: B batch rows, T tokens, N experts, r rank, i input
width, o output width.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor


class Backend(StrEnum):
    """Which implementation adapted linears use; results differ by rounding only."""

    REFERENCE = "reference"
    FUSED = "fused"


def down(
    backend: Backend,
    base: torch.nn.Module,
    x: Tensor,
    mask: Tensor | None,
    user_a: Tensor | None,
    expert_a: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The frozen linear and both projections into low rank.

    Args:
        base: the frozen linear, any module from [B, T, i] to [B, T, o].
        x: [B, T, i]; mask: [B, T, i] or None.
        user_a: every row's own A_u, [B, r, i], or None.
        expert_a: [N, r, i] or None.

    Returns y [B, T, o], p [B, T, r] or None, q [B, T, N, r] or None.
    """
    if backend is Backend.REFERENCE:
        dropped = x if mask is None else x * mask
        return (
            base(x),
            None if user_a is None else torch.einsum("bti,bri->btr", dropped, user_a.to(x.dtype)),
            None
            if expert_a is None
            else torch.einsum("bti,nri->btnr", dropped, expert_a.to(x.dtype)),
        )
    user = None if user_a is None else user_a.to(x.dtype)
    flat = None if expert_a is None else expert_a.to(x.dtype).flatten(0, 1)  # [N*r, i]
    if type(base) is torch.nn.Linear:
        y, p, q = _Down.apply(x, base.weight, base.bias, mask, user, flat)  # type: ignore[no-untyped-call]
    else:  # a quantized linear brings its own gradient
        y = base(x)
        _, p, q = _Down.apply(x, None, None, mask, user, flat)  # type: ignore[no-untyped-call]
    if q is not None and expert_a is not None:
        q = q.view(*q.shape[:-1], *expert_a.shape[:2])
    return y, p, q


def up(
    backend: Backend,
    y: Tensor,
    p: Tensor | None,
    q: Tensor | None,
    user_b: Tensor | None,
    expert_b: Tensor | None,
) -> Tensor:
    """Add both adapters' outputs to y; y itself may be overwritten.

    Args:
        y: [B, T, o]; p: [B, T, r] or None; q: [B, T, N, r] or None.
        user_b: every row's own B_u, [B, o, r], or None.
        expert_b: [N, o, r] or None.
    """
    if backend is Backend.REFERENCE:
        if p is not None and user_b is not None:
            y = y + torch.einsum("btr,bor->bto", p, user_b.to(p.dtype))
        if q is not None and expert_b is not None:
            y = y + torch.einsum("btnr,nor->bto", q, expert_b.to(q.dtype))
        return y
    user = None if user_b is None else user_b.to(y.dtype).transpose(1, 2)  # [B, r, o]
    flat = None
    if expert_b is not None:
        flat = expert_b.to(y.dtype).permute(0, 2, 1).flatten(0, 1)  # [N*r, o]
    flat_q = None if q is None else q.flatten(-2)
    out: Tensor = _Up.apply(y, p, flat_q, user, flat)  # type: ignore[no-untyped-call]
    return out


class _Down(torch.autograd.Function):
    """y = x W^T + c, p = (m*x) A_u^T, q = (m*x) A_g^T; W and c are frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mask: Tensor | None,
        user: Tensor | None,
        flat: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        dropped = x if mask is None else x * mask
        y = None if weight is None else _linear(x, weight, bias)
        p = None if user is None else torch.bmm(dropped, user.transpose(1, 2))
        q = None if flat is None else torch.nn.functional.linear(dropped, flat)
        ctx.save_for_backward(x, weight, mask, user, flat)
        ctx.set_materialize_grads(False)
        return y, p, q

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        dy, dp, dq = grads
        x, weight, mask, user, flat = ctx.saved_tensors
        wants_x, _, _, _, wants_user, wants_flat = ctx.needs_input_grad
        d_user = d_flat = dx = None
        if wants_user or wants_flat:
            dropped = x if mask is None else x * mask
            if wants_user and dp is not None:
                d_user = torch.bmm(dp.transpose(1, 2), dropped)  # [B, r, i]
            if wants_flat and dq is not None:
                d_flat = dq.flatten(0, 1).T @ dropped.flatten(0, 1)  # [N*r, i]
        if wants_x:
            through = _low_rank_gradient(dp, dq, user, flat)  # of m*x, [B, T, i]
            if weight is None or dy is None:
                dx = through if mask is None or through is None else through.mul_(mask)
            else:
                dx = (dy.flatten(0, 1) @ weight).view_as(x)
                if through is not None:
                    dx = dx.add_(through) if mask is None else dx.addcmul_(through, mask)
        return dx, None, None, None, d_user, d_flat


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + c into memory of its own: `_Up` writes into it, which autograd forbids for a view."""
    y = x.new_empty(*x.shape[:-1], len(weight))
    rows, out = x.reshape(-1, x.shape[-1]), y.view(-1, len(weight))
    if bias is None:
        torch.mm(rows, weight.T, out=out)
    else:
        torch.addmm(bias, rows, weight.T, out=out)
    return y


def _low_rank_gradient(
    dp: Tensor | None, dq: Tensor | None, user: Tensor | None, flat: Tensor | None
) -> Tensor | None:
    """dp A_u + dq A_g, [B, T, i]."""
    found = None
    if dq is not None and flat is not None:
        found = (dq.flatten(0, 1) @ flat).view(*dq.shape[:2], -1)
    if dp is not None and user is not None:
        found = torch.bmm(dp, user) if found is None else found.baddbmm_(dp, user)
    return found


class _Up(torch.autograd.Function):
    """y += p B_u + q B_g in place, with B_u [B, r, o] and B_g [N*r, o]."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        p: Tensor | None,
        q: Tensor | None,
        user: Tensor | None,
        flat: Tensor | None,
    ) -> Tensor:
        if q is not None and flat is not None:
            y.view(-1, y.shape[-1]).addmm_(q.flatten(0, 1), flat)
        if p is not None and user is not None:
            y.baddbmm_(p, user)
        ctx.mark_dirty(y)
        ctx.save_for_backward(p, q, user, flat)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        p, q, user, flat = ctx.saved_tensors
        wants_y, wants_p, wants_q, wants_user, wants_flat = ctx.needs_input_grad
        wide = dy.reshape(-1, dy.shape[-1])
        return (
            dy if wants_y else None,
            torch.bmm(dy, user.transpose(1, 2)) if wants_p else None,
            (wide @ flat.T).view_as(q) if wants_q else None,
            torch.bmm(p.transpose(1, 2), dy) if wants_user else None,
            q.flatten(0, 1).T @ wide if wants_flat else None,
        )
