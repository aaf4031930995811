"""From an installed bundle to a release that can compute, every byte of it checked again."""

from __future__ import annotations

import dataclasses
import gc
from typing import TYPE_CHECKING

from client.releases.bases import check_listing, other_file
from client.releases.content import InstalledRelease, read_content, read_release
from client.releases.store import InstalledBundle
from proper_model.bundle.file_names import BASE
from proper_model.errors import BundleIntegrityError

if TYPE_CHECKING:
    from proper_model.release.contents import Release
    from proper_model.settings import BaseWeights


class ReleaseMemory:
    """What a program has read of releases: each is parsed once, and the last one stays loaded.

    At most one is loaded, because two base models would rarely fit.
    """

    def __init__(self) -> None:
        self._read: dict[str, InstalledRelease] = {}
        self._loaded: tuple[str, Release] | None = None

    def read(self, bundle: InstalledBundle) -> InstalledRelease:
        """The bundle with what its recipe and task say. Raises as `read_release`."""
        if bundle.bundle_id not in self._read:
            self._read[bundle.bundle_id] = read_release(bundle)
        known = self._read[bundle.bundle_id]
        return known if known.bundle == bundle else dataclasses.replace(known, bundle=bundle)

    def load(
        self,
        bundle: InstalledBundle,
        base: str | None,
        *,
        threads: int,
        memory_bytes: int | None = None,
        base_weights: BaseWeights | None = None,
    ) -> Release:
        """The release of a bundle, read from the disk or still loaded.

        Args:
            base: where a base that the bundle refers to lies, a folder or hub id; None means the
                local hub cache, under the name the bundle gives.
            threads: for torch, in this whole process.
            memory_bytes: a budget beside the base. Whoever sets one also says what becomes of freed
                memory (`proper_model.engine.manage_freed_memory`), before the base is loaded.
            base_weights: how the base is held; None: as the release says.

        Raises:
            BundleIntegrityError: a file of the bundle is gone or altered.
            BundleFormatError: its recipe or weights are those of a trap (`proper_model.checks.traps`).
            BundleForeignError: a file of the base is not the one the release was made for.
            BaseModelError: the base is not on this machine, or cannot be loaded.
        """
        _prepare(threads)
        asked = f"{bundle.bundle_id} {base_weights or ''}"
        if self._loaded is None or self._loaded[0] != asked:
            if self._loaded is not None:
                self._loaded = None  # freed before the next one takes its place:
                gc.collect()  # a model is a ring of objects
            self._loaded = asked, _load(self.read(bundle), base, base_weights)
        release = self._loaded[1]
        if release.memory_bytes != memory_bytes:  # who holds it keeps what it was given
            release = dataclasses.replace(release, memory_bytes=memory_bytes)
            self._loaded = asked, release
        return release


def _prepare(threads: int) -> None:
    """Set this process's libraries up for it."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(threads)
    disable_progress_bar()  # the program has its own


def _load(
    installed: InstalledRelease, base: str | None, base_weights: BaseWeights | None
) -> Release:
    """Each byte is checked as it is read, once: no check of a folder that may change after it."""
    from proper_model.base.checked import CheckedFiles
    from proper_model.base.folder import base_folder
    from proper_model.base.streamed import OtherFileError
    from proper_model.checks import check_weights
    from proper_model.release.contents import release_from_files

    bundle = installed.bundle
    reference = bundle.manifest.base_reference
    if reference is None:
        content, files = read_content(installed, None)
        hashes = {
            name.removeprefix(BASE): entry.sha256
            for name, entry in bundle.manifest.files.items()
            if name.startswith(BASE)
        }
        checked = CheckedFiles(bundle.path / BASE, hashes)
    else:
        folder = base_folder(base or reference.hub_id, reference.revision)
        check_listing(reference, folder)
        content, files = read_content(installed, folder)
        checked = CheckedFiles(folder, reference.files)
    try:
        release = release_from_files(files, content, checked, base_weights=base_weights)
    except OtherFileError as error:
        if reference is not None:
            raise other_file(reference, error.name) from None
        raise BundleIntegrityError(
            f"installed bundle: {BASE}{error.name} was altered", hint="install the release again"
        ) from None
    check_weights(release, embedded=reference is None)
    return release
