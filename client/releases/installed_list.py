"""`proper bundle list`: the releases on this device, and the removal of those no longer needed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from client.home import Home
from client.releases.bases import base_name
from client.releases.content import read_release
from client.releases.install import LOCK_TIMEOUT_S, exclusive
from client.releases.last_seen import signers
from client.releases.pinned_root import load_root
from client.releases.store import (
    BundleWarning,
    InstalledBundle,
    StoreState,
    bundle_path,
    load_bundle,
    read_state,
    stored_ids,
)
from proper_model.errors import BundleError, StateError
from proper_model.storage.durable import remove_folder
from proper_model.storage.files import storage_errors

DAMAGED = "damaged: add this release again"


@dataclass(frozen=True)
class BundleRow:
    """One release on this device.

    Of a damaged one only id, `current` and the warning are known: texts are empty, numbers 0.

    Attributes:
        created, expires: UTC, as in the manifest.
        task: name in task.toml.
        preset: name of the structure in recipe.json.
        base: `embedded`, or id and revision.
        size_bytes: of all its files.
        warnings: sentences.
    """

    bundle_id: str
    current: bool
    version: int = 0
    channel: str = ""
    created: str = ""
    expires: str = ""
    task: str = ""
    preset: str = ""
    base: str = ""
    size_bytes: int = 0
    warnings: tuple[str, ...] = (DAMAGED,)

    @property
    def short_id(self) -> str:
        """16 of the 64 hex digits."""
        return self.bundle_id[:16]


def list_bundles(home: Home, *, now: datetime | None = None) -> tuple[BundleRow, ...]:
    """All releases on this device, oldest version first. Changes nothing, needs no network.

    Manifests, task and recipe are checked, other files are not: that is what `verify_bundle` does.

    Raises StateError if the record of installed releases is damaged.
    """
    state = read_state(home.path)
    if state is None:
        return ()
    now = now or datetime.now(UTC)
    rows = [_row(home, state, bundle_id, now) for bundle_id in stored_ids(home.path)]
    if state.bundle_id not in {row.bundle_id for row in rows}:
        rows.append(BundleRow(state.bundle_id, current=True))
    return tuple(sorted(rows, key=lambda row: (row.version, row.bundle_id)))


def remove_old_bundles(home: Home, keep: Collection[str]) -> int:
    """Delete releases that are neither current nor in `keep` (whole ids); how many bytes went.

    Also what interrupted downloads and installations left. Adapters that were trained on a deleted
    release no longer work. Needs no lock of `home`, and may be called while holding it.

    Raises StorageError, BundleError if another process is installing, StateError.
    """
    state = read_state(home.path)
    if state is None:
        return 0
    freed = 0
    kept = {*keep, state.bundle_id}
    with exclusive(home.path, LOCK_TIMEOUT_S), storage_errors(home.path):
        old = [bundle_path(home.path, i) for i in stored_ids(home.path) if i not in kept]
        bundles = bundle_path(home.path, state.bundle_id).parent
        for path in (*old, *bundles.glob(".download-*"), *bundles.glob(".partial-*")):
            freed += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            remove_folder(path)
    return freed


def warnings_of(home: Home, bundle: InstalledBundle) -> tuple[str, ...]:
    """What a person should know about an installed release that works nevertheless.

    A pinned root that cannot be read is told by `proper bundle verify`, not here.
    """
    found = tuple(str(warning) for warning in bundle.warnings)
    if bundle.is_own:  # its key was thrown away, and its root may have been replaced
        return found
    try:
        root = load_root(home.root_file)
    except (BundleError, StateError):
        return found
    try:
        signers(bundle.path, root)
    except (BundleError, OSError):
        return (*found, str(BundleWarning.REVOKED))
    return found


def _row(home: Home, state: StoreState, bundle_id: str, now: datetime) -> BundleRow:
    current = bundle_id == state.bundle_id
    try:
        bundle = load_bundle(home.path, state, bundle_id, now=now)
        said = read_release(bundle)
    except BundleError:
        return BundleRow(bundle_id, current)
    manifest = bundle.manifest
    return BundleRow(
        bundle_id,
        current,
        version=bundle.version,
        channel=manifest.channel,
        created=manifest.created,
        expires=manifest.expires,
        task=said.task.name,
        preset=said.recipe.structure.name,
        base=base_name(bundle.manifest.base_reference),
        size_bytes=sum(entry.size for entry in manifest.files.values()),
        warnings=warnings_of(home, bundle),
    )
