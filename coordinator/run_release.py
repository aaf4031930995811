"""A run's own release: from what was trained to a signed bundle in the run's folder, and back to it.

A restart finds the bundle that an earlier start published, and does not sign another.
"""

from __future__ import annotations

from datetime import UTC, datetime

from coordinator.publish import PublishedBundle, latest, publish
from coordinator.run_keys import signing_keys, trusted_root
from proper_model.base.folder import base_folder, file_hashes, revision_of
from proper_model.base.reference import hub_name, reference_base
from proper_model.bundle.file_names import BASE, CONFIG
from proper_model.bundle.folder_names import ROOT_NAME
from proper_model.bundle.signed_time import MAX_LATEST_DAYS
from proper_model.federation.run_plan import RunPlan
from proper_model.release.contents import Release, release_to_files
from proper_model.release.recipe import BaseSource
from proper_model.storage.durable import write_file


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
        hashes = file_hashes(folder)
        revision = revision_of(folder, hashes)
        name = hub_name(plan.base)
        files = release_to_files(release, base=BaseSource(name, revision))
        reference = reference_base(folder, name, revision, hashes)
        # So that devices can check the release before they take it.
        files[BASE + CONFIG] = (folder / CONFIG).read_bytes()
    target = plan.server_folder / "release"
    # Beside the bundles, so that the folder is all that somebody else needs to follow them. A newer
    # root, to which somebody rotated since, stays.
    if not (target / ROOT_NAME).exists():
        write_file(target / ROOT_NAME, trusted_root(plan).to_bytes())
    return publish(
        files,
        target,
        keys,
        created=datetime.now(UTC),
        valid_for_days=plan.bundle_days,
        latest_days=MAX_LATEST_DAYS,  # nobody signs it again for a run
        base=reference,
    )


def published(plan: RunPlan, bundle_id: str) -> PublishedBundle | None:
    """The release of an earlier start of this run, if it is still the newest one."""
    found = latest(plan.server_folder / "release")
    if found is None or found.bundle_id != bundle_id or not found.path.is_dir():
        return None
    return found
