"""Where a base model's files lie on this machine: a folder, or the hub's local cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from proper_model.errors import BaseModelError

# Of a folder that no hub gave a revision: part of the hash over its files.
LOCAL_REVISION_DIGITS = 40


def base_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a base that is a folder, or a hub id that is in the local cache.

    Raises BaseModelError if it is neither; nothing is downloaded here.
    """
    folder = Path(name).expanduser()
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


def revision_of(folder: Path) -> str:
    """The hub commit a cached snapshot stands for, else a hash over the folder's own files."""
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(f"{path.name}\0{_sha256(path)}\n".encode())
    return digest.hexdigest()[:LOCAL_REVISION_DIGITS]


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
