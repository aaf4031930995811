"""Where a release lies, and how its files are read from there.

A bundle's files come from a folder, from bytes in memory, or from a callable that fetches one file. A
folder must hold regular files only and exactly the listed ones, so that nothing unsigned travels along
and no link leads out of it. A person names a bundle, or a release folder whose newest bundle counts,
here or on the web; what lies beside the bundles (trusted roots, latest.json) counts only by its
signatures. Source: docs/bundle-format.md 1, 3, 4 and 8.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from client.home import Home
from client.releases.last_seen import Announcement
from client.releases.store import BUNDLES_FOLDER
from proper_model.bundle.folder_names import LATEST_NAME, MAX_LATEST_BYTES, version_folder
from proper_model.bundle.latest import Pointer, parse_latest
from proper_model.bundle.manifest import MANIFEST_NAME, SIGNATURES_NAME
from proper_model.errors import BundleFormatError, ConfigError
from proper_model.progress import Progress
from proper_model.storage.durable import remove_folder
from proper_model.storage.files import expanded, read_bounded, storage_errors

# Statuses of a server that has no such file, or does not say whether it has.
_ABSENT = frozenset({401, 403, 404, 410})
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

Fetch = Callable[[str, int], bytes]
"""Bytes of a named file of the release; may stop once it holds more than the given number."""
Beside = Callable[[str, int], bytes | None]
"""A file beside the bundle, at most one byte more than the number; None if there is none."""


@runtime_checkable
class Holding(Protocol):
    """A source that keeps on disk what it transferred, until its caller drops it."""

    def __call__(self, name: str, max_bytes: int) -> bytes:
        """As `Fetch`; nothing is kept."""
        ...

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


Source = Path | Mapping[str, bytes] | Fetch | Holding


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


def check_listing(source: Source, listed: Collection[str]) -> None:
    """Refuse files that the manifest does not list, and in folders everything but regular files.

    Raises BundleFormatError, which does not repeat the foreign name.
    """
    if callable(source):
        return
    names = _regular_files(source) if isinstance(source, Path) else iter(source)
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


@dataclass(frozen=True)
class ReleasePlace:
    """One bundle to be installed, how it was found, and what lies beside it."""

    bundle: Source
    beside: Beside
    found: Announcement


def is_address(source: str) -> bool:
    """Whether what a person gave as a release is an address, not a folder."""
    return _ADDRESS.match(source) is not None


def local_place(source: str) -> ReleasePlace:
    """A release in a folder of this machine.

    Raises ConfigError if there is none, BundleFormatError if its latest.json is damaged.
    """
    folder = expanded(source)
    if (folder / MANIFEST_NAME).is_file():
        beside = _beside(folder.resolve().parent)
        return ReleasePlace(folder, beside, Announcement(_pointer(beside)))
    beside = _beside(folder)
    pointer = _pointer(beside) if folder.is_dir() else None
    if pointer is None:
        raise ConfigError(
            f"'{folder.name}': no release there; expected a folder with {MANIFEST_NAME} or "
            f"{LATEST_NAME}, or an address",
            hint="a finished run keeps its release in OUT/server/release",
        )
    bundle = folder / version_folder(pointer.version)
    return ReleasePlace(bundle, beside, Announcement(pointer, followed=True))


def web_place(url: str, cache: Path, progress: Progress) -> ReleasePlace:
    """A release at an address; `cache` keeps unfinished files. Raises as `WebSource`."""
    from client.releases.download import WebSource
    from client.releases.web_address import above, below, release_address

    def fetch_at(address: object) -> Fetch:
        return WebSource(str(address), cache, progress)

    def beside_at(address: object) -> Beside:
        fetch = fetch_at(address)
        return lambda name, size: _if_there(fetch, name, size)

    here = release_address(url)
    beside = beside_at(here)
    pointer = _pointer(beside)
    if pointer is not None:
        bundle = fetch_at(below(here, version_folder(pointer.version)))
        return ReleasePlace(bundle, beside, Announcement(pointer, followed=True, remote=True))
    beside = beside_at(above(here))
    return ReleasePlace(fetch_at(here), beside, Announcement(_pointer(beside), remote=True))


@contextmanager
def opened(home: Home, source: str, progress: Progress) -> Iterator[ReleasePlace]:
    """The release at a folder or address.

    For an address the home must be held. If the block raises, what is unfinished stays for the next
    attempt; of other addresses nothing stays.

    Raises ConfigError, FetchError, StorageError.
    """
    if not is_address(source):
        yield local_place(source)
        return
    # Hashed, because the address may hold a token.
    name = f".download-{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    cache = home.path / BUNDLES_FOLDER / name
    with storage_errors(home.path):
        for leftover in cache.parent.glob(".download-*"):
            if leftover != cache:
                remove_folder(leftover)
    yield web_place(source, cache, progress)
    with storage_errors(home.path):
        remove_folder(cache)


def _pointer(beside: Beside) -> Pointer | None:
    """latest.json, if it is there. Raises as `parse_latest`."""
    data = beside(LATEST_NAME, MAX_LATEST_BYTES)
    return None if data is None else parse_latest(data)


def _beside(folder: Path) -> Beside:
    def read(name: str, max_bytes: int) -> bytes | None:
        try:
            return read_bounded(folder / name, max_bytes)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BundleFormatError(
                f"release folder: {name}: {error.strerror}, expected a regular file"
            ) from None

    return read


def _if_there(fetch: Fetch, name: str, max_bytes: int) -> bytes | None:
    from client.releases.download import StatusError

    try:
        return fetch(name, max_bytes)
    except StatusError as error:
        if error.status in _ABSENT:
            return None
        raise
