"""Read the table of a safetensors file without trusting it.

The safetensors library accepts NaNs, duplicate names, `../` in names and 200,000 tensors
(docs/security.md 1); a release must not hold them. This reader checks, in this order: header
length, strict JSON, number of tensors, each entry, and that the tensors cover the data exactly. It
needs neither torch nor the safetensors package.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from proper_model.bundle.limits import Limits
from proper_model.errors import BundleFormatError, BundleLimitError
from proper_model.storage import canonical

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8,
    "F16": 2, "BF16": 2, "F32": 4, "F64": 8,
}  # fmt: skip
TENSOR_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*")
MAX_NAME_LENGTH = 256
MAX_DIMENSIONS = 8

# Of each kind of number: its bits as integers, and the width of its exponent and its fraction. It is
# NaN or infinite exactly when all exponent bits are one.
_FLOATS = {
    "F16": ("<u2", 5, 10),
    "BF16": ("<u2", 8, 7),
    "F32": ("<u4", 8, 23),
    "F64": ("<u8", 11, 52),
}
# Absolute values below 2^17: more than any half-precision number, so no real model is refused.
LARGEST_EXPONENT = 17
_CHUNK_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: dtype name, shape, and its byte range `[begin, end)` in the whole file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_table(data: bytes, limits: Limits, *, where: str) -> dict[str, TensorSpec]:
    """Names, dtypes, shapes and byte ranges of all tensors in a safetensors file.

    Raises BundleLimitError: header, number of tensors or of elements over `limits`;
    BundleFormatError: anything else a writer of this format would not produce.
    """
    if len(data) < 8:
        raise BundleFormatError(f"{where}: {len(data)} bytes, too short for safetensors")
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > limits.header_bytes:
        raise BundleLimitError(
            f"{where}: header of {header_bytes} bytes, expected at most {limits.header_bytes}"
        )
    start = 8 + header_bytes
    if start > len(data):
        raise BundleFormatError(f"{where}: header of {header_bytes} bytes runs past the end")
    if data[8:9] != b"{":
        raise BundleFormatError(f"{where}: the header does not start with an object")
    header = canonical.parse_strict(data[8:start], where=f"{where} header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BundleFormatError(f"{where}: __metadata__ must map strings to strings")
    if len(header) > limits.tensors:
        raise BundleLimitError(f"{where}: {len(header)} tensors, expected at most {limits.tensors}")
    table = {
        name: _entry(name, value, start, f"{where}, tensor {number}")
        for number, (name, value) in enumerate(header.items())
    }
    elements = sum(spec.elements for spec in table.values())
    if elements > limits.elements:
        raise BundleLimitError(f"{where}: {elements} elements, expected at most {limits.elements}")
    _check_cover(table, start, len(data), where)
    return table


def check_finite(
    data: bytes,
    table: Mapping[str, TensorSpec],
    *,
    where: str,
    largest_exponent: int = LARGEST_EXPONENT,
) -> None:
    """Refuse NaN, infinity and 2^largest_exponent or more in every floating-point tensor.

    Raises BundleFormatError naming the tensor.
    """
    view = memoryview(data)
    for name, spec in table.items():
        if spec.dtype not in _FLOATS:
            continue
        dtype, exponent_bits, fraction_bits = _FLOATS[spec.dtype]
        mask = ((1 << exponent_bits) - 1) << fraction_bits
        bias = (1 << (exponent_bits - 1)) - 1
        too_large = min(mask, (bias + largest_exponent) << fraction_bits)
        for begin in range(spec.begin, spec.end, _CHUNK_BYTES):
            chunk = view[begin : min(begin + _CHUNK_BYTES, spec.end)]
            exponents = np.frombuffer(chunk, dtype=dtype) & mask
            largest = exponents.max(initial=0)
            if largest == mask:
                raise BundleFormatError(f"{where}: tensor {name} holds a NaN or an infinity")
            if largest >= too_large:
                raise BundleFormatError(
                    f"{where}: tensor {name} holds a number of {2**largest_exponent} or more",
                    hint="no training leaves such weights; get the release again, or tell its maker",
                )


def check_positive(data: bytes, spec: TensorSpec, *, where: str, name: str) -> None:
    """Refuse zero and less in a floating-point tensor. Raises BundleFormatError naming the tensor."""
    if spec.dtype not in _FLOATS:
        return
    dtype, exponent_bits, fraction_bits = _FLOATS[spec.dtype]
    bits = np.frombuffer(memoryview(data)[spec.begin : spec.end], dtype=dtype)
    if ((bits == 0) | (bits >> (exponent_bits + fraction_bits) != 0)).any():
        raise BundleFormatError(f"{where}: tensor {name} holds a number that is not positive")


def read_int64(data: bytes, spec: TensorSpec) -> list[int]:
    """Values of an I64 tensor, flattened."""
    return [int(n) for n in np.frombuffer(memoryview(data)[spec.begin : spec.end], dtype="<i8")]


def _entry(name: str, value: Any, start: int, where: str) -> TensorSpec:
    if len(name) > MAX_NAME_LENGTH or TENSOR_NAME.fullmatch(name) is None:
        raise BundleFormatError(
            f"{where}: name must be dotted words of letters, digits, '_' and '-', "
            f"at most {MAX_NAME_LENGTH} characters"
        )
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise BundleFormatError(f"{where}: expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise BundleFormatError(f"{where}: dtype must be one of {', '.join(DTYPE_BYTES)}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise BundleFormatError(
            f"{where}: shape must be at most {MAX_DIMENSIONS} non-negative integers"
        )
    if not _naturals(offsets) or len(offsets) != 2:
        raise BundleFormatError(f"{where}: data_offsets must be two non-negative integers")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise BundleFormatError(f"{where}: {end - begin} bytes do not fit its dtype and shape")
    return TensorSpec(dtype, tuple(shape), start + begin, start + end)


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value
    )


def _check_cover(table: Mapping[str, TensorSpec], start: int, end: int, where: str) -> None:
    """Tensors lie end to end: no overlap, no hidden bytes between or after them."""
    position = start
    for spec in sorted(table.values(), key=lambda spec: (spec.begin, spec.end)):
        if spec.begin != position:
            raise BundleFormatError(f"{where}: tensors overlap or leave a gap at byte {position}")
        position = spec.end
    if position != end:
        raise BundleFormatError(f"{where}: tensors end at byte {position}, the file at {end}")
