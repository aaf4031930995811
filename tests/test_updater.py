"""Installing: verify first, then switch; whatever goes wrong, the installed bundle stays."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import threading
from datetime import timedelta
from functools import partial
from types import SimpleNamespace

import pytest
from bundle_samples import (
    CREATED,
    KEY,
    LIFETIME,
    NOW,
    ROOT,
    SECOND_KEY,
    STRANGER,
    load_files,
    sample_bundle,
    sample_files,
    write_files,
)
from stops import StoppedError, stopped_at_every_sync

from client.releases import install as updater
from client.releases.install import install
from client.releases.store import BundleWarning, StoreState, installed, write_state
from proper_model.bundle.limits import Limits
from proper_model.bundle.trusted_root import TrustedRoot
from proper_model.errors import (
    BundleError,
    BundleForeignError,
    BundleFormatError,
    BundleIntegrityError,
    BundleLimitError,
    BundleRollbackError,
    BundleSignatureError,
    FetchError,
    StateError,
)
from proper_model.storage.durable import locked

OTHER = sample_files(seed=1)
V1, V2 = sample_bundle(1), sample_bundle(2, files=OTHER)
END = CREATED + LIFETIME
# Forking a test process that runs threads of numerical libraries may hang it.
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def host(tmp_path):
    return tmp_path / "host"


def put(host, bundle=V1, *, now=NOW, root=ROOT, **options):
    source = bundle if not hasattr(bundle, "all_files") else bundle.all_files()
    return install(host, source, root, now=now, **options).bundle


def names(host):
    return sorted(path.name for path in (host / "bundles").iterdir())


def clean_names(*bundles):
    return sorted([".lock", "state.json", *(b.bundle_id for b in bundles)])


def test_nothing_installed(host):
    assert installed(host, now=NOW) is None


def test_installed_bundle_comes_back(host):
    bundle = put(host)
    assert (bundle.bundle_id, bundle.version, bundle.warnings) == (V1.bundle_id, 1, ())
    assert installed(host, now=NOW) == bundle
    assert load_files(bundle) == sample_files()
    assert bundle.path == host / "bundles" / V1.bundle_id
    assert names(host) == clean_names(V1)


def test_all_sources_install_the_same(tmp_path):
    folder = write_files(tmp_path / "source", V1.all_files())
    asked = []

    def fetch(name, max_bytes):
        asked.append(name)
        assert max_bytes >= len(V1.all_files()[name])
        return V1.all_files()[name]

    for number, source in enumerate((V1.all_files(), folder, fetch)):
        bundle = install(tmp_path / str(number), source, ROOT, now=NOW).bundle
        assert load_files(bundle) == sample_files()
    assert sorted(asked) == sorted(V1.all_files())


def test_files_are_private(host):
    before = os.umask(0)
    try:
        put(host)
    finally:
        os.umask(before)
    for path in (host / "bundles").rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path.name


def test_update_keeps_the_older_bundle_for_its_adapters(host):
    first = put(host)
    second = put(host, V2)
    assert installed(host, now=NOW) == second
    assert load_files(first) == sample_files()
    assert load_files(second) == OTHER
    assert names(host) == clean_names(V1, V2)


def altered(bundle, name, data):
    return {**bundle.all_files(), name: data}


def refusals():
    """Beside those of `test_bundles`, which installs through `add`."""
    return {
        "manifest": (altered(V2, "manifest.json", b"{}"), {}, BundleSignatureError),
        "no signature": (altered(V2, "signatures.json", b""), {}, BundleFormatError),
        "truncated": (altered(V2, "task.toml", b""), {}, BundleIntegrityError),
        "extra": (altered(V2, "extra.json", b"{}"), {}, BundleFormatError),
        "oversized": (V2, {"limits": Limits(total_bytes=10)}, BundleLimitError),
        "other root": (
            sample_bundle(2, channel="films"),
            {"root": TrustedRoot.of([KEY], channel="films")},
            BundleForeignError,
        ),
        "rotated key": (V2, {"root": TrustedRoot.of([SECOND_KEY])}, BundleSignatureError),
    }


@pytest.mark.parametrize("case", refusals())
def test_after_a_refusal_the_installed_bundle_stays(host, case):
    source, options, error = refusals()[case]
    put(host, sample_bundle(1))
    before = {p: p.read_bytes() for p in host.rglob("*") if p.is_file()}
    with pytest.raises(BundleError) as caught:
        put(host, source, **options)
    assert type(caught.value) is error
    assert {p: p.read_bytes() for p in host.rglob("*") if p.is_file()} == before
    assert load_files(installed(host, now=NOW)) == sample_files()


def test_rollback_protection_survives_the_removal_of_bundles(host):
    put(host, V2)
    for path in sorted((host / "bundles" / V2.bundle_id).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (host / "bundles" / V2.bundle_id).rmdir()
    with pytest.raises(BundleRollbackError):
        put(host, V1)
    with pytest.raises(BundleIntegrityError):
        installed(host, now=NOW)
    assert put(host, V2).version == 2


def test_expired_while_installed_keeps_working_with_a_warning(host):
    put(host)
    bundle = installed(host, now=END)
    assert bundle.warnings == (BundleWarning.EXPIRED,)
    assert load_files(bundle) == sample_files()
    again = put(host, now=END + timedelta(days=1))
    assert (again.bundle_id, again.warnings) == (V1.bundle_id, (BundleWarning.EXPIRED,))


def test_expired_reinstallation_still_checks_signatures(host):
    put(host)
    other = sample_bundle(1, keys=(STRANGER,)).signature_bytes
    with pytest.raises(BundleSignatureError):
        put(host, altered(V1, "signatures.json", other), now=END)


def test_a_clock_set_back_warns_and_the_latest_time_is_kept(host):
    put(host, now=NOW + timedelta(days=10))
    assert put(host, now=NOW).warnings == (BundleWarning.CLOCK_BEFORE_LATEST,)
    assert installed(host, now=NOW + timedelta(days=9)).warnings != ()
    assert installed(host, now=NOW + timedelta(days=10, microseconds=1)).warnings == ()
    assert installed(host, now=CREATED - timedelta(days=1)).warnings == (
        BundleWarning.CLOCK_BEFORE_LATEST,
        BundleWarning.CLOCK_BEFORE_CREATION,
    )


def test_a_damaged_file_is_found_and_repaired(host):
    bundle = put(host)
    (bundle.path / "task.toml").write_bytes(b'name = "altered"')
    with pytest.raises(BundleIntegrityError, match=r"task\.toml"):
        load_files(bundle)
    assert load_files(put(host)) == sample_files()
    (bundle.path / "recipe.json").unlink()
    with pytest.raises(BundleIntegrityError, match=r"recipe\.json"):
        load_files(bundle)
    (bundle.path / "manifest.json").write_bytes(V2.manifest_bytes)
    with pytest.raises(BundleIntegrityError, match="manifest was altered"):
        installed(host, now=NOW)
    assert load_files(put(host)) == sample_files()


def test_a_linked_file_is_not_followed(host, tmp_path):
    bundle = put(host)
    copy = tmp_path / "copy"
    copy.write_bytes(sample_files()["task.toml"])
    (bundle.path / "task.toml").unlink()
    (bundle.path / "task.toml").symlink_to(copy)
    with pytest.raises(BundleIntegrityError):
        load_files(bundle)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"canary", b"x" * 5000, b'{"bundle_id":"../..","version":1}']
)
def test_a_damaged_state_is_an_error_not_a_fresh_start(host, content):
    put(host)
    (host / "bundles" / "state.json").write_bytes(content)
    for action in (lambda: installed(host, now=NOW), lambda: put(host, V2)):
        with pytest.raises(StateError) as caught:
            action()
        assert "canary" not in caught.value.message


def test_state_form_is_stable(host):
    state = StoreState(
        channel="default", version=3, bundle_id="0" * 64, latest_seen="2026-01-01T00:00:00Z"
    )
    write_state(host, state)
    assert (host / "bundles" / "state.json").read_bytes() == (
        b'{"accepted":[],"bundle_id":"' + b"0" * 64 + b'","channel":"default","latest":null,'
        b'"latest_seen":"2026-01-01T00:00:00Z","schema_version":2,"version":3}'
    )


# --- sources ---------------------------------------------------------------------------------


def test_folders_with_links_or_special_files_are_refused(host, tmp_path):
    source = write_files(tmp_path / "source", V1.all_files())
    (source / "task.toml").rename(tmp_path / "task.toml")
    (source / "task.toml").symlink_to(tmp_path / "task.toml")
    with pytest.raises(BundleFormatError):
        put(host, source)
    (source / "task.toml").unlink()
    os.mkfifo(source / "task.toml")
    with pytest.raises(BundleFormatError):
        put(host, source)
    (source / "task.toml").unlink()
    with pytest.raises(BundleFormatError, match=r"task\.toml"):
        put(host, source)
    (tmp_path / "task.toml").rename(source / "task.toml")
    (source / "linked").symlink_to(tmp_path)
    with pytest.raises(BundleFormatError, match="link or special"):
        put(host, source)
    (source / "linked").unlink()
    assert put(host, source).version == 1


def test_no_bundle_there(host, tmp_path):
    for source in (tmp_path / "nowhere", {}, tmp_path):
        with pytest.raises(BundleFormatError, match=r"manifest\.json"):
            put(host, source)


def test_an_endless_source_is_read_only_up_to_its_limit(host):
    def endless(name, max_bytes):
        if name in ("manifest.json", "signatures.json"):
            return V1.all_files()[name]
        return b"x" * (max_bytes + 1)

    with pytest.raises(BundleIntegrityError):
        put(host, endless)
    with pytest.raises(BundleLimitError):
        put(host, lambda name, max_bytes: b"x" * (max_bytes + 1))


def fetcher(bundle, asked, fail_at=None):
    def fetch(name, max_bytes):
        if name == fail_at:
            raise FetchError("connection lost")
        asked.append(name)
        return bundle.all_files()[name]

    return fetch


def test_files_of_an_earlier_release_are_not_fetched_again(host):
    put(host)
    asked = []
    bundle = put(host, fetcher(V2, asked))
    assert asked == ["manifest.json", "signatures.json", "recipe.json"]
    assert load_files(bundle) == OTHER


def test_in_memory_sources_may_leave_out_held_files(host):
    put(host)
    wanted = ("manifest.json", "signatures.json", "recipe.json")
    part = {name: V2.all_files()[name] for name in wanted}
    assert load_files(put(host, part)) == OTHER
    with pytest.raises(BundleFormatError, match=r"base/config\.json is missing"):
        put(host.with_name("fresh"), part)
    third = sample_bundle(3, files=sample_files(seed=2)).all_files()
    with pytest.raises(BundleFormatError, match=r"recipe\.json is missing"):
        put(host, {name: third[name] for name in wanted[:2]})


def test_a_broken_download_is_resumed(host):
    put(host)
    third = sample_bundle(
        3,
        files={n: d + b"\n" for n, d in OTHER.items() if "safe" not in n}
        | {n: d for n, d in OTHER.items() if "safe" in n},
    )
    asked = []
    with pytest.raises(FetchError):
        put(host, fetcher(third, asked, fail_at="task.toml"))
    assert installed(host, now=NOW).version == 1
    put(host, fetcher(third, asked))
    assert sorted(asked.count(name) for name in ("base/config.json", "recipe.json")) == [1, 1]
    assert installed(host, now=NOW).version == 3
    assert names(host) == clean_names(V1, third)


# --- interruptions and neighbours ------------------------------------------------------------


def no_content_checks(patch):
    """Not what is tested here, and most of the time of an installation."""
    patch(updater, "_check_content", lambda *_: SimpleNamespace(recipe=None, task=None))


@pytest.mark.parametrize("error", [StoppedError, OSError], ids=["killed", "disk full"])
def test_stopped_at_any_sync_the_state_is_old_or_new(tmp_path, monkeypatch, error):
    no_content_checks(monkeypatch.setattr)
    told, step = set(), 0

    def update(step):
        put(tmp_path / str(step))
        return lambda: put(tmp_path / str(step), V2)

    full = partial(error, errno.ENOSPC, "No space left on device")
    for step, stop in stopped_at_every_sync(monkeypatch, update, full):
        assert isinstance(stop, BundleError | StoppedError)
        told.add(getattr(stop, "message", None))
        host = tmp_path / str(step)
        version = installed(host, now=NOW).version
        assert load_files(installed(host, now=NOW)) == (sample_files() if version == 1 else OTHER)
        assert load_files(put(host, V2)) == OTHER
        assert names(host) == clean_names(V1, V2)
    assert step >= len(OTHER)
    needed = sum(map(len, OTHER.values()))
    told_full = f"bundle: cannot be stored: No space left on device; it needs {needed} bytes"
    assert told == ({None} if error is StoppedError else {told_full})


def _install_in_child(host, version, queue):
    no_content_checks(setattr)
    bundle = V1 if version == 1 else V2
    try:
        queue.put(put(host, bundle).version)
    except BundleRollbackError:
        queue.put("rollback")


def test_two_processes_at_once_end_in_the_newer_release(host):
    queue = SPAWN.SimpleQueue()
    children = [
        SPAWN.Process(target=_install_in_child, args=(host, version, queue)) for version in (1, 2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    answers = [queue.get() for _ in children]
    assert sorted(map(str, answers)) in (["1", "2"], ["2", "rollback"])
    assert load_files(installed(host, now=NOW)) == OTHER


def _hold_lock(path, held):
    with locked(path, timeout_s=0):
        held.set()
        threading.Event().wait()


def test_the_lock_of_a_killed_holder_is_free(host):
    put(host)
    held = SPAWN.Event()
    child = SPAWN.Process(target=_hold_lock, args=(host / "bundles" / ".lock", held))
    child.start()
    held.wait()
    with pytest.raises(BundleError, match="another process") as caught:
        put(host, V2, lock_timeout_s=0)
    assert type(caught.value) is BundleError
    assert installed(host, now=NOW).version == 1
    child.kill()
    child.join()
    assert put(host, V2, lock_timeout_s=0).version == 2


def test_an_unwritable_place_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match="expected to write"):
        put(tmp_path / "file")
