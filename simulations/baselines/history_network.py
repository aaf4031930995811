"""A network from a person's items to a LoRA: the parts that are trained, without the base.

    f_j = phi(x_j)                       x_j [2 d], item j of a history (`item_vectors`), standardized
    p   = gamma sum_j f_j / (n + kappa)  the set; few items stay near 0, both numbers are learned
    z   = rho(p)                         the code, a few numbers a person
    C   = I + sum_k z_k M_k              [r, r] at every site
    h   = W_p x + s B C A x              A [r, i], B [o, r] shared by all people

B starts at zero. With no items p is zero: the code of whom nothing is known.

Letters: P people, n items, c code, r rank, S sites, i input width, o output width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from proper_model.model import GivenLora

KAPPA, GAMMA = 8.0, 8.0


class HistoryNetwork(torch.nn.Module):
    """phi, kappa, gamma, rho, and A, B and M of every site.

    Args:
        width: of an item's vector, 2 d.
        widths: (i, o) of every site.
        hidden: width of phi and rho.
        code: c.
        generator: of the start.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        width: int,
        widths: Sequence[tuple[int, int]],
        *,
        hidden: int,
        code: int,
        rank: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.phi = torch.nn.Sequential(
            _linear(width, hidden, generator), torch.nn.GELU(), _linear(hidden, hidden, generator)
        )
        self.rho = _linear(hidden, code, generator)
        # People differ less than their items do: the start of gamma makes up for the mean.
        self.log_kappa = torch.nn.Parameter(torch.tensor(math.log(KAPPA)))
        self.log_gamma = torch.nn.Parameter(torch.tensor(math.log(GAMMA)))
        self.a = torch.nn.ParameterList(_start((rank, i), generator) for i, _ in widths)
        self.b = torch.nn.ParameterList(torch.zeros(o, rank) for _, o in widths)
        cores = torch.randn(len(widths), code, rank, rank, generator=generator)
        self.cores = torch.nn.Parameter(cores / math.sqrt(code * rank))

    @torch.no_grad()
    def standardize(self, vectors: Tensor) -> None:
        """Mean and deviation of what `codes` will see, from items [n, 2 d] of people who train."""
        self.mean.copy_(vectors.mean(0))
        self.std.copy_(vectors.std(0).clamp(min=1e-6))

    def factors(self) -> list[torch.nn.Parameter]:
        """A, B and M of every site."""
        return [*self.a, *self.b, self.cores]

    def encoder(self) -> list[torch.nn.Parameter]:
        """phi, rho, kappa and gamma."""
        return [*self.phi.parameters(), *self.rho.parameters(), self.log_kappa, self.log_gamma]

    def codes(self, histories: Sequence[Tensor]) -> Tensor:
        """z of every person, from the items' vectors [n, 2 d] of each: [P, c]."""
        counts = [len(own) for own in histories]
        owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        features = self.phi((torch.cat(list(histories)) - self.mean) / self.std)
        sums = features.new_zeros(len(counts), features.shape[1])
        sums = sums.index_add(0, owners.to(sums.device), features)
        divisor = torch.tensor(counts).to(sums)[:, None] + self.log_kappa.exp()
        codes: Tensor = self.rho(sums / divisor * self.log_gamma.exp())
        return codes

    def lora(self, codes: Tensor) -> GivenLora:
        """The LoRA of every code [P, c]; gradients reach everything here."""
        eye = torch.eye(self.cores.shape[-1], device=codes.device)
        cores = eye + torch.einsum("pc,scqr->spqr", codes, self.cores)  # [S, P, r, r]
        return GivenLora(
            [a[None].expand(len(codes), *a.shape) for a in self.a],
            [torch.einsum("oq,pqr->por", b, core) for b, core in zip(self.b, cores, strict=True)],
        )


def _start(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """PEFT's start of A, also of linears: uniform in +-1/sqrt(width)."""
    return torch.nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=generator)


def _linear(width: int, out: int, generator: torch.Generator) -> torch.nn.Linear:
    layer = torch.nn.Linear(width, out)
    with torch.no_grad():
        layer.weight.copy_(_start((out, width), generator))
        layer.bias.zero_()
    return layer
