"""Low-rank adapters as plain tensors, for one adapter or for many users at once.

A LoRA of rank r on a linear `h = W x` adds `s * B (A x)` with `A [r, d_in]`, `B [d_out, r]` and
`s = alpha / r` (PROPER eq. 3 and 11; LoRA, arXiv 2106.09685). Users are *stacked*: `A [U, r, d_in]`,
`B [U, d_out, r]`, and a batch says in `slots [R]` which user each row belongs to, so that rows of
different users share one pass over the frozen base.

Where the LoRA-aware router is every user's own, it is stacked beside them: `W [U, N, d_out]`, W_l of
eq. 12 (docs/method.md 1.7).

Letters: R rows, U user slots, N experts, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def init_factor_a(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A fresh `A [..., r, d_in]`, uniform in +-1/sqrt(d_in) as PEFT's Kaiming start. Float32."""
    bound = 1.0 / math.sqrt(shape[-1])
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


class UserLora(torch.nn.Module):
    """Private LoRA factors of `slots` users on a list of linears (eq. 11).

    Args:
        widths: (d_in, d_out) of every site, in site order.
        slots: number of users held at once.
        rank: r.
        seeds: one seed a slot; a user's start depends on its seed alone, never on its slot.
        own_router: from d_out and a generator to a user's first W_l [N, d_out]; None: users have none.
    """

    def __init__(
        self,
        widths: list[tuple[int, int]],
        slots: int,
        rank: int,
        seeds: list[int],
        own_router: Callable[[int, torch.Generator], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if len(seeds) != slots:
            raise ValueError(f"{slots} slots need {slots} seeds, got {len(seeds)}")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.a = torch.nn.ParameterList(torch.empty(slots, rank, d_in) for d_in, _ in widths)
        with torch.no_grad():
            for a in self.a:
                for slot, generator in enumerate(generators):
                    a[slot] = init_factor_a(tuple(a.shape[1:]), generator)
        self.b = torch.nn.ParameterList(torch.zeros(slots, d_out, rank) for _, d_out in widths)
        self.w = torch.nn.ParameterList()
        if own_router is not None and slots:
            self.w.extend(
                torch.stack([own_router(d_out, generator) for generator in generators])
                for _, d_out in widths
            )

    def factors(self) -> dict[str, list[Tensor]]:
        """All that is a user's, stacked, by its letter on disk: of every site, in site order."""
        found: dict[str, list[Tensor]] = {"A": list(self.a), "B": list(self.b)}
        return found | ({"W": list(self.w)} if len(self.w) else {})

    def flat(self) -> list[Tensor]:
        """`factors` one after another: A of every site, then B, then W where there is one."""
        return [tensor for tensors in self.factors().values() for tensor in tensors]


class GivenLora(UserLora):
    """Factors that something else computes: A of every site [U, r, d_in], B [U, d_out, r].

    And W [U, N, d_out], where every user's router is another.
    """

    def __init__(self, a: Sequence[Tensor], b: Sequence[Tensor], w: Sequence[Tensor] = ()) -> None:
        torch.nn.Module.__init__(self)
        self.a, self.b, self.w = list(a), list(b), list(w)  # type: ignore[assignment]
