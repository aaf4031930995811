"""What a frozen base takes in memory: held for good, and at most while it is loaded.

    held = sum over packed linears of (bits of a weight, 32 for every block of 64)
         + everything else in the dtype that is computed in

A file's own size says neither: bfloat16 files run in float32 on a CPU, and embeddings, norms and
the head are never packed. Names and shapes are enough, so a base is judged before it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from proper_model.base.config import language_part
from proper_model.errors import BaseModelError
from proper_model.settings.profile import BaseWeights
from proper_model.storage.documents import parse_object
from proper_model.storage.files import open_regular

BITS = {BaseWeights.EIGHT_BIT: 8, BaseWeights.FOUR_BIT: 4}
BLOCK = 64  # weights that share a magnitude
MAGNITUDE_BYTES = 4
# Numbers read, converted or packed at once, and what their conversion takes beside the result.
PIECE = 1 << 19
PIECES_BYTES = 32 << 20
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
MAX_NUMBER = 1 << 50  # of bytes or of a tensor's sizes
_IN_BLOCK = re.compile(r"\.\d+\.")
# What `streamed` reads a tensor at a time; other names are left to transformers.
_PLAIN_NAMES = re.compile(r"(model\.(embed_tokens|norm|layers\.\d+)|lm_head)\.")

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class BaseShape:
    """Numbers of a base: of every linear inside its blocks, and of all the rest together.

    `mapped_bytes` is what loading keeps of the files beside the weights: 0 where it reads a tensor
    at a time.
    """

    linears: tuple[int, ...]
    rest: int
    mapped_bytes: int = 0

    @classmethod
    def of(cls, shapes: Shapes, *, mapped_bytes: int = 0) -> BaseShape:
        """From the names and shapes of all parameters, each tied one once."""
        linears = tuple(prod(s) for name, s in shapes.items() if is_block_linear(name, s))
        everything = sum(prod(s) for s in shapes.values())
        return cls(linears, everything - sum(linears), mapped_bytes)

    @property
    def numbers(self) -> int:
        return sum(self.linears) + self.rest

    def held_bytes(self, weights: BaseWeights, width: int) -> int:
        """For as long as the base is loaded; `width` bytes is a number computed with."""
        if weights == BaseWeights.FULL:
            return self.numbers * width
        bits = BITS[weights]
        packed = (-(-n * bits // 8) + MAGNITUDE_BYTES * -(-n // BLOCK) for n in self.linears)
        return sum(packed) + self.rest * width

    def product_bytes(self, weights: BaseWeights, width: int) -> int:
        """More than that in every pass: one linear at a time is unpacked."""
        return 0 if weights == BaseWeights.FULL else self._largest * width

    def loading_bytes(self, weights: BaseWeights, width: int) -> int:
        """At most while it is loaded: one linear in full and its share of a population LoRA.

        Where a file has to be mapped instead, all of it is there in full before it is packed.
        """
        if self.mapped_bytes:
            return self.numbers * width + self.mapped_bytes
        one = self._largest * (width + 2 * 4)  # in its dtype; in float32, and what is added to it
        return self.held_bytes(weights, width) + one + PIECES_BYTES

    @property
    def _largest(self) -> int:
        return max(self.linears, default=0)


def is_block_linear(name: str, shape: Sequence[int]) -> bool:
    """True for what packing takes: a matrix inside a block. Embeddings and heads have no number."""
    return len(shape) == 2 and name.endswith(".weight") and _IN_BLOCK.search(name) is not None


def read_shape(files: Iterable[Path]) -> BaseShape:
    """The numbers of a base from its safetensors headers. Raises BaseModelError for a damaged one."""
    shapes: dict[str, Sequence[int]] = {}
    size = 0
    for path in files:
        shapes |= {name: entry["shape"] for name, entry in read_header(path)[0].items()}
        size += path.stat().st_size
    return shape_of_tables(shapes, size)


def shape_of_tables(shapes: Shapes, size: int) -> BaseShape:
    """The numbers of a base whose files of `size` bytes hold tensors of these shapes.

    Those of its language model, where the files hold more.
    """
    shapes = language_part(shapes)
    plain = all(_PLAIN_NAMES.match(name) for name in shapes)
    return BaseShape.of(shapes, mapped_bytes=0 if plain else size)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Entries of a safetensors file by tensor, and where its data begin.

    Raises BaseModelError if it cannot be read, or as `parse_header`.
    """
    try:
        with open_regular(path) as handle:
            length = int.from_bytes(handle.read(8), "little")
            text = handle.read(length) if length <= MAX_HEADER_BYTES else b""
    except OSError as error:
        raise BaseModelError(
            f"{path.name} cannot be read ({error.strerror})",
            hint="check its permissions, or copy it again",
        ) from None
    return parse_header(text, where=path.name), 8 + len(text)


def parse_header(text: bytes, *, where: str) -> dict[str, Any]:
    """Entries of a safetensors header by tensor, each with dtype, shape and data_offsets.

    Raises BaseModelError naming `where`. The file may come from anywhere, so sizes are checked to
    be natural numbers; that they fit the file is for its reader to find out.
    """
    try:
        header = parse_object(text)
        header.pop("__metadata__", None)
        for entry in header.values():
            begin, end = entry["data_offsets"]
            if not isinstance(entry["dtype"], str) or not 0 <= begin <= end < MAX_NUMBER:
                raise ValueError
            if not all(
                type(n) is int and 0 <= n < MAX_NUMBER for n in (*entry["shape"], begin, end)
            ):
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BaseModelError(
            f"{where}: not a whole safetensors file",
            hint="copy or download it again; a file of some hundred bytes may be a git-lfs pointer",
        ) from None
    return header
