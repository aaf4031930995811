"""Parameters around a frozen base: group experts, routers and stacked private adapters.

    group experts         A_n [r, i], B_n [o, r]   of every site    PROPER eq. 7, trained in stage 2
    user-aware router     W_t [N, i], W_e [N, e]   of every site    eq. 8, stage 2
    LoRA-aware router     W_l [N, o]               of every site    eq. 12, trained once a release
    private LoRA of u     A_u [r, i], B_u [o, r]   of every site    eq. 11, stage 3

A release of stage 1 alone has the last line only (`Structure.population_only`).

Letters: S sites, U user slots, N experts, r rank, i input width, o output width, e width of the user
embedding.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from proper_model.base.sites import Site
from proper_model.kernels.dropout import mix_seed
from proper_model.kernels.ops import Backend
from proper_model.model.passes import Pass
from proper_model.model.user_lora import UserLora, init_factor_a
from proper_model.settings.presets import (
    EmbeddingTables,
    RouterSharing,
    RouterText,
    Structure,
    UserRouting,
)

# DEVIATION: the paper names no start. Wide enough that random embeddings of unit-ish size route
# users differently from the first step; with a start near zero all users look alike and the
# gradient to e_u vanishes.
USER_ROUTER_STD = 0.3
# W_e e_u of a table as wide as its linear is to be no larger at the start than of one this wide.
USUAL_WIDTH = 64


def table_width(structure: Structure, site: Site) -> int:
    """e: how many numbers of a user's embedding the router of a site reads."""
    return structure.embedding_dim or site.d_in


def embedding_shape(structure: Structure, sites: Sequence[Site]) -> tuple[int, int]:
    """Shape [tables, e] of one user's embedding.

    Tables of linears, which differ in width, lie side by side in a single row, so that every
    embedding is a rectangle and none of its numbers stands for nothing. Of stage 1 alone it is one
    number that nothing reads, so that whatever keeps an embedding has one.
    """
    if structure.population_only:
        return 1, 1
    if structure.embedding_tables is EmbeddingTables.PER_LINEAR:
        return 1, sum(table_width(structure, site) for site in sites)
    one = structure.embedding_tables is EmbeddingTables.ONE
    return 1 if one else len({site.layer for site in sites}), structure.embedding_dim


class Experts(torch.nn.Module):
    """N low-rank experts of one linear (eq. 7).

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


class Router(torch.nn.Module):
    """Router weights of one linear; which of them exist follows from the preset.

    Attributes:
        text: W_t `[N, d_in]` or None.
        user: W_e `[N, e]`, or None where one tied router serves all linears.
        lora: W_l `[N, d_out]` or None. Trained once per release, shared by all users; where each has
            an own one, it lies with the user's LoRA.
    """

    text: torch.nn.Parameter | None
    user: torch.nn.Parameter | None
    lora: torch.nn.Parameter | None

    def __init__(
        self,
        site: Site,
        structure: Structure,
        generator: torch.Generator,
        lora_generator: torch.Generator,
    ) -> None:
        super().__init__()
        experts = structure.experts
        self.text = self.user = self.lora = None
        if structure.router_text is not RouterText.NONE:
            self.text = _normal((experts, site.d_in), 0.02, generator)
        if structure.router_user and structure.router_sharing is not RouterSharing.TIED:
            width = table_width(structure, site)
            std = USER_ROUTER_STD
            if not structure.embedding_dim:
                std *= (USUAL_WIDTH / width) ** 0.5
            self.user = _normal((experts, width), std, generator)
        if structure.has_lora_router:
            self.lora = torch.nn.Parameter(first_lora_router(structure, site.d_out, lora_generator))


def _columns_of(structure: Structure, sites: Sequence[Site]) -> list[slice]:
    """What each site reads of its row of an embedding."""
    if structure.population_only or structure.embedding_tables is not EmbeddingTables.PER_LINEAR:
        return [slice(None)] * len(sites)
    ends = list(itertools.accumulate(table_width(structure, site) for site in sites))
    return [slice(begin, end) for begin, end in itertools.pairwise([0, *ends])]


def first_lora_router(structure: Structure, d_out: int, generator: torch.Generator) -> Tensor:
    """W_l `[N, d_out]` before training.

    W_l = 0 and B_u = 0 together have no gradient; with summed logits W_l = 0 starts at stage 2
    (docs/method.md 1.7).
    """
    std = 0.0 if structure.user_routing is UserRouting.SUMMED else 0.02
    return torch.randn((structure.experts, d_out), generator=generator) * std


def _normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(shape, generator=generator) * std)


class Adapters(torch.nn.Module):
    """All parameters of a release and of the users who are loaded, and the pass they serve.

    Args:
        sites: the linears of the base that are adapted.
        structure: which equations are used.
        generator: randomness of the initial experts and routers.
        backend: how adapted linears compute; see `ops`.
        experts: false for private LoRAs alone, without experts and routers.

    Attributes:
        embedding_shape: [tables, e] of a user's embedding; see `embedding_shape`.
        tied_user: W_e `[N, e]` of all sites, or None where each has its own.
        lora: private LoRA of the users in its slots; replace it to load others.
        current: what adapted linears read during a forward pass; None outside one.
    """

    experts: torch.nn.ModuleList
    routers: torch.nn.ModuleList

    def __init__(
        self,
        sites: Sequence[Site],
        structure: Structure,
        *,
        generator: torch.Generator,
        backend: Backend,
        experts: bool = True,
    ) -> None:
        super().__init__()
        self.sites, self.structure, self.backend = list(sites), structure, backend
        self.current: Pass | None = None
        self.embedding_shape = embedding_shape(structure, self.sites)
        self._columns = _columns_of(structure, self.sites)
        n, rank = structure.experts, structure.rank
        with_groups = self.sites if experts and not structure.population_only else []
        self.experts = torch.nn.ModuleList(
            Experts(s.d_in, s.d_out, n, rank, generator) for s in with_groups
        )
        # Its own randomness: whether W_l exists must not change how stage 2 starts.
        apart = torch.Generator().manual_seed(mix_seed(generator.initial_seed(), 1))
        self.routers = torch.nn.ModuleList(
            Router(site, structure, generator, apart) for site in with_groups
        )
        self.tied_user = None
        if structure.router_sharing is RouterSharing.TIED and with_groups:
            self.tied_user = _normal((n, structure.embedding_dim), USER_ROUTER_STD, generator)
        self.lora = UserLora([], 0, rank, [])

    @property
    def tables(self) -> int:
        """How many rows a user's embedding has: one a block, or one for all."""
        return self.embedding_shape[0]

    def table(self, number: int) -> int:
        """Which row of a user's embedding site `number` reads."""
        return 0 if self.tables == 1 else self.sites[number].layer

    def columns(self, number: int) -> slice:
        """Which numbers of that row: all, but where every linear has its own."""
        return self._columns[number]

    def first_own_router(self, d_out: int, generator: torch.Generator) -> Tensor:
        """A user's own W_l [N, d_out] before training."""
        return first_lora_router(self.structure, d_out, generator)

    def expert(self, number: int) -> Experts:
        """The experts of site `number`."""
        experts = self.experts[number]
        assert isinstance(experts, Experts)
        return experts

    def router(self, number: int) -> Router:
        """The router of site `number`."""
        router = self.routers[number]
        assert isinstance(router, Router)
        return router

    def user_weight(self, number: int) -> torch.nn.Parameter:
        """W_e `[N, e]` of site `number`, for a structure whose router reads the user."""
        weight = self.router(number).user if self.tied_user is None else self.tied_user
        assert weight is not None
        return weight
