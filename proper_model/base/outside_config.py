"""config.json of a base from outside: only what says how it computes, within bounds, no code.

transformers sets every key of the file as an attribute, follows some of them to modules, kernels
and other folders, and loops as often as a number says. So a release's configuration is built here
from the keys that its `model_type` declares; keys that ask for code or packed weights are refused,
all others are left out. Of a checkpoint that reads images too, which a release may refer to, the
configuration of its language model counts. Source: docs/bundle-format.md section 6.6.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from proper_model.base.config import BOUNDS
from proper_model.base.model_types import MODEL_TYPES, NESTED_TYPES
from proper_model.bundle.file_names import CONFIG
from proper_model.errors import BaseModelError, BundleFormatError
from proper_model.storage.documents import DocumentError, parse_object

MAX_CONFIG_BYTES = 1 << 20
MAX_DEPTH = 4
MAX_TEXT, MAX_LIST = 200, 4096
MAX_NUMBER = 2**40
_REFUSED = {
    "auto_map": "code of its own",
    "custom_pipelines": "code of its own",
    "custom_generate": "code of its own",
    "attn_implementation": "an attention kernel",
    "_attn_implementation": "an attention kernel",
    "experts_implementation": "a kernel",
    "quantization_config": "weights that are packed already",
    "compression_config": "weights that are packed already",
    "per_layer_config": "layers of several kinds",
    "text_config": "a model inside a model of another kind",
}
# What a configuration may say beside the fields of its class: older spellings, and what every
# class reads from its general part.
_ALSO = frozenset(
    {
        *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "head_dim"),
        *("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"),
        *("rope_local_base_freq", "sliding_window_pattern", "original_max_position_embeddings"),
    }
)
_LEFT_OUT = frozenset({"use_cache", "pretraining_tp", "model_type"})
_HINT = "ask the publisher for a release whose base is a dense text model of a known type"


def parse_config(data: bytes, *, where: str = CONFIG) -> dict[str, Any]:
    """The keys of a configuration that count, `model_type` among them.

    For a checkpoint that reads images too they are those of its language model, and `outer_type`
    is the checkpoint's own type.

    Raises BundleFormatError: not an object, an unknown model type, a key that asks for code, or a
    value out of bounds.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise _error(where, f"{len(data)} bytes, expected at most {MAX_CONFIG_BYTES}")
    try:
        fields = parse_object(data, max_depth=MAX_DEPTH)
    except DocumentError as error:
        raise _error(where, str(error)) from None
    outer = fields.get("model_type")
    if isinstance(outer, str) and outer in NESTED_TYPES:
        inner = fields.pop("text_config", None)
        if not isinstance(inner, dict):
            raise _error(where, f"a {outer} without the configuration of its language model")
        _check_refused(fields, where)
        fields = {**inner, "model_type": NESTED_TYPES[outer]}
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise _error(where, f"its model_type is none of {', '.join(sorted(MODEL_TYPES))}")
    _check_refused(fields, where)
    kept = {key: fields[key] for key in sorted(declared(model_type) & fields.keys())}
    for key, value in kept.items():
        _check_value(value, f"{where}: {key}")
    for key, most in BOUNDS.items():
        if kept.get(key) is not None:  # else the class's own, which are of moderate size
            _check_size(kept[key], most, f"{where}: {key}")
    if kept.get("use_bidirectional_attention"):
        raise _error(where, "its tokens attend to what follows them, which no decoder does")
    return {
        "model_type": model_type,
        **({} if outer == model_type else {"outer_type": outer}),
        **kept,
    }


def _check_refused(fields: Mapping[str, Any], where: str) -> None:
    for key, what in _REFUSED.items():
        if fields.get(key):
            raise _error(where, f"{key} asks for {what}, which a release cannot")


def saved_base_config(data: bytes) -> bytes:
    """config.json as a release holds it: of what transformers saved, the keys that count.

    Raises BundleFormatError as `parse_config`, but leaves out an `auto_map` that the base's makers
    wrote beside code that transformers has itself.
    """
    fields = parse_object(data)
    fields.pop("auto_map", None)
    kept = parse_config(json.dumps(fields).encode())
    architecture = type(build_empty(kept)).__name__  # for other programs that load the folder
    for_others = {"architectures": [architecture], "dtype": str(fields.get("dtype", "float32"))}
    return json.dumps({**kept, **for_others}, sort_keys=True, indent=1).encode()


def build_config(fields: Mapping[str, Any]) -> Any:
    """transformers' configuration of what `parse_config` returned. Raises BundleFormatError."""
    from transformers import AutoConfig

    given = dict(fields)
    model_type = given.pop("model_type")
    given.pop("outer_type", None)
    try:
        return type(AutoConfig.for_model(model_type))(**given)
    except Exception as error:
        raise _error(
            CONFIG, f"no configuration of a {model_type} ({type(error).__name__})"
        ) from error


def build_empty(fields: Mapping[str, Any]) -> Any:
    """The model that a configuration describes, without weights. Raises BundleFormatError."""
    import torch

    from proper_model.base.outline import without_weights
    from proper_model.base.sites import find_sites

    config = build_config(fields)
    try:
        model = without_weights(config, dtype=torch.float32, attn_implementation="eager")
        find_sites(model)
    except BaseModelError as error:
        raise _error(CONFIG, error.message) from None
    except Exception as error:
        kind, why = fields["model_type"], type(error).__name__
        raise _error(CONFIG, f"no model of type {kind} can be built of it ({why})") from error
    return model


def declared(model_type: str) -> frozenset[str]:
    """The keys that count: those that the class of this type has beyond what all models have.

    Raises BundleFormatError for a type that transformers does not know.
    """
    from transformers import AutoConfig, PreTrainedConfig

    try:
        own = AutoConfig.for_model(model_type).to_dict().keys()
    except (ValueError, KeyError):
        raise BundleFormatError(
            f"{CONFIG}: the installed transformers does not know the model type '{model_type}'",
            hint="update transformers: pip install --upgrade transformers",
        ) from None
    return frozenset(own - PreTrainedConfig().to_dict().keys() - _LEFT_OUT) | _ALSO


def _check_value(value: Any, where: str) -> None:
    """A plain value of moderate size, or lists and tables of such."""
    if isinstance(value, dict | list):
        if len(value) > MAX_LIST:
            raise BundleFormatError(f"{where}: {len(value)} entries, expected at most {MAX_LIST}")
        for item in value.values() if isinstance(value, dict) else value:
            _check_value(item, where)
    elif isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise BundleFormatError(f"{where}: {len(value)} characters, at most {MAX_TEXT}")
    elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        raise BundleFormatError(f"{where}: {value:g} is out of bounds", hint=_HINT)


def _check_size(value: Any, most: int, where: str) -> None:
    if type(value) is not int or not 1 <= value <= most:
        shown = f"{value:g}" if isinstance(value, int | float) and math.isfinite(value) else "that"
        raise BundleFormatError(
            f"{where}: {shown} is no size, expected an integer from 1 to {most}", hint=_HINT
        )


def _error(where: str, what: str) -> BundleFormatError:
    return BundleFormatError(f"{where}: {what}", hint=_HINT)
