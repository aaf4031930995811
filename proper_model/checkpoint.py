"""Training state on disk: one safetensors file, replaced atomically, checked when read.

Killed at any moment, a run finds either the previous state or the new one. Numbers that are no
tensors stand in the file's metadata as JSON. Never pickle.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from proper_model.errors import CheckpointError
from proper_model.files import Buffer, write_atomic

_META = "state"
_LENGTH = struct.Struct("<Q")  # of a safetensors header
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.bool: "BOOL",
}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready `meta` to `path`, readable by this user only.

    Takes no memory beside what it writes but one tensor's, and on a CPU not even that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, _serialized(tensors, meta))


def _serialized(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Iterator[Buffer]:
    """A safetensors file in parts: the header's length, the header, every tensor's bytes.

    The library's own `save` makes the whole file in memory, beside a copy of every tensor.
    """
    # Widest numbers first: every tensor then starts at a multiple of its number's width.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {_META: json.dumps(meta, sort_keys=True)}}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _LENGTH.size)
    yield _LENGTH.pack(len(text))
    yield text
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


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
