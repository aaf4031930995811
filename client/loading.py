"""From an installed bundle to a release that can compute; the last one stays loaded.

Used by nodes of a federation (`engine`) and by one person's program (`bundles`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from client.bundle_store import InstalledBundle, load_files

if TYPE_CHECKING:
    from proper_model.artifact import Release
    from proper_model.config import BaseWeights

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

    from client.base_files import verify_base_files
    from proper_model.artifact import IN_PLACE, release_from_files
    from proper_model.base_folder import base_folder
    from proper_model.memory import return_freed_memory

    torch.set_num_threads(threads)
    disable_progress_bar()  # the program has its own
    if memory_bytes is not None:
        return_freed_memory()
    held = f"{bundle.bundle_id} {base_weights or ''}"
    if held not in LOADED:
        LOADED.clear()
        folder_of_base = None
        reference = bundle.manifest.base_reference
        if reference is not None:
            verified = base_folder(base or reference.hub_id, reference.revision)
            verify_base_files(reference, verified)
            folder_of_base = str(verified)
        LOADED[held] = release_from_files(
            load_files(bundle, in_place=IN_PLACE),
            base_folder=folder_of_base,
            folder=bundle.path,
            base_weights=base_weights,
        )
    LOADED[held].memory_bytes = memory_bytes
    return LOADED[held]
