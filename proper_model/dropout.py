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

_LANES = 4  # 16-bit lanes of one 64-bit draw
_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


def mix_seed(*parts: int) -> int:
    """One well-spread 63-bit seed from several integers (splitmix64 finalizer over the parts)."""
    state = 0
    for part in parts:
        state = (state + (part & _MASK64) + _GOLDEN) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


def keep_mask(seed: int, tokens: int, width: int, p: float, device: torch.device) -> Tensor:
    """Bool [tokens, width], True with probability 1 - p, a function of the arguments alone."""
    count = tokens * width
    generator = torch.Generator(device=device).manual_seed(seed)
    draws = torch.empty(-(-count // _LANES), dtype=torch.int64, device=device)
    draws.random_(-(1 << 63), None, generator=generator)
    lanes = draws.view(torch.int16)[:count].view(tokens, width)
    return lanes >= round(p * 65536) - 32768


def row_dropout(
    x: Tensor, p: float, row_seeds: Sequence[int], lengths: Sequence[int], site: int
) -> Tensor:
    """Drop entries of x [B, T, d], left-padded rows of `lengths` real tokens, and rescale by 1/(1-p).

    Padding positions become zero; nothing downstream reads them.
    """
    rows, tokens, width = x.shape
    mask = torch.zeros(rows, tokens, width, dtype=torch.bool, device=x.device)
    for row, (seed, length) in enumerate(zip(row_seeds, lengths, strict=True)):
        mask[row, tokens - length :] = keep_mask(mix_seed(seed, site), length, width, p, x.device)
    return x * mask.to(x.dtype) / (1 - p)
