"""From a workload and a contender's spec to a base, a world and the contender that trains in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.contenders.ours import Limit, Ours
from benchmarks.contenders.rival_peer import Peer
from benchmarks.contenders.rival_peft import PeftLoop
from benchmarks.contenders.rival_stacked import StackedLoop
from benchmarks.contenders.rival_vmap import Vmap
from benchmarks.contenders.specs import Spec
from benchmarks.contenders.workload import LONGEST, PAD, Workload, make_users
from benchmarks.contenders.world import Contender, World, settings_of
from benchmarks.kinds import SIZES, Shape
from proper_model.base.loading import attention_for
from proper_model.errors import ConfigError

CONTENDERS: dict[str, Callable[[World], Contender]] = {
    "stacked-loop": StackedLoop,
    "peft-loop": PeftLoop,
    "vmap-moe": Vmap,
    "ours": lambda world: Ours(world, experts=False),
    "ours-moe": lambda world: Ours(world, experts=True),
    "moe-peft": Peer,
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
    shape = shape_of(work.size)
    base = build_base(shape, spec, device, seed=work.seed, longest=work.tokens)
    chosen = make_users(work, shape.vocabulary)[:users]
    return World(spec, base, chosen, work.seed, settings_of(spec, dropout), keep=keep)


def shape_of(size: str) -> Shape:
    """The named shape. Raises ConfigError for an unknown name."""
    if size not in SIZES:
        raise ConfigError(f"unknown size '{size}'", hint="sizes are: " + ", ".join(SIZES))
    return SIZES[size]


def llama_of(shape: Shape, longest: int = LONGEST) -> Any:
    """A Llama's configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.ffn,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=max(LONGEST, longest),
        tie_word_embeddings=shape.tied,
        pad_token_id=PAD,
        use_cache=False,
    )


def build_base(
    shape: Shape, spec: Spec, device: torch.device, *, seed: int, longest: int = LONGEST
) -> Any:
    """A frozen causal LM with random weights, in the dtype that the contender computes in."""
    from transformers import AutoModelForCausalLM

    dtype = spec.torch_dtype
    attention = spec.attention or attention_for(device, dtype) or "sdpa"
    # Weights are drawn where they will live: seven billion of them should not cross a bus.
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_config(
            llama_of(shape, longest), dtype=dtype, attn_implementation=attention
        )
    base.requires_grad_(False)
    return base.eval()
