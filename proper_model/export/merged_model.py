"""One user's whole personal model as an ordinary Hugging Face folder: W_p + B A in every linear.

Larger than an adapter, and every program that loads a causal language model loads it (PROPER eq. 13
and 14). Exact on the same terms as the fold it is made from, but for the rounding to the dtype that
the base is stored in: sums are in float64 and rounded once. A base is written the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from proper_model.base.portable_config import make_portable
from proper_model.base.quantized import is_quantized
from proper_model.base.streamed import DTYPES
from proper_model.errors import ExportError, StorageError
from proper_model.export.peft_lora import narrowed
from proper_model.export.user_fold import UserFold
from proper_model.release.contents import Release

SHARD = "4GB"


def stored_dtype(files: Iterable[Path]) -> torch.dtype:
    """The dtype that most values of a base's safetensors files are stored in; float32 for none.

    A base in memory says nothing of it: it is held in the dtype that it computes in.
    """
    values: Counter[torch.dtype] = Counter()
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                part = file.get_slice(name)
                if (dtype := DTYPES.get(part.get_dtype())) is not None:
                    values[dtype] += torch.Size(part.get_shape()).numel()
    return values.most_common(1)[0][0] if values else torch.float32


def check_mergeable(release: Release) -> None:
    """Raise ExportError if the base is held in 4 or 8 bits: its weights are not there to add to."""
    if is_quantized(release.base):
        raise ExportError(
            "the base is held in 4 or 8 bits, and a sum with its rounded weights would be another "
            "model",
            hint="export in format peft, and load it over the full base",
        )


@torch.no_grad()
def merged_weights(
    release: Release, fold: UserFold, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The base's tensors by name, those of folded linears summed in float64 and rounded once.

    The base itself is not written to. `dtype`: by default the one that it is held in.

    Raises ExportError: the base is quantized, or a value is too large for `dtype`.
    """
    check_mergeable(release)
    weights: dict[str, Tensor] = dict(release.base.state_dict())
    for path, (a, b) in fold.factors.items():
        name = f"{path}.weight"
        old = weights[name]
        weights[name] = narrowed(old.double() + (b @ a).to(old.device), dtype or old.dtype, name)
    return in_dtype(weights, dtype)


def in_dtype(weights: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors in `dtype`; those that share memory, as tied embeddings do, go on sharing it."""
    if dtype is None:
        return dict(weights)
    cast: dict[tuple[int, torch.Size], Tensor] = {}
    result = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.shape)
        if tensor.dtype == dtype or not tensor.is_floating_point():
            result[name] = tensor
            continue
        if key not in cast:
            cast[key] = narrowed(tensor, dtype, name)
        result[name] = cast[key]
    return result


def write_merged_folder(
    folder: Path, release: Release, fold: UserFold, dtype: torch.dtype | None = None
) -> None:
    """Write configuration, safetensors and tokenizer into `folder`, which exists.

    Raises ExportError as `merged_weights`; StorageError: the weights cannot be written; OSError:
    another file cannot be written.
    """
    weights = merged_weights(release, fold, dtype)
    write_model_folder(folder, release.base, release.tokenizer, weights)


def write_model_folder(
    folder: Path, model: Any, tokenizer: Any, weights: Mapping[str, Tensor]
) -> None:
    """`weights` with the configuration of `model` and a tokenizer, readable by transformers 4 and 5.

    Raises StorageError: the weights cannot be written; OSError: another file cannot be written.
    """
    try:
        model.save_pretrained(folder, state_dict=dict(weights), max_shard_size=SHARD)
    except SafetensorError as error:
        # The library reports what the system refused in words, without an errno.
        raise StorageError(
            f"{folder.parent}: the weights cannot be written there",
            hint="make room on that disk, then repeat the command",
        ) from error
    tokenizer.save_pretrained(folder)
    # The library writes the dtype that the model is held in.
    stored = next(t.dtype for t in weights.values() if t.is_floating_point())
    make_portable(folder, dtype=stored)
