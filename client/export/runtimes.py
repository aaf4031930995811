"""What a user takes away for llama.cpp and MLX; folders as `client.export.folder` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from client.export.folder import (
    BaseBeside,
    Exported,
    check_free,
    check_source,
    folder_size,
    new_folder,
    write_beside,
)
from client.export.runtimes_readme import gguf_merged_readme, gguf_readme, mlx_readme
from proper_model.errors import StorageError
from proper_model.export import (
    check_gguf_model,
    check_mergeable,
    family_of,
    fold_release,
    joined_factors,
    library,
    mlx_adapter,
    mlx_prefix,
    write_gguf_adapter,
    write_gguf_model,
)
from proper_model.kernels import Encoded
from proper_model.release.contents import Release
from proper_model.release.recipe import BaseSource
from proper_model.settings import BaseWeights
from proper_model.storage.files import write_atomic


def write_gguf(
    out: Path,
    release: Release,
    tensors: Mapping[str, Tensor],
    *,
    bundle_id: str,
    base: BaseSource | None,
    beside: BaseBeside | None = None,
    approximate: bool = False,
    samples: Sequence[Encoded] = (),
) -> Exported:
    """Write `adapter.gguf`, a LoRA for llama.cpp, and with `beside` its base as `base.gguf`.

    Arguments as `client.export.folder.write_peft`.

    Raises:
        ConfigError: the package gguf is missing.
        ExportError: as `write_peft`, or llama.cpp computes this model or tokenizer otherwise.
        StorageError: the disk refuses; nothing is left behind.
    """
    library()
    check_source(release, base)
    check_free(out)
    family_of(release.base.config)
    if beside is not None:
        check_gguf_model(beside.model.config, beside.tokenizer)
    fold = fold_release(release, tensors, approximate=approximate, samples=samples)
    factors = joined_factors(release, fold)
    with new_folder(out) as folder, _tofile_errors(out):
        rank = write_gguf_adapter(folder / "adapter.gguf", release.base.config, factors)
        if beside is not None:
            write_gguf_model(
                folder / "base.gguf", beside.model, beside.tokenizer, dtype=beside.dtype
            )
        readme = gguf_readme(
            release,
            rank,
            fold.report,
            bundle_id=bundle_id,
            base=base,
            beside=None if beside is None else beside.dtype,
        )
        write_atomic(folder / "README.md", readme.encode())
        size = folder_size(folder)
    return Exported(size, rank, rank, fold.report)


def write_gguf_merged(
    out: Path,
    release: Release,
    tensors: Mapping[str, Tensor],
    *,
    bundle_id: str,
    dtype: torch.dtype,
    trained_over: BaseWeights = BaseWeights.FULL,
    approximate: bool = False,
    samples: Sequence[Encoded] = (),
) -> Exported:
    """Write `model.gguf`, the whole personal model in `dtype`, for llama.cpp.

    Arguments as `client.export.folder.write_merged`; raises as `write_gguf` with a base beside.
    """
    check_free(out)
    check_mergeable(release)
    check_gguf_model(release.base.config, release.tokenizer)
    fold = fold_release(release, tensors, approximate=approximate, samples=samples)
    readme = gguf_merged_readme(
        release, fold.report, trained_over, bundle_id=bundle_id, dtype=dtype
    )
    with new_folder(out) as folder, _tofile_errors(out):
        write_gguf_model(
            folder / "model.gguf",
            release.base,
            release.tokenizer,
            dtype=dtype,
            updates=fold.factors,
        )
        write_atomic(folder / "README.md", readme.encode())
        size = folder_size(folder)
    return Exported(size, None, None, fold.report)


def write_mlx(
    out: Path,
    release: Release,
    tensors: Mapping[str, Tensor],
    *,
    bundle_id: str,
    base: BaseSource | None,
    beside: BaseBeside | None = None,
    approximate: bool = False,
    samples: Sequence[Encoded] = (),
) -> Exported:
    """Write `adapters.safetensors` and `adapter_config.json` as mlx-lm reads them.

    Arguments as `client.export.folder.write_peft`.

    Raises:
        ExportError: as `write_peft`, or mlx-lm's names for this model are not known, or the base is
            part of a larger checkpoint and not beside.
        StorageError: the disk refuses; nothing is left behind.
    """
    check_source(release, base)
    check_free(out)
    fold = fold_release(release, tensors, approximate=approximate, samples=samples)
    prefix = mlx_prefix(release.base, language_alone=beside is not None)
    adapter = mlx_adapter(release.base.config, joined_factors(release, fold), prefix=prefix)
    readme = mlx_readme(
        release,
        adapter.rank,
        fold.report,
        bundle_id=bundle_id,
        base=base,
        beside=beside is not None,
    )
    files = {
        "adapter_config.json": json.dumps(adapter.config, indent=1, sort_keys=True).encode(),
        "adapters.safetensors": save(dict(adapter.tensors), {"format": "mlx"}),
        "README.md": readme.encode(),
    }
    with new_folder(out) as folder:
        for name, data in files.items():
            write_atomic(folder / name, data)
        write_beside(folder, beside)
        size = folder_size(folder)
    return Exported(size, adapter.rank, adapter.rank, fold.report)


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
