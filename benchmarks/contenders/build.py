"""From a workload and a contender's spec to a base, a world and the contender that trains in it.

Bases are Llamas of three sizes with random weights. `overhead` is bound by launches, as a large
model on a large accelerator with few tokens is; `small` is bound by arithmetic on a CPU; `7b` has
the widths of Llama-2-7B and is for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.contenders.ours import Limit, Ours
from benchmarks.contenders.rival_loops import NaiveMoe, PeftLoop
from benchmarks.contenders.rival_mixed import PeftMixed
from benchmarks.contenders.rival_vmap import Vmap
from benchmarks.contenders.specs import Spec
from benchmarks.contenders.workload import LONGEST, Workload, make_users
from benchmarks.contenders.world import Contender, World
from proper_model.base.loading import attention_for
from proper_model.engine.trials import TrialSettings
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

CONTENDERS: dict[str, Callable[[World], Contender]] = {
    "naive-moe": NaiveMoe,
    "peft-loop": PeftLoop,
    "peft-mixed-eval": PeftMixed,
    "vmap": Vmap,
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
) -> World:
    """A world for one contender; `users` trains only the first of the workload's."""
    base = build_base(work, spec, device)
    settings = TrialSettings(
        epochs=1,
        batch_size=spec.batch,
        dropout=dropout,
        weight_decay=0.01,
        warmup_ratio=0.0,
        max_grad_norm=1.0,
        tokens_per_step=spec.tokens_per_step,
    )
    chosen = make_users(work, shape_of(work.size).vocabulary)[:users]
    return World(spec, base, chosen, work.seed, settings, keep=keep)


def shape_of(size: str) -> Shape:
    """The named shape. Raises ConfigError for an unknown name."""
    if size not in SIZES:
        raise ConfigError(f"unknown size '{size}'", hint="sizes are: " + ", ".join(SIZES))
    return SIZES[size]


def build_base(work: Workload, spec: Spec, device: torch.device) -> Any:
    """A frozen causal LM of the workload's size, in the dtype that the contender computes in."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape, dtype = shape_of(work.size), spec.torch_dtype
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.ffn,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=max(LONGEST, work.tokens),
        tie_word_embeddings=False,
        pad_token_id=0,
        use_cache=False,
    )
    attention = spec.attention or attention_for(device, dtype) or "sdpa"
    # Weights are drawn where they will live: seven billion of them should not cross a bus.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(work.seed)
        base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    base.requires_grad_(False)
    return base.eval()
