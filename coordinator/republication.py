"""Publish a finished release of a run to devices: the same files, signed by the population's keys.

A run signs with keys of its own, unencrypted on the training machine. For real devices its release is
copied into a folder of its own, whose root.json says who may sign. Everything that a device would
refuse is refused here first. Source: docs/releases.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.consents import Consents, content_of, says_recorded
from coordinator.publish import PublishedBundle, latest, publish, read_latest, renew_latest
from coordinator.root_ceremony import read_root
from proper_model.bundle.content_policy import check_file
from proper_model.bundle.file_names import RECIPE
from proper_model.bundle.folder_names import version_folder
from proper_model.bundle.latest import Latest
from proper_model.bundle.limits import DEFAULT_LIMITS
from proper_model.bundle.manifest import (
    MANIFEST_NAME,
    SIGNATURES_NAME,
    BaseReference,
    parse_manifest,
)
from proper_model.bundle.public_keys import key_id, public_bytes
from proper_model.bundle.signed_bundle import verify_manifest
from proper_model.bundle.signed_time import LATEST_DAYS
from proper_model.bundle.trusted_root import LATEST, RELEASE, TrustedRoot
from proper_model.errors import (
    BundleFormatError,
    BundleIntegrityError,
    BundleSignatureError,
    ConfigError,
)
from proper_model.storage.files import read_bounded

RELEASE_DAYS = 365


def republish(
    source: Path,
    folder: Path,
    keys: Sequence[Ed25519PrivateKey],
    latest_keys: Sequence[Ed25519PrivateKey],
    *,
    now: datetime,
    days: int = RELEASE_DAYS,
    latest_days: int = LATEST_DAYS,
    consents: Consents | None = None,
) -> PublishedBundle:
    """Publish the files of `source`, a bundle or release folder, as the next version of `folder`.

    Args:
        consents: as they are now; needed for a release that was trained by recorded consents.

    Raises:
        ConfigError: no release there, no root.json in `folder`, keys that it does not list, somebody
            withdrew since it was trained, or it is not the consents' release.
        BundleError: one of its children if a file is not what its manifest says.
    """
    root = read_root(folder)
    root.check_current(now)
    check_role(root, RELEASE, keys)
    check_role(root, LATEST, latest_keys)
    files, base = _read_release(source)
    _check_consents(files, consents)
    return publish(
        files,
        folder,
        keys,
        created=now,
        valid_for_days=days,
        base=base,
        channel=root.channel,
        latest_keys=latest_keys,
        latest_days=latest_days,
        renew=True,
    )


def sign_latest_again(
    folder: Path,
    keys: Sequence[Ed25519PrivateKey],
    *,
    now: datetime,
    days: int = LATEST_DAYS,
    version: int | None = None,
) -> Latest:
    """Say once more, for `days`, which release of the folder is the newest.

    Args:
        version: of the newest release, where latest.json is lost or signed by keys that were changed.

    Raises:
        ConfigError: no root.json or no release there, keys that the root does not list, or nothing
            that can be trusted says which release it is.
        BundleError: one of its children if devices would refuse that release.
    """
    root = read_root(folder)
    root.check_current(now)
    check_role(root, LATEST, keys)
    if version is None:
        version = _announced(folder, root, now)
    path = folder / version_folder(version)
    manifest = _read(path, MANIFEST_NAME, DEFAULT_LIMITS.manifest_bytes)
    signatures = _read(path, SIGNATURES_NAME, DEFAULT_LIMITS.signature_bytes)
    release = verify_manifest(manifest, signatures, root, now=now)
    newest = PublishedBundle(release.bundle_id, path, release.manifest.version)
    if newest.version != version:
        raise BundleIntegrityError(f"{path.name}: holds version {newest.version}")
    return renew_latest(folder, newest, keys, now=now, channel=root.channel, days=days)


def _announced(folder: Path, root: TrustedRoot, now: datetime) -> int:
    """The version in latest.json. Whoever could change that file must not have it signed here."""
    found = read_latest(folder)
    if found is None:
        raise ConfigError(
            f"{folder}: no latest.json", hint="publish a release first, or give --version"
        )
    try:
        return found.verify(root, now)[0].version
    except BundleSignatureError as error:
        raise ConfigError(
            error.message,
            hint="if you changed its keys, give --version N; else somebody else wrote it",
        ) from None


def _check_consents(files: Mapping[str, bytes], consents: Consents | None) -> None:
    """Raise ConfigError unless everybody whose data the release has still agrees, where that is recorded."""
    from proper_model.release.recipe import parse_recipe  # late, as it needs torch

    if consents is None:
        if RECIPE in files and says_recorded(parse_recipe(files[RECIPE]).notes):
            raise ConfigError(
                "this release was trained by recorded consents; expected the file, to see who withdrew",
                hint="give --consents FILE",
            )
        return
    content = content_of({n: hashlib.sha256(data).hexdigest() for n, data in files.items()})
    training = next((one for one in consents.trainings if one.content == content), None)
    if training is None:
        raise ConfigError(
            "the consents say nothing of this release; expected one that was trained by them",
            hint="proper-sim run ... --consents FILE trains by them and notes the release there",
        )
    consents.check_standing(training.people, training.release, "this release")


def check_role(root: TrustedRoot, role: str, keys: Sequence[Ed25519PrivateKey]) -> None:
    """Raises ConfigError unless these keys are of the role, and enough."""
    listed = root.roles[role]
    names = {key_id(public_bytes(key)) for key in keys}
    for name in sorted(names - set(listed.keys)):
        raise ConfigError(
            f"key {name[:16]}: the root does not list it for the role {role}",
            hint="proper-coordinator root show says which keys it lists",
        )
    if len(names) < listed.threshold:
        raise ConfigError(
            f"role {role}: {len(names)} keys given, its threshold is {listed.threshold}",
            hint="give --key once for each key",
        )


def _read_release(source: Path) -> tuple[dict[str, bytes], BaseReference | None]:
    """Files and base of a bundle, or of the newest one of a release folder, each checked."""
    if not (source / MANIFEST_NAME).is_file():
        newest = latest(source) if source.is_dir() else None
        if newest is None:
            raise ConfigError(
                f"{source}: no release there, expected a folder with {MANIFEST_NAME} or latest.json",
                hint="a finished run keeps its release in OUT/server/release",
            )
        source = newest.path
    data = _read(source, MANIFEST_NAME, DEFAULT_LIMITS.manifest_bytes)
    manifest = parse_manifest(data, DEFAULT_LIMITS)
    files = {name: _read(source, name, entry.size) for name, entry in manifest.files.items()}
    for name, content in files.items():
        check_file(manifest, name, content)
    return files, manifest.base_reference


def _read(folder: Path, name: str, limit: int) -> bytes:
    try:
        return read_bounded(folder / name, limit)
    except OSError as error:
        raise BundleFormatError(f"{folder.name}: {name}: {error.strerror}") from None
