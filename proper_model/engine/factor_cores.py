"""Training r x r numbers of a LoRA in place of its o x r: the core between two fixed factors.

    B = F R,    F [o, r] fixed, columns orthogonal and of length sqrt(o / r),    R [r, r] trained, zero at first

so B A = F R A with A fixed too (LoRA-XS, arXiv 2405.17604; Fed-SB, arXiv 2502.15436). Under user-level privacy the noise
has norm z C times the root of how many numbers are trained, and these are fewer by o / r. What leaves is B, so
nothing else knows of it. F is drawn at random: whatever would fit it to people's data would have to be paid for.
With that length a step of R moves B by as much, in the mean, as a step of the same rate on B would.

Letters: N experts or none, o output width, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class FactorCores:
    """The cores of several B, [o, r] or [N, o, r] each, which must be zero.

    Args:
        factors: B, leaves that require a gradient; they are written by `push`.
        seed: of F.

    Attributes:
        cores: R of each, `[r, r]` or `[N, r, r]`: what the optimizer gets.
    """

    def __init__(self, factors: Sequence[Tensor], *, seed: int) -> None:
        self.factors = list(factors)
        generator = torch.Generator().manual_seed(seed)
        self.fixed = [_orthogonal(b, generator) for b in self.factors]
        self.cores = [
            torch.zeros(*b.shape[:-2], b.shape[-1], b.shape[-1]).to(b).requires_grad_(True)
            for b in self.factors
        ]

    def pull(self) -> None:
        """Turn the gradients of B into those of R, and clear the former."""
        for b, fixed, core in zip(self.factors, self.fixed, self.cores, strict=True):
            if b.grad is not None:
                core.grad = torch.einsum("...or,...os->...rs", fixed, b.grad)
                b.grad = None

    @torch.no_grad()
    def push(self) -> None:
        """Write every B from its core."""
        for b, fixed, core in zip(self.factors, self.fixed, self.cores, strict=True):
            b.copy_(torch.einsum("...or,...rs->...os", fixed, core))


def _orthogonal(b: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(b.shape, generator=generator, dtype=torch.float64)
    length = (b.shape[-2] / b.shape[-1]) ** 0.5
    columns: Tensor = (torch.linalg.qr(drawn).Q * length).to(b)
    return columns
