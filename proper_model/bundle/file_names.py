"""Which files a release may hold, by name: what a device reads, and nothing beside it.

A loader of models reads whatever lies in a folder under names that it knows: adapters, code, further
templates. So a release holds names of this list only, and a device gives a loader these only.
Source: docs/bundle-format.md sections 1 and 6.1.
"""

from __future__ import annotations

import re
from collections.abc import Collection

RECIPE, TASK, SHARED = "recipe.json", "task.toml", "shared.safetensors"
BASE = "base/"
TOKENIZER = "tokenizer/"
POPULATION = "adapters/population/"
CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POPULATION_WEIGHTS = POPULATION + "adapter_model.safetensors"
POPULATION_CONFIG = POPULATION + "adapter_config.json"
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"

_SHARD = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
# generation_config.json and the tokenizers' older files are written beside; nothing reads them.
_BASE_NAMES = frozenset({CONFIG, "generation_config.json", WEIGHTS, INDEX})
_TOKENIZER_NAMES = frozenset(
    {
        TOKENIZER_JSON,
        TOKENIZER_CONFIG,
        CHAT_TEMPLATE,
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
    }
)
_TOP_NAMES = frozenset({RECIPE, TASK, SHARED, POPULATION_WEIGHTS, POPULATION_CONFIG})


def is_weights(name: str) -> bool:
    """Whether a base's file of this name, without its folder, holds weights that are read."""
    return name == WEIGHTS or _SHARD.fullmatch(name) is not None


def is_base_file(name: str) -> bool:
    """Whether a base that is fetched elsewhere may be described by a file of this name."""
    return name in _BASE_NAMES or name in _TOKENIZER_NAMES or is_weights(name)


def may_be_read(name: str) -> bool:
    """Whether some loader of models would read a file of this name beside those it is asked to read."""
    weights = name.endswith(".safetensors") and not name.startswith("consolidated")
    return is_base_file(name) or weights or name.startswith("adapter_") or name.endswith(".jinja")


def is_release_file(name: str) -> bool:
    """Whether a bundle may hold a file of this name."""
    if name.startswith(BASE):
        return name.removeprefix(BASE) in _BASE_NAMES or is_weights(name.removeprefix(BASE))
    if name.startswith(TOKENIZER):
        return name.removeprefix(TOKENIZER) in _TOKENIZER_NAMES
    return name in _TOP_NAMES


def weight_names(names: Collection[str]) -> list[str]:
    """Those of a base's file names that are read as weights: one whole file, or all shards.

    Raises ValueError where there is none, both, or a shard too few, saying which.
    """
    found = sorted(name for name in names if is_weights(name))
    if found == [WEIGHTS]:
        return found
    if not found:
        raise ValueError("holds no weights")
    if WEIGHTS in found:
        raise ValueError("holds weights both whole and in shards")
    if found != shard_names(len(found)):
        raise ValueError("holds some shards of its weights, expected all of one set")
    return found


def shard_names(count: int) -> list[str]:
    """The names of a base's weights in `count` shards."""
    return [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
