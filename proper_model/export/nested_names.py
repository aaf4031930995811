"""An adapter for a language model that is part of a larger checkpoint, under that one's names.

PROPER loads the language model alone. Who loads the public checkpoint in full finds the same
linears further down, beside others of the same names in its vision or sound part.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from proper_model.base.config import OWN_DECODER

if TYPE_CHECKING:
    from proper_model.export.peft_adapter import PeftAdapter

_PEFT = "base_model.model."
_MLX_LANGUAGE_MODEL = "language_model."  # Where mlx-lm holds its language model.


def is_part(base: Any) -> bool:
    """Whether a loaded base is the language model of a larger checkpoint that it will be applied to."""
    return bool(getattr(base, "outer_path", OWN_DECODER) != OWN_DECODER)


def named_from_outside(base: Any, adapter: PeftAdapter) -> PeftAdapter:
    """The adapter as PEFT loads it over the checkpoint that `base` was read from."""
    if not is_part(base):
        return adapter
    outer = base.outer_path
    tensors = {
        _PEFT + outer + name.removeprefix(_PEFT + OWN_DECODER): tensor
        for name, tensor in adapter.tensors.items()
    }
    # Whole paths: the last names alone would also match the linears of other parts.
    targets = sorted({name.removeprefix(_PEFT).partition(".lora_")[0] for name in tensors})
    return dataclasses.replace(
        adapter, tensors=tensors, config={**adapter.config, "target_modules": targets}
    )


def mlx_prefix(base: Any, *, language_alone: bool) -> str:
    """What mlx-lm's names of the linears begin with: it names them as transformers' alone else."""
    return _MLX_LANGUAGE_MODEL if is_part(base) and not language_alone else ""
