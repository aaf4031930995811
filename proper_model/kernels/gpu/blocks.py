"""What a frozen base does between its products, each in one launch forward and one backward.

    rms_norm   y = g x / sqrt(mean(x^2) + eps)
    rotate     rotary positions: (x1 cos - x2 sin, x2 cos + x1 sin) of the halves of every head
    swiglu     silu(gate) up

PyTorch takes three to ten launches for each, and as many passes over a full-width activation. All is
computed in float32 and rounded once; weights of norms are frozen and get no gradient.

Letters: M tokens, H heads, h head width, d width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

NUMBERS = 4096  # that a program of a norm or a rotation handles
PIECE = 1024  # of an elementwise kernel


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., d], weight [d] -> [..., d]; the gradient reaches x only."""
    y: Tensor = _Norm.apply(x, weight, eps)
    return y


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [1, H, M, h] with cos and sin [1, M, h], whose halves are alike -> [1, H, M, h]."""
    y: Tensor = _Rotate.apply(x, cos, sin)
    return y


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise."""
    y: Tensor = _Swiglu.apply(gate, up)
    return y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        y, inverse = torch.empty_like(flat), flat.new_empty(len(flat), dtype=torch.float32)
        grid, sizes = _rows(flat)
        _norm[grid](flat, weight, y, inverse, len(flat), flat.shape[1], eps, *sizes)
        ctx.save_for_backward(flat, weight, inverse)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, inverse = ctx.saved_tensors
        d_y = grads[0].contiguous()
        d_x = torch.empty_like(flat)
        grid, sizes = _rows(flat)
        _norm_back[grid](d_y, flat, weight, inverse, d_x, len(flat), flat.shape[1], *sizes)
        return d_x.view(grads[0].shape), None, None


def _rows(flat: Tensor) -> tuple[tuple[int], tuple[int, int]]:
    """The grid of a kernel over whole rows, and its block."""
    width = triton.next_power_of_2(flat.shape[1])
    rows = max(1, NUMBERS // width)
    return (triton.cdiv(len(flat), rows),), (rows, width)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """Rotated by the angles times `sign`; the result lies token after token."""
    _, heads, tokens, width = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = x.new_empty(tokens, heads, width)
    block = triton.next_power_of_2(heads), triton.next_power_of_2(width // 2)
    _rotate[(tokens,)](
        x, cos, sin, y, heads, width, x.stride(1), x.stride(2), cos.stride(1), sign, *block
    )
    return y.transpose(0, 1)[None]


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        y = torch.empty_like(gate)
        _swiglu[(triton.cdiv(y.numel(), PIECE),)](gate, up, y, y.numel(), PIECE)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        d_y = grads[0].contiguous()
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        grid = (triton.cdiv(d_y.numel(), PIECE),)
        _swiglu_back[grid](d_y, gate, up, d_gate, d_up, d_y.numel(), PIECE)
        return d_gate, d_up


@triton.jit(do_not_specialize=["rows_all"])
def _norm(
    x, weight, y, inverse, rows_all, width, eps,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    there = (rows < rows_all)[:, None] & (d < width)[None, :]
    at = rows[:, None] * width + d[None, :]
    values = tl.load(x + at, there, 0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 1) / width + eps)
    tl.store(inverse + rows, scale, rows < rows_all)
    weights = tl.load(weight + d, d < width, 0.0).to(tl.float32)
    made = values * scale[:, None] * weights[None, :]
    tl.store(y + at, made.to(y.dtype.element_ty), there)


@triton.jit(do_not_specialize=["rows_all"])
def _norm_back(
    d_y, x, weight, inverse, d_x, rows_all, width,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """dx = (g dy - xhat mean(g dy xhat)) / rms, with xhat = x / rms."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    there = (rows < rows_all)[:, None] & (d < width)[None, :]
    at = rows[:, None] * width + d[None, :]
    scale = tl.load(inverse + rows, rows < rows_all, 0.0)[:, None]
    hat = tl.load(x + at, there, 0.0).to(tl.float32) * scale
    weights = tl.load(weight + d, d < width, 0.0).to(tl.float32)
    through = tl.load(d_y + at, there, 0.0).to(tl.float32) * weights[None, :]
    mean = tl.sum(through * hat, 1) / width
    made = (through - hat * mean[:, None]) * scale
    tl.store(d_x + at, made.to(d_x.dtype.element_ty), there)


@triton.jit
def _rotate(
    x, cos, sin, y, heads, width, x_h, x_m, angle_m, sign,
    HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head, d = tl.arange(0, HEADS), tl.arange(0, HALF)
    half = width // 2
    there = (head < heads)[:, None] & (d < half)[None, :]
    c = tl.load(cos + token * angle_m + d, d < half, 0.0).to(tl.float32)[None, :]
    s = tl.load(sin + token * angle_m + d, d < half, 0.0).to(tl.float32)[None, :] * sign
    at = x + token * x_m + head[:, None] * x_h + d[None, :]
    first = tl.load(at, there, 0.0).to(tl.float32)
    second = tl.load(at + half, there, 0.0).to(tl.float32)
    out = y + token * heads * width + head[:, None] * width + d[None, :]
    tl.store(out, (first * c - second * s).to(y.dtype.element_ty), there)
    tl.store(out + half, (second * c + first * s).to(y.dtype.element_ty), there)


@triton.jit
def _swiglu(gate, up, y, count, PIECE: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * PIECE + tl.arange(0, PIECE)
    g = tl.load(gate + at, at < count, 0.0).to(tl.float32)
    u = tl.load(up + at, at < count, 0.0).to(tl.float32)
    tl.store(y + at, (g * tl.sigmoid(g) * u).to(y.dtype.element_ty), at < count)


@triton.jit
def _swiglu_back(
    d_y, gate, up, d_gate, d_up, count,
    PIECE: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * PIECE + tl.arange(0, PIECE)
    d = tl.load(d_y + at, at < count, 0.0).to(tl.float32)
    g = tl.load(gate + at, at < count, 0.0).to(tl.float32)
    u = tl.load(up + at, at < count, 0.0).to(tl.float32)
    s = tl.sigmoid(g)
    tl.store(d_gate + at, (d * u * s * (1 + g * (1 - s))).to(d_gate.dtype.element_ty), at < count)
    tl.store(d_up + at, (d * g * s).to(d_up.dtype.element_ty), at < count)
