"""Group experts: a LoRA mixture-of-experts on one linear (PROPER eq. 7).

`h = W_p x + s * sum_n w_n B_n A_n x`, dense over all N experts. The experts stand concatenated, so
that the sum is one pair of matrix products around an elementwise weighting, never a loop (`ops`):
`A [N, r, i]` is read as one `[N*r, i]` matrix, `B [N, o, r]` as one `[o, N*r]` matrix.

Letters: B batch rows, T tokens, N experts, r rank, i input width, o output width.
"""

from __future__ import annotations

import torch

from proper_model.model.user_lora import init_factor_a


class Experts(torch.nn.Module):
    """N low-rank experts of one linear.

    Attributes:
        a: `[N, r, d_in]`, random start.
        b: `[N, d_out, r]`, zero start, so that a fresh mixture changes nothing.
    """

    def __init__(
        self, d_in: int, d_out: int, experts: int, rank: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(init_factor_a((experts, rank, d_in), generator))
        self.b = torch.nn.Parameter(torch.zeros(experts, d_out, rank))
