"""What a user takes away for llama.cpp and MLX; folders as `client.export.folder` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save

from client.export.folder import check_free, folder_size, write_adapter
from client.export.request import Exported, Request
from client.export.runtimes_readme import gguf_merged_readme, gguf_readme, mlx_readme
from proper_model.base.gguf_header import library
from proper_model.errors import StorageError
from proper_model.export import (
    check_gguf_model,
    check_mergeable,
    family_of,
    joined_factors,
    mlx_adapter,
    mlx_prefix,
    write_gguf_adapter,
    write_gguf_model,
)
from proper_model.storage.files import write_atomic
from proper_model.storage.new_folder import new_folder


def write_gguf(out: Path, request: Request) -> Exported:
    """Write `adapter.gguf`, a LoRA for llama.cpp, and with a base beside it that as `base.gguf`.

    Raises:
        ConfigError: the package gguf is missing.
        ExportError: as `write_peft`, or llama.cpp computes this model or tokenizer otherwise.
        StorageError: the disk refuses; nothing is left behind.
    """
    library()
    request.check_base()
    check_free(out)
    config, beside = request.release.base.config, request.beside
    family_of(config)
    if beside is not None:
        check_gguf_model(beside.model.config, beside.tokenizer)
    fold = request.fold()
    factors = joined_factors(request.release, fold)
    with new_folder(out) as folder, _tofile_errors(out):
        rank = write_gguf_adapter(folder / "adapter.gguf", config, factors)
        if beside is not None:
            write_gguf_model(
                folder / "base.gguf", beside.model, beside.tokenizer, dtype=beside.dtype
            )
        write_atomic(folder / "README.md", gguf_readme(request, rank, fold.report).encode())
        return Exported(folder_size(folder), fold.report, rank, rank)


def write_gguf_merged(out: Path, request: Request) -> Exported:
    """Write `model.gguf`, the whole personal model in the request's dtype, for llama.cpp.

    Raises as `client.export.folder.write_merged`, and as `write_gguf` with a base beside.
    """
    release = request.release
    dtype = release.base.dtype if request.dtype is None else request.dtype
    check_free(out)
    check_mergeable(release)
    check_gguf_model(release.base.config, release.tokenizer)
    fold = request.fold()
    with new_folder(out) as folder, _tofile_errors(out):
        write_gguf_model(
            folder / "model.gguf",
            release.base,
            release.tokenizer,
            dtype=dtype,
            updates=fold.factors,
        )
        write_atomic(folder / "README.md", gguf_merged_readme(request, fold.report).encode())
        return Exported(folder_size(folder), fold.report)


def write_mlx(out: Path, request: Request) -> Exported:
    """Write `adapters.safetensors` and `adapter_config.json` as mlx-lm reads them.

    Raises:
        ExportError: as `write_peft`, or mlx-lm's names for this model are not known, or the base is
            part of a larger checkpoint and not beside.
        StorageError: the disk refuses; nothing is left behind.
    """
    request.check_base()
    check_free(out)
    release, fold = request.release, request.fold()
    prefix = mlx_prefix(release.base, language_alone=request.beside is not None)
    adapter = mlx_adapter(release.base.config, joined_factors(release, fold), prefix=prefix)
    files = {
        "adapter_config.json": json.dumps(adapter.config, indent=1, sort_keys=True).encode(),
        "adapters.safetensors": save(dict(adapter.tensors), {"format": "mlx"}),
        "README.md": mlx_readme(request, adapter.rank, fold.report).encode(),
    }
    size = write_adapter(out, files, request.beside)
    return Exported(size, fold.report, adapter.rank, adapter.rank)


@contextmanager
def _tofile_errors(out: Path) -> Iterator[None]:
    """numpy tells of a full disk in words alone, without the system's number."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise StorageError(
            f"{out}: the weights cannot be written there",
            hint="make room on that disk, then repeat the command",
        ) from error
