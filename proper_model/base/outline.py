"""Models that are looked at, or get their weights later: made without memory for weights or numbers drawn for them.

transformers draws first values for every parameter. Where a parameter is on the meta device there is nothing to
fill, and torch goes through Python, and imports its compiler, to find that out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# By name: of tensors, of torch.nn.init, and what transformers puts in the place of that while it makes a model.
_DRAWING = frozenset(
    {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_", "trunc_normal_"}
)


def without_weights(config: Any, **options: Any) -> Any:
    """The causal LM that a configuration describes, its weights on the meta device; `options` are of `from_config`."""
    from transformers import AutoModelForCausalLM

    with WeightsNowhere():
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False, **options)


class WeightsNowhere(TorchFunctionMode):
    """Linears and embeddings made inside take no memory, but buffers, and weights of norms, get their values.

    Not `torch.device("meta")`, inside which positions are computed through Python, too.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty:
            given["device"] = "meta"
        elif getattr(func, "__name__", None) in _DRAWING:
            filled = args[0] if args else given.get("tensor")
            if isinstance(filled, Tensor) and filled.is_meta:
                return filled
        return func(*args, **given)
