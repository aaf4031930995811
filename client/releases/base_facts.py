"""What a release's base will take in memory on this machine, found out before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from client.home import Home
from client.releases.bases import base_of
from client.releases.content import InstalledRelease
from client.releases.store import InstalledBundle
from proper_model.base.checked import CheckedFiles
from proper_model.base.folder import base_folder
from proper_model.base.loading import compute_dtype, default_device
from proper_model.base.sizes import BaseShape, read_shape, shape_of_tables
from proper_model.settings import BaseWeights


@dataclass(frozen=True)
class BaseFacts:
    """Numbers of a base and how its release means it to be held.

    Attributes:
        width: bytes of a number in the dtype computed in here, whatever the files store.
        on_gpu: it will lie in an accelerator's memory, not in this process's.
    """

    shape: BaseShape
    own_weights: BaseWeights
    width: int
    on_gpu: bool = False

    def held_bytes(self, weights: BaseWeights) -> int:
        """For as long as it is loaded, and what a pass unpacks."""
        held = self.shape.held_bytes(weights, self.width)
        return held + self.shape.product_bytes(weights, self.width)

    def loading_bytes(self, weights: BaseWeights) -> int:
        return self.shape.loading_bytes(weights, self.width)


def base_facts(home: Home, release: InstalledRelease) -> BaseFacts:
    """Read from the bundle's signed tables, or from the headers of a referenced base's files.

    Raises BaseModelError if a referenced base is not on this machine, BundleIntegrityError if the
    bundle was altered.
    """
    settings = release.recipe.settings
    device = default_device()
    return BaseFacts(
        _shape(home, release.bundle),
        BaseWeights(settings.base_weights),
        compute_dtype(settings.dtype, device).itemsize,
        device.type != "cpu",
    )


def _shape(home: Home, bundle: InstalledBundle) -> BaseShape:
    reference = bundle.manifest.base_reference
    if reference is not None:
        folder = base_folder(base_of(home, reference), reference.revision)
        return read_shape(file.path for file in CheckedFiles(folder, reference.files).weights())
    tables = [
        entry
        for name, entry in bundle.manifest.files.items()
        if name.startswith("base/") and entry.tensors is not None
    ]
    shapes = {
        name: tensor.shape for entry in tables for name, tensor in (entry.tensors or {}).items()
    }
    return shape_of_tables(shapes, sum(entry.size for entry in tables))
