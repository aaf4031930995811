"""Load a release's base from files with known hashes: what was checked is what is read.

A folder that other accounts may write to can change between a check and the loading after it. So
nothing here is read twice: the configuration is bytes that were verified, weights are hashed while
they become tensors, and where transformers has to read files by itself it gets copies that were
hashed while they were written. No other file of the folder is opened.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from proper_model.base.config import NESTED_DECODER
from proper_model.base.loading import (
    LoadOptions,
    Population,
    attention_for,
    mapped,
    settled,
    stream,
)
from proper_model.base.outside_config import build_config
from proper_model.base.quantized import check_available
from proper_model.base.sizes import read_header
from proper_model.base.streamed import OtherFileError, WeightFile
from proper_model.bundle.file_names import INDEX, weight_names
from proper_model.errors import BaseModelError
from proper_model.settings.profile import BaseWeights
from proper_model.storage.files import open_regular, storage_errors

_PIECE = 1 << 22


@dataclass(frozen=True)
class CheckedFiles:
    """The files of a base in a folder, with the sha256 each must have."""

    folder: Path
    hashes: Mapping[str, str]

    def weights(self) -> list[WeightFile]:
        """Those that hold weights. Raises BaseModelError where they are no whole set."""
        try:
            names = weight_names(self.hashes)
        except ValueError as error:
            raise BaseModelError(f"the base of the release {error}") from None
        return [WeightFile(self.folder / name, self.hashes[name]) for name in names]


def load_checked_base(
    fields: Mapping[str, Any],
    tokenizer: Any,
    files: CheckedFiles,
    *,
    dtype: torch.dtype,
    device: torch.device,
    population: Population | None,
    weights: BaseWeights,
) -> Any:
    """The base of a release, merged and packed as `proper_model.base.loading.load_base` does.

    Args:
        fields: of its configuration, as `outside_config.parse_config` gives them.
        files: where its weights lie and what their hashes are.

    Raises BaseModelError: a file is missing, damaged or another one, or they cannot be loaded;
    ConfigError: `weights` need a library that is not installed; StorageError: copies that only
    transformers can read cannot be written.
    """
    if weights != BaseWeights.FULL:  # else its import costs memory for nothing
        check_available(weights)
    found = files.weights()
    options = LoadOptions(dtype, device, attention_for(device, dtype), population, weights)
    try:
        model = stream(build_config(fields), found, options)
        if model is None:
            model = _from_copies(fields, found, options)
    except (OSError, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise BaseModelError(
            f"the base of the release cannot be loaded ({reason})",
            hint="give its folder again with: proper bundle add --base FOLDER",
        ) from error
    if "outer_type" in fields and population is not None:
        model.outer_path = NESTED_DECODER  # an export is for the public checkpoint
    return settled(model, tokenizer)


def _from_copies(fields: Mapping[str, Any], found: list[WeightFile], options: LoadOptions) -> Any:
    """What names its tensors otherwise than the model does, by transformers, from copies."""
    with storage_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        build_config(fields).save_pretrained(folder)
        for file in found:
            _copy(file, folder / file.path.name)
        _write_index(folder, found)
        return mapped(str(folder), options)


def _copy(file: WeightFile, target: Path) -> None:
    digest = hashlib.sha256()
    with open_regular(file.path) as source, target.open("xb") as copy:
        while data := source.read(_PIECE):
            digest.update(data)
            copy.write(data)
    if digest.hexdigest() != file.sha256:
        raise OtherFileError(file.path.name)


def _write_index(folder: Path, found: list[WeightFile]) -> None:
    """Where each tensor lies, of the copies themselves."""
    if len(found) == 1:
        return
    places = {
        tensor: file.path.name
        for file in found
        for tensor in read_header(folder / file.path.name)[0]
    }
    index = {"metadata": {}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
