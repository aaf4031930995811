"""Quadratic priors of stacked trials: where each began, and the pull back to it.

A trial with a prior trains under `weight |p - start|^2 / 2` beside its loss, the negative logarithm of
a Gaussian around its start. Its gradient `weight (p - start)` is added to the loss's before clipping,
so that what is minimized is the sum. Weights are per step (`Trial.prior` over the number of items).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from proper_model.engine.slots import Start


class Anchors:
    """Starts of the trials in K slots.

    They follow from the trials, so no checkpoint holds them: a slot's are looked up again whenever
    another trial sits there, as after resuming.

    Args:
        parameters: stacked tensors [K, ...] that are trained.
        start: starting values of a trial, one tensor a parameter, without the first dimension.
    """

    def __init__(self, parameters: Sequence[Tensor], start: Start) -> None:
        self.parameters, self.start = list(parameters), start
        self.anchors = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.of = [-1] * self.parameters[0].shape[0]

    @torch.no_grad()
    def add_gradients(
        self, occupied: Sequence[tuple[int, int]], pulls: Mapping[int, float]
    ) -> None:
        """Add every trial's `weight (p - start)` to the gradients that are there.

        Args:
            occupied: (slot, trial) pairs.
            pulls: weight of every trial in `occupied`.
        """
        for slot, trial in occupied:
            if pulls[trial] and self.of[slot] != trial:
                for anchor, value in zip(self.anchors, self.start(trial), strict=True):
                    anchor[slot] = value.to(anchor)
                self.of[slot] = trial
        weights = [0.0] * len(self.of)
        for slot, trial in occupied:
            weights[slot] = pulls[trial]
        # A slot without a prior is not touched: 0 times an infinite number would be none.
        rows = [slot for slot, weight in enumerate(weights) if weight]
        for p, anchor in zip(self.parameters, self.anchors, strict=True):
            if p.grad is not None and rows:
                weight = p.new_tensor([weights[slot] for slot in rows])
                shaped = weight.view(-1, *[1] * (p.dim() - 1))
                p.grad[rows] += shaped * (p[rows] - anchor[rows])
