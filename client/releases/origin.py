"""What `proper bundle add` and `verify` begin with: open the release, decide on the trusted root.

Nothing is pinned or rotated here; unfinished downloads are kept in HOME/bundles/.download-*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.home import Home
from client.releases.pinned_root import check_same, follow, load_root
from client.releases.place import ReleasePlace, cache_name, is_address, local_place, web_place
from client.releases.store import BUNDLES_FOLDER
from proper_model.bundle.folder_names import ROOT_NAME
from proper_model.bundle.trusted_root import MAX_ROOT_BYTES, TrustedRoot
from proper_model.errors import ConfigError
from proper_model.storage.durable import remove_folder
from proper_model.storage.files import storage_errors

if TYPE_CHECKING:
    from client.releases.download import Patience

Progress = Callable[[str, int, int], None]
"""Phase, done, total; 0 if unknown."""

CHECKING = "checking the release"
CHECKING_BASE = "checking the base"
# Whoever installs holds the home as well, so a holder of this lock alone is a node of a federation.
LOCK_TIMEOUT_S = 10.0
INSTALL_FIRST = "install a release first: proper bundle add FOLDER_OR_ADDRESS"


@dataclass(frozen=True)
class Trust:
    """The root to judge a release by.

    Attributes:
        pinned: whether this device has one already, perhaps an older one that led to `root`.
        notes: sentences for the person.
    """

    root: TrustedRoot
    pinned: bool
    notes: tuple[str, ...]


def silent(_phase: str, _done: int, _total: int) -> None:
    """No progress is shown."""


@contextmanager
def opened(
    home: Home, source: str, progress: Progress, patience: Patience | None
) -> Iterator[ReleasePlace]:
    """The release at a folder or address.

    For an address the home must be held; what is unfinished stays for the next attempt if the block
    raises, and of one address only.

    Raises ConfigError, FetchError, StorageError.
    """
    if not is_address(source):
        yield local_place(source)
        return
    from client.releases.download import Patience

    cache = home.path / BUNDLES_FOLDER / cache_name(source)
    with storage_errors(home.path):
        for leftover in cache.parent.glob(".download-*"):
            if leftover != cache:
                remove_folder(leftover)
    yield web_place(source, cache, progress=progress, patience=patience or Patience())
    with storage_errors(home.path):
        remove_folder(cache)


def decide_trust(home: Home, place: ReleasePlace, given: Path | None) -> Trust:
    """The pinned root, else the given one, else the one beside a local release; then rotations.

    Raises ConfigError where there is none, BundleError if one is refused, StateError if a file of
    this device or the given one cannot be read.
    """
    pinned = home.root_file.exists() or home.root_file.is_symlink()
    notes = []
    if pinned:
        start = load_root(home.root_file)
    elif given is not None:
        start = load_root(given)
    else:
        start = _offered(place)
        notes.append(
            f"trusting the {ROOT_NAME} that lies beside the release; compare its fingerprint with "
            f"the one your publisher names: {start.fingerprint}"
        )
    root = follow(start, place.beside)
    if pinned and given is not None:  # perhaps that of an old invitation
        check_same(root, follow(load_root(given), place.beside))
    if root != start:
        notes.append(f"the publisher's keys changed: root {start.version} -> {root.version}")
    return Trust(root, pinned, tuple(notes))


def _offered(place: ReleasePlace) -> TrustedRoot:
    """The root beside a local release, where nothing is pinned yet."""
    data = None if place.found.remote else place.beside(ROOT_NAME, MAX_ROOT_BYTES)
    if data is None:
        raise ConfigError(
            "this device trusts no publisher yet",
            hint=f"get {ROOT_NAME} from the publisher by another way than the release, then repeat "
            f"the command with --root {ROOT_NAME}",
        )
    return TrustedRoot.from_bytes(data)
