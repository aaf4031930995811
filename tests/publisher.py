"""A publisher with keys for each role, and what a thief of some of them can sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.publish import publish
from proper_model.bundle.latest import Latest, sign_latest
from proper_model.bundle.signatures import ROOT_DOMAIN, sign
from proper_model.bundle.signed_bundle import BundleFiles
from proper_model.bundle.trusted_root import LATEST, RELEASE, ROOT, TrustedRoot
from tests.bundle_samples import (
    CREATED,
    LIFETIME,
    fixed_key,
    sample_bundle,
    sample_files,
    write_files,
)

ROOT_KEYS = tuple(fixed_key(number) for number in (11, 12, 13))
RELEASE_KEY, NEW_RELEASE_KEY = fixed_key(21), fixed_key(22)
LATEST_KEY, NEW_LATEST_KEY = fixed_key(31), fixed_key(32)
THIEF = fixed_key(41)
LARGEST = 2**53 - 1
YEAR = timedelta(days=365)

Keys = Sequence[Ed25519PrivateKey]


def roles_root(
    version: int = 1,
    *,
    root: Keys = ROOT_KEYS,
    threshold: int = 2,
    release: Keys = (RELEASE_KEY,),
    release_threshold: int = 1,
    latest: Keys = (LATEST_KEY,),
    created: datetime = CREATED,
    expires: datetime = CREATED + 2 * YEAR,
    channel: str = "default",
) -> TrustedRoot:
    roles = {
        ROOT: (root, threshold),
        RELEASE: (release, release_threshold),
        LATEST: (latest, 1),
    }
    return TrustedRoot.with_roles(
        roles, created=created, expires=expires, version=version, channel=channel
    )


def signed_root(root: TrustedRoot, keys: Keys = ROOT_KEYS[:2]) -> tuple[bytes, bytes]:
    return root.to_bytes(), sign(ROOT_DOMAIN, root.to_bytes(), keys)


def word(
    bundle: BundleFiles,
    version: int,
    number: int,
    *,
    keys: Keys = (LATEST_KEY,),
    created: datetime = CREATED,
    days: int = 30,
    channel: str = "default",
) -> bytes:
    """latest.json."""
    latest = Latest(
        channel, number, version, bundle.bundle_id, created, created + timedelta(days=days)
    )
    return sign_latest(latest, keys)


def bundle(
    version: int, *, keys: Keys = (RELEASE_KEY,), seed: int | None = None, **changes
) -> BundleFiles:
    """A release that differs from others by its seed alone."""
    files = sample_files(seed=version % 1000 if seed is None else seed)
    return sample_bundle(version, files=files, keys=keys, **changes)


@dataclass
class Publisher:
    """A release folder whose root, keys and time can change."""

    folder: Path
    release: Keys = (RELEASE_KEY,)
    latest: Keys = (LATEST_KEY,)
    created: datetime = CREATED
    _seed: int = field(default=0)

    def __post_init__(self) -> None:
        self.place_root(roles_root())

    def place_root(
        self, root: TrustedRoot, keys: Keys = ROOT_KEYS[:2], *, name: str = "root"
    ) -> None:
        data, signatures = signed_root(root, keys)
        self.folder.mkdir(exist_ok=True)
        (self.folder / f"{name}.json").write_bytes(data)
        (self.folder / f"{name}.signatures.json").write_bytes(signatures)

    def publish(self) -> int:
        """The next version, with new content."""
        self._seed += 1
        published = publish(
            sample_files(seed=self._seed),
            self.folder,
            self.release,
            created=self.created,
            valid_for_days=LIFETIME.days,
            latest_keys=self.latest,
        )
        return published.version

    def put(self, files: BundleFiles, version: int, latest: bytes) -> None:
        """Whatever somebody has signed."""
        write_files(self.folder / f"v{version:08d}", files.all_files())
        (self.folder / "latest.json").write_bytes(latest)
