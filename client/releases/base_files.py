"""A local copy of a base that a release refers to: each file is the one whose hash was signed.

A tampered base can store what it is fine-tuned on (docs/security.md 1, "privacy backdoors"), so its bytes
are pinned like everything else. Source: docs/bundle-format.md section 6.3.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from proper_model.base.outside_config import MAX_CONFIG_BYTES
from proper_model.bundle.file_names import CONFIG, may_be_read
from proper_model.bundle.manifest import BaseReference
from proper_model.errors import BundleForeignError
from proper_model.storage.files import open_regular, read_followed


def verify_base_files(reference: BaseReference, folder: Path) -> tuple[Path, ...]:
    """Hash every file the release names; returns their paths, sorted.

    Links are followed, because hub caches consist of them; what counts is the content. A file
    that a model loader would read but the release does not name is refused too.

    Raises:
        BundleForeignError: a file is missing, different, or not named.
    """
    for name, expected in sorted(reference.files.items()):
        try:
            with open_regular(folder / name) as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(reference, name, error) from None
        if found != expected:
            raise other_file(reference, name)
    check_listing(reference, folder)
    return tuple(folder / name for name in sorted(reference.files))


def check_listing(reference: BaseReference, folder: Path) -> None:
    """Raise BundleForeignError unless the folder holds the files named and no other model file."""
    for name in sorted(reference.files):
        try:
            open_regular(folder / name).close()
        except OSError as error:
            raise _unreadable(reference, name, error) from None
    extra = sum(
        may_be_read(path.name) and path.name not in reference.files
        for path in folder.iterdir()
        if path.is_file()
    )
    if extra:
        raise BundleForeignError(
            f"base {reference.hub_id}: {extra} more model files than the release names",
            hint=_hint(reference),
        )


def read_config(reference: BaseReference, folder: Path) -> bytes:
    """config.json of the base; what is returned has the signed hash. Raises BundleForeignError."""
    try:
        data = read_followed(folder / CONFIG, limit_bytes=MAX_CONFIG_BYTES)
    except OSError as error:
        raise _unreadable(reference, CONFIG, error) from None
    if hashlib.sha256(data).hexdigest() != reference.files.get(CONFIG):
        raise other_file(reference, CONFIG)
    return data


def other_file(reference: BaseReference, name: str) -> BundleForeignError:
    """The error for a file of another content."""
    return BundleForeignError(
        f"base {reference.hub_id}: {name} is not the file this release was made for",
        hint=_hint(reference),
    )


def _unreadable(reference: BaseReference, name: str, error: OSError) -> BundleForeignError:
    reason = os.strerror(error.errno) if error.errno else "cannot be read"
    return BundleForeignError(f"base {reference.hub_id}: {name}: {reason}", hint=_hint(reference))


def _hint(reference: BaseReference) -> str:
    return f"get {reference.hub_id} at revision {reference.revision} again, into an empty folder"
