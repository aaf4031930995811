"""From an installed bundle to a release that can compute; the last one stays loaded.

Used by nodes of a federation (`engine`) and by one person's program (`bundles`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from client.releases.base_files import check_listing, other_file
from client.releases.store import InstalledBundle
from proper_model.bundle.file_names import BASE
from proper_model.errors import BundleIntegrityError

if TYPE_CHECKING:
    from proper_model.release.contents import Release
    from proper_model.settings import BaseWeights

# At most one release: two base models would rarely fit, and a process works on one bundle at a time.
LOADED: dict[str, Release] = {}


def load_installed(
    bundle: InstalledBundle,
    base: str | None,
    *,
    threads: int,
    memory_bytes: int | None = None,
    base_weights: BaseWeights | None = None,
) -> Release:
    """The release of a bundle, every byte of it checked again, its base included.

    Args:
        bundle: as `installed` or `stored` gives it.
        base: where a base that the bundle refers to lies, a folder or hub id; None means the local
            hub cache, under the name the bundle gives.
        threads: for torch, in this whole process.
        memory_bytes: a budget beside the base; with one, freed memory is given back to the system.
        base_weights: how the base is held; None: as the release says.

    Raises:
        BundleIntegrityError: a file of the bundle is gone or altered.
        BundleForeignError: a file of the base is not the one the release was made for.
        BaseModelError: the base is not on this machine, or cannot be loaded.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    from proper_model.engine import return_freed_memory

    torch.set_num_threads(threads)
    disable_progress_bar()  # the program has its own
    if memory_bytes is not None:
        return_freed_memory()
    held = f"{bundle.bundle_id} {base_weights or ''}"
    if held not in LOADED:
        LOADED.clear()
        LOADED[held] = _load(bundle, base, base_weights)
    LOADED[held].memory_bytes = memory_bytes
    return LOADED[held]


def _load(bundle: InstalledBundle, base: str | None, base_weights: BaseWeights | None) -> Release:
    """Each byte is checked as it is read, once: no check of a folder that may change after it."""
    from client.releases.content import read_content
    from proper_model.base.checked import CheckedFiles
    from proper_model.base.folder import base_folder
    from proper_model.base.streamed import OtherFileError
    from proper_model.release.contents import release_from_files

    reference = bundle.manifest.base_reference
    if reference is None:
        content, files = read_content(bundle, None)
        hashes = {
            name.removeprefix(BASE): entry.sha256
            for name, entry in bundle.manifest.files.items()
            if name.startswith(BASE)
        }
        checked = CheckedFiles(bundle.path / BASE, hashes)
    else:
        folder = base_folder(base or reference.hub_id, reference.revision)
        check_listing(reference, folder)
        content, files = read_content(bundle, folder)
        checked = CheckedFiles(folder, reference.files)
    try:
        return release_from_files(files, content, checked, base_weights=base_weights)
    except OtherFileError as error:
        if reference is not None:
            raise other_file(reference, error.name) from None
        raise BundleIntegrityError(
            f"installed bundle: {BASE}{error.name} was altered", hint="install the release again"
        ) from None
