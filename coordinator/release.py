"""Publish a release: freeze its files, give them the next version, sign, and put them in place.

Layout of a release folder:

    v00000001/  manifest.json, signatures.json and the files; one folder a version, never changed
    latest.json version and bundle id of the newest one; written last

Killed at any moment and called again with the same content, `publish` ends in the same state.
Source: SECURITY 2 ("Bundle"), docs/bundle-format.md section 8.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proper_model.bundle import (
    MANIFEST_NAME,
    SIGNATURES_NAME,
    BaseReference,
    BundleFiles,
    BundleInfo,
    build_bundle,
    verify_bundle,
)
from proper_model.durable import (
    locked,
    move_folder,
    remove_folder,
    write_file,
)
from proper_model.errors import BundleError, ConfigError
from proper_model.files import make_private_folder, read_bounded
from proper_model.limits import DEFAULT_LIMITS, Limits
from proper_model.release_folder import (
    LATEST_NAME,
    MAX_LATEST_BYTES,
    latest_to_bytes,
    parse_latest,
    version_folder,
)
from proper_model.release_names import is_base_file
from proper_model.trust import DEFAULT_CHANNEL, TrustedRoot

_VERSION_FOLDER = re.compile(r"v([0-9]{8,16})")
_STAGING_PREFIX = ".staging-"


@dataclass(frozen=True)
class PublishedBundle:
    """A bundle in a release folder; `path` is the folder that devices install from."""

    bundle_id: str
    path: Path
    version: int


def publish(
    files: Mapping[str, bytes],
    folder: Path,
    keys: Sequence[Ed25519PrivateKey],
    *,
    created: datetime,
    valid_for_days: int,
    base: BaseReference | None = None,
    channel: str = DEFAULT_CHANNEL,
    renew: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    lock_timeout_s: float = 600.0,
) -> PublishedBundle:
    """Sign these files as the next version, or return the newest one if it already is that.

    Args:
        files: content by name, as `proper_model.artifact.release_to_files` makes it.
        folder: the release folder; created when missing.
        keys: every one of them signs.
        created: aware time of this release.
        valid_for_days: devices refuse to install it later than this.
        base: where the base comes from; None when `files` embeds it.
        channel: the population it is for.
        renew: give unchanged content a new version too, before its expiry comes near.
        limits: devices are expected to have at least these.
        lock_timeout_s: how long to wait for another publisher.

    Raises:
        ConfigError: a setting is out of range, or another process publishes.
        BundleError: the content is something a device would refuse.
    """
    if valid_for_days < 1:
        raise ConfigError(f"publish: valid_for_days {valid_for_days}, expected at least 1")
    make_private_folder(folder)
    try:
        with locked(folder / ".lock", timeout_s=lock_timeout_s):
            _clean(folder)
            newest = _newest_version(folder)
            unchanged = _unchanged(files, folder, newest, keys, created, base, channel, limits)
            if unchanged is not None and not renew:
                _write_latest(folder, unchanged)
                return unchanged
            _check_usable(files, base, limits)
            expires = created + timedelta(days=valid_for_days)
            info = BundleInfo(newest + 1, created, expires, base, channel)
            bundle = build_bundle(files, info, keys, limits=limits)
            published = _place(bundle, folder, info.version)
            _write_latest(folder, published)
            return published
    except TimeoutError:
        raise ConfigError(
            f"publish: another process has been publishing for {lock_timeout_s:g} s",
            hint="wait for it to finish, then call again",
        ) from None


def latest(folder: Path) -> PublishedBundle | None:
    """The newest finished bundle of a release folder; None when nothing was published yet.

    Raises:
        BundleFormatError: latest.json is damaged.
    """
    found = _read_latest(folder)
    if found is None:
        return None
    version, bundle_id = found
    return PublishedBundle(bundle_id, _path(folder, version), version)


def reference_base(folder: Path, hub_id: str, revision: str) -> BaseReference:
    """Describe a local copy of a hub model by the sha256 of every file a device would load.

    Only files a device reads are listed, so pickled weights, adapters and code are left out.

    Raises:
        ConfigError: the folder has no safetensors weights.
    """
    hashes = {}
    for path in sorted(folder.iterdir()):
        if is_base_file(path.name) and path.is_file():
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    if not any(name.endswith(".safetensors") for name in hashes):
        raise ConfigError(
            f"base {hub_id}: its folder holds no safetensors weights",
            hint="bases that exist only as pickled weights are not supported",
        )
    return BaseReference(hub_id, revision, hashes)


def _check_usable(files: Mapping[str, bytes], base: BaseReference | None, limits: Limits) -> None:
    """Refuse before signing what a device would refuse to use. Raises BundleError."""
    from proper_model.release_check import check_files

    check_files(files, base, limits=limits)


def _unchanged(
    files: Mapping[str, bytes],
    folder: Path,
    version: int,
    keys: Sequence[Ed25519PrivateKey],
    now: datetime,
    base: BaseReference | None,
    channel: str,
    limits: Limits,
) -> PublishedBundle | None:
    """The newest version, if it is intact, unexpired, signed by all keys, and holds these files."""
    path = _path(folder, version)
    root = TrustedRoot.of(keys, threshold=len(keys), channel=channel)
    try:
        manifest = read_bounded(path / MANIFEST_NAME, limits.manifest_bytes)
        signatures = read_bounded(path / SIGNATURES_NAME, limits.signature_bytes)
        bundle = verify_bundle(
            manifest,
            signatures,
            lambda name, size: read_bounded(path / name, size),
            root,
            now=now,
            limits=limits,
        )
    except (OSError, BundleError):
        # Missing, damaged, expired or signed by other keys: a new version replaces it.
        return None
    if bundle.version != version or bundle.manifest.base_reference != base:
        return None
    if bundle.files != dict(files):
        return None
    return PublishedBundle(bundle.bundle_id, path, version)


def _place(bundle: BundleFiles, folder: Path, version: int) -> PublishedBundle:
    staging = folder / f"{_STAGING_PREFIX}{version}"
    for name, data in bundle.all_files().items():
        write_file(staging / name, data)
    target = _path(folder, version)
    move_folder(staging, target)
    return PublishedBundle(bundle.bundle_id, target, version)


def _newest_version(folder: Path) -> int:
    """0 before the first release. Also counts a version whose folder was since removed."""
    matches = (_VERSION_FOLDER.fullmatch(path.name) for path in folder.iterdir())
    versions = [int(match[1]) for match in matches if match is not None]
    recorded = _read_latest(folder)
    return max([0, *versions, *([recorded[0]] if recorded else [])])


def _path(folder: Path, version: int) -> Path:
    return folder / version_folder(version)


def _read_latest(folder: Path) -> tuple[int, str] | None:
    try:
        data = read_bounded(folder / LATEST_NAME, MAX_LATEST_BYTES)
    except FileNotFoundError:
        return None
    return parse_latest(data)


def _write_latest(folder: Path, published: PublishedBundle) -> None:
    data = latest_to_bytes(published.version, published.bundle_id)
    path = folder / LATEST_NAME
    if not path.is_file() or path.read_bytes() != data:
        write_file(path, data)


def _clean(folder: Path) -> None:
    """Remove what a publisher that was killed left behind."""
    for path in folder.iterdir():
        if path.name.startswith((_STAGING_PREFIX, f".{LATEST_NAME}.")):
            remove_folder(path)
