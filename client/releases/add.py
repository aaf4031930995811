"""`proper bundle add`: one person's device, its trusted root, releases and their bases.

    place (folder or address) -> root (pinned, rotated) -> install -> base of the release

A step that fails leaves what the steps before it achieved, and says so. Source: docs/security.md 2
("Bundle"), docs/bundle-format.md 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.home import Home
from client.releases.bases import settle_base
from client.releases.content import InstalledRelease, read_content
from client.releases.install import LOCK_TIMEOUT_S, decide, install
from client.releases.last_seen import news
from client.releases.pinned_root import Trust, decide_trust, load_root, pin_root, pinning
from client.releases.place import ReleasePlace, opened
from client.releases.store import InstalledBundle, read_state
from client.releases.verify import CHECKING, CHECKING_BASE
from proper_model.errors import BaseModelError, BundleForeignError
from proper_model.progress import Progress, silent
from proper_model.release.privacy_note import privacy_sentence
from proper_model.settings import presets


@dataclass(frozen=True)
class Added:
    """What an addition did.

    Attributes:
        bundle: the current release now; its `warnings` are about expiry and the clock.
        changed: whether it is another one than before.
        notes: sentences for the person, on keys and base.
    """

    bundle: InstalledBundle
    changed: bool
    notes: tuple[str, ...]


def add_bundle(
    home: Home,
    source: str,
    *,
    root: Path | None = None,
    base: str | None = None,
    progress: Progress = silent,
    now: datetime | None = None,
) -> Added:
    """Install the newest release of a folder or address, and find its base.

    Holds `home` for as long as it takes, so call it without holding it.

    Args:
        source: a bundle, a release folder, or the https address of one.
        root: the publisher's root.json; needed the first time for an address, and for a folder
            without one.
        base: folder or hub id of the base that the release refers to.
        progress: counts bytes while a file is downloaded.
        now: aware time; the system's when not given.

    Raises:
        ConfigError: no release there, an address that is not allowed, or no root yet.
        BundleError: one of its children when the release or root is refused; nothing changed.
        FetchError: the download failed; what came is kept for the next attempt.
        BaseModelError, BundleForeignError: the base is missing or another one; the release stays
            installed.
        StorageError, BusyError: the home cannot be written, or another process works in it.
    """
    # One time for the whole update: by delaying, a server must not change what has expired.
    now = now or datetime.now(UTC)
    with home.working():
        with opened(home, source, progress) as place:
            trust = decide_trust(home, place, root)
            if trust.pinned and load_root(home.root_file) != trust.root:
                pin_root(home.root_file, trust.root)
            before = read_state(home.path)
            progress(CHECKING, 0, 0)
            with _pinned(home, trust, place, now):
                release = install(
                    home.path,
                    place.bundle,
                    trust.root,
                    found=place.found,
                    now=now,
                    lock_timeout_s=LOCK_TIMEOUT_S,
                )
        bundle = release.bundle
        changed = before is None or before.bundle_id != bundle.bundle_id
        state = read_state(home.path)
        notes = news(bundle.version, state.latest if state else None, trust.root)
        based = _find_base(home, release, base, progress)
        if release.recipe.structure.population_only:
            notes = (*notes, presets.POPULATION_ONLY_NOTE)
        if (said := privacy_sentence(release.recipe.notes)) is not None:
            notes = (*notes, said)
        return Added(bundle, changed, (*trust.notes, *notes, *based))


@contextmanager
def _pinned(home: Home, trust: Trust, place: ReleasePlace, now: datetime) -> Iterator[None]:
    """Pin a root that this device has not pinned yet, if the release it signs may be installed."""
    if trust.pinned:
        yield
        return
    decide(home.path, place.bundle, trust.root, found=place.found, now=now)
    with pinning(home, trust.root):
        yield


def _find_base(
    home: Home, release: InstalledRelease, named: str | None, progress: Progress
) -> tuple[str, ...]:
    """Find and check the base of the release just installed. Returns notes; raises as `settle_base`."""
    bundle = release.bundle
    reference = bundle.manifest.base_reference
    if reference is None:
        return () if named is None else ("the release brings its own base; --base was not needed",)
    progress(CHECKING_BASE, 0, 0)
    try:
        read_content(release, settle_base(home, reference, named))
    except (BaseModelError, BundleForeignError) as error:
        raise type(error)(
            f"{error.message}; release {bundle.version} is installed and waits for its base",
            hint=error.hint,
        ) from None
    return (f"its base {reference.hub_id} is on this machine, every file as signed",)
