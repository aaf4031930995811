"""The formats that a person can take away, and which writer and which base belong to each.

Light to import: writers, and torch with them, are imported when something is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from proper_model.errors import StorageError

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from client.export.request import BaseBeside, Exported
    from client.home import Home
    from client.releases.store import InstalledBundle
    from proper_model.kernels import Encoded
    from proper_model.release.contents import Release
    from proper_model.settings import BaseWeights
    from proper_model.tasks import Task


class Format(StrEnum):
    PEFT = "peft"
    MERGED = "merged"
    GGUF = "gguf"
    GGUF_MERGED = "gguf-merged"
    MLX = "mlx"
    BACKUP = "age-backup"
    HISTORY = "history"


ADAPTERS = (Format.PEFT, Format.GGUF, Format.MLX)  # each applies to a base; the others are whole


def check_writable(kind: Format, out: Path) -> None:
    """What can be refused before a model is loaded.

    Raises ExportError if `out` is taken, StorageError if the folder that is to hold it is not there
    or closed, ConfigError if a library is not installed.
    """
    from client.export.folder import check_free
    from proper_model.base.gguf_header import library

    check_free(out)
    parent = out.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        what = "cannot be written to" if parent.is_dir() else "no such folder"
        raise StorageError(
            f"{parent}: {what}; '{out.name}' was to be written there",
            hint="make or open that folder first, or name another place with --out",
        )
    if kind in (Format.GGUF, Format.GGUF_MERGED):
        library()


def write_format(
    kind: Format,
    out: Path,
    release: Release,
    tensors: Mapping[str, Tensor],
    *,
    home: Home,
    bundle: InstalledBundle,
    with_base: bool,
    trained_over: BaseWeights,
    approximate: bool,
    samples: Sequence[Encoded],
    asked: Task,
    share: tuple[float, float],
) -> Exported:
    """What `kind` stands for, written to `out`.

    Args:
        bundle: that `release` was loaded from, so that its files and its base were verified.
        with_base: write the base beside an adapter.
        trained_over: how the base was held when the adapter was trained.
        asked: the person's task, as it was trained.
        approximate, samples, share: as in `Request`.

    Raises:
        As the writers of `client.export.folder` and `client.export.runtimes`; BaseModelError if the base
        is gone.
    """
    from client.export import folder as folders
    from client.export import runtimes
    from client.export.request import Request
    from proper_model.release.recipe import BaseSource

    write = {
        Format.PEFT: folders.write_peft,
        Format.MERGED: folders.write_merged,
        Format.GGUF: runtimes.write_gguf,
        Format.GGUF_MERGED: runtimes.write_gguf_merged,
        Format.MLX: runtimes.write_mlx,
    }[kind]
    reference, adapter = bundle.manifest.base_reference, kind in ADAPTERS
    public = None if reference is None else BaseSource(reference.hub_id, reference.revision)
    request = Request(
        release,
        tensors,
        bundle.bundle_id,
        base=public if adapter else None,
        beside=base_beside(home, bundle) if with_base else None,
        dtype=None if adapter else base_dtype(home, bundle),
        trained_over=trained_over,
        approximate=approximate,
        samples=samples,
        asked=asked,
        share=share,
    )
    return write(out, request)


def base_dtype(home: Home, bundle: InstalledBundle) -> dtype:
    """What the base's weights are stored in."""
    from proper_model.base.folder import weight_files
    from proper_model.export import stored_dtype

    place = _base_place(home, bundle)
    return stored_dtype(weight_files(str(place), place))


def base_beside(home: Home, bundle: InstalledBundle) -> BaseBeside:
    """The base as it lies on this machine, in the dtype it is stored in, in main memory."""
    import torch

    from client.export.request import BaseBeside
    from proper_model.checks import load_base

    place, stored = _base_place(home, bundle), base_dtype(home, bundle)
    embedded = bundle.manifest.base_reference is None
    model, tokenizer = load_base(
        str(place),
        tokenizer_from=str(bundle.path / "tokenizer") if embedded else None,
        dtype=stored,
        device=torch.device("cpu"),
    )
    return BaseBeside(model, tokenizer, stored)


def _base_place(home: Home, bundle: InstalledBundle) -> Path:
    """The folder in which the base of an installed bundle lies."""
    from client.releases.bases import base_of

    reference = bundle.manifest.base_reference
    return bundle.path / "base" if reference is None else Path(base_of(home, reference))
