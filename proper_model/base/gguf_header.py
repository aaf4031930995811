"""What a GGUF file says of itself, read within bounds before any library opens it.

    magic, version, counts | keys and values | a name, sizes, type, offset for every tensor | data

Counts and lengths come from the file, which may be cut short or made to exhaust memory, so each is
compared with the bytes that are left before it is used. What a tensor takes follows from its type,
and the file must hold that much.

Source: GGUF's specification in ggml, version 3; version 2 is read alike.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from proper_model.errors import BaseModelError, ConfigError
from proper_model.storage.files import open_regular, storage_errors

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_MOST_KEYS, _MOST_TENSORS, _MOST_SIZES, _MOST_ELEMENTS = 1 << 14, 1 << 17, 4, 1 << 25
_MOST_CHARS = 1 << 24  # of a string: a chat template has a few thousand
_ALIGNMENT = 32
_AGAIN = "copy or download the file again"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's sizes, outermost first, and how its numbers are stored, as GGUF names it."""

    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class GgufHeader:
    """The description of a model in a GGUF file.

    Attributes:
        values: by key; arrays are given by their lengths.
        tensors: by llama.cpp's names.
    """

    values: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    @property
    def numbers(self) -> int:
        """Parameters in all."""
        return sum(prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def dtype(self) -> str:
        """In which its numbers are best kept unpacked: as stored, or bfloat16 where that is packed."""
        kinds = {tensor.kind for tensor in self.tensors.values()}
        if kinds <= {"F32"}:
            return "float32"
        return "float16" if kinds <= {"F32", "F16"} else "bfloat16"


def library() -> Any:
    """The `gguf` package. Raises ConfigError if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise ConfigError(
            "GGUF files are read and written with the package gguf, which is not installed",
            hint="install the extra `gguf`: pip install -e '.[gguf]'; or use other formats: export "
            "in format peft, a base as a folder with safetensors",
        ) from None
    return gguf


def read_gguf_header(path: Path) -> GgufHeader:
    """The description of the whole model that a file holds.

    Raises BaseModelError: no GGUF, damaged, cut short, or something else than one whole model;
    StorageError: it cannot be read; ConfigError: the package gguf is missing.
    """
    with storage_errors(path), open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        reader = _Reader(path.name, io.BufferedReader(file, 1 << 20), size)
        header, needed = _parse(reader)
    if needed > reader.size:
        raise BaseModelError(
            f"{path.name}: cut short, it has {reader.size} bytes and its tensors need {needed}",
            hint=_AGAIN,
        )
    _check_whole_model(path.name, header)
    return header


class _Reader:
    """Numbers and strings in the file's order, never more than it has left."""

    def __init__(self, name: str, handle: BinaryIO, size: int) -> None:
        self.name, self.handle, self.size = name, handle, size

    def damaged(self, what: str) -> BaseModelError:
        return BaseModelError(f"{self.name}: not a whole GGUF file: {what}", hint=_AGAIN)

    def take(self, count: int) -> bytes:
        data = self.handle.read(count)
        if len(data) != count:
            raise self.damaged("it ends within its description")
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, most: int, what: str) -> int:
        found: int = self.number("<Q")
        if found > min(most, self.size):
            raise self.damaged(f"{found} {what}")
        return found

    def text(self) -> str:
        data = self.take(self.count(_MOST_CHARS, "characters in a string"))
        return data.decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A key's value; of an array its length."""
        if kind == _STRING:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise self.damaged(f"a value of type {kind}")
        inner = self.number("<I")
        length = self.count(_MOST_ELEMENTS, "elements in an array")
        if inner == _STRING:
            for _ in range(length):
                self.take(self.count(_MOST_CHARS, "characters in a string"))
        elif inner in _NUMBERS:
            self.skip(length * struct.calcsize(_NUMBERS[inner]))
        else:  # arrays of arrays are specified, and no model has one
            raise self.damaged(f"an array of type {inner}")
        return length

    def skip(self, count: int) -> None:
        if self.handle.tell() + count > self.size:
            raise self.damaged("it ends within its description")
        self.handle.seek(count, os.SEEK_CUR)


def _parse(reader: _Reader) -> tuple[GgufHeader, int]:
    """The header, and how many bytes the file needs for its tensors."""
    gguf = library()
    if reader.handle.read(len(_MAGIC)) != _MAGIC:
        raise BaseModelError(
            f"{reader.name}: no GGUF file, expected one that begins with {_MAGIC.decode()}",
            hint="give a model as llama.cpp writes it, or a folder with config.json, *.safetensors "
            "and a tokenizer",
        )
    version = reader.number("<I")
    if version not in _VERSIONS:
        raise BaseModelError(
            f"{reader.name}: GGUF of version {version}, expected 2 or 3, in little-endian order",
            hint="convert it with llama.cpp's newest convert_hf_to_gguf.py",
        )
    tensors = reader.count(_MOST_TENSORS, "tensors")
    keys = reader.count(_MOST_KEYS, "keys")
    values: dict[str, Any] = {}
    for _ in range(keys):
        name = reader.text()
        values[name] = reader.value(reader.number("<I"))
    types = {kind.value: kind for kind in gguf.GGMLQuantizationType}
    found: dict[str, StoredTensor] = {}
    end = 0
    for _ in range(tensors):
        name = reader.text()
        sizes = [reader.number("<Q") for _ in range(_dimensions(reader))]
        kind = types.get(reader.number("<I"))
        offset = reader.number("<Q")
        if kind is None or name in found or any(not 0 < s < 1 << 40 for s in sizes):
            raise reader.damaged("a tensor of unknown type or impossible size, or twice")
        numbers, length = gguf.GGML_QUANT_SIZES[kind]
        if sizes[0] % numbers:
            raise reader.damaged(f"a row of {sizes[0]} numbers in blocks of {numbers}")
        end = max(end, offset + prod(sizes) // numbers * length)
        found[name] = StoredTensor(tuple(reversed(sizes)), kind.name)
    alignment = values.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise reader.damaged(f"an alignment of {alignment}")
    begin = -(-reader.handle.tell() // alignment) * alignment
    return GgufHeader(values, found), begin + end


def _dimensions(reader: _Reader) -> int:
    found: int = reader.number("<I")
    if not 0 < found <= _MOST_SIZES:
        raise reader.damaged(f"a tensor of {found} dimensions")
    return found


def _check_whole_model(name: str, header: GgufHeader) -> None:
    """Raise BaseModelError for a GGUF that holds no language model by itself."""
    kind = header.values.get("general.type", "model")
    if kind != "model":
        raise BaseModelError(
            f"{name}: a GGUF of type '{str(kind)[:40]}', expected a whole model",
            hint="give the model itself, not an adapter or a projector for it",
        )
    parts = header.values.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise BaseModelError(
            f"{name}: one of {parts} parts of a model, expected the whole",
            hint="join them: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )
    if not header.architecture or not header.tensors:
        raise BaseModelError(
            f"{name}: names no architecture or holds no tensors, expected a whole model",
            hint="give a model as llama.cpp writes it",
        )
