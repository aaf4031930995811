"""One user's whole personal model as a LoRA in GGUF, for llama.cpp and what is built on it.

Over the same base as the PEFT adapter, quantized by others or not. llama.cpp scales by
`adapter.lora.alpha / r`, with r read from each tensor: all linears have one rank, alpha is that.

Source: llama.cpp's src/llama-adapter.cpp (what it demands of metadata, names and shapes).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from proper_model.export.gguf_names import family_of, library, reordered, tensor_names
from proper_model.export.peft_lora import Factors, narrowed, natural_rank, padded


def write_gguf_adapter(path: Path, config: Any, factors: Mapping[str, Factors]) -> int:
    """Write `factors` (of `joined_factors`) as float32, and return their rank.

    Args:
        config: of the base: its type decides names and the order of rows.

    Raises ConfigError: the package gguf is missing; ExportError: llama.cpp's form of this model is
    not known, or a value is too large; OSError: the file cannot be written.
    """
    gguf = library()
    family = family_of(config)
    named = tensor_names(family, config.num_hidden_layers)
    rank = natural_rank(factors)
    writer = gguf.GGUFWriter(path, family.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
    for site, (a, b) in padded(factors, rank).items():
        name = named(f"{site}.weight")
        rows = reordered(b, site, family, config)
        writer.add_tensor(f"{name}.lora_a", narrowed(a, torch.float32, site).numpy())
        writer.add_tensor(f"{name}.lora_b", narrowed(rows, torch.float32, site).numpy())
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return rank
