"""A frozen base with adapters around its feed-forward linears, or others that are named.

    h = W_p x + s * sum_n w_n(x, u) B_n A_n x + s * B_u A_u x          (PROPER eq. 7, 10, 11, 13)

`AdaptedModel` swaps each of these linears for an `AdaptedLinear` that reads the current
`Pass`: whose rows these are, which parts are active, whether to drop out. `attached()` puts the
original modules back when it ends; the base's tensors are never written.

Letters: R rows, K answer tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from proper_model.base.sites import find_sites
from proper_model.kernels.attention import packed_attention
from proper_model.kernels.layout import queued
from proper_model.kernels.ops import Backend
from proper_model.kernels.packing import Batch, packed_inputs
from proper_model.kernels.products import FrozenLinear, serves
from proper_model.model.adapted_linear import AdaptedLinear
from proper_model.model.adapters import Adapters
from proper_model.model.answer_loss import answer_logits, answer_nll
from proper_model.model.fused_blocks import fused_blocks
from proper_model.model.passes import Pass
from proper_model.model.user_lora import UserLora
from proper_model.settings.presets import Structure


class AdaptedModel(Adapters):
    """Experts, routers and user adapters around a frozen base.

    Args:
        base: a Hugging Face causal LM; frozen here, never modified.
        structure: which equations are used.
        generator: randomness of the initial experts and routers.
        backend: how adapted linears compute, None for the best on the base's device; see `ops`.
        targets: names of the linears that get private LoRAs and nothing else; None: the feed-forward's,
            with experts and routers.

    Attributes:
        fuse_base: whether the base's own steps between its products are one function each; see
            `fused_blocks`. The reference leaves the base's code as it is.
    """

    def __init__(
        self,
        base: Any,
        structure: Structure,
        *,
        generator: torch.Generator,
        backend: Backend | None = None,
        targets: Sequence[str] | None = None,
    ) -> None:
        device = torch.device(base.device)
        super().__init__(
            find_sites(base) if targets is None else find_sites(base, targets),
            structure,
            generator=generator,
            backend=backend or Backend.best_on(device),
            experts=targets is None,
        )
        self.fuse_base = self.backend is Backend.KERNELS or device.type == "cpu"
        # Held outside the module tree: parameters() must be the adapters' alone.
        object.__setattr__(self, "base", base)
        base.requires_grad_(False)
        base.eval()
        self._originals: dict[str, torch.nn.Module] = {}
        self.to(device)

    base: Any

    @property
    def device(self) -> torch.device:
        return torch.device(self.base.device)

    def new_user_lora(self, seeds: list[int], *, experts: bool = True) -> UserLora:
        """Fresh stacked adapters, one slot a seed, on this model's device.

        With routers of their own where the structure has these, but not for passes without experts.
        """
        widths = [(s.d_in, s.d_out) for s in self.sites]
        own = self.first_own_router if experts and self.structure.has_own_router else None
        return UserLora(widths, len(seeds), self.structure.rank, seeds, own).to(self.device)

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
            fuse = self.fuse_base and self.backend is not Backend.REFERENCE
            with fused_blocks(self.base) if fuse else nullcontext():
                yield self
        finally:
            for path, original in self._originals.items():
                self.base.set_submodule(path, original)
            self._originals = {}

    def _swap(self, path: str, module: torch.nn.Module) -> None:
        self._originals[path] = self.base.get_submodule(path)
        self.base.set_submodule(path, module)

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
        """Mean negative log-likelihood of every row's answer tokens (eq. 4): [R], float32 or wider."""
        counts = queued(torch.tensor(batch.answer_tokens), self.device)
        return batch.by_row(self.answer_nll(batch, now)) / counts

    def answer_nll(self, batch: Batch, now: Pass) -> Tensor:
        """Negative log-likelihood of every answer token: [K], float32 or wider."""
        with self.attached(), self.running(now.over(batch)):
            return answer_nll(self.base, batch)

    def hidden_states(self, batch: Batch, now: Pass) -> Tensor:
        """What the last block leaves at every token, before the head: [M, d]."""
        with self.attached(), self.running(now.over(batch)):
            hidden: Tensor = self.base.get_decoder()(**packed_inputs(batch)).last_hidden_state[0]
        return hidden

    def answer_logits(self, batch: Batch, now: Pass) -> Tensor:
        """Logits that predict the answer tokens, [K, V]."""
        with self.attached(), self.running(now.over(batch)):
            return answer_logits(self.base, batch)
