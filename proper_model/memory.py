"""How much memory training takes, and what fits into what there is.

    peak = base + K * (user state) + tokens * (activations a token) + workspace

The user state is exact: weights, gradient and AdamW's two moments of one slot. Activations are
what autograd keeps for the backward pass, counted on a small probe rather than guessed from the
architecture (PERFORMANCE 2).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Weights, gradient, first and second moment.
STATES = 4
# What stays free for the allocator's fragments and the backward pass's own temporaries.
RESERVE = 0.15


@dataclass(frozen=True)
class MemoryModel:
    """Bytes of one host's training, beside the base itself."""

    slot_bytes: int
    token_bytes: int

    def peak(self, slots: int, tokens: int) -> int:
        """Bytes beyond the base for `slots` resident users and `tokens` in one forward pass."""
        return slots * self.slot_bytes + tokens * self.token_bytes

    def fit(self, budget: int, *, trials: int, tokens: int, least_tokens: int) -> tuple[int, int]:
        """Slots and tokens a step within `budget` bytes, at most `trials` and `tokens`.

        Users come first: a user more in a shared pass saves more than a token more. At least one
        user and `least_tokens`, the longest sample, remain whatever the budget says.
        """
        usable = int(budget * (1 - RESERVE))
        room = usable - least_tokens * self.token_bytes
        slots = max(1, min(trials, room // self.slot_bytes))
        left = usable - slots * self.slot_bytes
        return slots, max(least_tokens, min(tokens, left // self.token_bytes))


def saved_bytes(forward: Callable[[], Any], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of `forward`, `parameters` not counted.

    Tensors that share memory count once.
    """
    owned = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            storages[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(storages.values())


def is_out_of_memory(error: BaseException) -> bool:
    """True for CUDA's own error and for a failed allocation on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # The CPU's allocator raises a plain RuntimeError, with either wording.
    said = str(error) if isinstance(error, RuntimeError) else ""
    return "can't allocate memory" in said or "not enough memory" in said


def release_memory(device: torch.device) -> None:
    """Give back what a failed step still holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int | None:
    """Memory that training may still take on a GPU; None on a CPU, where the user decides."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + cached)
