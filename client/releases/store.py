"""Bundles that are installed on this host, and what the host remembers about releases.

Layout of a host folder:

    bundles/<bundle_id>/   one verified bundle; never changed after it appeared
    bundles/state.json     which one is current, what was accepted by whose keys, the latest.json
                           seen last, and the latest time seen

Older bundles stay, because a user's private adapter works only with the one it was trained on.
Reading checks no signature and trusts no clock: an expired bundle goes on working, with a warning.
Source: docs/security.md 2 ("Bundle"), docs/bundle-format.md section 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proper_model.bundle.content_policy import check_hash
from proper_model.bundle.limits import DEFAULT_LIMITS
from proper_model.bundle.manifest import MANIFEST_NAME, Manifest, Sha256, content_id, parse_manifest
from proper_model.bundle.signed_time import Time, format_time, parse_time
from proper_model.bundle.trusted_root import OWN_CHANNEL
from proper_model.errors import BundleFormatError, BundleIntegrityError, StateError
from proper_model.storage import canonical
from proper_model.storage.durable import write_file
from proper_model.storage.files import read_bounded

BUNDLES_FOLDER = "bundles"
STATE_NAME = "state.json"
INSTALL_FIRST = (
    "install a release first: proper bundle add FOLDER_OR_ADDRESS; or make your own: proper start"
)
_MAX_STATE_BYTES = 128 * 1024
_BUNDLE_ID = re.compile(r"[0-9a-f]{64}")


class BundleWarning(StrEnum):
    """What the user should know about an installed bundle that works nevertheless."""

    EXPIRED = "the installed release has expired; it keeps working, but look for a newer one"
    STALE = (
        "the publisher's last word on the newest release is out of date; the installed one keeps "
        "working, but ask for news: proper bundle add ADDRESS"
    )
    REVOKED = (
        "the publisher's keys no longer vouch for this release, perhaps because one was stolen; it "
        "keeps working, but get the newest: proper bundle add ADDRESS, then proper rebase"
    )
    CLOCK_BEFORE_LATEST = "the clock shows a time before one this program has already seen"
    CLOCK_BEFORE_CREATION = "the clock shows a time before the installed release was made"


@dataclass(frozen=True)
class InstalledBundle:
    """A bundle in a host folder.

    Attributes:
        path: its folder; read files through `read_checked`, which checks them again.
        warnings: empty when all is well.
    """

    bundle_id: str
    version: int
    path: Path
    manifest: Manifest
    warnings: tuple[BundleWarning, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether a person made it alone (`client.releases.own`)."""
        return self.manifest.channel == OWN_CHANNEL

    @property
    def called(self) -> str:
        """What a sentence calls it."""
        return f"your own release {self.version}" if self.is_own else f"release {self.version}"


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Accepted(_Record):
    """A release that was accepted here, and the release keys that had signed it."""

    version: int = Field(ge=1)
    bundle_id: Sha256
    keys: tuple[Sha256, ...]


class SeenLatest(_Record):
    """The latest.json seen last (`proper_model.bundle.latest`), and the keys that signed it."""

    number: int = Field(ge=1)
    version: int = Field(ge=1)
    bundle_id: Sha256
    expires: Time
    keys: tuple[Sha256, ...]


class StoreState(_Record):
    """Contents of state.json.

    Attributes:
        version, bundle_id: the current release.
        latest_seen: the latest time this host has seen.
        accepted: the highest version for each set of keys; empty when it was written by a program
            that did not note keys (schema 1).
        latest: None where the releases came without one.
    """

    schema_version: int = Field(default=2, ge=1, le=2)
    channel: str
    version: int = Field(ge=1)
    bundle_id: Sha256
    latest_seen: Time
    accepted: tuple[Accepted, ...] = ()
    latest: SeenLatest | None = None


def installed(folder: Path, *, now: datetime | None = None) -> InstalledBundle | None:
    """The current bundle of this host, or None when none was installed. Changes nothing.

    `now` is an aware time for the warnings; the system's when not given.

    Raises StateError if state.json is damaged, BundleIntegrityError if the bundle it names is gone
    or its manifest was altered.
    """
    state = read_state(folder)
    if state is None:
        return None
    return load_bundle(folder, state, state.bundle_id, now=now or datetime.now(UTC))


def stored(folder: Path, bundle_id: str, *, now: datetime | None = None) -> InstalledBundle | None:
    """Any bundle of this host, also an older one; None when it is not there. Raises as `installed`."""
    state = read_state(folder)
    if state is None or bundle_id not in stored_ids(folder):
        return None
    return load_bundle(folder, state, bundle_id, now=now or datetime.now(UTC))


def stored_ids(folder: Path) -> list[str]:
    """Ids of all bundles on this host, sorted; whether they are intact, `stored` finds out."""
    path = folder / BUNDLES_FOLDER
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    return sorted(name for name in names if _BUNDLE_ID.fullmatch(name) is not None)


def load_bundle(
    folder: Path, state: StoreState, bundle_id: str, *, now: datetime
) -> InstalledBundle:
    """A bundle of this host, with warnings as of `now`. Raises as `installed`."""
    path = bundle_path(folder, bundle_id)
    manifest = read_manifest(path, bundle_id)
    warnings = _warnings(manifest, state, now)
    return InstalledBundle(bundle_id, manifest.version, path, manifest, warnings)


def read_checked(path: Path, manifest: Manifest, name: str) -> bytes:
    """One file of the bundle at `path`, checked against the signed length and hash as it is read.

    Raises BundleIntegrityError if it is gone, altered, or no regular file.
    """
    try:
        data = read_bounded(path / name, manifest.files[name].size)
    except OSError as error:
        raise BundleIntegrityError(
            f"installed bundle: {name}: {error.strerror}", hint="install the release again"
        ) from None
    check_hash(manifest, name, data)
    return data


def read_manifest(path: Path, bundle_id: str) -> Manifest:
    """Manifest of an installed bundle, which must still have the id it was installed under.

    Raises BundleIntegrityError if it is missing or altered.
    """
    where, again = f"installed bundle {bundle_id[:16]}", "install the release again"
    try:
        data = read_bounded(path / MANIFEST_NAME, DEFAULT_LIMITS.manifest_bytes)
    except OSError as error:
        raise BundleIntegrityError(
            f"{where}: {MANIFEST_NAME}: {error.strerror}", hint=again
        ) from None
    if content_id(data) != bundle_id:
        raise BundleIntegrityError(f"{where}: its manifest was altered", hint=again)
    return parse_manifest(data, DEFAULT_LIMITS)


def bundle_path(folder: Path, bundle_id: str) -> Path:
    """Folder of one installed bundle."""
    return folder / BUNDLES_FOLDER / bundle_id


def read_state(folder: Path) -> StoreState | None:
    """What this host remembers; None before the first installation.

    Raises StateError if it is damaged. To reset it would let an old release in.
    """
    try:
        data = read_bounded(folder / BUNDLES_FOLDER / STATE_NAME, _MAX_STATE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"bundles/{STATE_NAME}: {error.strerror}") from None
    try:
        canonical.decode(data, where=STATE_NAME)
        return StoreState.model_validate_json(data)
    except (BundleFormatError, ValidationError):
        raise StateError(
            f"bundles/{STATE_NAME}: damaged, expected what the updater wrote",
            hint="restore it from a backup; without it, protection against old releases is lost",
        ) from None


def write_state(folder: Path, state: StoreState) -> None:
    """Replace state.json; this is the moment at which an installation takes effect."""
    newest = state.model_copy(update={"schema_version": 2})
    data = canonical.encode(newest.model_dump(mode="json"))
    write_file(folder / BUNDLES_FOLDER / STATE_NAME, data)


def _warnings(manifest: Manifest, state: StoreState, now: datetime) -> tuple[BundleWarning, ...]:
    found = []
    if manifest.channel != OWN_CHANNEL:  # of which no publisher could have a newer one
        if now >= manifest.expires_at:
            found.append(BundleWarning.EXPIRED)
        elif state.latest is not None and now >= parse_time(state.latest.expires):
            found.append(BundleWarning.STALE)
    # Stored times have whole seconds; `now` must not lose to its own truncation.
    if format_time(now) < state.latest_seen:
        found.append(BundleWarning.CLOCK_BEFORE_LATEST)
    if format_time(now) < manifest.created:
        found.append(BundleWarning.CLOCK_BEFORE_CREATION)
    return tuple(found)
