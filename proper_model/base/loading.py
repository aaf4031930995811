"""Loading a base model and telling bases apart.

A base is a folder or a hub id; weights are read from safetensors only and no code from the hub is
run. The fingerprint hashes every tensor, so that caches, bundles and adapters name exactly the
weights they belong to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proper_model.base.config import is_nested
from proper_model.base.population_lora import PopulationMerge, merge_population
from proper_model.base.quantized import check_available, pack_module, quantize_base
from proper_model.base.streamed import WeightFile, not_apart, stream_base
from proper_model.checks.base import weight_files
from proper_model.errors import BaseModelError
from proper_model.export.nested_names import outer_path
from proper_model.settings.profile import BaseWeights, PopulationSettings
from proper_model.text.tokenizer_check import check_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype a profile's `dtype` stands for on a device: `auto` is bf16 on CUDA, else fp32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Population:
    """The population LoRA to merge into a base that is loaded: W_0 to W_p (eq. 6)."""

    settings: PopulationSettings
    state: Mapping[str, Tensor]


def load_base(
    name: str,
    *,
    revision: str | None = None,
    tokenizer_from: str | None = None,
    dtype: torch.dtype = torch.float32,
    computing: torch.dtype | None = None,
    device: torch.device | None = None,
    population: Population | None = None,
    weights: BaseWeights = BaseWeights.FULL,
) -> tuple[Any, Any]:
    """Model and tokenizer of a folder or hub id; merged and packed a tensor at a time.

    `computing` is the dtype the model will be cast to later, if another than `dtype`. Generation
    settings of the base are dropped: greedy decoding must not depend on a penalty or a temperature
    that its makers chose. Raises BaseModelError with what to do next, ConfigError where `weights`
    need a library that is not installed.
    """
    from transformers import AutoConfig, AutoTokenizer

    from proper_model.checks.trial import check_rows

    if weights != BaseWeights.FULL:  # else its import costs memory for nothing
        check_available(weights)
    folder, device = Path(name), device or default_device()
    if name.startswith((".", "/", "~")) and not folder.expanduser().is_dir():
        raise BaseModelError(f"base folder '{name}' does not exist")
    source = str(folder.expanduser()) if folder.expanduser().is_dir() else name
    attention = attention_for(device, computing or dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_from or source, revision=revision, trust_remote_code=False
        )
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        nested = is_nested(config)
        if nested and not Path(source).is_dir():
            source = _downloaded(source, revision)
        model = _streamed(source, dtype, device, attention, population, weights)
        if model is None and nested:
            raise not_apart(name)
        if model is None:
            model = mapped(source, revision, dtype, device, attention, population, weights)
        check_rows(config)
        check_tokenizer(f"base '{name}'", tokenizer, len(model.get_input_embeddings().weight))
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"the base '{name}' cannot be loaded as a causal language model "
            f"({type(error).__name__})",
            hint="give a folder with config.json, *.safetensors and a tokenizer, or a hub id; "
            "without a network the hub files must be in the local cache",
        ) from error
    if nested and population is not None:
        model.outer_path = outer_path(config)  # an export is for the public checkpoint
    return settled(model, tokenizer), tokenizer


def _downloaded(hub_id: str, revision: str | None) -> str:
    """The folder of a hub id whose language model is read from its files by name."""
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors"]
    return str(snapshot_download(hub_id, revision=revision, allow_patterns=wanted))


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


def _streamed(
    source: str,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None,
    population: Population | None,
    weights: BaseWeights,
) -> Any | None:
    """The base of a folder, a tensor at a time; None where that cannot be."""
    from transformers import AutoConfig

    folder = Path(source)
    if not (folder / "config.json").is_file():
        return None  # a hub id; or a folder that is no base, which transformers says best
    return stream(
        AutoConfig.from_pretrained(folder, trust_remote_code=False),
        [WeightFile(path) for path in weight_files(source, folder)],
        dtype,
        device,
        attention,
        population,
        weights,
    )


def stream(
    config: Any,
    files: Sequence[WeightFile],
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None,
    population: Population | None,
    weights: BaseWeights,
) -> Any | None:
    """The base of a configuration and weights, a tensor at a time; None where that cannot be."""
    merge = None if population is None else PopulationMerge(population.settings, population.state)
    model = stream_base(
        config,
        files,
        dtype=dtype,
        device=device,
        attention=attention,
        merge=merge,
        settle=lambda base, path, module: pack_module(base, path, module, weights),
    )
    if model is not None and merge is not None:
        merge.check_used()
    return model


def mapped(
    source: str,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None,
    population: Population | None,
    weights: BaseWeights,
) -> Any:
    """The base as transformers loads it, in full before it is merged and packed."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source,
        revision=revision,
        dtype=dtype if population is None else torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation=attention,
    )
    # What will be packed stays in main memory: in full an accelerator may not hold it.
    model.to(device if weights == BaseWeights.FULL else torch.device("cpu"))
    if population is not None:
        model = merge_population(model, population.settings, population.state).to(dtype)
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
