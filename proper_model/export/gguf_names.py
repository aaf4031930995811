"""How llama.cpp names and orders the weights of a model that is known here under Hugging Face's.

Names come from the `gguf` package's own map. Llama and its relatives rotate neighbouring pairs of a
head's coordinates in llama.cpp, halves of it in Hugging Face: rows of the query and key projections
are reordered, and so are the rows of a LoRA's B there (A stays). Gemma's norms hold one more.

Source: `LlamaModel.permute` and `modify_tensors` of llama.cpp's conversion scripts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from proper_model.base.gguf_header import library
from proper_model.errors import ExportError

ELSEWHERE = (
    "export in format peft or merged, and use llama.cpp's convert_lora_to_gguf.py or "
    "convert_hf_to_gguf.py"
)


@dataclass(frozen=True)
class Family:
    """One `model_type` in llama.cpp.

    Attributes:
        architecture: its `general.architecture`.
        paired: rotates neighbouring coordinates, so that query and key rows are reordered.
        shifted_norms: norm weights are stored with one added.
        activation: the one that llama.cpp computes for it.
        global_every: every so many blocks one attends to all tokens, the others in a window; None
            where all do the same.
        capped: takes the tanh of attention's scores.
        biased: reads the biases that a configuration may ask for.
    """

    architecture: str
    paired: bool = False
    shifted_norms: bool = False
    activation: str = "silu"
    global_every: int | None = None
    capped: bool = False
    biased: bool = False


_GELU = "gelu_pytorch_tanh"
FAMILIES = {
    "llama": Family("llama", paired=True, biased=True),
    "mistral": Family("llama", paired=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma", shifted_norms=True, activation=_GELU),
    "gemma2": Family("gemma2", shifted_norms=True, activation=_GELU, global_every=2, capped=True),
    "gemma3_text": Family("gemma3", shifted_norms=True, activation=_GELU, global_every=6),
    "smollm3": Family("smollm3", paired=True),
}


def family_of(config: Any) -> Family:
    """Raises ExportError for a `model_type` that was not compared with llama.cpp's."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ExportError(
            f"a model of type '{config.model_type}' is not written as GGUF here; known are "
            f"{', '.join(FAMILIES)}",
            hint=ELSEWHERE,
        )
    return family


def tensor_names(family: Family, blocks: int) -> Callable[[str], str]:
    """From a tensor's name here to llama.cpp's. The function raises ExportError for unknown ones."""
    gguf = library()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[family.architecture], blocks)

    def named(name: str) -> str:
        found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ExportError(f"llama.cpp has no tensor for '{name}'", hint=ELSEWHERE)
        return found

    return named


def reordered(rows: Tensor, name: str, family: Family, config: Any) -> Tensor:
    """`rows` [o, ...] of the tensor or factor `name` in llama.cpp's order."""
    parts = name.split(".")
    if not family.paired or not {"q_proj", "k_proj"} & set(parts):
        return rows
    heads = config.num_attention_heads
    if "k_proj" in parts:
        heads = getattr(config, "num_key_value_heads", None) or heads
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape).contiguous()
