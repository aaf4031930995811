"""From a trained release to a signed one in the run's folder, and back to it after a restart."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.keys import load_key
from coordinator.release import PublishedBundle, latest, publish, reference_base
from proper_model.artifact import release_to_files
from proper_model.base_folder import base_folder, revision_of
from proper_model.durable import write_file
from proper_model.errors import ConfigError
from proper_model.recipe import BaseSource
from proper_model.release_folder import ROOT_NAME
from proper_model.release_names import BASE, CONFIG
from proper_model.runplan import RunPlan
from proper_model.trust import TrustedRoot, key_id, public_bytes

if TYPE_CHECKING:
    from proper_model.artifact import Release

KEY_SUFFIX = ".pem"


def publish_release(release: Release, plan: RunPlan) -> PublishedBundle:
    """Freeze, sign and store the release below `server/release`, with the root that devices trust.

    Raises ConfigError if the plan's root key is not among the run's keys, and a BundleError if
    the content is something a device would refuse.
    """
    keys = signing_keys(plan)
    if plan.embed_base:
        files, reference = release_to_files(release), None
    else:
        folder = base_folder(plan.base)
        revision = revision_of(folder)
        name = hub_name(plan.base)
        files = release_to_files(release, base=BaseSource(name, revision))
        reference = reference_base(folder, name, revision)
        # So that devices can check the release before they take it.
        files[BASE + CONFIG] = (folder / CONFIG).read_bytes()
    target = plan.server_folder / "release"
    # Beside the bundles, so that the folder is all that somebody else needs to follow them.
    write_file(target / ROOT_NAME, trusted_root(plan).to_bytes())
    return publish(
        files,
        target,
        keys,
        created=datetime.now(UTC),
        valid_for_days=plan.bundle_days,
        base=reference,
    )


def trusted_root(plan: RunPlan) -> TrustedRoot:
    """The root that the plan's devices pin."""
    public = bytes.fromhex(plan.root_public_key)
    return TrustedRoot({key_id(public): public})


def published(plan: RunPlan, bundle_id: str) -> PublishedBundle | None:
    """The release of an earlier start of this run, if it is still the newest one."""
    found = latest(plan.server_folder / "release")
    if found is None or found.bundle_id != bundle_id or not found.path.is_dir():
        return None
    return found


def signing_keys(plan: RunPlan) -> list[Ed25519PrivateKey]:
    """Every key in `server/keys`. Raises ConfigError unless devices of the plan trust one."""
    folder = plan.server_folder / "keys"
    keys = [load_key(path) for path in sorted(folder.glob(f"*{KEY_SUFFIX}"))]
    if plan.root_public_key not in {public_bytes(key).hex() for key in keys}:
        raise ConfigError(
            f"{folder}: none of its {len(keys)} keys is the one that the devices trust",
            hint="write the run's folder again with proper-sim prepare",
        )
    return keys


def hub_name(base: str) -> str:
    """The name a release gives the base: a hub id as it is, of a folder its last part.

    Where a folder lies on this machine is nobody else's business; a node knows its own.
    """
    folder = Path(base).expanduser()
    if not (folder.is_dir() or base.startswith(("/", ".", "~"))):
        return base
    folder = folder.resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        # A snapshot in the hub's cache, `models--OWNER--NAME/snapshots/COMMIT`.
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return folder.name
