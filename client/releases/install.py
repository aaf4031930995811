"""Install releases on this host: verify first, then store, then switch; refuse and keep otherwise.

The I/O around `proper_model.bundle.signed_bundle`, where signatures are checked. A file this host
already holds (same sha256), or fetched before an interruption, is not fetched again. Until
`state.json` is replaced, the last step, the bundle installed before stays the current one.
Source: docs/security.md 2, docs/bundle-format.md 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from client.releases.content import InstalledRelease
from client.releases.last_seen import (
    UNANNOUNCED,
    Announcement,
    check_announced,
    check_latest,
    highest_accepted,
    remembered,
)
from client.releases.place import Holding, Source, check_listing, fetch_from
from client.releases.store import (
    BUNDLES_FOLDER,
    STATE_NAME,
    SeenLatest,
    StoreState,
    bundle_path,
    load_bundle,
    read_checked,
    read_manifest,
    read_state,
    stored_ids,
    write_state,
)
from proper_model.bundle.content_policy import check_file
from proper_model.bundle.limits import DEFAULT_LIMITS, Limits
from proper_model.bundle.manifest import MANIFEST_NAME, SIGNATURES_NAME, Manifest
from proper_model.bundle.signed_bundle import VerifiedManifest, verify_manifest
from proper_model.bundle.signed_time import format_time
from proper_model.bundle.trusted_root import OWN_CHANNEL, TrustedRoot
from proper_model.errors import BundleError, BundleForeignError
from proper_model.storage.durable import locked, move_folder, remove_folder, write_file
from proper_model.storage.files import make_private_folder, read_bounded

if TYPE_CHECKING:
    from proper_model.release.recipe import ReleaseContent

_PARTIAL = ".partial-"
# Whoever installs holds the home as well, so a holder of this lock alone is a node of a federation.
LOCK_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Decision:
    """That a release may be installed.

    Attributes:
        manifest, signatures: the two small files that were judged.
        latest: the latest.json to remember.
    """

    manifest: bytes
    signatures: bytes
    release: VerifiedManifest
    latest: SeenLatest | None


def install(
    folder: Path,
    source: Source,
    root: TrustedRoot,
    *,
    found: Announcement = UNANNOUNCED,
    now: datetime | None = None,
    limits: Limits = DEFAULT_LIMITS,
    lock_timeout_s: float = 600.0,
) -> InstalledRelease:
    """Make this release the current one of the host, or raise and leave the current one alone.

    Installing the current release again repairs or returns it, also after it expired.

    Args:
        folder: the host folder; bundles go to `folder/bundles`.
        source: a bundle folder, the files by name (those already held may be left out), or a
            callable that fetches one; its own exceptions pass through.
        root: the keys this device trusts.
        now: aware time; the system's when not given.
        limits: the sizes that this device accepts.
        lock_timeout_s: how long to wait for another process that installs.

    Raises:
        BundleError: one of its children when the release is refused; the class itself when it
            cannot be stored or another process holds the lock.
        StateError: the host's own record is damaged.
    """
    now = now or datetime.now(UTC)
    with exclusive(folder, lock_timeout_s):
        state = read_state(folder)
        decision = decide(folder, source, root, found=found, now=now, limits=limits)
        accepted = decision.release
        check_listing(source, accepted.manifest.files)
        _remember_latest(folder, state, decision.latest)
        target = bundle_path(folder, accepted.bundle_id)
        if _is_intact(target, accepted):
            content = _check_content(target, accepted)
        else:
            staging = folder / BUNDLES_FOLDER / f"{_PARTIAL}{accepted.bundle_id}"
            with _disk(accepted):
                _clean(folder, keep=staging)
            _stage(staging, accepted, source, limits)
            content = _check_content(staging, accepted)
            with _disk(accepted):
                write_file(staging / MANIFEST_NAME, decision.manifest)
                write_file(staging / SIGNATURES_NAME, decision.signatures)
                remove_folder(target)
                move_folder(staging, target)
        new = _next_state(folder, decision, root, state, now)
        with _disk(accepted):
            _renew_signatures(target, decision.signatures)
            if new != state:
                write_state(folder, new)
            _clean(folder)
        bundle = load_bundle(folder, new, new.bundle_id, now=now)
        return InstalledRelease(bundle, content.recipe, content.task)


def decide(
    folder: Path,
    source: Source,
    root: TrustedRoot,
    *,
    found: Announcement,
    now: datetime,
    limits: Limits = DEFAULT_LIMITS,
) -> Decision:
    """Check signatures, expiry and version: whether this host may install the release; changes nothing.

    The release that is installed is accepted also after it, or the root, expired.

    Raises:
        BundleError: one of its children, as `verify_manifest` and `check_latest`.
        StateError: the host's own record is damaged.
    """
    manifest = fetch_from(source, MANIFEST_NAME, limits.manifest_bytes)
    signatures = fetch_from(source, SIGNATURES_NAME, limits.signature_bytes)
    state = read_state(folder)
    # Of a release of one's own everybody may take the place: its keys vouch for nothing any more.
    if state is not None and state.channel not in (root.channel, OWN_CHANNEL):
        raise BundleForeignError(
            f"host folder: follows channel {state.channel}, the trusted root is for {root.channel}",
            hint="use another folder for another population",
        )
    latest = check_latest(found, state, root, now)
    version, bundle_id = highest_accepted(folder, state, root)
    release = verify_manifest(
        manifest,
        signatures,
        root,
        now=now,
        highest_version=version,
        highest_id=bundle_id,
        installed_id=state.bundle_id if state is not None else None,
        limits=limits,
    )
    check_announced(found, release, state, root)
    return Decision(manifest, signatures, release, latest)


def _remember_latest(folder: Path, state: StoreState | None, latest: SeenLatest | None) -> None:
    """Note latest.json before the transfer, which may fail: an older one must not be taken after it.

    A disk error does not stop the installation here; writing the state at its end reports it.
    """
    if state is not None and latest is not None and latest != state.latest:
        with suppress(OSError):
            write_state(folder, state.model_copy(update={"latest": latest}))


def _renew_signatures(target: Path, signatures: bytes) -> None:
    """Replace the stored signatures by these, which may be by newer keys over the same manifest."""
    try:
        known = read_bounded(target / SIGNATURES_NAME, len(signatures))
    except OSError:
        known = b""
    if known != signatures:
        write_file(target / SIGNATURES_NAME, signatures)


def _stage(staging: Path, accepted: VerifiedManifest, source: Source, limits: Limits) -> None:
    """Fill the staging folder with verified files; those it holds intact are kept.

    If the disk is full or a file is refused they stay for the next attempt, since a transfer may have
    taken hours; of a refused local source nothing is kept.
    """
    manifest = accepted.manifest
    holder = source if isinstance(source, Holding) else None
    held = {} if isinstance(source, Path) else _held_files(staging.parent.parent)
    given = source if isinstance(source, Mapping) else {}
    for leftover in staging.rglob(".*.tmp"):
        leftover.unlink()  # of a write that was killed half-way
    for name, entry in manifest.files.items():
        if _holds(staging, manifest, name):
            continue
        try:
            if entry.sha256 in held and name not in given:
                data = read_bounded(held[entry.sha256], entry.size)
            elif holder is not None:
                data = holder.hold(name, entry.size)
            else:
                data = fetch_from(source, name, entry.size)
            check_file(manifest, name, data, limits=limits)
        except BundleError:
            if holder is not None:
                holder.drop(name)
            elif not callable(source):
                with _disk(accepted):
                    remove_folder(staging)
            raise
        if holder is None or not holder.store(name, staging / name):
            with _disk(accepted):
                write_file(staging / name, data)
        if holder is not None:
            holder.drop(name)


def _check_content(path: Path, accepted: VerifiedManifest) -> ReleaseContent:
    """Refuse a release that could not be used; of one that was being fetched nothing is kept."""
    from proper_model.checks import check_installable

    manifest = accepted.manifest
    try:
        return check_installable(
            manifest, lambda name: read_checked(path, manifest, name), private=path
        )
    except BundleError:
        if path.name.startswith(_PARTIAL):
            with _disk(accepted):
                remove_folder(path)
        raise


def _holds(path: Path, manifest: Manifest, name: str) -> bool:
    try:
        read_checked(path, manifest, name)
    except BundleError:
        return False
    return True


def _is_intact(path: Path, accepted: VerifiedManifest) -> bool:
    """Whether this release is on disk already, every byte of it."""
    try:
        manifest = read_manifest(path, accepted.bundle_id)
    except BundleError:
        return False
    return all(_holds(path, manifest, name) for name in manifest.files)


def _held_files(folder: Path) -> dict[str, Path]:
    """sha256 -> path of every intact file in any installed bundle."""
    held = {}
    for bundle_id in stored_ids(folder):
        path = bundle_path(folder, bundle_id)
        try:
            manifest = read_manifest(path, bundle_id)
        except BundleError:
            continue
        for name, entry in manifest.files.items():
            if entry.sha256 not in held and _holds(path, manifest, name):
                held[entry.sha256] = path / name
    return held


def _next_state(
    folder: Path, decision: Decision, root: TrustedRoot, state: StoreState | None, now: datetime
) -> StoreState:
    seen, release = format_time(now), decision.release
    return StoreState(
        channel=release.manifest.channel,
        version=release.manifest.version,
        bundle_id=release.bundle_id,
        latest_seen=max(seen, state.latest_seen) if state else seen,
        accepted=remembered(folder, state, root, release),
        latest=decision.latest,
    )


def _clean(folder: Path, *, keep: Path | None = None) -> None:
    """Remove what interrupted installations left behind, but not the one that is resumed."""
    for path in list((folder / BUNDLES_FOLDER).iterdir()):
        if path != keep and path.name.startswith((_PARTIAL, f".{STATE_NAME}.")):
            remove_folder(path)


@contextmanager
def exclusive(folder: Path, timeout_s: float) -> Iterator[None]:
    """Let one process at a time change the bundles of this host. Raises BundleError."""
    bundles = folder / BUNDLES_FOLDER
    with ExitStack() as stack:
        try:
            make_private_folder(bundles)
            stack.enter_context(locked(bundles / ".lock", timeout_s=timeout_s))
        except TimeoutError:
            raise BundleError(
                f"host folder: another process has been installing for {timeout_s:g} s",
                hint="wait for it to finish, then try again",
            ) from None
        except OSError as error:
            raise BundleError(f"host folder: {error.strerror}, expected to write to it") from None
        yield


@contextmanager
def _disk(accepted: VerifiedManifest) -> Iterator[None]:
    """Turn disk errors into a BundleError that says how much room the release needs."""
    try:
        yield
    except OSError as error:
        needed = sum(entry.size for entry in accepted.manifest.files.values())
        raise BundleError(
            f"bundle: cannot be stored: {error.strerror}; it needs {needed} bytes",
            hint="make room or choose another folder; the release installed before is unchanged",
        ) from None
