"""How a release refers to a base that it does not hold: a public name, a revision, a hash of every file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from proper_model.base.folder import is_snapshot
from proper_model.bundle.file_names import is_base_file
from proper_model.bundle.manifest import BaseReference
from proper_model.errors import ConfigError


def reference_base(folder: Path, hub_id: str, revision: str) -> BaseReference:
    """Describe a local copy of a hub model by the sha256 of every file a device would load.

    Only files a device reads are listed, so pickled weights, adapters and code are left out.

    Raises:
        ConfigError: the folder has no safetensors weights.
    """
    hashes = {}
    for path in sorted(folder.iterdir()):
        if is_base_file(path.name) and path.is_file():
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    if not any(name.endswith(".safetensors") for name in hashes):
        raise ConfigError(
            f"base {hub_id}: its folder holds no safetensors weights",
            hint="bases that exist only as pickled weights are not supported",
        )
    return BaseReference(hub_id, revision, hashes)


def hub_name(base: str) -> str:
    """The name a release gives the base: a hub id as it is, of a folder its last part.

    The path on this machine is left out; a node knows its own.
    """
    folder = Path(base).expanduser()
    if not (folder.is_dir() or base.startswith(("/", ".", "~"))):
        return base
    folder = folder.resolve()
    if is_snapshot(folder):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return folder.name
