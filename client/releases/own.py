"""`proper start`: a release of one's own, over any base, for a person whom no coordinator serves.

    base (checked, hashed) -> files without people -> signed by a new key -> installed

The key lives in this process's memory and nowhere else: what is not kept cannot be stolen, and nobody, its
maker included, can sign a second release that this device would take for the first. A next one gets a key and
a root of its own, which is why such a root (`TrustedRoot.is_own`) gives way to any other
(`client.releases.pinned_root`), also to a publisher's. Source: docs/bases.md, docs/bundle-format.md 3.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.home import Home
from client.releases.bases import check_listing, read_config, remember_base
from client.releases.install import LOCK_TIMEOUT_S, install
from client.releases.pinned_root import load_root, pinning
from client.releases.store import (
    InstalledBundle,
    StoreState,
    bundle_path,
    installed,
    read_manifest,
    read_state,
    stored_ids,
)
from client.releases.verify import CHECKING_BASE
from proper_model.base.folder import file_hashes, revision_of
from proper_model.base.reference import hub_name, reference_base
from proper_model.bundle.folder_names import ROOT_NAME, version_folder
from proper_model.bundle.limits import DEFAULT_LIMITS
from proper_model.bundle.manifest import MANIFEST_NAME, SIGNATURES_NAME, BaseReference
from proper_model.bundle.signed_bundle import BundleInfo, build_bundle
from proper_model.bundle.signed_time import MAX_RELEASE_DAYS
from proper_model.bundle.trusted_root import OWN_CHANNEL, TrustedRoot
from proper_model.errors import BundleError, ConfigError, StateError, StorageError
from proper_model.progress import Progress, silent
from proper_model.settings import StageSettings, load_profile
from proper_model.storage.canonical import MAX_INTEGER
from proper_model.storage.files import read_bounded, storage_errors
from proper_model.storage.new_folder import check_new, new_folder
from proper_model.tasks import Task

if TYPE_CHECKING:
    from proper_model.checks import FoundBase

SMALL_BASE_NUMBERS = 50_000_000
SMALL_PROFILE, USUAL_PROFILE = "own-tiny", "own"
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_NAME = 96  # characters of one part of a base's name, as manifests take it


@dataclass(frozen=True)
class Started:
    """What was made.

    Attributes:
        changed: False where the very same release was installed already.
    """

    bundle: InstalledBundle
    changed: bool


def start_release(
    home: Home,
    folder: Path,
    task: Task,
    settings: StageSettings,
    *,
    out: Path | None = None,
    progress: Progress = silent,
    now: datetime | None = None,
) -> Started:
    """Make a release over the base in `folder` that nobody was pooled for, sign it, install it.

    Holds `home` for as long as it takes, so call it without holding it. The base stays where it is; its
    folder is remembered.

    Args:
        settings: how private LoRAs are trained, of which `usual_settings` are one choice.
        out: a folder for a copy of the release with its root, for other devices of the same person.
        now: aware time; the system's when not given.

    Raises:
        ConfigError: the home follows a publisher.
        BaseModelError: the base is none, or cannot be used; nothing changed.
        BundleError: its content is something that a device refuses; nothing changed.
        StorageError, BusyError: as `add_bundle`, or there is something at `out`.
    """
    from proper_model.checks import check_base
    from proper_model.release.untrained import untrained_settings

    now = now or datetime.now(UTC)
    check_no_publisher(home)
    if out is not None:
        check_out(home, out)
    progress(CHECKING_BASE, 0, 0)
    settings = untrained_settings(settings)
    base = check_base(str(folder), settings, embedded=False)
    hashes = file_hashes(folder, lambda done, total: progress(CHECKING_BASE, done, total))
    revision = revision_of(folder.resolve(), hashes)
    reference = reference_base(folder, public_name(folder), revision, hashes)
    with home.working():
        state = check_no_publisher(home)
        reference = _called_as_before(home, state, reference)
        check_listing(reference, folder)
        remember_base(home, reference, folder.absolute())
        files = _files(base, folder, task, settings, reference)
        same = _installed_alike(home, files, reference, now)
        if same is not None and out is not None and now >= same.manifest.expires_at:
            same = None  # here it goes on, but no other device would take a copy
        bundle = same or _sign_and_install(home, files, reference, state, now)
        if out is not None:
            _copy(home, bundle, out)
    return Started(bundle, same is None)


def check_no_publisher(home: Home) -> StoreState | None:
    """What the home remembers of releases. Raises ConfigError if it follows a publisher."""
    state = read_state(home.path)
    own = state is None or state.channel == OWN_CHANNEL
    if own and home.root_file.exists():
        own = _is_own(home, began=state is not None)
    if not own:
        raise ConfigError(
            f"{home.path}: follows a publisher's releases already, expected a folder without any or with "
            "one of your own",
            hint="adapt over what is installed: proper adapt HISTORY; or make your own release in another "
            "folder: proper --home FOLDER start ...",
        )
    return state


def _is_own(home: Home, *, began: bool) -> bool:
    """Whether the pinned root is one's own; `began`: something of one's own is installed already."""
    try:
        return load_root(home.root_file).is_own
    except (BundleError, StateError) as error:
        if not began:
            raise
        raise StateError(
            f"{home.root_file.name}: damaged; it was that of a release of your own",
            hint="remove it, then proper start again: your adapter and its release stay",
        ) from error


def check_out(home: Home, out: Path) -> None:
    """Raise StorageError where no copy can be put: before a base is fetched, and not after all is done."""
    check_new(out)
    with storage_errors(out):
        place, kept = out.resolve(), home.path.resolve()
    if place.is_relative_to(kept) or kept.is_relative_to(place):
        raise StorageError(
            f"{out}: one with {home.path}, in which everything is kept; expected a folder elsewhere",
            hint="name another one with --out",
        )
    if not place.parent.is_dir():
        raise StorageError(
            f"{out}: the folder that it is to lie in is not there",
            hint="make that one first, or name another one with --out",
        )


def usual_settings(folder: Path) -> StageSettings:
    """The settings of whoever names no profile: a shipped one, by the base's size. Raises BaseModelError.

    A base that is stored in bfloat16 is computed in it where the processor has products for it: that takes
    less memory and time than float32, and the weights are the same numbers.
    """
    from proper_model.base.loading import multiplies_bfloat16
    from proper_model.checks import find_base

    base = find_base(str(folder))
    small = base.shape.numbers <= SMALL_BASE_NUMBERS
    settings = load_profile(SMALL_PROFILE if small else USUAL_PROFILE)
    stored = str(getattr(base.config, "dtype", None)).removeprefix("torch.")
    if settings.dtype == "auto" and stored == "bfloat16" and multiplies_bfloat16():
        settings = replace(settings, dtype=stored)
    return settings


def place_in(out: Path, bundle: InstalledBundle) -> Path:
    """Where `start_release` puts the copy in `out`."""
    return out / version_folder(bundle.version)


def public_name(folder: Path) -> str:
    """What a release calls the base: a hub id where the folder is a hub's, else the folder's name."""
    name = hub_name(str(folder.resolve()))
    parts = [_NO_NAME.sub("-", part).lstrip("._-")[:_MOST_NAME] for part in name.split("/")[:2]]
    return "/".join(part or "base" for part in parts)


def _called_as_before(
    home: Home, state: StoreState | None, reference: BaseReference
) -> BaseReference:
    """The reference of a release over the very same files, if one is here, else this one.

    A folder that was renamed is the same base: without this a move would end what was adapted over it.
    """
    current = [] if state is None else [state.bundle_id]
    for bundle_id in (*current, *stored_ids(home.path)):
        with suppress(BundleError):  # a damaged one says nothing
            manifest = read_manifest(bundle_path(home.path, bundle_id), bundle_id)
            before = manifest.base_reference
            if before is not None and before.files == reference.files:
                return before
    return reference


def _files(
    base: FoundBase, folder: Path, task: Task, settings: StageSettings, reference: BaseReference
) -> dict[str, bytes]:
    from proper_model.release.untrained import untrained_files

    config = read_config(reference, folder)
    return untrained_files(base.model, base.tokenizer, task, settings, reference, config)


def _installed_alike(
    home: Home, files: Mapping[str, bytes], reference: BaseReference, now: datetime
) -> InstalledBundle | None:
    """The installed release, mended where files of it are damaged, if it is these files over this base."""
    try:
        bundle = installed(home.path, now=now)
        if bundle is None:
            return None
        there = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
        made = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        if (there, bundle.manifest.base_reference) != (made, reference):
            return None
        limits = {MANIFEST_NAME: DEFAULT_LIMITS.manifest_bytes}
        limits[SIGNATURES_NAME] = DEFAULT_LIMITS.signature_bytes
        signed = {name: read_bounded(bundle.path / name, most) for name, most in limits.items()}
        root = load_root(home.root_file)
        whole = {**files, **signed}
        return install(home.path, whole, root, now=now, lock_timeout_s=LOCK_TIMEOUT_S).bundle
    except (BundleError, StateError, OSError):
        return None  # its manifest or signature is damaged, its root gone: a new release takes its place


def _sign_and_install(
    home: Home,
    files: Mapping[str, bytes],
    reference: BaseReference,
    state: StoreState | None,
    now: datetime,
) -> InstalledBundle:
    """Install the files as a device installs anybody's, by a root that was made for them."""
    # Behind the highest number there is comes 1 again: it is a name here, and orders nothing, since what an
    # earlier key signed counts no more under this root.
    version = 1 if state is None else state.version % MAX_INTEGER + 1
    expires = now + timedelta(days=MAX_RELEASE_DAYS)
    key = Ed25519PrivateKey.generate()
    root = TrustedRoot.of([key], channel=OWN_CHANNEL)
    info = BundleInfo(version, now, expires, reference, OWN_CHANNEL)
    made = build_bundle(files, info, [key]).all_files()
    with pinning(home, root):
        found = install(home.path, made, root, now=now, lock_timeout_s=LOCK_TIMEOUT_S)
    return found.bundle


def _copy(home: Home, bundle: InstalledBundle, out: Path) -> None:
    """The release as `proper bundle add` takes it, the root beside it; whole or not at all."""
    with storage_errors(out), new_folder(out) as building:
        shutil.copyfile(home.root_file, building / ROOT_NAME)
        shutil.copytree(bundle.path, place_in(building, bundle))
