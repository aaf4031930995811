"""Which layer of a base lets what was read in one row of a packed pass into the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from proper_model.checks.miniature import VOCABULARY
from proper_model.kernels.attention import packed_attention
from proper_model.kernels.packing import Encoded, pack, packed_inputs


@torch.no_grad()
def carrier(base: Any, samples: Sequence[Encoded], tolerance: float) -> tuple[str, str] | None:
    """The first module, path and class, whose output for later rows changes with the first row."""
    other = Encoded(tuple((t + 17) % (VOCABULARY - 3) + 3 for t in samples[0].tokens), 1)
    rows = [samples, [other, *samples[1:]]]
    first = len(samples[0].tokens)
    seen: list[list[tuple[str, Tensor]]] = []
    for items in rows:
        outputs: list[tuple[str, Tensor]] = []
        batch = pack(items, range(len(items)))
        hooks = [
            module.register_forward_hook(_recorder(outputs, path, batch.input_ids.shape[1], first))
            for path, module in base.named_modules()
            if path
        ]
        try:
            with packed_attention(base):
                base(**packed_inputs(batch))
        finally:
            for hook in hooks:
                hook.remove()
        seen.append(outputs)
    for (path, one), (_, two) in zip(*seen, strict=False):
        if one.shape == two.shape and _far(two, one) > tolerance:
            return _holder(base, path)
    return None


def _holder(base: Any, path: str) -> tuple[str, str]:
    """Path and class of the layer that a linear or a norm, which keep nothing, is part of."""
    module = base.get_submodule(path)
    while type(module) is torch.nn.Linear or "Norm" in type(module).__name__:
        path = path.rpartition(".")[0]
        module = base.get_submodule(path)
    return path, type(module).__name__


def _recorder(
    outputs: list[tuple[str, Tensor]], path: str, length: int, first: int
) -> Callable[..., None]:
    def record(_module: torch.nn.Module, _: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        if isinstance(found, Tensor) and found.dim() == 3 and found.shape[:2] == (1, length):
            outputs.append((path, found[:, first:].detach().clone()))

    return record


def _far(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / (1e-3 + expected.abs().max()))
