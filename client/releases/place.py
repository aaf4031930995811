"""Where a release lies: a bundle, or a release folder whose newest bundle counts; here or on the web.

What lies beside the bundles (trusted roots, the word on the newest one) is read through the same
place, and believed only as far as its signatures go. Source: docs/bundle-format.md sections 3 and 8.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.releases.last_seen import Announcement
from client.releases.source import Fetch, Source
from proper_model.bundle.folder_names import LATEST_NAME, MAX_LATEST_BYTES, version_folder
from proper_model.bundle.latest import Pointer, parse_latest
from proper_model.bundle.signed_bundle import MANIFEST_NAME
from proper_model.errors import BundleFormatError, ConfigError
from proper_model.storage.files import read_bounded

if TYPE_CHECKING:
    from client.releases.download import Patience, Progress

Beside = Callable[[str, int], bytes | None]
"""A file beside the bundle, at most one byte more than the number; None if there is none."""

# What a server says that has no such file, or that does not want to tell.
_ABSENT = frozenset({401, 403, 404, 410})
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class ReleasePlace:
    """One bundle to be installed, how it was found, and what lies beside it."""

    bundle: Source
    beside: Beside
    found: Announcement


def is_address(source: str) -> bool:
    """Whether a person's word for a release is an address, not a folder."""
    return _ADDRESS.match(source) is not None


def local_place(source: str) -> ReleasePlace:
    """A release in a folder of this machine.

    Raises ConfigError if there is none, BundleFormatError if its latest.json is damaged.
    """
    folder = Path(source).expanduser()
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


def web_place(url: str, cache: Path, *, progress: Progress, patience: Patience) -> ReleasePlace:
    """A release at an address; `cache` keeps unfinished files. Raises as `fetch_over_http`."""
    from client.releases.download import fetch_over_http
    from client.releases.web_address import above, below, release_address

    def fetch_at(address: object) -> Fetch:
        return fetch_over_http(str(address), cache, progress=progress, patience=patience)

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


def cache_name(url: str) -> str:
    """Name of the folder for what is unfinished of a release; the address may hold a token."""
    return f".download-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


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
