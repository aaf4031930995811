"""Configuration files that transformers 4 and 5 read alike.

transformers 5 renamed fields that transformers 4 then silently replaces by defaults: a model loads
and answers differently. Written here are both spellings, with the same values: what either version
knows wins over what it does not. Programs that read the older names (MLX, converters) profit too.

    config.json             rope_parameters   -> and rope_theta, rope_scaling, rope_local_base_freq,
                                                 partial_rotary_factor, original_max_position_embeddings
                            dtype             -> and torch_dtype
    tokenizer_config.json   TokenizersBackend -> PreTrainedTokenizerFast, its name in both versions
                            extra_special_tokens (a list) -> additional_special_tokens

Source: `convert_rope_params_to_dict` in transformers 5's modeling_rope_utils, the readers of
`config.rope_scaling` in 4.57's.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from proper_model.storage.files import write_atomic

FULL, SLIDING = "full_attention", "sliding_attention"
_APART = ("rope_theta", "partial_rotary_factor")  # beside `rope_scaling`, not in it, in version 4


def saved_files(thing: Any, keep: Callable[[str], bool], **options: Any) -> dict[str, bytes]:
    """The files that `save_pretrained` writes and `keep` lets through, by name, made portable."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        thing.save_pretrained(folder, **options)
        make_portable(folder)
        return {
            path.name: path.read_bytes()
            for path in sorted(folder.iterdir())
            if path.is_file() and keep(path.name)
        }


def make_portable(folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Rewrite `config.json` and `tokenizer_config.json` of a folder, where they are.

    Args:
        dtype: of the weights there, where the configuration may say another.

    Raises OSError: a file cannot be read or written.
    """
    for name, portable in (
        ("config.json", portable_config),
        ("tokenizer_config.json", portable_tokenizer_config),
    ):
        path = folder / name
        if path.is_file():
            old = json.loads(path.read_text(encoding="utf-8"))
            if dtype is not None and name == "config.json":
                old = with_dtype(old, dtype)
            write_atomic(
                path, (json.dumps(portable(old), indent=2, sort_keys=True) + "\n").encode()
            )


def with_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """A model's configuration, and a nested one, that says `dtype`."""
    said = {**config, "dtype": str(dtype).removeprefix("torch.")}
    if isinstance(said.get("text_config"), Mapping):
        said["text_config"] = with_dtype(said["text_config"], dtype)
    return said


def portable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration with the fields of both versions; nested ones too."""
    both = {
        name: portable_config(value) if name == "text_config" else value
        for name, value in config.items()
    }
    if "dtype" in both:
        both["torch_dtype"] = both["dtype"]
    rope = both.get("rope_parameters")
    if rope:
        nested = isinstance(rope.get(FULL), Mapping)
        both.update(_rope_of_4(rope[FULL] if nested else rope, config))
        if nested and rope.get(SLIDING):
            both["rope_local_base_freq"] = rope[SLIDING]["rope_theta"]
    return both


def _rope_of_4(rope: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """One layer type's `rope_parameters` under version 4's names."""
    old = {name: rope[name] for name in _APART if rope.get(name) is not None}
    scaling = {name: value for name, value in rope.items() if name not in _APART}
    if scaling.get("rope_type", "default") == "default":
        return old  # no scaling is written as none
    original = scaling.get("original_max_position_embeddings")
    if scaling["rope_type"] == "longrope" and original:
        # Version 4 looks for it outside, and takes the factor from it whatever `factor` says.
        old["original_max_position_embeddings"] = original
        factor = scaling.get("factor")
        if factor and factor != config["max_position_embeddings"] / original:
            scaling.setdefault("attention_factor", _longrope_attention(factor, original))
    return {**old, "rope_scaling": scaling}


def _longrope_attention(factor: float, original: int) -> float:
    """The factor on attention that follows from LongRoPE's `factor` (arXiv 2402.13753, 3.3)."""
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def portable_tokenizer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer's configuration that both versions read."""
    both = dict(config)
    if both.get("tokenizer_class") == "TokenizersBackend":
        both["tokenizer_class"] = "PreTrainedTokenizerFast"
        # Its default in version 4 has token types, which causal language models do not take.
        both.setdefault("model_input_names", ["input_ids", "attention_mask"])
    if isinstance(both.get("extra_special_tokens"), list):
        both["additional_special_tokens"] = both.pop("extra_special_tokens")
    return both
