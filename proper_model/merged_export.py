"""One user's whole personal model as an ordinary Hugging Face folder: W_p + B A in every linear.

Larger than an adapter, and every program that loads a causal language model loads it (PROPER eq. 13
and 14). Exact on the same terms as the fold it is made from.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from proper_model.artifact import Release
from proper_model.errors import ExportError, StorageError
from proper_model.quantized import is_quantized
from proper_model.user_fold import UserFold

SHARD = "4GB"


def check_mergeable(release: Release) -> None:
    """Raise ExportError if the base is held in 4 or 8 bits: its weights are not there to add to."""
    if is_quantized(release.base):
        raise ExportError(
            "the base is held in 4 or 8 bits, and a sum with its rounded weights would be another "
            "model",
            hint="export in format peft, and load it over the full base",
        )


@torch.no_grad()
def merged_weights(release: Release, fold: UserFold) -> dict[str, Tensor]:
    """The base's tensors by name, those of folded linears summed in float64 and rounded once.

    The base itself is not written to.

    Raises:
        ExportError: the base is quantized.
    """
    check_mergeable(release)
    weights: dict[str, Tensor] = dict(release.base.state_dict())
    for path, (a, b) in fold.factors.items():
        old = weights[f"{path}.weight"]
        update = (b @ a).to(old.device)
        weights[f"{path}.weight"] = (old.double() + update).to(old.dtype)
    return weights


def write_merged_folder(folder: Path, release: Release, fold: UserFold) -> None:
    """Write configuration, safetensors and tokenizer into `folder`, which exists.

    Raises:
        ExportError: as `merged_weights`.
        StorageError: the weights cannot be written.
        OSError: another file cannot be written.
    """
    weights = merged_weights(release, fold)
    try:
        release.base.save_pretrained(folder, state_dict=weights, max_shard_size=SHARD)
    except SafetensorError as error:
        # How the library tells what the system refused; its text is no errno.
        raise StorageError(
            f"{folder.parent}: the merged weights cannot be written there",
            hint="make room on that disk, then repeat the command",
        ) from error
    release.tokenizer.save_pretrained(folder)
