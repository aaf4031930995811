"""Training state on disk: one safetensors file, replaced atomically, checked when read.

Killed at any moment, a run finds either the previous state or the new one. Numbers that are no
tensors stand in the file's metadata as JSON. Never pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from proper_model.errors import CheckpointError
from proper_model.files import write_atomic

_META = "state"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready `meta` to `path`, readable by this user only."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(plain, metadata={_META: json.dumps(meta, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def beside(path: Path | None, suffix: str) -> Path | None:
    """The path with a suffix appended to its name, for a further part of the same phase."""
    return None if path is None else path.with_name(path.name + suffix)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and meta of `path`, or None where there is none.

    Raises CheckpointError for a damaged file.
    """
    return _read(path, tensors=True)


def load_meta(path: Path) -> dict[str, Any] | None:
    """The meta alone, without reading a tensor; else as `load_checkpoint`."""
    found = _read(path, tensors=False)
    return None if found is None else found[1]


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys() if tensors else ()
            found = {name: file.get_tensor(name) for name in names}
            meta = json.loads((file.metadata() or {})[_META])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint '{path}' cannot be read",
            hint="delete it; training starts again from the phase before",
        ) from error
    return found, meta
