"""Training state on disk: one safetensors file, replaced atomically, checked when read.

Killed at any moment, a run finds either the previous state or the new one. Numbers that are no
tensors stand in the file's metadata as JSON. Never pickle. A device seals its checkpoints: they hold
a person's adapter.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from proper_model.errors import CheckpointError
from proper_model.files import read_regular, write_atomic

_META = "state"
_LENGTH = struct.Struct("<Q")  # of a safetensors header
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
    """Write tensors and JSON-ready `meta` to `place`, readable by this user only."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(plain, metadata={_META: json.dumps(meta, sort_keys=True)})
    path = place
    if isinstance(place, Sealed):
        path, data = place.path, place.seal(data)
    assert isinstance(path, Path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


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
        header = json.loads(data[_LENGTH.size : _LENGTH.size + length])
        return load(data), json.loads(header["__metadata__"][_META])
    except (SafetensorError, KeyError, ValueError, struct.error) as error:
        raise _damaged(place.path) from error


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys() if tensors else ()
            found = {name: file.get_tensor(name) for name in names}
            meta = json.loads((file.metadata() or {})[_META])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path) from error
    return found, meta


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"checkpoint '{path}' cannot be read",
        hint="delete it; training starts again from the phase before",
    )
