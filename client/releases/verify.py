"""`proper bundle verify`: every check of an installation, and of the base, but no installation."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.home import Home
from client.releases.bases import base_name, check_base_files, read_config
from client.releases.install import decide
from client.releases.last_seen import UNANNOUNCED, news, signers
from client.releases.pinned_root import Trust, check_same, decide_trust, load_root
from client.releases.place import ReleasePlace, check_listing, fetch_from, is_address, opened
from client.releases.store import (
    BUNDLES_FOLDER,
    INSTALL_FIRST,
    BundleWarning,
    InstalledBundle,
    installed,
    read_state,
)
from proper_model.bundle.content_policy import check_file, check_hash
from proper_model.bundle.manifest import Manifest
from proper_model.errors import BaseModelError, BundleSignatureError, NotInstalledError
from proper_model.progress import Progress, silent
from proper_model.release.privacy_note import privacy_sentence
from proper_model.settings import presets

CHECKING = "checking the release"
CHECKING_BASE = "checking the base"


@dataclass(frozen=True)
class Verified:
    """A release that passed every check.

    Attributes:
        relation: to what is installed: `installed`, `newer`, or `first` where nothing is.
        size_bytes: of all its files.
        base: `embedded`, or the id and revision of the one it refers to.
        base_checked: whether every file of the base was checked; False if it is not here.
        warnings: about expiry and the clock, of the installed release.
        notes: sentences for the person, on keys and base.
    """

    bundle_id: str
    manifest: Manifest
    relation: str
    size_bytes: int
    base: str
    base_checked: bool
    warnings: tuple[BundleWarning, ...]
    notes: tuple[str, ...]


def verify_bundle(
    home: Home,
    source: str | None = None,
    *,
    root: Path | None = None,
    base: str | None = None,
    progress: Progress = silent,
    now: datetime | None = None,
) -> Verified:
    """Check every byte of a release, or of the installed one, without installing anything.

    The installed one may have expired, with a warning; any other must be one that `add_bundle`
    would take. Arguments and errors are those of `add_bundle`.

    Raises also NotInstalledError if `source` is None and nothing is installed.
    """
    now = now or datetime.now(UTC)
    if source is None:
        bundle = installed(home.path, now=now)
        if bundle is None:
            raise NotInstalledError("no release is installed", hint=INSTALL_FIRST)
        if root is not None:
            check_same(load_root(home.root_file), load_root(root))
        trust = Trust(load_root(home.root_file), pinned=True, notes=())
        _check_still_trusted(bundle, trust)
        place = ReleasePlace(bundle.path, lambda _name, _size: None, UNANNOUNCED)
        return _verified(home, place, trust, base, bundle.warnings, progress, now)
    with ExitStack() as stack:
        if is_address(source):
            stack.enter_context(home.working())
        place = stack.enter_context(opened(home, source, progress))
        trust = decide_trust(home, place, root)
        return _verified(home, place, trust, base, (), progress, now)


def _check_still_trusted(bundle: InstalledBundle, trust: Trust) -> None:
    """Raises BundleSignatureError if the keys that signed what is installed were taken away."""
    try:
        signers(bundle.path, trust.root)
    except BundleSignatureError as error:
        if bundle.is_own:
            raise BundleSignatureError(
                f"{bundle.called}: {error.message}",
                hint="its root.json is not the one it was made with: proper start again, with the same base "
                "and task; your adapter stays",
            ) from None
        raise BundleSignatureError(
            f"installed release {bundle.version}: {error.message}",
            hint="the publisher may have revoked a stolen key: this release keeps working, but "
            "install the newest one with proper bundle add",
        ) from None
    except OSError:
        return  # what is missing is told below


def _verified(
    home: Home,
    place: ReleasePlace,
    trust: Trust,
    base: str | None,
    warnings: tuple[BundleWarning, ...],
    progress: Progress,
    now: datetime,
) -> Verified:
    from proper_model.checks import check_installable

    state, source = read_state(home.path), place.bundle
    decision = decide(home.path, source, trust.root, found=place.found, now=now)
    accepted, manifest = decision.release, decision.release.manifest
    check_listing(source, manifest.files)
    for done, (name, entry) in enumerate(manifest.files.items()):
        progress(CHECKING, done, len(manifest.files))
        check_file(manifest, name, fetch_from(source, name, entry.size))

    def read(name: str) -> bytes:
        data = fetch_from(source, name, manifest.files[name].size)
        check_hash(manifest, name, data)
        return data

    # A folder that a person names may be another account's, and change while it is read.
    bundles = home.path / BUNDLES_FOLDER
    private = source if isinstance(source, Path) and source.parent == bundles else None
    notes, config, reference = list(trust.notes), None, manifest.base_reference
    notes += news(manifest.version, decision.latest, trust.root)
    if reference is not None:
        progress(CHECKING_BASE, 0, 0)
        try:
            config = read_config(reference, check_base_files(home, reference, base))
        except BaseModelError as error:
            notes.append(f"{error.message}: {error.hint}")
    content = check_installable(manifest, read, config=config, private=private)
    if content.recipe.structure.population_only:
        notes.append(presets.POPULATION_ONLY_NOTE)
    if (said := privacy_sentence(content.recipe.notes)) is not None:
        notes.append(said)
    is_current = state is not None and state.bundle_id == accepted.bundle_id
    return Verified(
        bundle_id=accepted.bundle_id,
        manifest=manifest,
        relation="installed" if is_current else "first" if state is None else "newer",
        size_bytes=sum(entry.size for entry in manifest.files.values()),
        base=base_name(reference),
        base_checked=reference is None or config is not None,
        warnings=warnings,
        notes=tuple(notes),
    )
