"""Publish a release: freeze its files, give them the next version, sign, and put them in place.

Layout of a release folder:

    v00000001/  manifest.json, signatures.json and the files; one folder a version, never changed
    latest.json says, signed, which version is the newest; written last, signed again in time

Killed at any moment and called again with the same content, `publish` ends in the same state.
Source: docs/security.md 2 ("Bundle"), docs/bundle-format.md section 8.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proper_model.bundle.folder_names import (
    LATEST_NAME,
    MAX_LATEST_BYTES,
    PUBLIC_NAME,
    version_folder,
)
from proper_model.bundle.latest import Latest, Pointer, parse_latest, sign_latest
from proper_model.bundle.limits import DEFAULT_LIMITS
from proper_model.bundle.manifest import MANIFEST_NAME, SIGNATURES_NAME, BaseReference
from proper_model.bundle.signed_bundle import BundleFiles, BundleInfo, build_bundle, verify_bundle
from proper_model.bundle.signed_time import LATEST_DAYS, MAX_LATEST_DAYS, MAX_RELEASE_DAYS
from proper_model.bundle.trusted_root import DEFAULT_CHANNEL, TrustedRoot
from proper_model.errors import BundleError, ConfigError
from proper_model.storage.durable import locked, move_folder, remove_folder, write_file
from proper_model.storage.files import make_private_folder, read_bounded, storage_errors

_VERSION_FOLDER = re.compile(r"v([0-9]{8,16})")
_STAGING_PREFIX = ".staging-"
LOCK_TIMEOUT_S = 600.0  # for another publisher to end
_MAX_STEP = 1_000_000  # from one version to the next; nobody publishes that often


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
    latest_keys: Sequence[Ed25519PrivateKey] | None = None,
    latest_days: int = LATEST_DAYS,
    renew: bool = False,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> PublishedBundle:
    """Sign these files as the next version, or return the newest one if it already is that.

    Args:
        files: content by name, as `proper_model.release.contents.release_to_files` makes it.
        folder: the release folder; created when missing.
        keys: every one of them signs the release.
        created: aware time of this release.
        valid_for_days: devices refuse to install it later than this; at most `MAX_RELEASE_DAYS`.
        base: where the base comes from; None when `files` embeds it.
        channel: the population it is for.
        latest_keys: every one of them signs latest.json; those of the release when not given.
        latest_days: devices take latest.json to be out of date after this; at most
            `MAX_LATEST_DAYS`. It is signed again when half of this has passed.
        renew: give unchanged content a new version too, before its expiry comes near.

    Raises:
        ConfigError: a setting is out of range, or another process publishes.
        BundleError: the content is something a device would refuse.
    """
    # Late: `keys` and `root` need no torch.
    from proper_model.checks import check_files, check_training

    _check_days("publish: valid_for_days", valid_for_days, MAX_RELEASE_DAYS)
    pointer = _LatestSigner(channel, latest_keys or keys, created, latest_days)
    with _publishing(folder, lock_timeout_s):
        newest = _newest_version(folder)
        unchanged = None
        if not renew:
            unchanged = _unchanged(files, folder, newest, keys, created, base, channel)
        if unchanged is not None:
            pointer.write(folder, unchanged)
            return unchanged
        # What a device would refuse to use is not signed.
        check_training(check_files(files, base).recipe)
        expires = created + timedelta(days=valid_for_days)
        info = BundleInfo(newest + 1, created, expires, base, channel)
        published = _place(build_bundle(files, info, keys), folder, info.version)
        pointer.write(folder, published)
        return published


def renew_latest(
    folder: Path,
    newest: PublishedBundle,
    keys: Sequence[Ed25519PrivateKey],
    *,
    now: datetime,
    channel: str = DEFAULT_CHANNEL,
    days: int = LATEST_DAYS,
) -> Latest:
    """Sign again, whatever there is, that `newest` is the newest release of the folder.

    Raises:
        ConfigError: the folder holds a newer one, or as `publish`.
        BundleError: a device would refuse the new latest.json.
    """
    pointer = _LatestSigner(channel, keys, now, days)
    with _publishing(folder):
        above = _versions(folder)[-1]
        if above > newest.version:
            raise ConfigError(
                f"{folder}: {version_folder(above)} is newer than release {newest.version}",
                hint="remove what you did not sign; what was left half published, publish again",
            )
        return pointer.write(folder, newest, again=True)


def _check_days(what: str, days: int, most: int) -> None:
    """Raises ConfigError unless `days` is within 1 and `most`."""
    if not 1 <= days <= most:
        raise ConfigError(f"{what} {days}, expected 1 to {most}")


def latest(folder: Path) -> PublishedBundle | None:
    """What latest.json calls the newest release, unverified; None when nothing was published yet.

    Raises:
        BundleFormatError: latest.json is damaged.
    """
    found = read_latest(folder)
    if found is None:
        return None
    path = folder / version_folder(found.version)
    return PublishedBundle(found.bundle_id, path, found.version)


def open_to_readers(folder: Path) -> None:
    """Let every account read what devices fetch: a web server is seldom the account that signs.

    The folder itself only where it holds nothing else, and keys never. Raises StorageError.
    """
    with storage_errors(folder):
        entries = list(folder.iterdir())
        public = [path for path in entries if PUBLIC_NAME.fullmatch(path.name)]
        below = [path for entry in public if entry.is_dir() for path in entry.rglob("*")]
        rest = [p for p in entries if p not in public and p.name != ".lock"]
        for path in (*below, *public, *(() if rest else (folder,))):
            mode = path.lstat().st_mode
            wanted = mode | (0o755 if stat.S_ISDIR(mode) else 0o644)
            if wanted != mode and not stat.S_ISLNK(mode):
                path.chmod(stat.S_IMODE(wanted))


def _unchanged(
    files: Mapping[str, bytes],
    folder: Path,
    version: int,
    keys: Sequence[Ed25519PrivateKey],
    now: datetime,
    base: BaseReference | None,
    channel: str,
) -> PublishedBundle | None:
    """The newest version, if it is intact, unexpired, signed by all keys, and holds these files."""
    path = folder / version_folder(version)
    root = TrustedRoot.of(keys, threshold=len(keys), channel=channel)
    try:
        bundle = verify_bundle(
            read_bounded(path / MANIFEST_NAME, DEFAULT_LIMITS.manifest_bytes),
            read_bounded(path / SIGNATURES_NAME, DEFAULT_LIMITS.signature_bytes),
            lambda name, size: read_bounded(path / name, size),
            root,
            now=now,
        )
    except (OSError, BundleError):
        # Missing, damaged, expired or signed by other keys: a new version replaces it.
        return None
    found = (bundle.version, bundle.manifest.base_reference, bundle.files)
    if found != (version, base, dict(files)):
        return None
    return PublishedBundle(bundle.bundle_id, path, version)


def _place(bundle: BundleFiles, folder: Path, version: int) -> PublishedBundle:
    staging = folder / f"{_STAGING_PREFIX}{version}"
    for name, data in bundle.all_files().items():
        write_file(staging / name, data)
    target = folder / version_folder(version)
    move_folder(staging, target)
    return PublishedBundle(bundle.bundle_id, target, version)


def _newest_version(folder: Path) -> int:
    """0 before the first release. Also counts a version whose folder was since removed.

    Nothing here is verified, as it may be by keys that were changed. A number out of any order would
    be signed and end the population, so it is refused. Raises ConfigError.
    """
    recorded = read_latest(folder)
    versions = sorted({*_versions(folder), recorded.version if recorded else 0})
    for version, following in pairwise(versions):
        if following - version > _MAX_STEP:
            raise ConfigError(
                f"{folder}: says that there is a version {following}, after {version}",
                hint="remove folders and a latest.json that you did not sign",
            )
    return versions[-1]


def _versions(folder: Path) -> list[int]:
    """0, and the versions that have a folder, in order."""
    matches = (_VERSION_FOLDER.fullmatch(path.name) for path in folder.iterdir())
    return sorted([0, *(int(match[1]) for match in matches if match is not None)])


def read_latest(folder: Path) -> Pointer | None:
    """latest.json of a release folder, unverified; None if there is none. Raises as `parse_latest`."""
    try:
        data = read_bounded(folder / LATEST_NAME, MAX_LATEST_BYTES)
    except FileNotFoundError:
        return None
    return parse_latest(data)


@dataclass(frozen=True)
class _LatestSigner:
    """How latest.json is signed: for which population, by which keys, when, for how long."""

    channel: str
    keys: Sequence[Ed25519PrivateKey]
    now: datetime
    days: int

    def __post_init__(self) -> None:
        _check_days("latest.json: days", self.days, MAX_LATEST_DAYS)

    def write(self, folder: Path, newest: PublishedBundle, *, again: bool = False) -> Latest:
        """Sign that this is the newest release, unless latest.json says so and is still fresh."""
        before = self._mine(folder)
        if before is not None and not again and self._fresh(before, newest):
            return before
        # Seconds, so that numbers go on growing also where latest.json was lost.
        number = max(before.number + 1 if before else 1, int(self.now.timestamp()))
        expires = self.now + timedelta(days=self.days)
        newer = Latest(self.channel, number, newest.version, newest.bundle_id, self.now, expires)
        write_file(folder / LATEST_NAME, sign_latest(newer, self.keys))
        return newer

    def _mine(self, folder: Path) -> Latest | None:
        """The latest.json there is, if all these keys signed it; another's number is not counted on."""
        root = TrustedRoot.of(self.keys, threshold=len(self.keys), channel=self.channel)
        try:
            found = read_latest(folder)
            return found.verify(root, self.now)[0] if found is not None else None
        except BundleError:
            return None

    def _fresh(self, before: Latest, newest: PublishedBundle) -> bool:
        half = before.created + (before.expires - before.created) / 2
        same = (before.version, before.bundle_id) == (newest.version, newest.bundle_id)
        return same and self.now < half


@contextmanager
def _publishing(folder: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Let one process at a time change a release folder. Raises ConfigError."""
    make_private_folder(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / ".lock", timeout_s=timeout_s))
        except TimeoutError:
            raise ConfigError(
                f"publish: another process has been publishing for {timeout_s:g} s",
                hint="wait for it to finish, then call again",
            ) from None
        _clean(folder)
        yield


def _clean(folder: Path) -> None:
    """Remove what a publisher that was killed left behind."""
    for path in folder.iterdir():
        if path.name.startswith((_STAGING_PREFIX, f".{LATEST_NAME}.")):
            remove_folder(path)
