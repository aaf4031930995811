"""A base's own steps between its products as one kernel each, on a GPU with Triton.

Norms, rotary positions and the gated unit of a feed-forward are what a frozen base spends most of its
memory traffic on (docs/performance.md). While `fused_blocks(base)` is open, families whose
formulas are the plain ones compute them by `kernels.gpu`; everything else stays as it is, and so does
the base's code afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.activations import SiLUActivation

from proper_model.kernels.ops import runs_kernels

# Of Hugging Face: y = g x / rms(x), rotation by halves, down(silu(gate(x)) * up(x)).
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3")
NORMS = frozenset(f"{family}RMSNorm" for family in FAMILIES)
GATED = frozenset(f"{family}MLP" for family in FAMILIES)
ATTENTIONS = frozenset(f"{family}Attention" for family in FAMILIES)


@contextmanager
def fused_blocks(base: Any) -> Iterator[None]:
    """Compute the base's norms, rotations and gated units by kernels while open.

    A base in float64 stays as it is, kernels compute in float32; and so does one where none run.
    """
    if base.dtype is torch.float64 or not runs_kernels(base.device):
        yield
        return
    with ExitStack() as stack:
        modules = set()
        for module in base.modules():
            kind = type(module).__name__
            if kind in NORMS:
                stack.enter_context(_forward(module, _norm(module)))
            elif kind in GATED and isinstance(module.act_fn, SiLUActivation):
                stack.enter_context(_forward(module, _gated(module)))
            elif kind in ATTENTIONS:
                modules.add(type(module).__module__)
        for name in modules:
            stack.enter_context(_rotation(sys.modules[name]))
        yield


@contextmanager
def _forward(module: torch.nn.Module, forward: Any) -> Iterator[None]:
    """Another `forward` of one module: an attribute of its own hides the class's."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _norm(module: Any) -> Any:
    from proper_model.kernels import gpu

    def forward(x: Tensor) -> Tensor:
        return gpu.rms_norm(x, module.weight, module.variance_epsilon)

    return forward


def _gated(module: Any) -> Any:
    from proper_model.kernels import gpu

    def forward(x: Tensor) -> Tensor:
        down: Tensor = module.down_proj(gpu.swiglu(module.gate_proj(x), module.up_proj(x)))
        return down

    return forward


@contextmanager
def _rotation(modeling: Any) -> Iterator[None]:
    """Rotary positions of one family: its attention calls a function of its module by name."""
    from proper_model.kernels import gpu

    plain = modeling.apply_rotary_pos_emb

    def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any) -> Any:
        # Another base of this family may run meanwhile: on a CPU, or with rows side by side.
        if more or len(q) != 1 or not runs_kernels(q.device):
            return plain(q, k, cos, sin, *more)
        return gpu.rotate(q, cos, sin), gpu.rotate(k, cos, sin)

    modeling.apply_rotary_pos_emb = rotated
    try:
        yield
    finally:
        modeling.apply_rotary_pos_emb = plain
