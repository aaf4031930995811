"""A base of a folder or hub id, checked and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from proper_model.base.config import is_nested
from proper_model.base.folder import weight_files
from proper_model.base.loading import (
    LoadOptions,
    Population,
    attention_for,
    default_device,
    mapped,
    settled,
    stream,
)
from proper_model.base.quantized import check_available
from proper_model.base.streamed import WeightFile, not_apart
from proper_model.bundle.file_names import CONFIG
from proper_model.errors import BaseModelError
from proper_model.settings.profile import BaseWeights
from proper_model.storage.files import expanded
from proper_model.text.tokenizer_check import check_tokenizer


def load_base(
    name: str,
    *,
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
    from huggingface_hub import snapshot_download
    from transformers import AutoConfig, AutoTokenizer

    from proper_model.checks.trial import check_rows

    if weights != BaseWeights.FULL:  # else its import costs memory for nothing
        check_available(weights)
    folder, device = Path(name), device or default_device()
    if name.startswith((".", "/", "~")) and not expanded(folder).is_dir():
        raise BaseModelError(f"base folder '{name}' does not exist")
    source = str(expanded(folder)) if expanded(folder).is_dir() else name
    attention = attention_for(device, computing or dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_from or source, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        nested = is_nested(config)
        if nested and not Path(source).is_dir():
            # Its language model is read from its files by name.
            wanted = ["*.json", "*.safetensors"]
            source = str(snapshot_download(source, allow_patterns=wanted))
        options = LoadOptions(dtype, device, attention, population, weights)
        model = _streamed(source, config, options)
        if model is None and nested:
            raise not_apart(name)
        if model is None:
            model = mapped(source, options)
        check_rows(config)
        check_tokenizer(f"base '{name}'", tokenizer, len(model.get_input_embeddings().weight))
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"the base '{name}' cannot be loaded as a causal language model "
            f"({type(error).__name__})",
            hint="give a folder with config.json, *.safetensors and a tokenizer, or a hub id; "
            "without a network the hub files must be in the local cache",
        ) from error
    return settled(model, tokenizer), tokenizer


def _streamed(source: str, config: Any, options: LoadOptions) -> Any | None:
    """The base of a folder, a tensor at a time; None where that cannot be."""
    folder = Path(source)
    if not (folder / CONFIG).is_file():
        return None  # a hub id; or a folder that is no base, which transformers says best
    return stream(config, [WeightFile(path) for path in weight_files(source, folder)], options)
