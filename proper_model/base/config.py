"""What a base's configuration says of its language model, nested in it or not.

A checkpoint for text alone has its sizes at the top. One that reads images or sound as well nests
the language model's own configuration; PROPER uses that language model alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from proper_model.errors import BaseModelError

Entry = TypeVar("Entry")

# Where checkpoints of several kinds of input keep their language model's tensors, and what the
# language model by itself calls them: as transformers 5 writes them and as 4 did.
_INSIDE = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)
_HEAD = "lm_head."
# Inclusive; the largest dense models that are public have half as many layers.
BOUNDS: Mapping[str, int] = {
    "num_hidden_layers": 256,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 19,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 4096,
    "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 25,
}
_KINDS_HINT = "dense decoder-only models such as Llama, Qwen, Mistral or Gemma are supported"
NESTED_DECODER = "model.language_model."
"""Where transformers holds the text decoder of a model that reads images too."""
OWN_DECODER = "model."
"""Where it holds the decoder of a model of text alone."""


def text_config(config: Any) -> Any:
    """The language model's own configuration; `config` itself where nothing is nested."""
    return config.get_text_config(decoder=True)


def is_nested(config: Any) -> bool:
    """True where the checkpoint holds more than a language model."""
    return text_config(config) is not config


def size(config: Any, name: str) -> int:
    """An integer setting of the language model, as `hidden_size`.

    Raises BaseModelError for a configuration without it.
    """
    text = text_config(config)
    value = getattr(text, name, None)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BaseModelError(
            f"base of type '{config.model_type}' has no number '{name}' in its configuration",
            hint="dense decoder-only models such as Llama, Qwen, Mistral or Gemma are supported",
        )
    return value


def language_part(tensors: Mapping[str, Entry]) -> dict[str, Entry]:
    """Of a checkpoint's tensors by name, the language model's under the names it has by itself.

    All of them where nothing is nested.
    """
    found: dict[str, Entry] = {}
    nested = False
    for name, entry in tensors.items():
        for inside, alone in _INSIDE:
            if name.startswith(inside):
                found[alone + name.removeprefix(inside)] = entry
                nested = True
                break
        else:
            if name.startswith(_HEAD):
                found[name] = entry
    return found if nested else dict(tensors)


def empty_model(config: Any) -> Any:
    """The language model of a configuration, its weights on the meta device: no memory for them, no values.

    Raises BaseModelError for one that transformers cannot make, or of a width that no base has: norms and positions
    do take memory.
    """
    from proper_model.base.outline import without_weights

    kind, text = getattr(config, "model_type", "?"), text_config(config)
    for name in ("hidden_size", "head_dim"):
        width, most = getattr(text, name, None), BOUNDS[name]
        if isinstance(width, int) and width > most:
            raise BaseModelError(
                f"config.json: {name} is {width}, expected at most {most}", hint=_KINDS_HINT
            )
    try:
        return without_weights(text)
    except Exception as error:
        raise BaseModelError(
            f"type '{kind}' cannot be built as a causal language model ({type(error).__name__})",
            hint=_KINDS_HINT,
        ) from error
