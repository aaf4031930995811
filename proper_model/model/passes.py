"""What every adapted linear reads during one forward pass: whose rows, which parts, what dropout.

Letters: R rows, M tokens, Q routed vectors, U user slots, N experts, K other users, e embedding
width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from proper_model.kernels.layout import Layout, queued
from proper_model.kernels.packing import Batch
from proper_model.settings.presets import UserRouting

# Called at every routed linear with (site number, weights [Q, N], rows [Q], others): a vector a
# token, or one a row where no token matters; `rows` says whose row each is of, and `others` routes
# the same x for given user slots [R, K] -> [K, Q, N].
RoutingObserver = Callable[[int, Tensor, Tensor, Callable[[Tensor], Tensor]], None]

# Called at every linear with private LoRAs with (site number, x [M, i], layout) -> [M, 1], which
# multiplies A_u x.
Gate = Callable[[int, Tensor, Layout], Tensor]


@dataclass
class Pass:
    """What every adapted linear reads during one forward pass.

    Attributes:
        slots: `[R]` user slot of every row.
        experts, lora: whether group experts and user LoRAs take part.
        embeddings: `[U, tables, e]` user embeddings, or None where routing does not read them.
        routing: how experts are weighted; USER_AWARE in stage 2.
        layout: where rows lie among the tokens of a packed pass, or None: all rows are as long as
            the input, as when text is generated.
        dropout: probability, active only with `seeds`, one a row.
        prompt_mask: true on the prompt's tokens of the first input, for the `pooled` text router.
        observer: sees routing weights, for the constraint loss and for inspection.
        gate: how much of a private LoRA a token gets; None: all of it.
        pooled: per site, the mean prompt input: the prompt's forward pass fills it, decoding steps
            read it.
    """

    slots: Tensor
    experts: bool
    lora: bool
    embeddings: Tensor | None
    routing: UserRouting
    dropout: float = 0.0
    layout: Layout | None = None
    seeds: tuple[int, ...] | None = None
    prompt_mask: Tensor | None = None
    observer: RoutingObserver | None = None
    gate: Gate | None = None
    pooled: dict[int, Tensor] = field(default_factory=dict)

    def over(self, batch: Batch) -> Pass:
        """This pass over a packed batch: it knows where rows and prompts lie, and what seeds are."""
        return replace(
            self,
            layout=batch.layout,
            prompt_mask=batch.prompt_mask,
            seeds=batch.seeds,
            pooled={},
            _seeds=[],
        )

    def layout_of(self, x: Tensor) -> Layout:
        """The layout of an input [R, T, i]; the packed one if there is."""
        if self.layout is not None:
            return self.layout
        rows, length = x.shape[:2]
        if (rows, length) not in self._whole:
            self._whole = {(rows, length): Layout.of([length] * rows, x.device)}
        return self._whole[rows, length]

    def seeds_on(self, device: torch.device) -> Tensor | None:
        """The dropout seed of every row, `[R]` int64; None where nothing is dropped."""
        if self.seeds is None or self.dropout == 0:
            return None
        if not self._seeds:
            self._seeds.append(queued(torch.tensor(self.seeds), device))
        return self._seeds[0]

    _seeds: list[Tensor] = field(default_factory=list, repr=False)
    _whole: dict[tuple[int, int], Layout] = field(default_factory=dict, repr=False)


def base_pass(slots: Tensor) -> Pass:
    """Stage 1: the base alone, with what was merged into it."""
    return Pass(
        slots=slots, experts=False, lora=False, embeddings=None, routing=UserRouting.USER_AWARE
    )


def personal_pass(
    slots: Tensor, *, embeddings: Tensor | None, routing: UserRouting, experts: bool
) -> Pass:
    """Stage 3: experts plus user LoRA; without experts the baseline OPPU-mlp."""
    return Pass(slots=slots, experts=experts, lora=True, embeddings=embeddings, routing=routing)


def group_pass(slots: Tensor, embeddings: Tensor) -> Pass:
    """Stage 2: experts weighted by the user-aware router (eq. 7, 8)."""
    return Pass(
        slots=slots,
        experts=True,
        lora=False,
        embeddings=embeddings,
        routing=UserRouting.USER_AWARE,
    )
