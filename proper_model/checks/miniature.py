"""A base's architecture with small random weights, to try out on a CPU what a run would do with it.

Widths shrink; what decides how layers behave stays: kinds of layers and their order, flags, the
width of a head, the kind of positional encoding. Windows become short, so that a few tokens reach
past them. The depth is cut behind the first layer of every kind.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch

from proper_model.base.config import text_config
from proper_model.base.outline import without_weights
from proper_model.errors import BaseModelError

VOCABULARY = 96
INNER = 48
WINDOW = 4
# Where positions begin to be encoded otherwise, in tokens: inside the longest row of a trial.
SHORT = 8
MOST_HEADS_A_KEY = 2
MOST_KEY_HEADS = 2
# Of the whole width, what belongs to one head: where heads may be wider than that, less is enough.
NARROW, WIDE = 32, 1 << 20
MOST_PARAMETERS = 120_000_000
SEED = 20
# A block's modules, below the number of the block.
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)(?:\.|$)")
# What a module says of its place or its widths, not of its kind.
_NOT_OF_A_KIND = re.compile(
    r"(^_|^training$|layer_idx|layer_id|size|dim|features|heads|width|rank|num_|scal|embed)"
)

Kind = tuple[Any, ...]


def miniature(config: Any, whole: torch.nn.Module, *, longest: int, attention: str | None) -> Any:
    """A small causal LM with the flags of `config`, random weights, float32, on the CPU.

    Args:
        whole: the model that `config` describes, on the meta device.
        longest: tokens of the longest row of a run. Positional encodings that change beyond a
            length change in here too if such a row would reach beyond it.
        attention: the implementation to use.

    Raises BaseModelError: no small model of this architecture can be made.
    """
    from transformers import AutoModelForCausalLM

    text = text_config(config)
    kinds = block_kinds(whole)
    depth = int(text.num_hidden_layers)
    last = ""
    first = _prefix(kinds, text)
    # The smallest first; some architectures must be as wide as their heads, or keep their depth.
    sizes = dict.fromkeys(((first, NARROW), (first, WIDE), (depth, NARROW), (depth, WIDE)))
    for layers, share in sizes:
        try:
            small = shrunk(text, layers, longest, share)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                outline = without_weights(small)
                if sum(p.numel() for p in outline.parameters()) > MOST_PARAMETERS:
                    last = "it stays too large"
                    continue
                if block_kinds(outline) != kinds[:layers]:
                    last = "its layers become other ones"
                    continue
                model = AutoModelForCausalLM.from_config(
                    small,
                    dtype=torch.float32,
                    attn_implementation=attention,
                    trust_remote_code=False,
                )
                _randomize(model)
                with torch.no_grad():  # some widths build and do not run
                    model.eval()(input_ids=torch.tensor([[3, 4, 5]]), use_cache=False)
        except Exception as error:  # noqa: BLE001 - whatever the architecture's own code raises
            last = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            continue
        return model
    raise BaseModelError(
        f"type '{text.model_type}' could not be tried out in small ({last})",
        hint="use a dense Llama, Qwen, Mistral or Gemma base; if this one is such a model, report "
        "its config.json",
    )


def block_kinds(model: torch.nn.Module) -> list[Kind]:
    """What every block is made of, without its place and its widths."""
    found: dict[int, list[Any]] = {}
    for path, module in model.named_modules():
        match = _BLOCK.search(path)
        if match is None:
            continue
        flags = sorted(
            (name, value)
            for name, value in vars(module).items()
            if _is_flag(value) and not _NOT_OF_A_KIND.search(name)
        )
        found.setdefault(int(match[1]), []).append(
            (path[match.end() :], type(module).__name__, tuple(map(str, flags)))
        )
    return [tuple(found[number]) for number in sorted(found)]


def _is_flag(value: Any) -> bool:
    # Some switches are whole numbers, as SmolLM3's use_rope.
    return isinstance(value, bool | str | None) or (isinstance(value, int) and value in (0, 1))


def _prefix(kinds: list[Kind], text: Any) -> int:
    """Blocks up to the first of the kind that comes last, two at least."""
    by_layer = [v for v in text.to_dict().values() if isinstance(v, list) and len(v) == len(kinds)]
    first: dict[Kind, int] = {}
    for number, kind in enumerate(kinds):
        first.setdefault((*kind, *(str(values[number]) for values in by_layer)), number)
    return max(min(2, len(kinds)), max(first.values(), default=0) + 1)


def cut_depth(text: Any, layers: int) -> Any:
    """The same configuration with its first `layers` blocks."""
    old = copy.deepcopy(text.to_dict())
    depth = old["num_hidden_layers"]
    new = {key: _cut(value, depth, layers) for key, value in old.items()}
    return type(text).from_dict({**new, "num_hidden_layers": layers})


def shrunk(text: Any, layers: int, longest: int, share: int) -> Any:
    """The configuration of a small model with `layers` blocks of the kinds of `text`.

    At most `share` of its width belong to each head.
    """
    old = text.to_dict()
    new = cut_depth(text, layers).to_dict()
    _shrink_vocabulary(new)
    _shrink_widths(new, old, share)
    _shrink_states(new, old)
    for key, value in new.items():
        if "window" in key and "pattern" not in key and "layer" not in key and _number(value):
            new[key] = min(value, WINDOW)
        if key == "attention_chunk_size" and _number(value):
            new[key] = min(value, WINDOW)
    _shorten_positions(new, longest)
    for key in ("_name_or_path", "dtype", "torch_dtype", "quantization_config", "architectures"):
        new.pop(key, None)
    return type(text).from_dict(new)


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _cut(value: Any, depth: int, layers: int) -> Any:
    """Settings that are given a layer, for fewer layers."""
    if isinstance(value, list | tuple) and len(value) == depth and depth > 1:
        return list(value[:layers])
    if isinstance(value, Mapping) and value and all(str(key).isdigit() for key in value):
        return {key: part for key, part in value.items() if int(key) < layers}
    return value


def _shrink_vocabulary(new: dict[str, Any]) -> None:
    for key in ("vocab_size", "vocab_size_per_layer_input"):
        if _number(new.get(key)):
            new[key] = VOCABULARY
    for place, key in enumerate(("pad_token_id", "bos_token_id", "eos_token_id")):
        if new.get(key) is not None:
            new[key] = place
    for key, value in new.items():
        if key.endswith(("_token_id", "_token_index")) and _number(value):
            new[key] = min(value, VOCABULARY - 1)


def _shrink_widths(new: dict[str, Any], old: Mapping[str, Any], share: int) -> None:
    heads = int(old["num_attention_heads"])
    keys = int(old.get("num_key_value_heads") or heads)
    few = min(keys, MOST_KEY_HEADS)
    many = few * min(heads // keys, MOST_HEADS_A_KEY)
    head = int(old.get("head_dim") or old["hidden_size"] // heads)
    width = many * (min(head, share) if old.get("head_dim") else head)
    new |= {"num_attention_heads": many, "hidden_size": width}
    if old.get("num_key_value_heads"):
        new["num_key_value_heads"] = few
    if old.get("head_dim"):
        new["head_dim"] = head
    for key, value in old.items():
        if "intermediate_size" in key and value:
            new[key] = [INNER] * len(new[key]) if isinstance(value, list) else INNER
    for key, small in {
        "hidden_size_per_layer_input": 16,
        "laurel_rank": 8,
        "num_experts": 4,
        "num_local_experts": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
    }.items():
        if _number(old.get(key)):
            new[key] = min(old[key], small)


def _shrink_states(new: dict[str, Any], old: Mapping[str, Any]) -> None:
    """Widths of recurrent layers, which depend on the width of the whole."""
    width = new["hidden_size"]
    if "lru_width" in old:
        new["lru_width"] = width
    if "attention_hidden_size" in old:
        new["attention_hidden_size"] = 2 * width
        new["attention_head_dim"] = 2 * width // new["num_attention_heads"]
    inner = int(old.get("mamba_expand") or 2) * width
    if _number(old.get("mamba_n_heads")):
        heads = 2 * max(1, int(old.get("mamba_n_groups") or 1))
        new |= {"mamba_n_heads": heads, "mamba_d_head": inner // heads}
        if old.get("mamba_d_ssm"):
            new["mamba_d_ssm"] = inner
    for key, small in {
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
        "mamba_dt_rank": 8,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    }.items():
        if _number(old.get(key)):
            new[key] = min(old[key], small)
    if _number(old.get("linear_num_key_heads")):
        shared = old["linear_num_value_heads"] // old["linear_num_key_heads"]
        new |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2 * shared}


def _shorten_positions(new: dict[str, Any], longest: int) -> None:
    """Lengths from which on positions are encoded otherwise: within the rows, or far beyond."""
    ropes = new.get("rope_parameters") or {}
    several = all(isinstance(value, Mapping) for value in ropes.values()) and ropes
    for rope in list(ropes.values()) if several else [ropes]:
        if rope.get("rope_type", "default") == "default":
            continue
        most = int(new.get("max_position_embeddings") or 0)
        first = int(rope.get("original_max_position_embeddings") or most)
        if longest > first > 0:
            if "original_max_position_embeddings" in rope:
                rope["original_max_position_embeddings"] = SHORT
            new["max_position_embeddings"] = max(SHORT, SHORT * most // first)


@torch.no_grad()
def _randomize(model: torch.nn.Module) -> None:
    """Weights so wide that attention is far from even, and nothing that is zero at the start."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.normal_(0, 1.5 * module.in_features**-0.5)
        elif isinstance(module, torch.nn.Embedding):
            module.weight.normal_()
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 and not name.endswith(("A_log", "dt_bias")):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
