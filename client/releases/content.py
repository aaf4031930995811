"""What an installed release says, read from bytes that were checked as they were read.

Small files only; the base's weights stay where they are, and are checked when they are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.releases.bases import read_config
from client.releases.store import InstalledBundle, read_checked
from proper_model.bundle.file_names import BASE, is_weights
from proper_model.errors import BundleFormatError
from proper_model.release.recipe import Recipe, read_recipe_and_task
from proper_model.tasks import Task

if TYPE_CHECKING:
    from proper_model.release.recipe import ReleaseContent


@dataclass(frozen=True)
class InstalledRelease:
    """An installed bundle and what its recipe and its task say; commands pass it on."""

    bundle: InstalledBundle
    recipe: Recipe
    task: Task


def read_release(bundle: InstalledBundle) -> InstalledRelease:
    """Recipe and task of a bundle. Raises BundleIntegrityError, BundleFormatError."""

    def read(name: str) -> bytes:
        if name not in bundle.manifest.files:
            raise BundleFormatError(
                f"the release has no {name}", hint="ask the publisher for a release that is whole"
            )
        return read_checked(bundle.path, bundle.manifest, name)

    recipe, task = read_recipe_and_task(read, bundle.manifest.base_reference)
    return InstalledRelease(bundle, recipe, task)


def read_content(
    release: InstalledRelease, base: Path | None
) -> tuple[ReleaseContent, dict[str, bytes]]:
    """All that the release says, and its files but for the base's weights.

    `base`: the folder of a base that it refers to; None where that is not at hand.

    Raises BundleError: one of its children.
    """
    from proper_model.checks import check_content, check_training

    bundle = release.bundle
    manifest, reference = bundle.manifest, bundle.manifest.base_reference
    config = None if base is None or reference is None else read_config(reference, base)
    files = {
        name: read_checked(bundle.path, manifest, name)
        for name in manifest.files
        if not (name.startswith(BASE) and is_weights(name.removeprefix(BASE)))
    }
    content = check_content(
        manifest.shapes,
        files.__getitem__,
        reference,
        config=config,
        private=bundle.path,
        parsed=(release.recipe, release.task),
    )
    check_training(release.recipe)  # also of what was installed before there was such a check
    return content, files
