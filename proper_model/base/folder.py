"""Where a base model's files lie: a folder, or the hub's local cache, and its weights in there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from proper_model.base.sizes import MAX_HEADER_BYTES
from proper_model.bundle.file_names import INDEX, WEIGHTS
from proper_model.errors import BaseModelError
from proper_model.progress import Steps
from proper_model.storage.documents import parse_object
from proper_model.storage.files import expanded, read_followed

_WEIGHTS_NAME = re.compile(r"[\w-][\w.-]{0,200}\.safetensors", re.ASCII)
COPY_AGAIN = "copy or download the file again"
# Of a folder that no hub gave a revision: part of the hash over its files.
LOCAL_REVISION_DIGITS = 40
_PIECE_BYTES = 8 << 20


def base_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a base that is a folder, or a hub id that is in the local cache.

    Raises BaseModelError if it is neither; nothing is downloaded here.
    """
    folder = expanded(name)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError):
        raise BaseModelError(
            f"the base '{name}' is neither a folder nor in the local hub cache",
            hint="download it on this machine first: hf download " + name,
        ) from None


def is_snapshot(folder: Path) -> bool:
    """Whether it lies in the hub's cache, as `models--OWNER--NAME/snapshots/COMMIT`."""
    return folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")


def file_hashes(
    folder: Path, told: Steps | None = None, *, only: Callable[[str], bool] | None = None
) -> dict[str, str]:
    """The sha256 of the folder's files, by name in order: of all, or of those whose name `only` takes.

    `told` counts bytes as they are read.
    """
    there = (path for path in folder.iterdir() if only is None or only(path.name))
    paths = sorted(path for path in there if path.is_file())
    total, done, hashes = sum(path.stat().st_size for path in paths), 0, {}
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                done += len(piece)
                if told is not None:
                    told(done, total)
        hashes[path.name] = digest.hexdigest()
    return hashes


def revision_of(folder: Path, hashes: Mapping[str, str] | None = None) -> str:
    """The hub commit a cached snapshot stands for, else a hash over the folder's own files.

    `hashes` are its `file_hashes`, where they are known already.
    """
    if is_snapshot(folder):
        return folder.name
    hashes = file_hashes(folder) if hashes is None else hashes
    lines = "".join(f"{name}\0{content}\n" for name, content in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:LOCAL_REVISION_DIGITS]


def weight_files(name: str, folder: Path) -> Iterator[Path]:
    """The safetensors files that loading would read. Raises BaseModelError if one is missing."""
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        yield single
        return
    if not index.is_file():
        raise no_weights(name)
    try:
        named = parse_object(read_followed(index, limit_bytes=MAX_HEADER_BYTES))["weight_map"]
        files = sorted(set(named.values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise BaseModelError(f"base '{name}': {INDEX} is damaged", hint=COPY_AGAIN) from None
    for file in files:
        if not isinstance(file, str) or _WEIGHTS_NAME.fullmatch(file) is None:
            raise BaseModelError(
                f"base '{name}': {INDEX} names a file that does not lie beside it",
                hint="weights are read from *.safetensors in the folder itself; " + COPY_AGAIN,
            )
        if not (folder / file).is_file():
            raise BaseModelError(
                f"base '{name}': {INDEX} names {file}, which is not there",
                hint="copy or download the missing file",
            )
        yield folder / file


def no_weights(name: str) -> BaseModelError:
    """The error for a base without weights that can be read."""
    return BaseModelError(
        f"base '{name}' has neither {WEIGHTS} nor {INDEX}",
        hint="weights are read from safetensors only: download them, or convert others with "
        "save_pretrained(..., safe_serialization=True)",
    )
