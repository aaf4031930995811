"""Where a release comes from: a folder, bytes in memory, or a callable that fetches one file.

A folder must hold regular files only and exactly the listed ones, so that nothing unsigned travels
along and no link leads out of it. Source: docs/bundle-format.md sections 1 and 4.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from proper_model.bundle.signed_bundle import MANIFEST_NAME, SIGNATURES_NAME
from proper_model.errors import BundleFormatError
from proper_model.storage.files import read_bounded

Fetch = Callable[[str, int], bytes]
"""Bytes of a named file of the release; may stop once it holds more than the given number."""
Source = Path | Mapping[str, bytes] | Fetch


@runtime_checkable
class Holding(Protocol):
    """A callable source that keeps on disk what it transferred, until its caller is done with it."""

    def hold(self, name: str, max_bytes: int) -> bytes:
        """As a call, but the file stays kept: a later attempt need not transfer it again."""
        ...

    def store(self, name: str, target: Path) -> bool:
        """Move a held file to its place; False if that is impossible and the bytes are to be written.

        Raises StorageError if the disk refuses; the file stays kept.
        """
        ...

    def drop(self, name: str) -> None:
        """Keep a held file no longer."""
        ...


def holding(source: object) -> Holding | None:
    """The source, if it is one that keeps what it transferred."""
    return source if isinstance(source, Holding) else None


def fetch_from(source: Source, name: str, max_bytes: int) -> bytes:
    """Bytes of one file; the caller checks their length.

    Raises:
        BundleFormatError: a folder or mapping has no such regular file. A callable's own
            exceptions pass through.
    """
    if isinstance(source, Path):
        try:
            return read_bounded(source / name, max_bytes)
        except OSError as error:
            raise BundleFormatError(
                f"bundle folder: {name}: {error.strerror}, expected a regular file"
            ) from None
    if isinstance(source, Mapping):
        if name not in source:
            raise BundleFormatError(f"bundle: {name} is missing")
        return source[name]
    return source(name, max_bytes)


def offers(source: Source, name: str) -> bool:
    """Whether the file is there without a transfer."""
    if isinstance(source, Path):
        return True
    return isinstance(source, Mapping) and name in source


def check_listing(source: Source, listed: Collection[str]) -> None:
    """Refuse files that the manifest does not list, and in folders everything but regular files.

    Raises:
        BundleFormatError: without repeating the foreign name.
    """
    if isinstance(source, Path):
        names: Iterator[str] = _regular_files(source)
    elif isinstance(source, Mapping):
        names = iter(source)
    else:
        return
    allowed = {*listed, MANIFEST_NAME, SIGNATURES_NAME}
    if any(name not in allowed for name in names):
        raise BundleFormatError("bundle: holds a file that its manifest does not list")


def _regular_files(root: Path) -> Iterator[str]:
    """Relative names, one at a time, so that an endless folder is refused at its first file."""
    for folder, subfolders, files in os.walk(root):
        for name in (*subfolders, *files):
            path = Path(folder) / name
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise BundleFormatError(
                    "bundle folder: holds a link or special file, expected regular files only"
                )
            if stat.S_ISREG(mode):
                yield path.relative_to(root).as_posix()
