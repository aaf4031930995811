"""Load a base a tensor at a time: converted, merged with a population LoRA and packed as it comes.

transformers maps whole files and holds the base in full before anything can be packed, so that a
base in 4 bits would need as much memory to load as one in full. Here nothing but one linear is
there in full. What comes out is the same to the bit; a base whose files name their tensors
otherwise than the model does is left to transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from proper_model.base_config import is_nested, language_part, text_config
from proper_model.base_memory import PIECE, read_header
from proper_model.errors import BaseModelError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# From a module's path and its weight to what it shall be.
Merge = Callable[[str, Tensor], Tensor]
# Holds the base's module at a path in another way, once its tensors are there.
Settle = Callable[[Any, str, torch.nn.Module], None]


@dataclass(frozen=True)
class _Stored:
    """Where a tensor lies."""

    path: Path
    begin: int
    end: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self, dtype: torch.dtype) -> Tensor:
        """The tensor in `dtype`, converted a piece at a time."""
        found = torch.empty(self.shape, dtype=dtype)
        flat = found.view(-1)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.begin)
            for first in range(0, flat.numel(), PIECE):
                piece = torch.empty(min(PIECE, flat.numel() - first), dtype=self.dtype)
                _fill(file, memoryview(cast(Any, piece.view(torch.uint8).numpy())), self.path)
                flat[first : first + PIECE] = piece
        return found


def _fill(file: Any, buffer: memoryview, path: Path) -> None:
    while buffer:
        count = file.readinto(buffer)
        if not count:
            raise BaseModelError(f"{path.name} is cut off", hint="copy or download the base again")
        buffer = buffer[count:]


class _WeightsNowhere(TorchFunctionMode):
    """Modules made inside take no memory for weights, but buffers get their values."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty:
            given["device"] = "meta"
        return func(*args, **given)


@torch.no_grad()
def stream_base(
    folder: Path,
    files: Iterator[Path],
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None,
    merge: Merge | None,
    settle: Settle,
) -> Any | None:
    """The causal LM of `folder` with the weights of `files`; None if only transformers can load it.

    Of a checkpoint that reads images or sound too it is the language model alone.

    Args:
        merge: applied in float32, before a weight gets its `dtype`.
        settle: is called for every module with weights of its own, in the modules' order.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        return None
    stored = _tables(files)
    if stored is not None and is_nested(config):
        stored = language_part(stored)
    with _WeightsNowhere():
        model = AutoModelForCausalLM.from_config(
            text_config(config),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
        )
    if stored is None or not _fits(model, stored):
        return None
    # Paths, not modules: a list of those would keep every weight that is packed.
    for path in [path for path, _ in model.named_modules()]:
        module = model.get_submodule(path)
        own = {name: stored.get(f"{path}.{name}") for name in module._parameters}  # noqa: SLF001
        found = {name: where for name, where in own.items() if where is not None}
        for name, where in found.items():
            merging = merge is not None and name == "weight"
            tensor = where.read(torch.float32 if merging else dtype)
            if merge is not None and merging:
                tensor = merge(path, tensor).to(dtype)
            setattr(module, name, torch.nn.Parameter(tensor.to(device)))
            del tensor
        if found:
            settle(model, path, module)
    model.tie_weights()
    _check_whole(model)
    return model.to(device)


def _tables(files: Iterator[Path]) -> dict[str, _Stored] | None:
    """Every tensor's place by name; None if there is a dtype that has to be interpreted."""
    found = {}
    for path in files:
        header, start = read_header(path)
        for name, entry in header.items():
            dtype = DTYPES.get(str(entry["dtype"]))
            if dtype is None:
                return None
            shape = tuple(int(n) for n in entry["shape"])
            begin, end = (start + int(n) for n in entry["data_offsets"])
            if end - begin != math.prod(shape) * dtype.itemsize:
                raise BaseModelError(
                    f"{path.name}: a tensor's bytes do not fit its shape",
                    hint="copy or download the base again",
                )
            found[name] = _Stored(path, begin, end, dtype, shape)
    return found


def check_language_part(name: str, model: Any, files: Iterator[Path]) -> None:
    """Raise BaseModelError unless `stream_base` could load `model` from a nested checkpoint."""
    stored = _tables(files)
    if stored is None or not _fits(model, language_part(stored)):
        raise not_apart(name)


def not_apart(name: str) -> BaseModelError:
    """The refusal of a checkpoint whose language model cannot be loaded by itself."""
    return BaseModelError(
        f"base '{name}' reads more than text, and its language model cannot be loaded by itself: "
        "its files name the weights otherwise, or hold them packed",
        hint="use a text checkpoint of the same family, or save the language model alone with "
        "save_pretrained()",
    )


def _fits(model: Any, stored: Mapping[str, _Stored]) -> bool:
    """True if the files hold every parameter once, tied ones under one of their names."""
    if getattr(model, "_keep_in_fp32_modules", None) or getattr(
        model, "_keep_in_fp32_modules_strict", None
    ):
        return False
    everywhere = dict(model.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for name, parameter in everywhere.items():
        names.setdefault(id(parameter), []).append(name)
    once = all(sum(name in stored for name in tied) == 1 for tied in names.values())
    return (
        once
        and set(stored) <= set(everywhere)
        and all(stored[name].shape == tuple(everywhere[name].shape) for name in stored)
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
