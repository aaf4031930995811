"""Reading routing weights: which experts a user's tokens go to.

For research, and to be shown to the user alone. Mean weights reveal a user's group and token
weights even the text (docs/method.md 1.7, rule 5): they must never be logged off the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from proper_model.kernels.layout import mean_by_row
from proper_model.kernels.packing import Batch
from proper_model.model.adapted_model import AdaptedModel
from proper_model.model.passes import Pass


@torch.no_grad()
def routing_weights(model: AdaptedModel, batch: Batch, now: Pass) -> Tensor:
    """Mean routing weights of every row over its tokens: [S, R, N], each summing to one.

    Expert n of one router has nothing to do with expert n of another: lay sites side by side,
    never average over them (docs/method.md 1.6).
    """
    means = torch.zeros(len(model.sites), len(batch.slots), model.structure.experts)

    def observe(
        site: int, weights: Tensor, rows: Tensor, _others: Callable[[Tensor], Tensor]
    ) -> None:
        means[site] = mean_by_row(weights, rows, len(batch.slots)).cpu()

    model.answer_loss(batch, replace(now, observer=observe))
    return means
