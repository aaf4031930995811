"""The pinned trust root of this device: one file that only a doubly signed rotation may replace.

The first root.json arrives out of band, with the program or the invitation. Source: SECURITY 2
("Bundle"), docs/bundle-format.md section 3.
"""

from __future__ import annotations

from pathlib import Path

from proper_model.durable import write_file
from proper_model.errors import StateError
from proper_model.files import read_bounded
from proper_model.trust import MAX_ROOT_BYTES, TrustedRoot, rotate


def load_root(path: Path) -> TrustedRoot:
    """Read the pinned root.

    Raises:
        StateError: no such regular file.
        BundleError: one of its children when the content is no root.
    """
    try:
        return TrustedRoot.from_bytes(read_bounded(path, MAX_ROOT_BYTES))
    except OSError as error:
        raise StateError(
            f"trusted root {path.name}: {error.strerror}",
            hint="it comes with the invitation to a population; get it from the publisher",
        ) from None


def update_root(path: Path, root: bytes, signatures: bytes) -> TrustedRoot:
    """Replace the pinned root by the next one. Raises as `load_root` and `trust.rotate`."""
    new = rotate(load_root(path), root, signatures)
    write_file(path, root)
    return new
