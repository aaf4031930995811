"""How a release refers to a base that it does not hold: a public name, a revision, a hash of every file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proper_model.base.folder import file_hashes, is_snapshot
from proper_model.bundle.file_names import is_base_file
from proper_model.bundle.manifest import BaseReference
from proper_model.errors import ConfigError
from proper_model.storage.files import expanded


def reference_base(
    folder: Path, hub_id: str, revision: str, known: Mapping[str, str] | None = None
) -> BaseReference:
    """Describe a local copy of a hub model by the sha256 of every file a device would load.

    Only files a device reads are listed, so pickled weights, adapters and code are left out. `known` are
    its `file_hashes`, where they were made already.

    Raises:
        ConfigError: the folder has no safetensors weights.
    """
    known = file_hashes(folder, only=is_base_file) if known is None else known
    hashes = {name: content for name, content in sorted(known.items()) if is_base_file(name)}
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
    folder = expanded(base)
    if not (folder.is_dir() or base.startswith(("/", ".", "~"))):
        return base
    folder = folder.resolve()
    if is_snapshot(folder):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return folder.name
