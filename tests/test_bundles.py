"""`proper bundle add|list|verify` below the command line: one home, its root, releases and bases."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import stat
from pathlib import Path

import pytest
from bundle_samples import (
    CREATED,
    KEY,
    LIFETIME,
    NOW,
    ROOT,
    SECOND_KEY,
    STRANGER,
    TASK_TOML,
    base_files,
    big_files,
    load_files,
    referring_files,
    sample_bundle,
    sample_files,
    write_files,
)
from release_server import serve_folder, serving

from client.home import Home
from client.person.workspace import Workspace
from client.releases import download, installed_list, partial_file
from client.releases.add import add_bundle
from client.releases.base_facts import base_facts
from client.releases.bases import base_of
from client.releases.installed_list import DAMAGED, list_bundles, remove_old_bundles
from client.releases.store import BundleWarning, installed, stored
from client.releases.verify import verify_bundle
from coordinator.publish import publish
from proper_model.base.reference import reference_base
from proper_model.bundle.signatures import ROOT_DOMAIN, sign
from proper_model.bundle.trusted_root import TrustedRoot
from proper_model.errors import (
    BaseModelError,
    BundleError,
    BundleForeignError,
    BundleIntegrityError,
    BundleRollbackError,
    BundleSignatureError,
    BusyError,
    ConfigError,
    FetchError,
    NotInstalledError,
    StateError,
    StorageError,
)
from proper_model.release import recipe
from proper_model.storage.durable import locked

OTHER = sample_files(seed=1)
END = CREATED + LIFETIME


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def folder(tmp_path):
    """A release folder with one release and the root beside it."""
    return release(tmp_path / "release")


@pytest.fixture
def web():
    """A server; a release folder that is served lies at its `address`."""
    with serving() as server:
        server.address = f"{server.url}/release"
        yield server


def release(folder, files=None, *, keys=(KEY,), root=ROOT, **options):
    publish(files or sample_files(), folder, keys, created=CREATED, valid_for_days=365, **options)
    if root is not None:
        (folder / "root.json").write_bytes(root.to_bytes())
    return folder


def add(home, source, **options):
    return add_bundle(home, str(source), **{"now": NOW, **options})


def verify(home, source=None, **options):
    return verify_bundle(home, source and str(source), **{"now": NOW, **options})


def snapshot(path):
    """Every file, except locks, with content and mode."""
    return {
        p.relative_to(path).as_posix(): (p.read_bytes(), stat.S_IMODE(p.stat().st_mode))
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


# --- first time: which root is trusted -----------------------------------------------------------


def test_the_first_release_pins_the_root_beside_it_and_says_its_fingerprint(home, folder):
    added = add(home, folder)
    assert added.changed
    assert load_files(added.bundle) == sample_files()
    assert home.root_file.read_bytes() == (folder / "root.json").read_bytes()
    assert stat.S_IMODE(home.root_file.stat().st_mode) == 0o600
    digits = hashlib.sha256((folder / "root.json").read_bytes()).hexdigest()
    (note,) = added.notes
    assert digits in note.replace(" ", "")
    again = add(home, folder)
    assert (again.changed, again.notes, again.bundle) == (False, (), added.bundle)


def test_what_the_publisher_promised_its_people_is_said(home, tmp_path):
    files = sample_files(notes={"privacy": {"epsilon": 7.98, "delta": 1e-4}})
    folder = release(tmp_path / "release", files)
    told = "epsilon 7.98, delta 0.0001"
    assert told in verify(home, folder).notes[-1]
    assert told in add(home, folder).notes[-1]


def test_a_bundle_in_a_release_folder_may_be_given_itself(home, folder):
    assert add(home, folder / "v00000001").bundle.version == 1
    assert home.root_file.read_bytes() == ROOT.to_bytes()


def test_a_root_that_was_handed_over_needs_no_comparison(home, folder, tmp_path):
    (folder / "root.json").rename(tmp_path / "handed.json")
    with pytest.raises(ConfigError, match="trusts no publisher yet") as caught:
        add(home, folder)
    assert "--root" in str(caught.value.hint)
    assert not home.root_file.exists()
    assert list_bundles(home) == ()
    assert add(home, folder, root=tmp_path / "handed.json").notes == ()
    assert home.root_file.read_bytes() == ROOT.to_bytes()
    with pytest.raises(StateError):
        add(Home(tmp_path / "other"), folder, root=tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("name", "other", "error"),
    [
        ("root.json", TrustedRoot.of([STRANGER]).to_bytes(), BundleSignatureError),
        ("v00000001/shared.safetensors", OTHER["base/model.safetensors"], BundleIntegrityError),
    ],
)
def test_a_first_release_that_is_refused_pins_no_root(home, folder, name, other, error):
    intact = (folder / name).read_bytes()
    (folder / name).write_bytes(other)
    with pytest.raises(error):
        add(home, folder)
    assert not home.root_file.exists()
    (folder / name).write_bytes(intact)
    assert add(home, folder).changed


def test_a_first_installation_that_is_killed_never_leaves_a_release_without_its_root(
    folder, tmp_path, monkeypatch
):
    """Stopped before or after any file gets its name."""
    real = os.replace
    for step in itertools.count():
        home, count = Home(tmp_path / f"at-{step}"), itertools.count()

        def stopping(*names, step=step, count=count):
            if next(count) == step:
                os._exit(9)
            real(*names)
            if next(count) == step:
                os._exit(9)

        child = os.fork()
        if child == 0:
            monkeypatch.setattr(os, "replace", stopping)
            try:
                add(home, folder)
            finally:
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if list_bundles(home):
            assert home.root_file.read_bytes() == ROOT.to_bytes()
        assert add(home, folder).bundle.version == 1
        if status == 0:
            break
    assert step > 6


@pytest.mark.parametrize("how", ["beside", "given"])
def test_a_foreign_root_is_refused_once_one_is_pinned(home, folder, tmp_path, how):
    add(home, folder)
    foreign = TrustedRoot.of([STRANGER])
    before = snapshot(home.path)
    options = {}
    if how == "beside":
        release(folder, OTHER, keys=(STRANGER,), root=foreign)
    else:
        (tmp_path / "other.json").write_bytes(foreign.to_bytes())
        options["root"] = tmp_path / "other.json"
    with pytest.raises(BundleForeignError) as caught:
        add(home, folder, **options)
    assert foreign.fingerprint in caught.value.message
    assert ROOT.fingerprint in caught.value.message
    assert caught.value.exit_code == 37
    assert snapshot(home.path) == before


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_no_release_there(home, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="no release there") as caught:
        add(home, tmp_path / name)
    assert str(tmp_path) not in caught.value.message


# --- rotation of the root ------------------------------------------------------------------------


def place_root(folder, root, keys, *, newest=True):
    stem = "root" if newest else f"root-{root.version}"
    (folder / f"{stem}.json").write_bytes(root.to_bytes())
    signatures = sign(ROOT_DOMAIN, root.to_bytes(), keys)
    (folder / f"{stem}.signatures.json").write_bytes(signatures)


THIRD = TrustedRoot.of([STRANGER], version=3)
SECOND = TrustedRoot.of([SECOND_KEY], version=2)


def test_a_newer_root_is_followed_and_so_are_those_in_between(home, folder):
    add(home, folder)
    place_root(folder, SECOND, [KEY, SECOND_KEY])
    release(folder, OTHER, keys=(SECOND_KEY,), root=None)
    added = add(home, folder)
    assert (added.bundle.version, added.changed) == (2, True)
    assert added.notes == ("the publisher's keys changed: root 1 -> 2",)
    assert home.root_file.read_bytes() == SECOND.to_bytes()
    assert stat.S_IMODE(home.root_file.stat().st_mode) == 0o600

    late = Home(home.path.with_name("late"))
    add(late, folder, root=pinned(folder, ROOT))
    assert late.root_file.read_bytes() == SECOND.to_bytes()

    place_root(folder, SECOND, [KEY, SECOND_KEY], newest=False)
    place_root(folder, THIRD, [SECOND_KEY, STRANGER])
    release(folder, sample_files((11, 12)), keys=(STRANGER,), root=None)
    later = Home(home.path.with_name("later"))
    add(later, folder, root=pinned(folder, ROOT))
    assert later.root_file.read_bytes() == THIRD.to_bytes()
    (folder / "root-2.json").unlink()
    with pytest.raises(BundleSignatureError, match=r"root-2\.json is missing"):
        add(Home(home.path.with_name("last")), folder, root=pinned(folder, ROOT))
    assert add(home, folder).bundle.version == 3


def pinned(folder, root):
    path = folder.with_name("handed.json")
    path.write_bytes(root.to_bytes())
    return path


@pytest.mark.parametrize("signers", [(), (KEY,), (SECOND_KEY,), (STRANGER, SECOND_KEY)])
def test_a_newer_root_without_both_signatures_is_refused(home, folder, signers):
    add(home, folder)
    before = snapshot(home.path)
    release(folder, OTHER, keys=(SECOND_KEY,))
    if signers:
        place_root(folder, SECOND, signers)
    else:
        (folder / "root.json").write_bytes(SECOND.to_bytes())
    with pytest.raises(BundleSignatureError):
        add(home, folder)
    with pytest.raises(BundleSignatureError):
        verify(home, folder)
    assert snapshot(home.path) == before
    fresh = Home(home.path.with_name("fresh"))
    with pytest.raises(BundleSignatureError):
        add(fresh, folder, root=pinned(folder, ROOT))
    assert not fresh.root_file.exists()


def test_an_older_root_beside_a_release_changes_nothing(home, folder):
    add(home, folder)
    place_root(folder, SECOND, [KEY, SECOND_KEY])
    release(folder, OTHER, keys=(KEY, SECOND_KEY), root=None)
    add(home, folder)
    (folder / "root.json").write_bytes(ROOT.to_bytes())
    assert add(home, folder).notes == ()
    assert home.root_file.read_bytes() == SECOND.to_bytes()


def test_verification_moves_no_root(home, folder):
    add(home, folder)
    place_root(folder, SECOND, [KEY, SECOND_KEY])
    release(folder, OTHER, keys=(SECOND_KEY,), root=None)
    before = snapshot(home.path)
    assert verify(home, folder).notes == ("the publisher's keys changed: root 1 -> 2",)
    assert snapshot(home.path) == before


# --- refusals: own exit code, nothing changed ----------------------------------------------------


def bundle(version, files=OTHER, **changes):
    return sample_bundle(version, files=files, **changes).all_files()


def flipped(data):
    return data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]


# Exit code, the refused release, and when.
REFUSALS = {
    "rollback": (36, bundle(1), NOW),
    "expired": (35, bundle(2), END),
    "channel": (37, bundle(2, channel="films"), NOW),
    "altered": (34, {**bundle(2), "recipe.json": flipped(bundle(2)["recipe.json"])}, NOW),
    "unsigned": (33, bundle(2, keys=(STRANGER,)), NOW),
    "surplus": (31, {**bundle(2), "history.json": b"{}"}, NOW),
}


# What a server holds besides the listed files is never asked for.
@pytest.mark.parametrize(
    ("case", "remote"), [*((c, False) for c in REFUSALS), *((c, True) for c in list(REFUSALS)[:-1])]
)
def test_after_a_refusal_all_is_as_before(home, tmp_path, case, remote, web):
    code, files, now = REFUSALS[case]
    first = bundle(2 if case == "rollback" else 1, files=None)
    add(home, write_files(tmp_path / "first", first), root=pinned(tmp_path / "x", ROOT))
    before = snapshot(home.path)
    serve_folder(web, write_files(tmp_path / "bad", files))
    source = web.address if remote else tmp_path / "bad"
    for act in (add, verify):
        with pytest.raises(BundleError) as caught:
            act(home, source, now=now)
        assert caught.value.exit_code == code
        # What was transferred and verified stays for the next attempt.
        parts = ("/.download-", "/.partial-") if remote else ("/.download-",)
        after = snapshot(home.path)
        assert {n: v for n, v in after.items() if not any(p in n for p in parts)} == before
    assert load_files(stored(home.path, add(home, tmp_path / "first").bundle.bundle_id))


# --- over the web --------------------------------------------------------------------------------

BIG = big_files()


def test_a_release_on_the_web(home, folder, tmp_path, web):
    serve_folder(web, folder)
    with pytest.raises(ConfigError, match="trusts no publisher yet"):
        add(home, web.address)
    assert not home.root_file.exists()
    assert list_bundles(home) == ()
    root = pinned(folder, ROOT)
    assert load_files(add(home, web.address, root=root).bundle) == sample_files()
    web.seen.clear()
    release(folder, OTHER)
    serve_folder(web, folder)
    assert load_files(add(home, web.address).bundle) == OTHER
    fetched = [record["path"].removeprefix("/release/") for record in web.seen]
    assert fetched == [
        "latest.json",
        "root.json",
        "v00000002/manifest.json",
        "v00000002/signatures.json",
        "v00000002/recipe.json",  # only what this device does not hold
    ]
    other = Home(tmp_path / "other")
    assert add(other, f"{web.address}/v00000002/", root=root).bundle.version == 2
    place_root(folder, SECOND, [KEY, SECOND_KEY])
    release(folder, keys=(SECOND_KEY,), root=None)
    serve_folder(web, folder)
    assert add(home, web.address).notes == ("the publisher's keys changed: root 1 -> 2",)
    assert not list((home.path / "bundles").glob(".download-*"))


def test_an_interrupted_download_is_continued_by_the_next_command(home, folder, web, monkeypatch):
    monkeypatch.setattr(download, "sleep", lambda _: None)
    add(home, folder)
    release(folder, BIG)
    path = "/release/v00000002/base/model.safetensors"
    serve_folder(web, folder)
    size = len(web.files[path])
    web.faults[path] = [{"cut": 150_000}, {"status": 404}, {}]
    with pytest.raises(FetchError, match=r"base/model\.safetensors"):
        add(home, web.address)
    assert [row.version for row in list_bundles(home, now=NOW) if row.current] == [1]
    for leftover in (home.path / "bundles").rglob("*"):
        assert stat.S_IMODE(leftover.stat().st_mode) in (0o600, 0o700)
    web.seen.clear()
    assert load_files(add(home, web.address).bundle) == BIG
    sent = {r["path"]: r["sent"] for r in web.seen if r["path"].startswith("/release/v")}
    assert sent.pop(path) == size - 150_000
    assert sorted(sent) == [
        "/release/v00000002/manifest.json",
        "/release/v00000002/signatures.json",
    ]
    assert not list((home.path / "bundles").glob(".download-*"))


def test_what_another_address_left_is_removed(home, folder, tmp_path, web):
    left = home.path / "bundles" / ".download-0123456789abcdef"
    left.mkdir(parents=True, mode=0o700)
    home.path.chmod(0o700)
    (left / "x").write_bytes(b"half")
    serve_folder(web, folder)
    add(home, web.address, root=pinned(folder, ROOT))
    assert not left.exists()


def test_wrong_bytes_from_a_server_are_not_kept_for_the_next_attempt(home, folder, web):
    release(folder, BIG)
    path = "/release/v00000002/base/model.safetensors"
    serve_folder(web, folder)
    right = web.files[path]
    web.faults[path] = [{"body": right[:-1] + b"\0"}, {}]
    with pytest.raises(BundleIntegrityError, match="sha256 differs"):
        add(home, web.address, root=pinned(folder, ROOT))
    assert load_files(add(home, web.address, root=pinned(folder, ROOT)).bundle) == BIG


def test_a_server_without_the_release(home, folder):
    with serving() as server, pytest.raises(FetchError) as caught:
        add(home, f"{server.url}/release", root=pinned(folder, ROOT))
    assert caught.value.message == "manifest.json: 127.0.0.1: answered 404"


# --- disk, locks, clock --------------------------------------------------------------------------


def test_a_full_disk_states_the_bytes_needed(home, folder, monkeypatch, web):
    add(home, folder)
    release(folder, BIG)
    real = os.open
    flags_seen = []

    def full(path, flags, *mode, **options):
        wanted = flags & os.O_CREAT and flags & (os.O_APPEND | os.O_EXCL)
        if wanted and Path(path).name != ".lock":
            flags_seen.append(flags)
            return real("/dev/full", os.O_WRONLY)
        return real(path, flags, *mode, **options)

    before = snapshot(home.path)
    monkeypatch.setattr(partial_file.os, "open", full)
    with pytest.raises(BundleError) as caught:
        add(home, folder)
    needed = sum(map(len, BIG.values()))
    assert f"No space left on device; it needs {needed} bytes" in caught.value.message
    serve_folder(web, folder)
    with pytest.raises(StorageError, match="No space left on device"):
        add(home, web.address)
    monkeypatch.undo()
    assert flags_seen
    assert {n: v for n, v in snapshot(home.path).items() if "/." not in n} == before
    assert add(home, folder).bundle.version == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_what_was_transferred_outlives_a_full_disk(home, folder, monkeypatch, code, web):
    release(folder, BIG)
    root, real, refuse = pinned(folder, ROOT), Path.replace, []

    def full(path, target):
        if Path(target).name == "shared.safetensors" and not refuse:
            refuse.append(target)
            raise OSError(code, os.strerror(code))
        return real(path, target)

    serve_folder(web, folder)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises((BundleError, StorageError), match=os.strerror(code)):
        add(home, web.address, root=root)
    assert refuse
    first = {record["path"] for record in web.seen}
    web.seen.clear()
    assert load_files(add(home, web.address, root=root).bundle) == BIG
    again = first & {record["path"] for record in web.seen}
    assert any(path.endswith("shared.safetensors") for path in first)
    assert not {path for path in again if not path.endswith(".json")}
    assert not [p for p in (home.path / "bundles").iterdir() if p.name.startswith((".p", ".d"))]


def test_one_bad_file_costs_that_file_alone(home, folder, web):
    release(folder, BIG)
    root = pinned(folder, ROOT)
    serve_folder(web, folder)
    (bad,) = (path for path in web.files if path.endswith("v00000002/task.toml"))
    good, web.files[bad] = web.files[bad], b"x" * len(web.files[bad])
    with pytest.raises(BundleIntegrityError, match="task"):
        add(home, web.address, root=root)
    before = {record["path"] for record in web.seen}
    web.seen.clear()
    web.files[bad] = good
    assert load_files(add(home, web.address, root=root).bundle) == BIG
    again = {record["path"] for record in web.seen} & before
    assert bad in again
    assert not {path for path in again if path.endswith("base/config.json")}


def test_a_second_process_is_told_who_works(home, folder, monkeypatch):
    monkeypatch.setattr(installed_list, "LOCK_TIMEOUT_S", 0)
    add(home, folder)
    with home.working(), pytest.raises(BusyError, match="another proper command") as caught:
        add(home, folder)
    assert caught.value.exit_code == 48
    with locked(home.path / "bundles" / ".lock", timeout_s=0):
        with pytest.raises(BundleError, match="another process"):
            remove_old_bundles(home, ())
        assert verify(home).relation == "installed"  # who only reads waits for nobody


def test_a_read_only_home(home, folder, monkeypatch):
    add(home, folder)
    real = os.open

    def read_only(path, flags, *mode, **options):
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(home.path)):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StorageError, match="Read-only file system"):
        add(home, folder)
    assert verify(home).relation == "installed"
    assert [row.version for row in list_bundles(home, now=NOW)] == [1]


# --- verify, list, remove ------------------------------------------------------------------------


def test_verify_says_how_a_release_relates_to_the_installed_one(home, folder, tmp_path):
    assert verify(home, folder).relation == "first"
    assert not home.path.exists()
    with pytest.raises(NotInstalledError):
        verify(home)
    add(home, folder)
    checked = verify(home)
    assert (checked.relation, checked.base, checked.base_checked) == ("installed", "embedded", True)
    assert checked.size_bytes == sum(map(len, sample_files().values()))
    release(folder, OTHER)
    assert verify(home, folder).relation == "newer"
    add(home, folder)
    with pytest.raises(BundleRollbackError):
        verify(home, folder / "v00000001")
    with pytest.raises(BundleForeignError):
        verify(home, root=pinned(folder, TrustedRoot.of([STRANGER])))


@pytest.mark.parametrize("name", ["base/model.safetensors", "task.toml", "manifest.json"])
def test_verify_reads_every_byte_of_the_installed_release(home, folder, name):
    path = add(home, folder).bundle.path / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleIntegrityError):
        verify(home)
    assert add(home, folder).changed is False
    assert verify(home).relation == "installed"
    (path.parent / "stray.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match="does not list"):
        verify(home)


def test_list(home, tmp_path):
    assert list_bundles(home) == ()
    named = {**OTHER, "task.toml": TASK_TOML.replace('"sample"', '"films"').encode()}
    folder = release(tmp_path / "release")
    first = add(home, folder).bundle
    release(folder, named)
    second = add(home, folder).bundle
    old, new = list_bundles(home, now=NOW)
    assert (old.bundle_id, old.current, old.version) == (first.bundle_id, False, 1)
    assert (new.short_id, new.current, new.version) == (second.bundle_id[:16], True, 2)
    described = (new.task, new.preset, new.base, new.channel)
    assert described == ("films", "device", "embedded", "default")
    assert (old.task, old.preset) == ("sample", "device")
    assert new.size_bytes == sum(map(len, named.values()))
    assert (new.created, new.expires) == ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")
    assert new.warnings == old.warnings == ()
    assert [str(BundleWarning.EXPIRED)] == list(list_bundles(home, now=END)[1].warnings)
    (first.path / "task.toml").write_bytes(b"x")
    (second.path / "manifest.json").unlink()
    rows = list_bundles(home, now=NOW)
    assert [row.warnings for row in rows] == [(DAMAGED,)] * 2
    current = {row.bundle_id: row.current for row in rows}
    assert current == {first.bundle_id: False, second.bundle_id: True}


def test_old_releases_go_but_the_current_and_the_kept_stay(home, folder):
    assert remove_old_bundles(home, ()) == 0
    ids = [add(home, folder).bundle.bundle_id]
    for files in (OTHER, BIG):
        release(folder, files)
        ids.append(add(home, folder).bundle.bundle_id)
    (home.path / "bundles" / ".download-0").mkdir()
    with home.working():
        freed = remove_old_bundles(home, {ids[1]})
    assert freed >= sum(map(len, sample_files().values()))
    assert {row.bundle_id for row in list_bundles(home, now=NOW)} == set(ids[1:])
    assert stored(home.path, ids[0]) is None
    assert stored(home.path, ids[1], now=NOW).version == 2
    assert stored(home.path, "../..") is None
    assert not (home.path / "bundles" / ".download-0").exists()
    with pytest.raises(BundleRollbackError):
        add(home, folder / "v00000001")


# --- bases ---------------------------------------------------------------------------------------

REVISION = "ab" * 20
REFERRING = referring_files("org/model", REVISION)


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A base folder; the hub's cache is empty."""
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    path = write_files(tmp_path / "elsewhere" / "base", base_files())
    (path / "README.md").write_bytes(b"not read by a loader")
    return path


@pytest.fixture
def referring(tmp_path, base):
    reference = reference_base(base, "org/model", REVISION)
    return release(tmp_path / "release", REFERRING, base=reference)


def reference_of(home):
    return installed(home.path, now=NOW).manifest.base_reference


def test_a_base_is_found_checked_and_remembered(home, referring, base):
    with pytest.raises(BaseModelError) as caught:
        add(home, referring)
    assert "org/model" in caught.value.message
    assert "release 1 is installed" in caught.value.message
    assert f"hf download org/model --revision {REVISION}" in str(caught.value.hint)
    assert "--base FOLDER" in str(caught.value.hint)
    assert [row.base for row in list_bundles(home, now=NOW)] == [f"org/model@{REVISION}"]
    assert not verify(home).base_checked
    assert not home.bases_file.exists()
    with pytest.raises(BaseModelError):
        base_of(home, reference_of(home))
    with pytest.raises(BaseModelError):
        Workspace(home).load(installed(home.path))

    added = add(home, referring, base=str(base))
    assert added.changed is False
    assert "every file as signed" in added.notes[-1]
    assert json.loads(home.bases_file.read_bytes()) == {f"org/model@{REVISION}": str(base)}
    assert stat.S_IMODE(home.bases_file.stat().st_mode) == 0o600
    assert base_of(home, reference_of(home)) == str(base)
    assert verify(home).base_checked
    assert add(home, referring).notes == (added.notes[-1],)
    base.rename(base.with_name("moved"))
    with pytest.raises(BaseModelError):
        base_of(home, reference_of(home))


@pytest.mark.parametrize("embedded", [True, False])
def test_a_command_parses_the_recipe_once(home, request, base, embedded, monkeypatch):
    parsed, real = [], recipe.parse_recipe
    monkeypatch.setattr(recipe, "parse_recipe", lambda data: parsed.append(data) or real(data))
    place, named = request.getfixturevalue("folder" if embedded else "referring"), str(base)
    commands = {
        "add": lambda: add(home, place, base=named),
        "add again": lambda: add(home, place, base=named),
        "verify": lambda: verify(home, place, base=named),
        "list": lambda: list_bundles(home, now=NOW),
        "what a training does": lambda: use(home),
    }
    for name, command in commands.items():
        parsed.clear()
        command()
        assert len(parsed) == 1, name


def use(home):
    workspace, bundle = Workspace(home), installed(home.path, now=NOW)
    release = workspace.releases.read(bundle)
    assert (release.recipe.structure.name, release.task.name) == ("device", "sample")
    assert base_facts(home, release).shape
    first = workspace.load(bundle)
    assert workspace.load(bundle) is first
    tight = workspace.load(bundle, memory_bytes=1 << 30)
    assert (tight.memory_bytes, first.memory_bytes, tight.base is first.base) == (
        1 << 30,
        None,
        True,
    )


@pytest.mark.parametrize("damage", ["altered", "missing", "more"])
def test_another_base_is_refused_and_not_remembered(home, referring, base, damage):
    path = base / "model.safetensors"
    if damage == "altered":
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    elif damage == "missing":
        path.unlink()
    else:
        (base / "more.safetensors").write_bytes(b"")
    with pytest.raises(BundleForeignError, match="release 1 is installed and waits"):
        add(home, referring, base=str(base))
    assert not home.bases_file.exists()
    with pytest.raises(BundleForeignError):
        verify(home, base=str(base))


def test_a_base_in_the_hubs_cache_is_found(home, referring, base, tmp_path):
    snapshots = tmp_path / "hub" / "models--org--model" / "snapshots"
    snapshots.mkdir(parents=True)
    base.rename(snapshots / REVISION)
    add(home, referring)
    assert base_of(home, reference_of(home)) == str(snapshots / REVISION)
    add(home, referring, base="org/model")
    with pytest.raises(BaseModelError):
        add(home, referring, base="org/another")


def test_a_base_that_is_not_needed_is_said(home, folder, base):
    assert "not needed" in add(home, folder, base=str(base)).notes[-1]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a":1}', b'{ "a":"b"}', b"\xff"])
def test_a_damaged_record_of_bases(home, referring, base, content):
    add(home, referring, base=str(base))
    home.bases_file.write_bytes(content)
    with pytest.raises(StateError, match=r"bases\.json: damaged"):
        base_of(home, reference_of(home))
    home.bases_file.unlink()
    add(home, referring, base=str(base))
    assert base_of(home, reference_of(home)) == str(base)
