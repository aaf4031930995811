"""What a user takes away: a PEFT adapter or a merged model, as a folder that other programs load.

A folder appears whole or not at all (`proper_model.storage.new_folder`). Nothing in it names the user
or this machine, but for an adapter with its base beside it: PEFT finds that by an absolute path only.
It is private all the same (docs/security.md 1, "a leaked personal LoRA equals leaked history"), so files
are 0600 and folders 0700.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save

from client.export.folder_readme import merged_readme, peft_readme
from client.export.request import BaseBeside, Exported, Request
from proper_model.errors import ExportError
from proper_model.export import (
    check_mergeable,
    in_dtype,
    peft_adapter,
    write_merged_folder,
    write_model_folder,
)
from proper_model.storage.files import PRIVATE_FOLDER, storage_errors, write_atomic
from proper_model.storage.new_folder import is_taken, new_folder

BASE = "base"  # folder of a base that is written beside an adapter


def write_peft(out: Path, request: Request) -> Exported:
    """Write a folder that `PeftModel.from_pretrained`, `AutoPeftModelForCausalLM` and vLLM load.

    Args:
        out: does not exist, or is an empty folder.

    Raises:
        ExportError: `out` is taken, the preset does not fold, or the request's base does not fit the
            release.
        StorageError: the disk refuses; nothing is left behind.
    """
    request.check_base()
    check_free(out)
    fold = request.fold()
    name, revision = base_name(out, request)
    adapter = peft_adapter(
        request.release,
        fold,
        base_name=name,
        revision=revision,
        language_alone=request.beside is not None,
    )
    files = {
        "adapter_config.json": json.dumps(adapter.config, indent=1, sort_keys=True).encode(),
        "adapter_model.safetensors": save(dict(adapter.tensors), {"format": "pt"}),
        "README.md": peft_readme(request, adapter, fold.report).encode(),
    }
    size = write_adapter(out, files, request.beside)
    return Exported(size, fold.report, adapter.rank, adapter.natural_rank)


def base_name(out: Path, request: Request) -> tuple[str, str | None]:
    """What PEFT looks for as the base of an adapter, and a hub revision.

    PEFT resolves a relative path against the current folder, not the adapter's. So a base beside
    has its absolute path; one that lies in a bundle has its path from the folder of bundles, which
    names no place of this machine and cannot be mistaken for another base.
    """
    if request.beside is not None:
        return os.path.join(os.path.abspath(out), BASE), None  # noqa: PTH100, PTH118 - as named
    if request.base is not None:
        return request.base.name, request.base.revision
    return f"./{request.bundle_id}/{BASE}", None


def write_adapter(out: Path, files: Mapping[str, bytes], beside: BaseBeside | None) -> int:
    """A folder of these files and, in its folder `base`, the base; bytes of all. Raises as its parts."""
    with new_folder(out) as folder:
        for name, data in files.items():
            write_atomic(folder / name, data)
        if beside is not None:
            (folder / BASE).mkdir(mode=PRIVATE_FOLDER)
            weights = in_dtype(beside.model.state_dict(), beside.dtype)
            write_model_folder(folder / BASE, beside.model, beside.tokenizer, weights)
        return folder_size(folder)


def folder_size(folder: Path) -> int:
    """Bytes of all files together."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_merged(out: Path, request: Request) -> Exported:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads.

    Raises:
        ExportError: `out` is taken, the preset does not fold, or the base is quantized.
        StorageError: the disk refuses; nothing is left behind.
    """
    check_free(out)
    check_mergeable(request.release)
    fold = request.fold()
    with new_folder(out) as folder:
        write_merged_folder(folder, request.release, fold, request.dtype)
        write_atomic(folder / "README.md", merged_readme(request, fold.report).encode())
        return Exported(folder_size(folder), fold.report)


def check_free(out: Path) -> None:
    """Raise ExportError unless `out` does not exist or is an empty folder."""
    with storage_errors(out):
        taken = is_taken(out)
    if taken:
        raise ExportError(
            f"{out}: there is something already, expected a new or an empty folder",
            hint="name another folder, or remove this one first",
        )
