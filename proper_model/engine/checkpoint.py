"""Training state on disk: one safetensors file, replaced atomically, checked when read.

Killed at any moment, a run finds either the previous state or the new one. Numbers that are no
tensors are in the file's metadata as JSON. Never pickle. A device encrypts its checkpoints, which
hold a person's adapter.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from proper_model.errors import CheckpointError
from proper_model.storage.documents import parse_json, parse_object
from proper_model.storage.files import Buffer, read_regular, storage_errors, write_atomic

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
MAX_SEALED_BYTES = 16 << 30


@dataclass(frozen=True)
class Sealed:
    """A checkpoint whose bytes are encrypted on their way to the disk.

    `open` raises a ProperError for bytes that `seal` did not make.
    """

    path: Path
    seal: Callable[[bytes], bytes]
    open: Callable[[bytes], bytes]


Checkpoint = Path | Sealed


def save_checkpoint(
    place: Checkpoint, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write tensors and JSON-ready `meta` to `place`, readable by this user only.

    Takes no memory beside what it writes but one tensor's, and on a CPU not even that. Sealing
    needs the whole in memory: a person's own checkpoint is small.

    Raises StorageError if the disk refuses; what was there before is as it was.
    """
    path = place.path if isinstance(place, Sealed) else place
    parts = _serialized(tensors, meta)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, place.seal(b"".join(parts)) if isinstance(place, Sealed) else parts)


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


def beside(place: Checkpoint | None, suffix: str) -> Checkpoint | None:
    """The place with a suffix appended to its name, for a further part of the same phase."""
    if isinstance(place, Sealed):
        return replace(place, path=place.path.with_name(place.path.name + suffix))
    return None if place is None else place.with_name(place.name + suffix)


def load_checkpoint(place: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and meta of `place`, or None where there is none.

    Raises CheckpointError for a damaged file.
    """
    if isinstance(place, Sealed):
        return _read_sealed(place)
    return _read(place, tensors=True)


def load_meta(place: Checkpoint) -> dict[str, Any] | None:
    """The meta alone; else as `load_checkpoint`."""
    found = _read_sealed(place) if isinstance(place, Sealed) else _read(place, tensors=False)
    return None if found is None else found[1]


def _read_sealed(place: Sealed) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not place.path.exists():
        return None
    data = place.open(read_regular(place.path, limit_bytes=MAX_SEALED_BYTES))
    try:
        (length,) = _LENGTH.unpack_from(data)
        header = parse_object(data[_LENGTH.size : _LENGTH.size + length])
        return load(data), _meta(header["__metadata__"])
    except (SafetensorError, KeyError, TypeError, ValueError, struct.error) as error:
        raise _damaged(place.path) from error


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys() if tensors else ()
            found = {name: file.get_tensor(name) for name in names}
            meta = _meta(file.metadata() or {})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error
    return found, meta


def _meta(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Our own part of a file's metadata. Raises ValueError, KeyError or TypeError."""
    meta = parse_json(metadata[_META], constants=True)
    if not isinstance(meta, dict):
        raise ValueError
    return meta


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"checkpoint '{path}' cannot be read",
        hint="delete it; training starts again from the phase before",
    )
