"""A frozen base with group experts, routers and stacked private adapters on its feed-forwards.

    h = W_p x + s * sum_n w_n(x, u) B_n A_n x + s * B_u A_u x          (PROPER eq. 7, 10, 11, 13)

`AdaptedModel` swaps each feed-forward linear for an `AdaptedLinear` that reads the current
`Pass`: whose rows these are, which parts are active, whether to drop out. `detach()` puts the
original modules back; the base's tensors are never written.

Letters: S sites, B rows, M tokens, U user slots, N experts, r rank, e embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from proper_model.base.sites import Site, find_sites
from proper_model.kernels.attention import packed_attention
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.ops import Backend
from proper_model.kernels.packing import Batch
from proper_model.kernels.products import FrozenLinear, serves
from proper_model.model.adapted_linear import AdaptedLinear
from proper_model.model.answer_loss import answer_nll
from proper_model.model.experts import Experts
from proper_model.model.passes import Pass
from proper_model.model.routers import USER_ROUTER_STD, Router
from proper_model.model.user_lora import UserLora
from proper_model.settings.presets import (
    EmbeddingTables,
    RouterSharing,
    RouterText,
    Structure,
    UserRouting,
)


class AdaptedModel(torch.nn.Module):
    """Experts, routers and user adapters around a frozen base.

    Args:
        base: a Hugging Face causal LM; frozen here, never modified.
        structure: which equations are used.
        generator: randomness of the initial experts and routers.
        backend: how adapted linears compute, None for the best on the base's device; see `ops`.
    """

    experts: torch.nn.ModuleList
    routers: torch.nn.ModuleList

    def __init__(
        self,
        base: Any,
        structure: Structure,
        *,
        generator: torch.Generator,
        backend: Backend | None = None,
    ) -> None:
        super().__init__()
        self.backend = backend or Backend.best_on(torch.device(base.device))
        # Held outside the module tree: parameters() must be the adapters' alone.
        object.__setattr__(self, "base", base)
        base.requires_grad_(False)
        base.eval()
        self.structure = structure
        self.sites: list[Site] = find_sites(base)
        self.current: Pass | None = None
        self._originals: dict[str, torch.nn.Module] = {}
        n, e = structure.experts, structure.embedding_dim
        self.experts = torch.nn.ModuleList(
            Experts(s.d_in, s.d_out, n, structure.rank, generator) for s in self.sites
        )
        tied = structure.router_sharing is RouterSharing.TIED
        lora_std = None
        if structure.has_lora_router:
            # W_l = 0 and B_u = 0 together have no gradient; with summed logits W_l = 0 starts at
            # stage 2 (docs/method.md 1.7).
            lora_std = 0.0 if structure.user_routing is UserRouting.SUMMED else 0.02
        # Its own randomness: whether W_l exists must not change how stage 2 starts.
        apart = torch.Generator().manual_seed(mix_seed(generator.initial_seed(), 1))
        self.routers = torch.nn.ModuleList(
            Router(
                d_in=s.d_in,
                d_out=s.d_out,
                experts=n,
                embedding_dim=e,
                has_text=structure.router_text is not RouterText.NONE,
                has_user=structure.router_user and not tied,
                lora_std=lora_std,
                generator=generator,
                lora_generator=apart,
            )
            for s in self.sites
        )
        self.tied_user = (
            torch.nn.Parameter(torch.randn(n, e, generator=generator) * USER_ROUTER_STD)
            if tied
            else None
        )
        self.lora = UserLora([], 0, structure.rank, [])
        self.to(base.device)

    base: Any

    @property
    def device(self) -> torch.device:
        return torch.device(self.base.device)

    @property
    def tables(self) -> int:
        """Number of embedding tables: one a block, or one for all."""
        if self.structure.embedding_tables is EmbeddingTables.ONE:
            return 1
        return len({site.layer for site in self.sites})

    def router(self, number: int) -> Router:
        """The router of site `number`."""
        router = self.routers[number]
        assert isinstance(router, Router)
        return router

    def new_user_lora(self, seeds: list[int]) -> UserLora:
        """Fresh stacked adapters, one slot a seed, on this model's device."""
        widths = [(s.d_in, s.d_out) for s in self.sites]
        return UserLora(widths, len(seeds), self.structure.rank, seeds).to(self.device)

    def expert(self, number: int) -> Experts:
        """The experts of site `number`."""
        experts = self.experts[number]
        assert isinstance(experts, Experts)
        return experts

    @contextmanager
    def attached(self) -> Iterator[AdaptedModel]:
        """Swap the adapted linears in; put the originals back on the way out, also on errors."""
        if self._originals:
            yield self  # already attached further out
            return
        numbers = {site.path: number for number, site in enumerate(self.sites)}
        try:
            for path, module in list(self.base.named_modules()):
                if (
                    path not in numbers
                    and type(module) is torch.nn.Linear
                    and serves(module.weight)
                ):
                    self._swap(path, FrozenLinear(module))
            for path, number in numbers.items():
                self._swap(path, AdaptedLinear(self.base.get_submodule(path), self, number))
            yield self
        finally:
            for path, original in self._originals.items():
                self._replace(path, original)
            self._originals = {}

    def _swap(self, path: str, module: torch.nn.Module) -> None:
        self._originals[path] = self.base.get_submodule(path)
        self._replace(path, module)

    def _replace(self, path: str, module: torch.nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(self.base.get_submodule(parent), name, module)

    @contextmanager
    def running(self, now: Pass) -> Iterator[None]:
        """Make `now` the current pass."""
        before, self.current = self.current, now
        try:
            with packed_attention(self.base) if now.layout is not None else nullcontext():
                yield
        finally:
            self.current = before

    def answer_loss(self, batch: Batch, now: Pass) -> Tensor:
        """Mean negative log-likelihood of every row's answer tokens (eq. 4): [B], float32 or wider."""
        counts = torch.tensor(batch.answer_tokens, device=self.device)
        return batch.by_row(answer_nll(self, batch, now)) / counts
