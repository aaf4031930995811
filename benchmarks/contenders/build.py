"""From a workload and a contender's spec to a base, a world and the contender that trains in it.

Bases are Llamas with random weights. `overhead` is bound by launches, as a large model on a large
accelerator with few tokens is; `small` is bound by arithmetic on a CPU; `135m`, `1b` and `7b` have
the widths of SmolLM2-135M, Llama-3.2-1B and Llama-2-7B and are for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.contenders.ours import Limit, Ours
from benchmarks.contenders.rival_peft import PeftLoop
from benchmarks.contenders.rival_stacked import StackedLoop
from benchmarks.contenders.rival_vmap import Vmap
from benchmarks.contenders.specs import Spec
from benchmarks.contenders.workload import LONGEST, PAD, Workload, make_users
from benchmarks.contenders.world import Contender, World, settings_of
from proper_model.base.loading import attention_for
from proper_model.errors import ConfigError


@dataclass(frozen=True)
class Shape:
    """Widths of a Llama; `tied`: whether its head is its embedding."""

    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False

    @property
    def linear_weights(self) -> int:
        """Weights of all blocks' linears."""
        attention = 2 * self.hidden * (self.hidden + self.kv_width)
        return self.layers * (attention + 3 * self.hidden * self.ffn)

    @property
    def kv_width(self) -> int:
        """Width of all keys of a token."""
        return self.hidden // self.heads * self.kv_heads


SIZES = {
    "overhead": Shape(64, 2, 172, heads=4, kv_heads=4, vocabulary=512),
    "small": Shape(256, 6, 688, heads=8, kv_heads=8, vocabulary=4096),
    "135m": Shape(576, 30, 1536, heads=9, kv_heads=3, vocabulary=49152, tied=True),
    "1b": Shape(2048, 16, 8192, heads=32, kv_heads=8, vocabulary=128256, tied=True),
    "7b": Shape(4096, 32, 11008, heads=32, kv_heads=32, vocabulary=32000),
}

CONTENDERS: dict[str, Callable[[World], Contender]] = {
    "stacked-loop": StackedLoop,
    "peft-loop": PeftLoop,
    "vmap-moe": Vmap,
    "ours": lambda world: Ours(world, experts=False),
    "ours-moe": lambda world: Ours(world, experts=True),
    "limit": Limit,
}


def make_contender(world: World) -> Contender:
    """The contender that `world.spec` names; it takes the world's base for itself."""
    return CONTENDERS[world.spec.kind](world)


def build_world(
    work: Workload,
    spec: Spec,
    *,
    device: torch.device,
    users: int | None = None,
    dropout: float = 0.0,
    keep: bool = False,
    base: Any = None,
) -> World:
    """A world for one contender; `users` trains only the first of the workload's.

    `base`: one that is there already, for contenders that leave it as it is.
    """
    if base is None:
        base = build_base(shape_of(work.size), spec, device, seed=work.seed, longest=work.tokens)
    chosen = make_users(work, shape_of(work.size).vocabulary)[:users]
    return World(spec, base, chosen, work.seed, settings_of(spec, dropout), keep=keep)


def shape_of(size: str) -> Shape:
    """The named shape. Raises ConfigError for an unknown name."""
    if size not in SIZES:
        raise ConfigError(f"unknown size '{size}'", hint="sizes are: " + ", ".join(SIZES))
    return SIZES[size]


def llama_of(shape: Shape, longest: int) -> dict[str, Any]:
    """A Llama's configuration, as transformers takes it."""
    return {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": max(LONGEST, longest),
        "tie_word_embeddings": shape.tied,
        "pad_token_id": PAD,
        "use_cache": False,
    }


def build_base(
    shape: Shape, spec: Spec, device: torch.device, *, seed: int, longest: int = LONGEST
) -> Any:
    """A frozen causal LM, in the dtype that the contender computes in."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    dtype = spec.torch_dtype
    config = LlamaConfig(**llama_of(shape, longest))
    attention = spec.attention or attention_for(device, dtype) or "sdpa"
    # Weights are drawn where they will live: seven billion of them should not cross a bus.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    base.requires_grad_(False)
    return base.eval()
