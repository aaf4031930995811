"""Loading a base model, and a fingerprint of its weights.

A base is a folder or a hub id; weights are read from safetensors only and no code from the hub is
run. The fingerprint hashes every tensor, so that caches, bundles and adapters name exactly the
weights they belong to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proper_model.base.population_lora import PopulationMerge, merge_population
from proper_model.base.quantized import pack_module, quantize_base
from proper_model.base.streamed import WeightFile, stream_base
from proper_model.settings.profile import BaseWeights, PopulationSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype a profile's `dtype` stands for on a device: `auto` is bf16 on CUDA, else fp32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


def multiplies_bfloat16() -> bool:
    """True for a CPU with instructions for bfloat16 products; others imitate them, slower than float32."""
    asked = getattr(torch.cpu, "get_capabilities", None)  # of newer versions of PyTorch
    found = {} if asked is None else asked()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Population:
    """The population LoRA to merge into a base that is loaded: W_0 to W_p (eq. 6)."""

    settings: PopulationSettings
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class LoadOptions:
    """How a base is held: `population` is merged into it, `weights` says how its linears are packed."""

    dtype: torch.dtype
    device: torch.device
    attention: str | None
    population: Population | None
    weights: BaseWeights


def settled(model: Any, tokenizer: Any) -> Any:
    """A loaded base made ready: it ends where its tokenizer does, and drops out nothing."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.eval()
    return model


def stream(config: Any, files: Sequence[WeightFile], options: LoadOptions) -> Any | None:
    """The base of a configuration and weights, a tensor at a time; None where that cannot be."""
    population = options.population
    merge = None if population is None else PopulationMerge(population.settings, population.state)
    model = stream_base(
        config,
        files,
        dtype=options.dtype,
        device=options.device,
        attention=options.attention,
        merge=merge,
        settle=lambda base, path, module: pack_module(base, path, module, options.weights),
    )
    if model is not None and merge is not None:
        merge.check_used()
    return model


def mapped(source: str, options: LoadOptions) -> Any:
    """The base as transformers loads it, in full before it is merged and packed."""
    from transformers import AutoModelForCausalLM

    population, weights, device = options.population, options.weights, options.device
    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=options.dtype if population is None else torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation=options.attention,
    )
    # What will be packed stays in main memory: in full an accelerator may not hold it.
    model.to(device if weights == BaseWeights.FULL else torch.device("cpu"))
    if population is not None:
        model = merge_population(model, population.settings, population.state).to(options.dtype)
    return quantize_base(model, weights, device=device)


def attention_for(device: torch.device, dtype: torch.dtype) -> str | None:
    """Attention implementation; None for the fused kernel wherever the base supports it.

    On a CPU the fused kernel's backward is slower than eager. Not in float64: eager takes its
    softmax in float32, where the float64 mask value overflows and padding rows become NaN.
    """
    return None if device.type == "cuda" or dtype is torch.float64 else "eager"


def fingerprint(model: Any) -> str:
    """sha256 over a model's configuration and names, dtypes, shapes and bytes of its tensors, hex.

    The configuration counts: the same tensors with another rope base are another model.
    """
    digest = hashlib.sha256()
    config = {
        key: value
        for key, value in model.config.to_dict().items()
        if key not in ("_name_or_path", "transformers_version", "dtype")
    }
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        raw = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
