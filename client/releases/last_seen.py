"""What a new release is compared with: the highest version accepted, and the latest.json seen last.

Both count only as long as the keys that signed them are still trusted. A stolen key can sign the
largest version there is; once a new root revokes the key, what it alone had signed no longer counts.
Source: The Update Framework, sections 5.3.11 ("fast-forward attack recovery"), 5.4.3 and 5.4.4;
docs/bundle-format.md 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from client.releases.store import Accepted, SeenLatest, StoreState, bundle_path
from proper_model.bundle.folder_names import LATEST_NAME
from proper_model.bundle.latest import Pointer
from proper_model.bundle.limits import DEFAULT_LIMITS
from proper_model.bundle.manifest import MANIFEST_NAME, SIGNATURES_NAME
from proper_model.bundle.signatures import MANIFEST_DOMAIN
from proper_model.bundle.signed_bundle import VerifiedManifest
from proper_model.bundle.signed_time import format_time
from proper_model.bundle.trusted_root import LATEST, OWN_CHANNEL, RELEASE, ROOT_FORMAT, TrustedRoot
from proper_model.errors import (
    BundleError,
    BundleExpiredError,
    BundleIntegrityError,
    BundleRollbackError,
    BundleSignatureError,
)
from proper_model.storage.files import read_bounded

# Sets of keys whose highest version is remembered; a population has a handful in its life.
MAX_ACCEPTED = 64


@dataclass(frozen=True)
class Announcement:
    """How a release was found.

    Attributes:
        pointer: the latest.json beside it; None if there is none.
        followed: whether it was chosen by that file, and not named by a person.
        remote: whether a server gave it.
    """

    pointer: Pointer | None = None
    followed: bool = False
    remote: bool = False


UNANNOUNCED = Announcement()


def highest_accepted(
    folder: Path, state: StoreState | None, root: TrustedRoot
) -> tuple[int, str | None]:
    """Highest version signed by keys that `root` still trusts, and its bundle id; 0 for none."""
    accepted = _accepted_before(folder, state, root)
    counted = [entry for entry in accepted if root.still_vouches(RELEASE, entry.keys)]
    highest = max(counted, key=lambda entry: entry.version, default=None)
    return (0, None) if highest is None else (highest.version, highest.bundle_id)


def remembered(
    folder: Path, state: StoreState | None, root: TrustedRoot, release: VerifiedManifest
) -> tuple[Accepted, ...]:
    """What was accepted, with one more release, and without entries that others cover.

    Of releases of one's own, whose keys were thrown away, nothing is kept: however many there were, they
    must not push a publisher's entry out.
    """
    new = Accepted(
        version=release.manifest.version,
        bundle_id=release.bundle_id,
        keys=tuple(sorted(release.signed_by)),
    )
    kept = [e for e in _accepted_before(folder, state, root) if not _covers(new, e)]
    if state is not None and state.channel == OWN_CHANNEL:
        kept = [entry for entry in kept if root.still_vouches(RELEASE, entry.keys)]
    if any(_covers(entry, new) for entry in kept):
        return tuple(kept)
    return tuple(sorted((*kept, new), key=lambda e: (e.version, e.keys))[-MAX_ACCEPTED:])


def signers(path: Path, root: TrustedRoot) -> tuple[str, ...]:
    """Ids of the release keys of `root` that signed the installed bundle at `path`.

    Raises OSError if its two small files cannot be read, BundleSignatureError if they are too few,
    another BundleError if they are damaged.
    """
    manifest = read_bounded(path / MANIFEST_NAME, DEFAULT_LIMITS.manifest_bytes)
    signatures = read_bounded(path / SIGNATURES_NAME, DEFAULT_LIMITS.signature_bytes)
    return root.verify(MANIFEST_DOMAIN, manifest, signatures, where=MANIFEST_NAME)


def check_latest(
    found: Announcement, state: StoreState | None, root: TrustedRoot, now: datetime
) -> SeenLatest | None:
    """The latest.json to remember: the publisher's signed statement which release is the newest.

    One that is out of date is refused where a server gives it for another release than the installed
    one: the server may be withholding newer ones. In a folder that a person names it is only
    remembered, and `installed` warns from then on.

    Raises:
        BundleSignatureError: not signed, or not by the keys of the role `latest`.
        BundleRollbackError: older than the one this host has, or another one of the same number.
        BundleExpiredError: out of date, from a server.
        BundleForeignError, BundleTimeError: as `Pointer.verify`.
    """
    known = state.latest if state is not None else None
    if known is not None and not root.still_vouches(LATEST, known.keys):
        known = None
    pointer = found.pointer
    if pointer is None:
        return known
    if pointer.latest is None and root.format < ROOT_FORMAT and known is None:
        return None  # roots of the first format have no keys for it
    latest, keys = pointer.verify(root, now)
    seen = SeenLatest(
        number=latest.number,
        version=latest.version,
        bundle_id=latest.bundle_id,
        expires=format_time(latest.expires),
        keys=keys,
    )
    if known is not None:
        _check_order(known, seen)
    installed = state is not None and latest.bundle_id == state.bundle_id
    if now >= latest.expires and found.remote and not installed:
        raise BundleExpiredError(
            f"{LATEST_NAME}: out of date since {seen.expires}; the server may be withholding a "
            "newer release",
            hint="ask the publisher to sign it again, and check this device's clock",
        )
    return seen


def check_announced(
    found: Announcement, release: VerifiedManifest, state: StoreState | None, root: TrustedRoot
) -> None:
    """Compare a release with the latest.json that led to it.

    Raises BundleIntegrityError if it names another one, BundleSignatureError if a server gave none:
    it may be withholding newer releases.
    """
    pointer = found.pointer
    if pointer is None:
        installed = state is not None and state.bundle_id == release.bundle_id
        if found.remote and root.format >= ROOT_FORMAT and not installed:
            raise BundleSignatureError(
                f"{LATEST_NAME}: not found at this address; without it the server may be "
                "withholding a newer release",
                hint="check the address: it is that of the folder with latest.json; or ask the "
                "publisher",
            )
        return
    version, bundle_id = release.manifest.version, release.bundle_id
    if found.followed and (pointer.version, pointer.bundle_id) != (version, bundle_id):
        raise BundleIntegrityError(
            f"{LATEST_NAME}: names another release than the one that lies there, version {version}",
            hint="the publisher's folder is half updated or mixed up; try again later",
        )


def news(version: int, latest: SeenLatest | None, root: TrustedRoot) -> tuple[str, ...]:
    """What a person should know about how new this version is."""
    if latest is not None and latest.version > version:
        return (f"the publisher's newest release is {latest.version}; this one is {version}",)
    if latest is None and root.format >= ROOT_FORMAT:
        return (f"no {LATEST_NAME} beside this release says whether it is the newest",)
    return ()


def _accepted_before(
    folder: Path, state: StoreState | None, root: TrustedRoot
) -> tuple[Accepted, ...]:
    """What `state` remembers; of a state without keys, the keys that signed what is installed."""
    if state is None:
        return ()
    if state.accepted:
        return state.accepted
    try:
        keys = signers(bundle_path(folder, state.bundle_id), root)
    except OSError:
        keys = root.roles[RELEASE].keys  # unknown, so taken for all: it must count
    except BundleError:
        return ()
    return (Accepted(version=state.version, bundle_id=state.bundle_id, keys=keys),)


def _covers(one: Accepted, other: Accepted) -> bool:
    """Whether `one` counts under the same roots as `other`, with a version at least as high."""
    return one.version >= other.version and one.keys == other.keys


def _check_order(known: SeenLatest, seen: SeenLatest) -> None:
    if seen.number < known.number:
        raise BundleRollbackError(
            f"{LATEST_NAME}: number {seen.number}, this device already has {known.number}",
            hint="the server shows an older word on the newest release; ask the publisher",
        )
    same = (seen.version, seen.bundle_id, seen.expires)
    if seen.number == known.number and same != (known.version, known.bundle_id, known.expires):
        raise BundleRollbackError(
            f"{LATEST_NAME}: a second one with number {seen.number}, expected a higher number",
            hint="the publisher must give every signing its own number",
        )
