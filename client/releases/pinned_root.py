"""The trust root that releases are judged by: pinned in one file, replaced by doubly signed steps only.

The first root.json arrives by another way than the release, with the program or the invitation; a
newer one may lie beside a release and is followed step by step. Only the root of a release of one's own
(`client.releases.own`), which vouches for nobody, gives way to any other. Source: docs/bundle-format.md 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from client.home import Home
from client.releases.place import Beside, ReleasePlace
from client.releases.store import read_state
from proper_model.bundle.folder_names import ROOT_NAME, root_names
from proper_model.bundle.signatures import MAX_SIGNATURE_BYTES
from proper_model.bundle.trusted_root import MAX_ROOT_BYTES, TrustedRoot, rotate
from proper_model.errors import (
    BundleForeignError,
    BundleSignatureError,
    ConfigError,
    ProperError,
    StateError,
)
from proper_model.storage.durable import write_file
from proper_model.storage.files import read_bounded, storage_errors


@dataclass(frozen=True)
class Trust:
    """The root to judge a release by.

    Attributes:
        pinned: whether this device has one already, perhaps an older one that led to `root`; not where
            `root` is to replace that of a release of one's own.
        notes: sentences for the person.
    """

    root: TrustedRoot
    pinned: bool
    notes: tuple[str, ...]


def decide_trust(home: Home, place: ReleasePlace, given: Path | None) -> Trust:
    """The pinned root, else the given one, else the one beside a local release; then rotations.

    Raises ConfigError where there is none, BundleError if one is refused, StateError if a file of
    this device or the given one cannot be read.
    """
    before, notes = _pinned(home), []
    if before is not None and _gives_way(before, place, given):
        before = None
    if before is not None:
        start = before
    elif given is not None:
        start = load_root(given)
    else:
        start = _offered(place)
        notes.append(_trusting(start))
    root = follow(start, place.beside)
    if before is not None and given is not None:  # perhaps that of an old invitation
        check_same(root, follow(load_root(given), place.beside))
    if root != start:
        notes.append(f"the publisher's keys changed: root {start.version} -> {root.version}")
    return Trust(root, before is not None, tuple(notes))


def _trusting(root: TrustedRoot) -> str:
    """What a person is to know whose device takes the root that lies beside a release."""
    if root.is_own:
        return (
            "a release that somebody made alone, with a key that was thrown away: take it only from a "
            f"device of your own; its fingerprint is {root.fingerprint}"
        )
    return (
        f"trusting the {ROOT_NAME} that lies beside the release; compare its fingerprint with "
        f"the one your publisher names: {root.fingerprint}"
    )


def _gives_way(pinned: TrustedRoot, place: ReleasePlace, given: Path | None) -> bool:
    """Whether the pinned root is one's own and the release is another's, as on a device without a root."""
    if not pinned.is_own:
        return False
    if given is not None:
        return load_root(given) != pinned
    return place.found.remote or _beside_here(place) not in (None, pinned)


@contextmanager
def pinning(home: Home, root: TrustedRoot) -> Iterator[None]:
    """Pin a first root before the release it signs is installed; undone if the installation fails.

    In the other order, a crash in between would leave a release and no root, and the next release
    could then come from anybody. Raises StorageError.
    """
    before, installed = _pinned(home), _current(home)
    try:
        pin_root(home.root_file, root)
        yield
    except BaseException:
        with suppress(ProperError, OSError):  # the error that led here is the one to tell
            if _current(home) == installed:
                if before is None:
                    home.root_file.unlink()
                else:
                    pin_root(home.root_file, before)
        raise


def _pinned(home: Home) -> TrustedRoot | None:
    """The root of this device; None where there is none. Raises as `load_root`."""
    if home.root_file.exists() or home.root_file.is_symlink():
        return load_root(home.root_file)
    return None


def _current(home: Home) -> str | None:
    """Id of the installed release."""
    state = read_state(home.path)
    return None if state is None else state.bundle_id


def load_root(path: Path) -> TrustedRoot:
    """Read a root. Raises StateError if there is no such file, BundleError if it holds no root."""
    try:
        return TrustedRoot.from_bytes(read_bounded(path, MAX_ROOT_BYTES))
    except OSError as error:
        raise StateError(
            f"trusted root {path.name}: {error.strerror}",
            hint="it comes with the invitation to a population; get it from the publisher",
        ) from None


def pin_root(path: Path, root: TrustedRoot) -> None:
    """Write the first root of this device, or one that `follow` led to. Raises StorageError."""
    with storage_errors(path):
        write_file(path, root.to_bytes())


def follow(current: TrustedRoot, beside: Beside) -> TrustedRoot:
    """The root beside a release, if verified steps lead to it; often it is `current`.

    An older root there is left alone: whether the release counts, its signatures say.

    Raises:
        BundleForeignError: the root there is another one of the same version.
        BundleError: another child, when a step is not vouched for, malformed or missing.
    """
    offered = beside(ROOT_NAME, MAX_ROOT_BYTES)
    if offered is None:
        return current
    newest = TrustedRoot.from_bytes(offered)
    if newest.version == current.version:
        check_same(current, newest)
    for version in range(current.version + 1, newest.version + 1):
        root_name, signatures_name = root_names(version, newest.version)
        root = beside(root_name, MAX_ROOT_BYTES)
        signatures = beside(signatures_name, MAX_SIGNATURE_BYTES)
        if root is None or signatures is None:
            missing = root_name if root is None else signatures_name
            raise BundleSignatureError(
                f"new root, version {version}: {missing} is missing beside the release",
                hint="without it nothing says that the new keys are the publisher's; ask for it",
            )
        current = rotate(current, root, signatures)
    return current


def check_same(pinned: TrustedRoot, other: TrustedRoot) -> None:
    """Refuse a root that is not the pinned one. Raises BundleForeignError with both fingerprints."""
    if other != pinned:
        raise BundleForeignError(
            f"root.json: fingerprint {other.fingerprint}, this device trusts {pinned.fingerprint}",
            hint="it belongs to another population; use another --home for that one",
        )


def _offered(place: ReleasePlace) -> TrustedRoot:
    """The root beside a local release, where nothing is pinned yet."""
    root = _beside_here(place)
    if root is None:
        raise ConfigError(
            "this device trusts no publisher yet",
            hint=f"get {ROOT_NAME} from the publisher by another way than the release, then repeat "
            f"the command with --root {ROOT_NAME}",
        )
    return root


def _beside_here(place: ReleasePlace) -> TrustedRoot | None:
    """The root beside a release on this machine; of one on the web it counts for nothing yet."""
    data = None if place.found.remote else place.beside(ROOT_NAME, MAX_ROOT_BYTES)
    return None if data is None else TrustedRoot.from_bytes(data)
