"""What every adapted linear reads during one forward pass: whose rows, which parts, what dropout.

Letters: B batch rows, T tokens, U user slots, N experts, K other users, e embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from proper_model.structure import UserRouting

# Called at every routed linear with (site number, weights [B, T, N], others) where `others()`
# routes the same x for given user slots [B, K] -> [B, K, T, N].
RoutingObserver = Callable[[int, Tensor, Callable[[Tensor], Tensor]], None]


@dataclass
class Pass:
    """What every adapted linear reads during one forward pass.

    Attributes:
        slots: `[B]` user slot of every row.
        experts, lora: whether group experts and user LoRAs take part.
        embeddings: `[U, tables, e]` user embeddings, or None where routing does not read them.
        routing: how experts are weighted; USER_AWARE in stage 2.
        dropout: probability, active only with `seeds`.
        prompt_mask: `[B, T]`, for the `pooled` text router.
        observer: sees routing weights, for the constraint loss and for inspection.
        pooled: per site, the mean prompt input, kept for decoding steps.
    """

    slots: Tensor
    experts: bool
    lora: bool
    embeddings: Tensor | None
    routing: UserRouting
    dropout: float = 0.0
    seeds: tuple[int, ...] | None = None
    lengths: tuple[int, ...] = ()
    prompt_mask: Tensor | None = None
    observer: RoutingObserver | None = None
    pooled: dict[int, Tensor] = field(default_factory=dict)
