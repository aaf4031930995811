"""Bases of the benchmarks: Llamas of four sizes, random or the small pretrained one, and their cost.

`overhead` is bound by launches, as a large model on a large accelerator with few tokens is;
`small` is bound by arithmetic on a CPU; `mini` is the pretrained base of the real-data runs;
`7b` has the widths of Llama-2-7B and is for a GPU.

Cost of training a frozen base with answer-only logits (docs/performance.md 2): forward and the gradient of
inputs, two products of two operations each, for every weight of a linear and every token:

    4 * (weights of the blocks' linears) * tokens + 4 * hidden * vocabulary * (logit positions)

Attention's own products, norms and adapters are left out, so a share of peak errs low.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from proper_model.base.loading import attention_for
from proper_model.checks.outside_base import load_base
from proper_model.errors import ConfigError

MINI = Path(__file__).resolve().parent.parent.parent / "shared" / "models" / "mini-llama"


@dataclass(frozen=True)
class Shape:
    """Widths of a Llama with as many key-value heads as heads."""

    hidden: int
    layers: int
    ffn: int
    heads: int
    vocabulary: int

    @property
    def block_weights(self) -> int:
        """Weights of one block's linears: four of attention, three of the feed-forward."""
        return 4 * self.hidden**2 + 3 * self.hidden * self.ffn

    def training_flops(self, tokens: int, logit_positions: int) -> int:
        """Operations of forward and input gradients over the frozen base; see the module."""
        blocks = 4 * self.layers * self.block_weights * tokens
        return blocks + 4 * self.hidden * self.vocabulary * logit_positions

    def products(self) -> list[tuple[int, int, int]]:
        """(in, out, how many) of a block's linears, whose speed is the measure of the peak."""
        d, f = self.hidden, self.ffn
        return [(d, d, 4), (d, f, 2), (f, d, 1)]


SIZES = {
    "overhead": Shape(hidden=64, layers=2, ffn=172, heads=4, vocabulary=512),
    "small": Shape(hidden=256, layers=6, ffn=688, heads=8, vocabulary=4096),
    "mini": Shape(hidden=256, layers=6, ffn=704, heads=4, vocabulary=8192),
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
    shape = shape_of(size)
    attention = attention or attention_for(device, dtype) or "sdpa"
    if size == "mini":
        if not MINI.is_dir():
            raise ConfigError(
                "size 'mini' needs the pretrained base in ../shared/models/mini-llama",
                hint="size 'small' has the same widths with random weights",
            )
        base, _ = load_base(str(MINI), dtype=dtype, device=device)
        base.set_attn_implementation(attention)
    else:
        base = _random_llama(shape, dtype, device, seed, attention, positions)
    base.requires_grad_(False)
    return base.eval()


def _random_llama(
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    attention: str,
    positions: int,
) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

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
    # Weights are drawn where they will live: seven billion of them should not cross a bus.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
