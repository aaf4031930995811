"""One user's whole personal model as an adapter of mlx-lm, for Apple's machines.

mlx-lm computes `y + scale * (x lora_a) lora_b`, so factors are transposed: lora_a [i, r], lora_b
[r, o]. Its modules have Hugging Face's names for the model types listed here, whose logits were
compared; `mlx_lm` itself refuses tensors that it has no place for.

Source: mlx_lm/tuner/utils.py (`load_adapters`) and mlx_lm/tuner/lora.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proper_model.errors import ExportError
from proper_model.export.peft_lora import Factors, is_part, narrowed, natural_rank, padded

MODEL_TYPES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3",
)  # fmt: skip

_LANGUAGE_MODEL = "language_model."  # where mlx-lm holds that of a larger checkpoint
_IN_BLOCK = re.compile(r".*\.layers\.\d+\.(?P<key>.+)")


@dataclass(frozen=True)
class MlxAdapter:
    """Contents of `adapters.safetensors` and `adapter_config.json`, and the rank."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    rank: int


def mlx_adapter(config: Any, factors: Mapping[str, Factors], *, prefix: str = "") -> MlxAdapter:
    """`factors` (of `joined_factors`) as mlx-lm has them, in float32.

    Args:
        config: of the base.
        prefix: of all names, see `mlx_prefix`.

    Raises:
        ExportError: the names mlx-lm gives this model type are not known, or a value is too large.
    """
    if config.model_type not in MODEL_TYPES:
        raise ExportError(
            f"a model of type '{config.model_type}' was not compared with mlx-lm's; known are "
            f"{', '.join(MODEL_TYPES)}",
            hint="export in format merged, which mlx-lm converts: mlx_lm.convert --hf-path FOLDER",
        )
    rank = natural_rank(factors)
    tensors, keys = {}, set()
    for path, (a, b) in padded(factors, rank).items():
        inside = _IN_BLOCK.fullmatch(path)
        if inside is None:
            raise ExportError(
                f"'{path}' is in no block of the model, and mlx-lm has its adapters there",
                hint="export in format merged",
            )
        keys.add(inside["key"])
        tensors[f"{prefix}{path}.lora_a"] = narrowed(a.T, torch.float32, path)
        tensors[f"{prefix}{path}.lora_b"] = narrowed(b.T, torch.float32, path)
    parameters = {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": sorted(keys)}
    content = {
        "fine_tune_type": "lora",
        "num_layers": config.num_hidden_layers,
        "lora_parameters": parameters,
    }
    return MlxAdapter(tensors, content, rank)


def mlx_prefix(base: Any, *, language_alone: bool) -> str:
    """What mlx-lm's names of the linears begin with; nothing where a base is all of a checkpoint."""
    return _LANGUAGE_MODEL if is_part(base) and not language_alone else ""
