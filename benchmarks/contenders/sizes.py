"""Bases of the benchmarks: Llamas of three sizes with random weights.

`overhead` is bound by launches, as a large model on a large accelerator with few tokens is;
`small` is bound by arithmetic on a CPU; `7b` has the widths of Llama-2-7B and is for a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from proper_model.base import attention_for
from proper_model.errors import ConfigError


@dataclass(frozen=True)
class Shape:
    """Widths of a Llama with as many key-value heads as heads."""

    hidden: int
    layers: int
    ffn: int
    heads: int
    vocabulary: int


SIZES = {
    "overhead": Shape(hidden=64, layers=2, ffn=172, heads=4, vocabulary=512),
    "small": Shape(hidden=256, layers=6, ffn=688, heads=8, vocabulary=4096),
    "7b": Shape(hidden=4096, layers=32, ffn=11008, heads=32, vocabulary=32000),
}


def shape_of(size: str) -> Shape:
    """The named shape. Raises ConfigError for an unknown name."""
    if size not in SIZES:
        raise ConfigError(f"unknown size '{size}'", hint="sizes are: " + ", ".join(SIZES))
    return SIZES[size]


def build_base(
    size: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    attention: str | None = None,
    positions: int = 1024,
) -> Any:
    """A frozen causal LM of a size, in the dtype it computes in.

    Args:
        attention: implementation by Hugging Face's name, or None for the engine's own choice.
        positions: longest sample, in tokens.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = shape_of(size)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.ffn,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        pad_token_id=0,
        use_cache=False,
    )
    attention = attention or attention_for(device, dtype) or "sdpa"
    # Weights are drawn where they will live: seven billion of them should not cross a bus.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    base.requires_grad_(False)
    return base.eval()
