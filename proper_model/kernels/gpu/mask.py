"""Dropout that is computed where it is used: a mask is a function of (row's seed, linear, token, column).

Nothing is drawn and nothing is stored. The backward pass makes the same mask again, at the cost of
a few integer operations a number, where a stored one costs a read and a write of a full-width
activation (docs/performance.md). `kernels.dropout.hashed_mask` is the same in plain PyTorch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from proper_model.kernels.gpu.tiles import TOKENS, WIDTH, piece_of, pieces
from proper_model.kernels.layout import Layout


@triton.jit
def spread(z):
    """Every bit of a 32-bit number moved by every other (murmur3's finalizer)."""
    z = (z ^ (z >> 16)) * 0x85EBCA6B
    z = (z ^ (z >> 13)) * 0xC2B2AE35
    return z ^ (z >> 16)


@triton.jit
def token_key(seed, site, place):
    """A number for every token: `place` in its row of this seed, at linear `site`."""
    low = seed.to(tl.uint32)
    high = (seed >> 32).to(tl.uint32)
    key = spread(low ^ (site.to(tl.uint32) * 0x9E3779B1))
    return spread(spread(place.to(tl.uint32) + key) ^ high)


@triton.jit
def keeps(keys, columns, threshold):
    """What is kept of keys [t] and columns [c]: [t, c] bool, false for threshold of 65536."""
    z = keys[:, None] ^ spread(columns.to(tl.uint32) + 0x7F4A7C15)[None, :]
    z = z * 0x85EBCA6B
    z = (z ^ (z >> 15)) * 0xC2B2AE35
    return (z >> 16) >= threshold.to(tl.uint32)


@triton.jit(do_not_specialize=["count", "site", "threshold"])
def _mask(
    out, where, seeds, firsts, count, width, site, threshold,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row, tokens, inside = piece_of(where, count, TOKENS)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    keys = token_key(tl.load(seeds + row), site, tokens - tl.load(firsts + row))
    kept = keeps(keys, columns, threshold)
    at = tokens.to(tl.int64)[:, None] * width + columns[None, :]
    tl.store(
        out + at,
        kept.to(tl.float32).to(out.dtype.element_ty),
        inside & (columns < width)[None, :],
    )


def keep_mask(x: Tensor, threshold: int, seeds: Tensor, layout: Layout, site: int) -> Tensor:
    """The mask as a tensor, 0 or 1 in the dtype of x [M, d], for what has no kernel of its own."""
    out, where = torch.empty_like(x, requires_grad=False), pieces(layout)
    count, width = where.shape[1], x.shape[1]
    grid = (count, triton.cdiv(width, WIDTH))
    _mask[grid](out, where, seeds, layout.bounds(), count, width, site, threshold, TOKENS, WIDTH)
    return out
