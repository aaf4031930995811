"""A base's own steps between its products as one kernel each, on a GPU with Triton.

Norms, rotary positions and the gated unit of a feed-forward are what a frozen base spends most of its
memory traffic on (docs/performance.md). While `fused_blocks(base)` is open, families whose
formulas are the plain ones compute them by `kernels.gpu`; everything else stays as it is, and so does
the base's code afterwards.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.activations import SiLUActivation

from proper_model.kernels.layout import routing_dtype
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
            stack.enter_context(_rotation(name))
        yield


@contextmanager
def _forward(module: torch.nn.Module, forward: Any) -> Iterator[None]:
    """Another `forward` of one module: an attribute of its own hides the class's.

    There may be one already, where a second model over the same base is attached inside a first.
    """
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


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


class _Rotations:
    """Families whose rotation is a kernel now: the function of before, and how many bases want it.

    The function is of a module, so of the whole process, and bases of one family may open and close in any order:
    the last one to close puts it back.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.plain: dict[str, Any] = {}
        self.users: dict[str, int] = {}

    def open(self, name: str) -> None:
        """Replace the function of a module, unless that is done."""
        with self.lock:
            self.users[name] = self.users.get(name, 0) + 1
            if self.users[name] == 1:
                modeling: Any = sys.modules[name]
                self.plain[name] = modeling.apply_rotary_pos_emb
                modeling.apply_rotary_pos_emb = _rotated(self.plain[name])

    def close(self, name: str) -> None:
        """Put it back where nobody else wants it."""
        with self.lock:
            self.users[name] -= 1
            if self.users[name] == 0:
                modeling: Any = sys.modules[name]
                modeling.apply_rotary_pos_emb = self.plain.pop(name)


_ROTATIONS = _Rotations()


@contextmanager
def _rotation(name: str) -> Iterator[None]:
    """Rotary positions of one family: its attention calls a function of its module by name."""
    _ROTATIONS.open(name)
    try:
        yield
    finally:
        _ROTATIONS.close(name)


def _rotated(plain: Any) -> Any:
    from proper_model.kernels import gpu

    def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
        # Another base of this family may run meanwhile: on a CPU, in float64, or with rows side by side.
        narrow = routing_dtype(q) is torch.float32
        if more or named or len(q) != 1 or not narrow or not runs_kernels(q.device):
            return plain(q, k, cos, sin, *more, **named)
        return gpu.rotate(q, cos, sin), gpu.rotate(k, cos, sin)

    return rotated
