"""A frozen base with group experts, routers and stacked private adapters on its feed-forwards.

    h = W_p x + s * sum_n w_n(x, u) B_n A_n x + s * B_u A_u x          (PROPER eq. 7, 10, 11, 13)

`AdaptedModel` swaps each feed-forward linear for an `AdaptedLinear` that reads the current
`Pass`: whose rows these are, which parts are active, whether to drop out. `detach()` puts the
original modules back; the base's tensors are never written.

Letters: S sites, B batch rows, T tokens, U user slots, N experts, r rank, e embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from proper_model.adapted_linear import AdaptedLinear
from proper_model.dropout import mix_seed
from proper_model.encoding import Batch
from proper_model.experts import Experts
from proper_model.lora import UserLora
from proper_model.ops import Backend
from proper_model.passes import Pass
from proper_model.routers import (
    USER_ROUTER_STD,
    Router,
    lora_logits,
    merge,
    routing_dtype,
    text_logits,
    user_logits,
)
from proper_model.sites import Site, find_sites
from proper_model.structure import (
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
        backend: how adapted linears compute; see `ops`.
    """

    experts: torch.nn.ModuleList
    routers: torch.nn.ModuleList

    def __init__(
        self,
        base: Any,
        structure: Structure,
        *,
        generator: torch.Generator,
        backend: Backend = Backend.FUSED,
    ) -> None:
        super().__init__()
        self.backend = backend
        # Held outside the module tree: parameters() must be the adapters' alone.
        object.__setattr__(self, "base", base)
        base.requires_grad_(False)
        base.eval()
        self.structure = structure
        self.sites: list[Site] = find_sites(base)
        self.current: Pass | None = None
        self._originals: dict[str, torch.nn.Linear] = {}
        n, e = structure.experts, structure.embedding_dim
        self.experts = torch.nn.ModuleList(
            Experts(s.d_in, s.d_out, n, structure.rank, generator) for s in self.sites
        )
        tied = structure.router_sharing is RouterSharing.TIED
        lora_std = None
        if structure.has_lora_router:
            # W_l = 0 and B_u = 0 together have no gradient; with summed logits W_l = 0 starts at
            # stage 2 (METHOD 1.7).
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

    def route(self, number: int, x: Tensor, hidden: Tensor | None, user_b: Tensor | None) -> Tensor:
        """Routing weights [B, T or 1, N] of site `number` for x [B, T, i].

        With user LoRAs, hidden = A_u x [B, T, r] and user_b = every row's B_u [B, o, r].
        """
        now = self.current
        assert now is not None
        router = self.router(number)
        own = None
        if hidden is not None and now.routing is not UserRouting.USER_AWARE:
            assert router.lora is not None
            assert user_b is not None
            own = lora_logits(router.lora, hidden, user_b)
            if self.structure.detach_lora_router:
                own = own.detach()
        if own is not None and now.routing is UserRouting.LORA_AWARE:
            weights = own.softmax(-1)
            text = None
        else:
            text = self._text_logits(number, router, x)
            user = self._user_logits(number, router, now.slots, x)
            if own is not None:
                user = user + own
            weights = merge(text, user, self.structure.router_merge)
        if now.observer is not None:

            def others(slots: Tensor) -> Tensor:
                """Weights at the same x for other users: slots [B, K] -> [B, K, T, N]."""
                drawn = torch.stack(
                    [self._user_logits(number, router, column, x) for column in slots.T], dim=1
                )
                again = None if text is None else text[:, None]
                return merge(again, drawn, self.structure.router_merge)

            now.observer(number, weights, others)
        return weights

    def _text_logits(self, number: int, router: Router, x: Tensor) -> Tensor | None:
        if router.text is None:
            return None
        if self.structure.router_text is RouterText.TOKEN:
            return text_logits(router.text, x)
        return text_logits(router.text, self._pool(number, x))

    def _pool(self, number: int, x: Tensor) -> Tensor:
        """Mean of x over prompt tokens, [B, 1, i]; decoding steps reuse the prompt's."""
        now = self.current
        assert now is not None
        if number not in now.pooled or (now.prompt_mask is not None and x.shape[1] > 1):
            assert now.prompt_mask is not None
            mask = now.prompt_mask[:, : x.shape[1], None].to(x.dtype)
            now.pooled[number] = (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return now.pooled[number]

    def _user_logits(self, number: int, router: Router, slots: Tensor, x: Tensor) -> Tensor:
        if not self.structure.router_user:
            dtype = routing_dtype(x)
            return x.new_zeros(len(slots), 1, self.structure.experts, dtype=dtype)
        now = self.current
        assert now is not None
        assert now.embeddings is not None
        table = 0 if self.tables == 1 else self.sites[number].layer
        embedding = now.embeddings[slots, table].to(routing_dtype(x))  # [B, e]
        weight = self.tied_user if self.tied_user is not None else router.user
        assert weight is not None
        return user_logits(weight, embedding)  # [B, 1, N]

    @contextmanager
    def attached(self) -> Iterator[AdaptedModel]:
        """Swap the adapted linears in; put the originals back on the way out, also on errors."""
        if self._originals:
            yield self  # already attached further out
            return
        try:
            for number, site in enumerate(self.sites):
                original = self.base.get_submodule(site.path)
                self._originals[site.path] = original
                self._replace(site.path, AdaptedLinear(original, self, number))
            yield self
        finally:
            for path, original in self._originals.items():
                self._replace(path, original)
            self._originals = {}

    def _replace(self, path: str, module: torch.nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(self.base.get_submodule(parent), name, module)

    @contextmanager
    def running(self, now: Pass) -> Iterator[None]:
        """Make `now` the current pass."""
        before, self.current = self.current, now
        try:
            yield
        finally:
            self.current = before

    def answer_loss(self, batch: Batch, now: Pass) -> Tensor:
        """Mean negative log-likelihood of every row's answer tokens (eq. 4): [B], float32 or wider."""
        return answer_loss_sum(self, batch, now) / (batch.labels != -100).sum(1)


def answer_loss_sum(model: AdaptedModel, batch: Batch, now: Pass) -> Tensor:
    """Summed negative log-likelihood of every row's answer tokens, [B]."""
    logits, labels = answer_logits(model, batch, now)
    return sequence_nll(logits, labels)


def answer_logits(model: AdaptedModel, batch: Batch, now: Pass) -> tuple[Tensor, Tensor]:
    """Logits [B, K, V] and labels [B, K] of the last K = answer_width + 1 positions.

    Rows are left-padded, so every answer and the prompt token before it lie in there. What the pass
    must know of the batch (prompts, dropout seeds, lengths) is filled in here.
    """
    keep = batch.answer_width + 1
    now.prompt_mask, now.seeds, now.lengths = batch.prompt_mask, batch.seeds, batch.lengths
    with model.attached(), model.running(now):
        output = model.base(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            logits_to_keep=keep,
            use_cache=False,
        )
    return output.logits, batch.labels[:, -keep:]


def sequence_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed next-token loss a row: logits [B, K, V], labels [B, K] aligned to them -> [B]."""
    logits = logits[:, :-1].to(routing_dtype(logits))
    targets = labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none"
    )
    return losses.view(targets.shape).sum(1)
