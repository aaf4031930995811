"""A signed release: bytes in, bytes out. Written format: docs/bundle-format.md.

A bundle is `manifest.json`, `signatures.json` and the files the manifest lists. Nothing here reads
a disk, a clock or a network, so that every order of events can be tested; folders and downloads are
`coordinator/publish.py` and `client/releases/install.py`. Order of verification (section 4 of the
format): lengths, signatures over raw bytes, canonical form, product, schema, declared limits,
channel, version, times, tensor names; then file by file length, hash, content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proper_model.bundle.content_policy import check_declared, check_file
from proper_model.bundle.limits import DEFAULT_LIMITS, Limits
from proper_model.bundle.manifest import (
    FORMAT,
    MANIFEST_NAME,
    SIGNATURES_NAME,
    BaseReference,
    Manifest,
    build_manifest,
    check_limits,
    content_id,
    parse_manifest,
)
from proper_model.bundle.safe_tensors import read_table
from proper_model.bundle.signatures import MANIFEST_DOMAIN, PRODUCT, check_length, sign
from proper_model.bundle.signed_time import (
    MAX_RELEASE_DAYS,
    check_created,
    check_lifetime,
    format_time,
)
from proper_model.bundle.trusted_root import DEFAULT_CHANNEL, TrustedRoot
from proper_model.errors import BundleExpiredError, BundleFormatError, BundleRollbackError

FileReader = Callable[[str, int], bytes]
"""Gives the bytes of a named file. It may stop reading once it holds more than the given number."""


@dataclass(frozen=True)
class BundleInfo:
    """What the publisher decides about a release.

    Attributes:
        version: higher than every version released before in this channel.
        created, expires: aware times; a device installs it only before `expires`.
        base: where the base model comes from; None when its files are in the bundle.
        channel: the population it is for.
    """

    version: int
    created: datetime
    expires: datetime
    base: BaseReference | None = None
    channel: str = DEFAULT_CHANNEL


@dataclass(frozen=True)
class BundleFiles:
    """A finished bundle as bytes."""

    manifest_bytes: bytes
    signature_bytes: bytes
    files: Mapping[str, bytes]

    @property
    def bundle_id(self) -> str:
        return content_id(self.manifest_bytes)

    def all_files(self) -> dict[str, bytes]:
        """Every file of the bundle folder, manifest and signatures included."""
        return {
            MANIFEST_NAME: self.manifest_bytes,
            SIGNATURES_NAME: self.signature_bytes,
            **self.files,
        }


@dataclass(frozen=True)
class VerifiedManifest:
    """A manifest whose signatures, version and times were accepted; no file was looked at yet.

    `signed_by`: ids of the release keys that signed it.
    """

    bundle_id: str
    manifest: Manifest
    signed_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle of which every byte was accepted."""

    bundle_id: str
    version: int
    manifest: Manifest
    files: Mapping[str, bytes]


def build_bundle(
    files: Mapping[str, bytes],
    info: BundleInfo,
    keys: Sequence[Ed25519PrivateKey],
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> BundleFiles:
    """Sign a release. Everything a device would refuse is refused here already.

    Raises BundleFormatError: a file name, a tensor or a date a device would not accept;
    BundleLimitError: larger than `limits`; BundleSignatureError: no key; BundleTimeError: valid for
    longer than `MAX_RELEASE_DAYS`.
    """
    entries = {}
    for name, data in files.items():
        tensors = None
        if name.endswith(".safetensors"):
            table = read_table(data, limits, where=name)
            tensors = {t: {"dtype": s.dtype, "shape": list(s.shape)} for t, s in table.items()}
        digest = hashlib.sha256(data).hexdigest()
        entries[name] = {"size": len(data), "sha256": digest, "tensors": tensors}
    manifest = build_manifest(
        {
            "product": PRODUCT,
            "format": FORMAT,
            "channel": info.channel,
            "version": info.version,
            "created": format_time(info.created),
            "expires": format_time(info.expires),
            "base": _base_fields(info.base),
            "files": entries,
        }
    )
    check_lifetime(manifest.created_at, manifest.expires_at, MAX_RELEASE_DAYS, where=MANIFEST_NAME)
    check_limits(manifest, limits)
    check_declared(manifest)
    for name, data in files.items():
        check_file(manifest, name, data, limits=limits)
    manifest_bytes = manifest.to_bytes()
    check_length(manifest_bytes, limits.manifest_bytes, MANIFEST_NAME)
    signatures = sign(MANIFEST_DOMAIN, manifest_bytes, keys)
    check_length(signatures, limits.signature_bytes, SIGNATURES_NAME)
    return BundleFiles(manifest_bytes, signatures, dict(files))


def verify_manifest(
    manifest: bytes,
    signatures: bytes,
    root: TrustedRoot,
    *,
    now: datetime,
    highest_version: int = 0,
    highest_id: str | None = None,
    installed_id: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> VerifiedManifest:
    """Decide from manifest and signatures alone whether this release may be fetched.

    Args:
        now: aware time, taken once for the whole update, against which all times are judged.
        highest_version: the highest version this device accepted by keys it still trusts; 0 for
            none.
        highest_id: bundle id of that version. The same version is accepted again only with it.
        installed_id: bundle id of what is installed already; its times are not judged again.

    Raises BundleError: one of its children, as section 7 of the format lists them.
    """
    check_length(manifest, limits.manifest_bytes, MANIFEST_NAME)
    check_length(signatures, limits.signature_bytes, SIGNATURES_NAME)
    signed_by = root.verify(MANIFEST_DOMAIN, manifest, signatures, where=MANIFEST_NAME)
    parsed = parse_manifest(manifest, limits)
    bundle_id = content_id(manifest)
    root.check_channel(parsed.channel, "bundle")
    if parsed.version < highest_version:
        raise BundleRollbackError(
            f"bundle: version {parsed.version}, this device already accepted {highest_version}",
            hint="ask the publisher for the newest release",
        )
    if parsed.version == highest_version and highest_id not in {None, bundle_id}:
        raise BundleRollbackError(
            f"bundle: a second bundle with version {parsed.version}, expected a higher version",
            hint="the publisher must give every release its own version",
        )
    if bundle_id != installed_id:
        _check_times(parsed, root, now)
    check_declared(parsed)
    return VerifiedManifest(bundle_id, parsed, signed_by)


def verify_bundle(
    manifest: bytes,
    signatures: bytes,
    files: Mapping[str, bytes] | FileReader,
    root: TrustedRoot,
    *,
    now: datetime,
    highest_version: int = 0,
    highest_id: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> VerifiedBundle:
    """Accept a whole bundle or raise; the other arguments are those of `verify_manifest`.

    `files` holds exactly the listed files by name, or is a reader that is called once a file, in
    manifest order.

    Raises BundleError: one of its children, as section 7 of the format lists them.
    """
    accepted = verify_manifest(
        manifest,
        signatures,
        root,
        now=now,
        highest_version=highest_version,
        highest_id=highest_id,
        limits=limits,
    )
    listed = accepted.manifest.files
    if isinstance(files, Mapping) and set(files) != set(listed):
        missing, extra = len(set(listed) - set(files)), len(set(files) - set(listed))
        raise BundleFormatError(
            f"bundle: {missing} listed files missing, {extra} files that are not listed"
        )
    contents = {}
    for name, entry in listed.items():
        data = files[name] if isinstance(files, Mapping) else files(name, entry.size)
        check_file(accepted.manifest, name, data, limits=limits)
        contents[name] = data
    return VerifiedBundle(
        accepted.bundle_id, accepted.manifest.version, accepted.manifest, contents
    )


def _check_times(manifest: Manifest, root: TrustedRoot, now: datetime) -> None:
    """Raises BundleExpiredError or BundleTimeError."""
    root.check_current(now)
    if now >= manifest.expires_at:
        raise BundleExpiredError(
            f"bundle: expired at {manifest.expires}",
            hint="ask the publisher for the newest release, and check this device's clock",
        )
    check_created(manifest.created_at, now, where="bundle")
    check_lifetime(manifest.created_at, manifest.expires_at, MAX_RELEASE_DAYS, where="bundle")


def _base_fields(base: BaseReference | None) -> dict[str, object]:
    if base is None:
        return {"kind": "embedded"}
    return {"kind": "hub", **vars(base), "files": dict(base.files)}
