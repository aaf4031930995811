"""Load a base a tensor at a time: converted, merged with a population LoRA and packed as it comes.

transformers maps whole files and holds the base in full before anything can be packed, so that a
base in 4 bits would need as much memory to load as one in full. Here only one linear at a
time is held in full. The result is the same to the bit; a base whose files name their tensors
otherwise than the model does is left to transformers. Each file is read once, from front to back,
and its hash can be taken of the very bytes that become tensors.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from proper_model.base.config import language_part, text_config
from proper_model.base.outline import without_weights
from proper_model.base.sizes import MAX_HEADER_BYTES, PIECE, parse_header
from proper_model.errors import BaseModelError
from proper_model.storage.files import open_regular

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# From a module's path and its weight to the weight that is kept.
Merge = Callable[[str, Tensor], Tensor]
# Packs the base's module at a path, once its tensors are there.
Settle = Callable[[Any, str, torch.nn.Module], None]


class OtherFileError(BaseModelError):
    """A file of a base has not the hash that it must have, or had it only when it was checked."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name}: not the file that the release was made for",
            hint="get the base again, into a folder that nobody else writes to",
        )
        self.name = name


@dataclass(frozen=True)
class WeightFile:
    """A safetensors file of a base, and the hash its bytes must have while they are read, if any."""

    path: Path
    sha256: str | None = None


@dataclass(frozen=True)
class _Stored:
    """Where a tensor lies in its file."""

    name: str
    begin: int
    end: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class _Reader:
    """One pass over an open file: its tensors in the order in which they lie.

    Where a hash is asked for, it is taken over the header that is parsed and over the bytes that
    become tensors, so that a file cannot be another one when it is checked than when it is read.
    """

    def __init__(self, file: WeightFile) -> None:
        self.file = file
        self._digest = None if file.sha256 is None else hashlib.sha256()
        self.position = 0
        self._handle = open_regular(file.path)
        try:
            head = self._take(8)
            size = int.from_bytes(head, "little")
            length = min(size, MAX_HEADER_BYTES, self._handle.seek(0, 2) - 8)
            self._handle.seek(8)
            text = self._take(length)
            self.header = parse_header(text if length == size else b"", where=file.path.name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._handle.close()

    def read(self, stored: _Stored, dtype: torch.dtype) -> Tensor:
        """The tensor in `dtype`, converted a piece at a time."""
        self._skip(stored.begin)
        found = torch.empty(stored.shape, dtype=dtype)
        flat = found.view(-1)
        for first in range(0, flat.numel(), PIECE):
            piece = torch.empty(min(PIECE, flat.numel() - first), dtype=stored.dtype)
            self._fill(memoryview(cast(Any, piece.view(torch.uint8).numpy())))
            flat[first : first + PIECE] = piece
        return found

    def finish(self) -> None:
        """Read what follows the last tensor, and compare the hash. Raises BaseModelError."""
        if self._digest is None:
            return
        while rest := self._handle.read(PIECE):
            self._digest.update(rest)
        if self._digest.hexdigest() != self.file.sha256:
            raise OtherFileError(self.file.path.name)

    def _skip(self, place: int) -> None:
        if place < self.position:
            raise BaseModelError(
                f"{self.file.path.name}: its tensors overlap", hint="get the base again"
            )
        if self._digest is None:
            self.position = self._handle.seek(place)
        while self.position < place:
            self._fill(memoryview(bytearray(min(PIECE, place - self.position))))

    def _take(self, size: int) -> bytes:
        buffer = bytearray(size)
        self._fill(memoryview(buffer))
        return bytes(buffer)

    def _fill(self, buffer: memoryview) -> None:
        whole = buffer
        while buffer:
            count = self._handle.readinto(buffer)
            if not count:
                raise BaseModelError(
                    f"{self.file.path.name} is cut off", hint="copy or download the base again"
                )
            buffer = buffer[count:]
        self.position += len(whole)
        if self._digest is not None:
            self._digest.update(whole)


@torch.no_grad()
def stream_base(
    config: Any,
    files: Sequence[WeightFile],
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None,
    merge: Merge | None,
    settle: Settle,
) -> Any | None:
    """The causal LM of `config` with the weights of `files`; None if only transformers can load it.

    Of a checkpoint that reads images or sound too it is the language model alone.

    Args:
        merge: applied in float32, before a weight gets its `dtype`.
        settle: is called for every module with weights of its own, once all of them are there.

    Raises BaseModelError for files that are damaged, or not those of their hashes.
    """
    if getattr(config, "quantization_config", None) is not None:
        return None
    model = without_weights(text_config(config), dtype=dtype, attn_implementation=attention)
    with _opened(files) as tables:
        names = _names([table for _, table in tables])
        if names is None or not fits(model, {name: stored.shape for name, stored in names.items()}):
            return None
        own = {stored: name for name, stored in names.items()}
        waiting = Counter(name.rpartition(".")[0] for name in names)
        for reader, table in tables:
            for stored in table or ():
                if stored not in own:
                    continue  # of the part that reads images
                path, _, name = own[stored].rpartition(".")
                merging = merge is not None and name == "weight"
                tensor = reader.read(stored, torch.float32 if merging else dtype)
                if merge is not None and merging:
                    tensor = merge(path, tensor).to(dtype)
                module = model.get_submodule(path)
                setattr(module, name, torch.nn.Parameter(tensor.to(device)))
                del tensor
                waiting[path] -= 1
                if not waiting[path]:
                    settle(model, path, module)
            reader.finish()
    model.tie_weights()
    _check_whole(model)
    return model.to(device)


def _table(reader: _Reader) -> list[_Stored] | None:
    """Every tensor's place, in the file's order; None if a dtype has to be interpreted."""
    found = []
    for name, entry in reader.header.items():
        dtype = DTYPES.get(str(entry["dtype"]))
        if dtype is None:
            return None
        shape = tuple(int(n) for n in entry["shape"])
        begin, end = (reader.position + int(n) for n in entry["data_offsets"])
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise BaseModelError(
                f"{reader.file.path.name}: a tensor's bytes do not fit its shape",
                hint="copy or download the base again",
            )
        found.append(_Stored(name, begin, end, dtype, shape))
    return sorted(found, key=lambda stored: (stored.begin, stored.end))


def _names(tables: Sequence[list[_Stored] | None]) -> dict[str, _Stored] | None:
    """Where each tensor of the language model lies, by the name it has in it.

    None if a dtype has to be interpreted, or a name comes twice.
    """
    found = [stored for table in tables for stored in table or ()]
    by_name = {stored.name: stored for stored in found}
    if None in tables or len(by_name) != len(found):
        return None
    return language_part(by_name)


@contextmanager
def _opened(files: Iterable[WeightFile]) -> Iterator[list[tuple[_Reader, list[_Stored] | None]]]:
    """Readers of these files, each with its tensors; closed when the block ends."""
    with ExitStack() as stack:
        readers = []
        for file in files:
            readers.append(_Reader(file))
            stack.callback(readers[-1].close)
        yield [(reader, _table(reader)) for reader in readers]


def check_language_part(name: str, model: Any, files: Iterable[Path]) -> None:
    """Raise BaseModelError unless `stream_base` could load `model` from a nested checkpoint."""
    with _opened(WeightFile(path) for path in files) as tables:
        names = _names([table for _, table in tables])
    if names is None or not fits(model, {name: stored.shape for name, stored in names.items()}):
        raise not_apart(name)


def not_apart(name: str) -> BaseModelError:
    """The refusal of a checkpoint whose language model cannot be loaded by itself."""
    return BaseModelError(
        f"base '{name}' reads more than text, and its language model cannot be loaded by itself: "
        "its files name the weights otherwise, or hold them packed",
        hint="use a text checkpoint of the same family, or save the language model alone with "
        "save_pretrained()",
    )


def fits(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """True if tensors of these shapes are every parameter once, tied ones under one of their names."""
    if getattr(model, "_keep_in_fp32_modules", None) or getattr(
        model, "_keep_in_fp32_modules_strict", None
    ):
        return False
    everywhere = dict(model.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for name, parameter in everywhere.items():
        names.setdefault(id(parameter), []).append(name)
    once = all(sum(name in shapes for name in tied) == 1 for tied in names.values())
    return (
        once
        and set(shapes) <= set(everywhere)
        and all(tuple(shapes[name]) == tuple(everywhere[name].shape) for name in shapes)
    )


def _check_whole(model: Any) -> None:
    """Nothing may be left that has no values."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    missing = [name for name, tensor in tensors if tensor.is_meta]
    if missing:
        raise BaseModelError(
            f"loading left {len(missing)} tensors of the base without values",
            hint="report this with the base's name",
        )
