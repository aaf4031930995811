"""Check a local copy of a hub base model against the release that refers to it.

A tampered base can store what it is fine-tuned on (SECURITY 1, "privacy backdoors"), so its bytes
are pinned like everything else. Source: docs/bundle-format.md section 6.3.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from proper_model.errors import BundleForeignError
from proper_model.manifest import EXTENSIONS, BaseReference


def verify_base_files(reference: BaseReference, folder: Path) -> tuple[Path, ...]:
    """Hash every file the release names; returns their paths, sorted.

    Links are followed, because hub caches consist of them; what counts is the content. A file
    that a model loader would read but the release does not name is refused too.

    Raises:
        BundleForeignError: a file is missing, different, or not named.
    """
    hint = f"get {reference.hub_id} at revision {reference.revision} again, into an empty folder"
    for name, expected in sorted(reference.files.items()):
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BundleForeignError(
                f"base {reference.hub_id}: {name}: {error.strerror}", hint=hint
            ) from None
        if found != expected:
            raise BundleForeignError(
                f"base {reference.hub_id}: {name} is not the file this release was made for",
                hint=hint,
            )
    extra = sum(
        path.name.endswith(EXTENSIONS) and path.name not in reference.files
        for path in folder.iterdir()
        if path.is_file()
    )
    if extra:
        raise BundleForeignError(
            f"base {reference.hub_id}: {extra} more model files than the release names", hint=hint
        )
    return tuple(folder / name for name in sorted(reference.files))
