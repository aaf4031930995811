"""What a frozen base does between its products, by PyTorch's routines and hand-written gradients.

    rms_norm   y = g x / sqrt(mean(x^2) + eps)
    rotate     rotary positions: (x1 cos - x2 sin, x2 cos + x1 sin) of the halves of every head
    swiglu     silu(gate) up

For a CPU, where every operation is a pass over a full-width activation: these write in place where
autograd could not know that nobody looks, and keep what cannot be made again. `kernels.gpu` has the same
for a GPU. As in Hugging Face's code norms are computed in float32 or wider, all else in the dtype of
the base. Weights of norms are frozen and get no gradient.

Letters: M tokens, H heads, T positions, h head width, d width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from proper_model.kernels.layout import routing_dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., d], weight [d] -> [..., d]; the gradient reaches x only."""
    y: Tensor = _Norm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, H, T, h] with cos and sin [B, T, h], whose halves are alike -> [B, H, T, h]."""
    y: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return y


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise."""
    y: Tensor = _Swiglu.apply(gate, up)  # type: ignore[no-untyped-call]
    return y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        wide = flat.to(routing_dtype(x))
        squares = torch.linalg.vecdot(wide, wide)
        inverse = squares.div_(wide.shape[1]).add_(eps).rsqrt_()[:, None]  # 1 / rms, [M, 1]
        ctx.save_for_backward(flat, weight, inverse)
        y: Tensor = (wide * inverse).to(x.dtype)
        return (y.mul_(weight) if y.dtype is weight.dtype else y * weight).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, inverse = ctx.saved_tensors
        wide = flat.to(inverse.dtype)
        # With v = g dy: dx = v / rms - x (v . x) / (d rms^3)
        dx = (grads[0].reshape(flat.shape) * weight).to(wide.dtype)
        along = torch.linalg.vecdot(dx, wide)[:, None]
        along.mul_(inverse**3).div_(-wide.shape[1])
        dx.mul_(inverse).addcmul_(wide, along)
        return dx.to(flat.dtype).view(grads[0].shape), None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """By the angles, or back by them where `sign` is -1."""
    cos, sin = cos[:, None], sin[:, None]
    half = x.shape[-1] // 2
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return y


class _Swiglu(torch.autograd.Function):
    """Keeps gate and up, not silu(gate)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        d_up = F.silu(gate).mul_(grads[0])
        d_gate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return d_gate, d_up
