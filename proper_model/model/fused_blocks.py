"""A base's own steps between its products as one function each.

Norms, rotary positions and the gated unit of a feed-forward are what a frozen base spends most of its
memory traffic on (docs/performance.md). While `fused_blocks(base)` is open, families whose
formulas are the plain ones compute them by `kernels.blocks` on a CPU and by `kernels.gpu` on a GPU with
Triton; everything else stays as it is, and so does the base's code afterwards.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from proper_model.kernels import blocks
from proper_model.kernels.ops import runs_kernels
from proper_model.kernels.transformers_parts import SiLUActivation

# Of Hugging Face: y = g x / rms(x), rotation by halves, down(silu(gate(x)) * up(x)).
FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3")
NORMS = frozenset(f"{family}RMSNorm" for family in FAMILIES)
GATED = frozenset(f"{family}MLP" for family in FAMILIES)
ATTENTIONS = frozenset(f"{family}Attention" for family in FAMILIES)


@contextmanager
def fused_blocks(base: Any) -> Iterator[None]:
    """Compute the base's norms, rotations and gated units in one function each while open.

    A norm whose weight is in training stays as it is: these functions are for frozen bases.
    """
    routines = _routines(base.device, base.dtype)
    if routines is None:
        yield
        return
    with ExitStack() as stack:
        modules = set()
        for module in base.modules():
            kind = type(module).__name__
            if kind in NORMS and not module.weight.requires_grad:
                stack.enter_context(_forward(module, _norm(module, routines)))
            elif kind in GATED and isinstance(module.act_fn, SiLUActivation):
                stack.enter_context(_forward(module, _gated(module, routines)))
            elif kind in ATTENTIONS:
                modules.add(type(module).__module__)
        for name in modules:
            stack.enter_context(_rotation(name))
        yield


def _routines(device: torch.device, dtype: torch.dtype) -> Any:
    """What has `rms_norm`, `rotate` and `swiglu` for a device; None where the base's own code does it.

    Triton's kernels compute in float32, so not for a base in float64.
    """
    if dtype is not torch.float64 and runs_kernels(device):
        from proper_model.kernels import gpu

        return gpu
    return blocks if device.type == "cpu" else None


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


def _norm(module: Any, routines: Any) -> Any:
    def forward(x: Tensor) -> Tensor:
        norm: Tensor = routines.rms_norm(x, module.weight, module.variance_epsilon)
        return norm

    return forward


def _gated(module: Any, routines: Any) -> Any:
    def forward(x: Tensor) -> Tensor:
        down: Tensor = module.down_proj(routines.swiglu(module.gate_proj(x), module.up_proj(x)))
        return down

    return forward


class _Rotations:
    """Families whose rotation is another now: the function of before, and how many bases want it.

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
    def rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
        # Another base of this family may run meanwhile: on another device, or in another dtype.
        routines = _routines(q.device, q.dtype)
        alone = len(q) == 1 or routines is blocks  # kernels of a GPU take packed rows only
        if more or named or routines is None or not alone:
            return plain(q, k, cos, sin, *more, **named)
        return routines.rotate(q, cos, sin), routines.rotate(k, cos, sin)

    return rotated
