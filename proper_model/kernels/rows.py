"""Products in which every row of a pass has a factor of its own: a user's A and B.

Two ways to the same numbers. By group: one batched product for every group of rows of one length,
quick where lengths repeat or a launch costs little, as on a CPU. `grouped`: one product over rows
of any lengths (PyTorch's grouped matrix product), one launch however ragged the rows are, as a GPU
wants it; it takes float32 and bfloat16.

Letters: M tokens, R rows, r rank, d width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from proper_model.kernels.layout import Layout

ALIGNED_BYTES = 16  # grouped products want every stride a multiple of this


def times(x: Tensor, factor: Tensor, layout: Layout, *, grouped: bool = False) -> Tensor:
    """Every row's tokens times its own factor: [M, i] and [R, i, o] -> [M, o].

    einsum("mi,mio->mo") with the factor of each token's row.
    """
    if grouped and _can_group(x):
        width = factor.shape[2]
        x, factor = _aligned(x, 1), _aligned(_aligned(factor, 1), 2)
        return F.grouped_mm(x, factor, offs=layout.ends)[:, :width].contiguous()
    out = x.new_empty(len(x), factor.shape[2])
    for group in layout.groups:
        torch.bmm(group.rectangle(x), group.of_rows(factor), out=group.rectangle(out))
    return out


def add_times(
    into: Tensor, x: Tensor, factor: Tensor, layout: Layout, *, grouped: bool = False
) -> Tensor:
    """`times` added to [M, o] in place."""
    if grouped and _can_group(x):
        return into.add_(times(x, factor, layout, grouped=True))
    for group in layout.groups:
        group.rectangle(into).baddbmm_(group.rectangle(x), group.of_rows(factor))
    return into


def outer(a: Tensor, b: Tensor, layout: Layout, *, grouped: bool = False) -> Tensor:
    """Every row's a^T b over its own tokens: [M, n] and [M, o] -> [R, n, o].

    einsum("tn,to->no") of each row's tokens t.
    """
    if grouped and _can_group(a):
        n, o = a.shape[1], b.shape[1]
        made = F.grouped_mm(_aligned(a, 1).T, _aligned(b, 1), offs=layout.ends)
        return made[:, :n, :o].contiguous()
    out = a.new_empty(len(layout.lengths), a.shape[1], b.shape[1])
    for group in layout.groups:
        torch.bmm(group.rectangle(a).transpose(1, 2), group.rectangle(b), out=group.of_rows(out))
    return out


def sums(x: Tensor, layout: Layout) -> Tensor:
    """Every row's sum over its own tokens: [M, d] -> [R, d]."""
    return x.new_zeros(len(layout.lengths), x.shape[1]).index_add_(0, layout.rows, x)


def product(x: Tensor, factor: Tensor, layout: Layout) -> Tensor:
    """`times` with gradients for both."""
    y: Tensor = _Product.apply(x, factor, layout)  # type: ignore[no-untyped-call]
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, layout: Layout) -> Tensor:
        ctx.save_for_backward(x, factor)
        ctx.layout = layout
        return times(x, factor, layout)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, factor = ctx.saved_tensors
        dy = grads[0].contiguous()
        wants_x, wants_factor, _ = ctx.needs_input_grad
        return (
            times(dy, factor.transpose(1, 2), ctx.layout) if wants_x else None,
            outer(x, dy, ctx.layout) if wants_factor else None,
            None,
        )


def _can_group(x: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.bfloat16)


def _aligned(x: Tensor, dim: int) -> Tensor:
    """x with zeros behind dimension `dim`, so that its strides suit grouped products: rank 4 in
    bfloat16 does not.
    """
    step = ALIGNED_BYTES // x.element_size()
    missing = -x.shape[dim] % step
    if missing:
        x = F.pad(x, [0, 0] * (x.dim() - 1 - dim) + [0, missing])
    return x.contiguous()
