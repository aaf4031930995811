"""Dropout whose mask depends on the sample alone.

Training one user in a cohort must equal training that user alone, so a mask may not depend on who
else is in the batch, on padding, or on how a step is cut into forward passes. Each row brings a
seed (from user, step and position); the mask of a row at a linear is drawn from that seed and the
linear's number, for the row's own tokens only.

DEVIATION in preset `paper`: one mask a linear serves all experts and the user LoRA; the paper
implies a mask for every expert's pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from proper_model.kernels.layout import Layout, queued

_LANES = 4  # 16-bit lanes of one 64-bit draw
_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1


def mix_seed(*parts: int) -> int:
    """One well-spread 63-bit seed from several integers (splitmix64 finalizer over the parts)."""
    state = 0
    for part in parts:
        state = (state + (part & _MASK64) + _GOLDEN) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


def fill_keep_mask(out: Tensor, seed: int, p: float) -> None:
    """Set `out [tokens, width]` to 1 with probability 1 - p, else 0: a function of seed and p."""
    count = out.numel()
    generator = torch.Generator(device=out.device).manual_seed(seed)
    draws = torch.empty(-(-count // _LANES), dtype=torch.int64, device=out.device)
    draws.random_(-(1 << 63), None, generator=generator)
    lanes = draws.view(torch.int16)[:count].view(out.shape)
    # Written in the model's dtype at once: converting booleans costs as much as a matrix product.
    torch.ge(lanes, round(p * 65536) - 32768, out=out)


def row_masks(x: Tensor, p: float, row_seeds: Sequence[int], layout: Layout, site: int) -> Tensor:
    """What dropout keeps of x [M, d]: 0 or 1, in x's dtype; a row's part is its own seed's.

    Not rescaled: the caller multiplies what comes out of the low-rank projection by 1/(1 - p),
    which is a few numbers a token. On a GPU a draw a row would be a launch a row: there the mask
    is a hash.
    """
    if x.device.type == "cuda":
        seeds = queued(torch.tensor(row_seeds), x.device)
        return hashed_mask(x, threshold(p), seeds, layout, site)
    masks = torch.empty_like(x, requires_grad=False)
    parts = masks.split(layout.lengths)
    for part, seed in zip(parts, row_seeds, strict=True):
        fill_keep_mask(part, mix_seed(seed, site), p)
    return masks


def threshold(p: float) -> int:
    """Of 65,536 values of a hash, those below it are dropped."""
    return round(p * 65536)


def hashed_mask(x: Tensor, threshold: int, seeds: Tensor, layout: Layout, site: int) -> Tensor:
    """0 or 1 in the dtype of x [M, d], from (row's seed, site, place in the row, column) alone.

    `seeds [R]` int64, on the device of x. 32-bit arithmetic in 64 bits; `kernels.gpu.mask` is the same
    in a kernel. Nothing comes from the host: a copy from there would wait for all that a GPU has to do.
    """
    device = x.device
    place = torch.arange(len(x), device=device) - layout.bounds()[layout.rows]
    key = _spread((seeds & _MASK32) ^ (site * 0x9E3779B1 & _MASK32))
    keys = _spread(_spread(place + key[layout.rows] & _MASK32) ^ (seeds >> 32)[layout.rows])
    columns = _spread(torch.arange(x.shape[1], device=device) + 0x7F4A7C15 & _MASK32)
    z = (keys[:, None] ^ columns) * 0x85EBCA6B & _MASK32
    z = (z ^ (z >> 15)) * 0xC2B2AE35 & _MASK32
    return ((z >> 16) >= threshold).to(x.dtype)


def _spread(z: Tensor) -> Tensor:
    """Every bit of a 32-bit number moved by every other (murmur3's finalizer)."""
    z = (z ^ (z >> 16)) * 0x85EBCA6B & _MASK32
    z = (z ^ (z >> 13)) * 0xC2B2AE35 & _MASK32
    return z ^ (z >> 16)
