"""GGUF files for llama.cpp: a whole model with a person's part added, or that part as a LoRA.

Written are the model types whose logits were compared with llama.cpp's own; what llama.cpp would
compute otherwise (other activations, windows it does not know, dynamic rope) is refused.

Source: GGUF's specification; llama.cpp's conversion scripts for what each architecture reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proper_model.base.gguf_header import library
from proper_model.base.portable_config import FULL, SLIDING
from proper_model.errors import ExportError
from proper_model.export.gguf_names import (
    ELSEWHERE,
    Family,
    family_of,
    reordered,
    tensor_names,
)
from proper_model.export.gguf_vocabulary import vocabulary
from proper_model.export.peft_lora import Factors, narrowed, natural_rank, padded

_LARGEST = (46, 62)  # blocks of Gemma 2 and 3 with 27 billion parameters
# Stored dtype to the file type that llama.cpp names it.
FILE_TYPES = {torch.float32: "ALL_F32", torch.float16: "MOSTLY_F16", torch.bfloat16: "MOSTLY_BF16"}


def check_gguf_model(config: Any, tokenizer: Any) -> None:
    """Raise ConfigError or ExportError if this model cannot be written, before work is done."""
    _check_computed_alike(config, family_of(config))
    vocabulary(tokenizer, config.vocab_size)


@torch.no_grad()
def write_gguf_model(
    path: Path,
    model: Any,
    tokenizer: Any,
    *,
    dtype: torch.dtype,
    updates: Mapping[str, Factors] | None = None,
) -> None:
    """Write `model`, with B A added to the linears of `updates` in float64 and rounded once.

    Args:
        dtype: of matrices: float16 or bfloat16, else float32; vectors are float32 as llama.cpp has them.

    Raises ConfigError: the package gguf is missing; ExportError as `check_gguf_model`, or a value
    is too large for `dtype`; OSError: the file cannot be written.
    """
    gguf = library()
    config = model.config
    family = family_of(config)
    if dtype not in FILE_TYPES:
        dtype = torch.float32
    _check_computed_alike(config, family)
    writer = gguf.GGUFWriter(path, family.architecture)
    _add_sizes(writer, config, family)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[dtype]])
    vocabulary(tokenizer, config.vocab_size).add_to(writer)
    parts = _parts(model, family, dtype, updates or {})
    types = gguf.GGMLQuantizationType
    raw = {torch.float32: types.F32, torch.float16: types.F16, torch.bfloat16: types.BF16}
    for name, (shape, stored, _) in parts.items():
        length = torch.Size(shape).numel() * stored.itemsize
        writer.add_tensor_info(name, shape, None, length, raw_dtype=raw[stored])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, _, make in parts.values():  # one at a time: a model may be larger than memory
            writer.write_tensor_data(make().cpu().contiguous().flatten().view(torch.uint8).numpy())
    finally:
        writer.close()


def write_gguf_adapter(path: Path, config: Any, factors: Mapping[str, Factors]) -> int:
    """Write `factors` (of `joined_factors`) as a LoRA in float32, and return their rank.

    llama.cpp scales by `adapter.lora.alpha / r`, with r read from each tensor: all linears have one
    rank, alpha is that. Source: its src/llama-adapter.cpp.

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


Part = tuple[tuple[int, ...], torch.dtype, Callable[[], Tensor]]


def _parts(
    model: Any, family: Family, dtype: torch.dtype, updates: Mapping[str, Factors]
) -> dict[str, Part]:
    """By llama.cpp's name: shape, dtype, and how to make the tensor."""
    config = model.config
    named = tensor_names(family, config.num_hidden_layers)
    weights = dict(model.state_dict())
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)  # llama.cpp takes the embeddings by itself

    def make(name: str, stored: torch.dtype) -> Tensor:
        tensor = weights[name].cpu()
        if (factors := updates.get(name.removesuffix(".weight"))) is not None:
            tensor = tensor.double() + factors[1] @ factors[0]
        if family.shifted_norms and name.endswith("norm.weight"):
            tensor = tensor.float() + 1
        return narrowed(reordered(tensor, name, family, config), stored, name)

    parts: dict[str, Part] = {}
    for name, tensor in weights.items():
        stored = dtype if tensor.dim() > 1 else torch.float32
        parts[named(name)] = (
            tuple(tensor.shape),
            stored,
            lambda name=name, stored=stored: make(name, stored),  # type: ignore[misc]
        )
    if _rope(config)["rope_type"] == "llama3":
        factors = _llama3_factors(config)
        parts["rope_freqs.weight"] = (tuple(factors.shape), torch.float32, lambda: factors)
    return parts


def _add_sizes(writer: Any, config: Any, family: Family) -> None:
    """The keys that every architecture here reads."""
    head = _head(config)
    rope = _rope(config)
    writer.add_type("model")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    scaling = library().RopeScalingType
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(scaling.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(scaling.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if family.global_every is not None:
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base_swa(
            config.rope_parameters.get(SLIDING, config.rope_parameters)["rope_theta"]
        )
    if family.capped:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        writer.add_final_logit_softcapping(cap)


def _check_computed_alike(config: Any, family: Family) -> None:
    """Raise ExportError for what llama.cpp does otherwise than Hugging Face."""
    act = getattr(config, "hidden_activation", None) or config.hidden_act
    if act != family.activation:
        raise _otherwise(f"the activation '{act}' in a model of type '{config.model_type}'")
    biases = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    if biases and not family.biased:
        raise _otherwise(f"{biases[0]} in a model of type '{config.model_type}'")
    blocks = range(config.num_hidden_layers)
    # SmolLM3: llama.cpp leaves rope out in every fourth block, whatever the configuration says.
    pattern = getattr(config, "no_rope_layers", None)
    if pattern is not None and pattern != [int((block + 1) % 4 != 0) for block in blocks]:
        raise _otherwise("rope in other blocks than three of four")
    if family.global_every is None:
        window = getattr(config, "sliding_window", None)
        windowed = getattr(config, "use_sliding_window", True) and window is not None
        if windowed and window < config.max_position_embeddings:
            raise _otherwise(f"attention within a window of {window} tokens")
    else:
        _check_windows(config, family, family.global_every)
    rope = _rope(config)
    known = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings"}
    known |= {"low_freq_factor", "high_freq_factor"} if rope["rope_type"] == "llama3" else set()
    others = {name for name, value in rope.items() if value is not None} - known
    if rope["rope_type"] not in ("default", "linear", "llama3", "yarn") or others:
        raise _otherwise(f"rope of type '{rope['rope_type']}' {sorted(others) or ''}".strip())


def _check_windows(config: Any, family: Family, every: int) -> None:
    """What llama.cpp knows of Gemma 2 and 3 by their type and number of blocks alone."""
    kinds = [SLIDING if (block + 1) % every else FULL for block in range(config.num_hidden_layers)]
    if list(config.layer_types) != kinds:
        raise _otherwise(f"attention windows in other blocks than {every - 1} of {every}")
    largest = config.num_hidden_layers in _LARGEST
    scale = config.hidden_size // config.num_attention_heads if largest else _head(config)
    if config.query_pre_attn_scalar != scale:
        raise _otherwise(f"attention scaled by {config.query_pre_attn_scalar}, not {scale},")
    if (config.attn_logit_softcapping is not None) is not family.capped:
        raise _otherwise("attention with another cap on its scores")
    sliding = config.rope_parameters.get(SLIDING, {"rope_type": "default"})
    if sliding["rope_type"] != "default":
        raise _otherwise(f"rope of type '{sliding['rope_type']}' within windows")


def _otherwise(what: str) -> ExportError:
    return ExportError(f"{what} cannot be written as GGUF here, or not exactly", hint=ELSEWHERE)


def _head(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _rope(config: Any) -> Mapping[str, Any]:
    """Of blocks that attend to all tokens."""
    rope: Mapping[str, Any] = config.rope_parameters.get(FULL, config.rope_parameters)
    return rope


def _llama3_factors(config: Any) -> Tensor:
    """What each frequency of default rope is divided by, `[head / 2]`, from the library's own."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    head = _head(config)
    steps = torch.arange(0, head, 2, dtype=torch.float64) / head
    plain = 1 / torch.tensor(_rope(config)["rope_theta"], dtype=torch.float64) ** steps
    factors: Tensor = plain / scaled.double()
    return factors.float()
