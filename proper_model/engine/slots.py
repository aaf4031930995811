"""Which trial trains in which slot of the stacked tensors, and the best state of every trial.

The stack has room for as many trials as memory allows; the others wait. A trial that ends leaves
its slot to the next one while its neighbours go on, the longest first, so that no long one is left
alone at the end. What a trial becomes depends neither on its slot nor on the other trials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from proper_model.engine.checkpoint import Checkpoint, load_meta
from proper_model.engine.optimizer import StackedAdamW

# From a trial's number to its starting values, one tensor for each stacked parameter.
Start = Callable[[int], Sequence[Tensor]]


def room_for(trials: int, limit: int | None, checkpoint: Checkpoint | None) -> int:
    """Slots for so many trials, at least one, so that shapes stay whole.

    A resumed run keeps the number it began with, whatever memory is free now.
    """
    meta = load_meta(checkpoint) if checkpoint else None
    if meta is not None and meta.get("resident"):
        return len(meta["resident"])
    return max(1, trials if limit is None else min(limit, trials))


class Slots:
    """Room for training K of many trials at once.

    Args:
        parameters: tensors [K, ...] that the model reads.
        optimizer: over the same tensors.
        start: starting values of a trial, without the first dimension.
        waiting: trials that will train, in the order in which they get slots.
        trials: number of all trials, training or not.

    Attributes:
        resident: `[K]` trial in every slot, -1 for an empty one.
        best: for every parameter `[trials, ...]` in host memory: each trial's best state so far.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        optimizer: StackedAdamW,
        start: Start,
        waiting: Sequence[int],
        trials: int,
    ) -> None:
        self.parameters, self.optimizer = list(parameters), optimizer
        self.waiting = list(waiting)
        self.resident = [-1] * self.parameters[0].shape[0]
        self.best = [torch.empty(trials, *p.shape[1:], dtype=p.dtype) for p in self.parameters]
        with torch.no_grad():
            for trial in range(trials):
                for best, value in zip(self.best, start(trial), strict=True):
                    best[trial] = value

    def occupied(self) -> list[tuple[int, int]]:
        """(slot, trial) pairs."""
        return [(slot, trial) for slot, trial in enumerate(self.resident) if trial >= 0]

    def residents(self, device: torch.device) -> Tensor:
        """`[K]` trial of every slot; an empty slot says 0, which no row refers to."""
        return torch.tensor(self.resident, device=device).clamp(min=0)

    @torch.no_grad()
    def fill(self) -> list[int]:
        """Give empty slots to waiting trials; returns the slots that were filled."""
        empty = [slot for slot, trial in enumerate(self.resident) if trial < 0]
        filled = empty[: len(self.waiting)]
        if filled:
            trials = [self.waiting.pop(0) for _ in filled]
            # Of a trial that has not trained yet, the best state is its start.
            for p, best in zip(self.parameters, self.best, strict=True):
                p[filled] = best[trials].to(p)
            self.optimizer.reset(filled)
            for slot, trial in zip(filled, trials, strict=True):
                self.resident[slot] = trial
        return filled

    def leave(self, slot: int) -> None:
        """Empty a slot; its trial's best state stays in `best`."""
        self.resident[slot] = -1

    @torch.no_grad()
    def keep(self, slots: Sequence[int]) -> None:
        """The trials in these slots are at their best now."""
        if slots:
            trials = [self.resident[slot] for slot in slots]
            for best, p in zip(self.best, self.parameters, strict=True):
                best[trials] = p[list(slots)].to(best)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name."""
        named = {
            f"{name}.{i}": tensor
            for name, group in self._groups().items()
            for i, tensor in enumerate(group)
        }
        return {**named, "steps": self.optimizer.steps}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`, in place."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def _groups(self) -> dict[str, list[Tensor]]:
        return {
            "parameter": self.parameters,
            "first": self.optimizer.first,
            "second": self.optimizer.second,
            "best": self.best,
        }
