"""An adapter for a language model that is part of a larger checkpoint, under that one's names.

PROPER loads the language model alone. Who loads the public checkpoint in full finds the same
linears further down, beside others of the same names in its vision or sound part.
"""

from __future__ import annotations

from typing import Any

from proper_model.base.config import OWN_DECODER

_MLX_LANGUAGE_MODEL = "language_model."  # Where mlx-lm holds its language model.


def is_part(base: Any) -> bool:
    """Whether a loaded base is the language model of a larger checkpoint that it will be applied to."""
    return bool(getattr(base, "outer_path", OWN_DECODER) != OWN_DECODER)


def mlx_prefix(base: Any, *, language_alone: bool) -> str:
    """What mlx-lm's names of the linears begin with: it names them as transformers' alone else."""
    return _MLX_LANGUAGE_MODEL if is_part(base) and not language_alone else ""
