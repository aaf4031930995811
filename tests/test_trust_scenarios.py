"""What a device does under each attack that The Update Framework names, and how it recovers.

The thief holds release and latest keys, or the server, or the clock; never enough root keys.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from bundle_samples import NOW
from hypothesis import given, settings
from hypothesis import strategies as st
from release_server import serve_folder, serving
from transformers import LlamaConfig

from client.commands import doctor
from client.home import Home
from client.person.workspace import Workspace
from client.releases.add import add_bundle
from client.releases.install import install
from client.releases.installed_list import list_bundles, warnings_of
from client.releases.last_seen import Announcement, highest_accepted, news, remembered
from client.releases.loading import ReleaseMemory
from client.releases.pinned_root import pin_root
from client.releases.store import BundleWarning, StoreState, installed, read_state
from client.releases.verify import verify_bundle
from proper_model.bundle.latest import parse_latest
from proper_model.bundle.public_keys import key_id, public_bytes
from proper_model.bundle.signatures import MANIFEST_DOMAIN, sign
from proper_model.bundle.trusted_root import RELEASE, TrustedRoot
from proper_model.errors import (
    BundleError,
    BundleExpiredError,
    BundleIntegrityError,
    BundleRollbackError,
    BundleSignatureError,
    BundleTimeError,
    FetchError,
    StateError,
)
from proper_model.storage import canonical
from tests.publisher import (
    LARGEST,
    LATEST_KEY,
    NEW_LATEST_KEY,
    NEW_RELEASE_KEY,
    RELEASE_KEY,
    ROOT_KEYS,
    THIEF,
    YEAR,
    Publisher,
    bundle,
    roles_root,
    word,
)

DAY = timedelta(days=1)
ROOT = roles_root()
STALE = NOW + 40 * DAY  # the word of a publication is believed for 30 days
REVOKED_ROOT = roles_root(2, release=(NEW_RELEASE_KEY,))


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def publisher(tmp_path):
    return Publisher(tmp_path / "release")


def add(home, publisher, now=NOW, **options):
    return add_bundle(home, str(publisher.folder), now=now, **options)


def put(home, files, root=ROOT, *, latest=None, now=NOW, remote=True, followed=True):
    """Install what a server shows, as `add` does after it has read the folder."""
    pointer = None if latest is None else parse_latest(latest)
    found = Announcement(
        pointer, followed=followed and latest is not None, remote=remote and latest is not None
    )
    home.path.mkdir(exist_ok=True)
    return install(home.path, files.all_files(), root, found=found, now=now).bundle


# --- one step after an honest release 2, number 5 -------------------------------------------------

HONEST, NEXT = bundle(2), bundle(3)
UNSIGNED = canonical.encode({"version": 3, "bundle_id": NEXT.bundle_id})
GOOD = word(NEXT, 3, 6)


def told(files, version=3, number=6, **changes):
    """A release, and a word that names it."""
    return files, word(files, version, number, **changes)


# Attack -> release and word, how the device stands otherwise, the error.
ATTACKS = {
    "release by an arbitrary key": (told(bundle(3, keys=(THIEF,))), {}, BundleSignatureError),
    "release by the latest key": (told(bundle(3, keys=(LATEST_KEY,))), {}, BundleSignatureError),
    "release by root keys": (told(bundle(3, keys=ROOT_KEYS)), {}, BundleSignatureError),
    "word by an arbitrary key": (told(NEXT, keys=(THIEF,)), {}, BundleSignatureError),
    "word by the release key": (told(NEXT, keys=(RELEASE_KEY,)), {}, BundleSignatureError),
    "word without a signature": ((NEXT, UNSIGNED), {}, BundleSignatureError),
    "rollback of the release": (told(bundle(1), 1), {}, BundleRollbackError),
    "another release of the same version": (told(bundle(2, seed=99), 2), {}, BundleRollbackError),
    "rollback of the word": (told(NEXT, number=4), {}, BundleRollbackError),
    "two words of one number": (told(NEXT, number=5), {}, BundleRollbackError),
    "a word on another release": ((bundle(3, seed=99), GOOD), {}, BundleIntegrityError),
    "a word on another version": (told(NEXT, 4), {}, BundleIntegrityError),
    "freeze": ((NEXT, GOOD), {"now": STALE}, BundleExpiredError),
    "release of the future": (told(bundle(3, created=NOW + DAY)), {}, BundleTimeError),
    "word of the future": (told(NEXT, created=NOW + DAY), {}, BundleTimeError),
    "expired release": ((NEXT, GOOD), {"now": NOW + 400 * DAY}, BundleExpiredError),
    "expired root": ((NEXT, GOOD), {"root": roles_root(expires=NOW)}, BundleExpiredError),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_changes_nothing(home, name):
    (files, latest), device, error = ATTACKS[name]
    put(home, HONEST, latest=word(HONEST, 2, 5))
    before = (home.path / "bundles" / "state.json").read_bytes()
    with pytest.raises(error):
        put(home, files, latest=latest, **device)
    assert (home.path / "bundles" / "state.json").read_bytes() == before
    assert installed(home.path, now=NOW).version == 2
    # The same step by the publisher is taken.
    assert put(home, NEXT, latest=GOOD).version == 3


# --- freeze --------------------------------------------------------------------------------------


def test_a_folder_with_a_stale_word_is_taken_and_every_look_warns(home, publisher):
    publisher.publish()
    assert add(home, publisher).bundle.warnings == ()
    assert verify_bundle(home, now=NOW).warnings == ()
    assert verify_bundle(home, now=STALE).warnings == (BundleWarning.STALE,)
    publisher.publish()
    added = add(home, publisher, STALE)
    assert (added.bundle.version, added.bundle.warnings) == (2, (BundleWarning.STALE,))
    (row,) = [row for row in list_bundles(home, now=STALE) if row.current]
    assert row.warnings == (str(BundleWarning.STALE),)
    publisher.created = STALE
    publisher.publish()
    assert add(home, publisher, STALE).bundle.warnings == ()


def test_a_server_with_a_stale_word_is_refused_unless_it_shows_what_is_installed(home, publisher):
    pin_root_of(home, ROOT)
    publisher.publish()
    with serving() as server:
        serve_folder(server, publisher.folder)
        url = f"{server.url}/release"
        with pytest.raises(BundleExpiredError, match="withholding") as caught:
            add_bundle(home, url, now=STALE)
        assert caught.value.exit_code == 35
        assert installed(home.path) is None
        assert add_bundle(home, url, now=NOW).bundle.version == 1
        again = add_bundle(home, url, now=STALE)
        assert (again.changed, again.bundle.warnings) == (False, (BundleWarning.STALE,))


@pytest.mark.parametrize("stale", [False, True])
def test_a_server_cannot_withhold_by_hiding_the_word_either(home, publisher, stale):
    """It says that latest.json is missing, and shows an old release at the address itself."""
    pin_root_of(home, ROOT)
    publisher.publish()
    with serving() as server:
        serve_folder(server, publisher.folder)
        for path, content in list(server.files.items()):
            server.files[path.replace("/v00000001", "")] = content
        latest = server.files.pop("/release/latest.json")
        if stale:
            server.files["/latest.json"] = latest
        error = BundleExpiredError if stale else BundleSignatureError
        with pytest.raises(error, match="withholding"):
            add_bundle(home, f"{server.url}/release", now=STALE)
        assert installed(home.path) is None
        server.files["/latest.json"] = latest
        assert add_bundle(home, f"{server.url}/release", now=NOW).bundle.version == 1
        del server.files["/latest.json"]
        again = add_bundle(home, f"{server.url}/release", now=NOW)
        assert not again.changed  # what is installed may be repaired from anywhere


def test_the_root_of_an_old_invitation_may_be_named_after_the_keys_changed(
    home, publisher, tmp_path
):
    old, foreign = tmp_path / "invitation.json", tmp_path / "foreign.json"
    old.write_bytes(ROOT.to_bytes())
    foreign.write_bytes(roles_root(root=ROOT_KEYS[1:]).to_bytes())
    publisher.publish()
    for root in (ROOT, roles_root(2)):
        publisher.place_root(root)
        assert add(home, publisher, root=old).bundle.version == 1
        with pytest.raises(BundleError):
            add(home, publisher, root=foreign)
    assert TrustedRoot.from_bytes(home.root_file.read_bytes()).version == 2
    assert add(home, publisher, root=old).changed is False


def pin_root_of(home, root):
    home.path.mkdir(mode=0o700, exist_ok=True)
    pin_root(home.root_file, root)


def test_a_broken_transfer_does_not_forget_the_newer_word(home):
    put(home, HONEST, latest=word(HONEST, 2, 5))
    found = Announcement(parse_latest(word(NEXT, 3, 7)), followed=True, remote=True)

    def broken(name, _size):
        if name in ("manifest.json", "signatures.json"):
            return NEXT.all_files()[name]
        raise FetchError("connection lost")

    with pytest.raises(FetchError):
        install(home.path, broken, ROOT, found=found, now=NOW)
    assert installed(home.path, now=NOW).version == 2
    with pytest.raises(BundleRollbackError):
        put(home, NEXT, latest=word(NEXT, 3, 6))
    assert put(home, NEXT, latest=word(NEXT, 3, 7)).version == 3


def test_a_bundle_that_is_named_itself_says_what_is_not_known(home, publisher, tmp_path):
    publisher.publish()
    publisher.publish()
    first = publisher.folder / "v00000001"
    assert add_bundle(home, str(first), now=NOW).notes[-1] == (
        "the publisher's newest release is 2; this one is 1"
    )
    (publisher.folder / "latest.json").unlink()
    other = Home(tmp_path / "other")
    assert "whether it is the newest" in add_bundle(other, str(first), now=NOW).notes[-1]
    assert news(1, None, TrustedRoot.of([RELEASE_KEY])) == ()


def test_a_signed_word_is_not_replaced_by_an_unsigned_one_under_an_old_root(home):
    """A root of format 1 takes the unsigned pointer of its time, until it has seen a signed one."""
    old = TrustedRoot.of([RELEASE_KEY])
    unsigned = canonical.encode({"version": 2, "bundle_id": HONEST.bundle_id})
    assert put(home, HONEST, old, latest=unsigned).version == 2
    assert put(home, NEXT, old, latest=word(NEXT, 3, 1, keys=(RELEASE_KEY,))).version == 3
    later = bundle(4)
    with pytest.raises(BundleSignatureError, match="not signed"):
        put(home, later, old, latest=canonical.encode({"version": 4, "bundle_id": later.bundle_id}))


# --- a stolen key: fast-forward, revocation, recovery ----------------------------------------------


def test_the_largest_version_blocks_until_its_key_is_revoked_and_no_longer(home):
    put(home, HONEST)
    blocking = bundle(LARGEST)
    assert put(home, blocking).version == LARGEST
    with pytest.raises(BundleRollbackError):
        put(home, NEXT)
    # Other root keys, another word's key, a second release key: the version still counts.
    for root in (
        roles_root(2, root=ROOT_KEYS[:2]),
        roles_root(2, latest=(NEW_LATEST_KEY,)),
        roles_root(2, release=(RELEASE_KEY, NEW_RELEASE_KEY)),
    ):
        with pytest.raises(BundleRollbackError):
            put(home, bundle(3, keys=(RELEASE_KEY, NEW_RELEASE_KEY)), root)
    with pytest.raises(BundleSignatureError):
        put(home, bundle(3), REVOKED_ROOT)
    recovered = put(home, bundle(3, keys=(NEW_RELEASE_KEY,)), REVOKED_ROOT)
    assert recovered.version == 3
    # From here on rollback is refused as ever.
    with pytest.raises(BundleRollbackError):
        put(home, bundle(2, keys=(NEW_RELEASE_KEY,)), REVOKED_ROOT)
    assert put(home, bundle(4, keys=(NEW_RELEASE_KEY,)), REVOKED_ROOT).version == 4


def test_the_largest_number_of_a_word_blocks_until_its_key_is_replaced(home):
    put(home, HONEST, latest=word(HONEST, 2, LARGEST))
    with pytest.raises(BundleRollbackError):
        put(home, NEXT, latest=word(NEXT, 3, 6))
    root = roles_root(2, latest=(NEW_LATEST_KEY,))
    with pytest.raises(BundleSignatureError):
        put(home, NEXT, root, latest=word(NEXT, 3, LARGEST))
    assert put(home, NEXT, root, latest=word(NEXT, 3, 6, keys=(NEW_LATEST_KEY,))).version == 3


def test_the_whole_way_from_theft_to_recovery(home, publisher):
    publisher.publish()
    add(home, publisher)
    (before,) = list_bundles(home, now=NOW)
    assert before.warnings == ()
    # The thief has the server, the release key and the key of the word.
    evil = bundle(LARGEST)
    publisher.put(evil, LARGEST, word(evil, LARGEST, LARGEST))
    assert add(home, publisher).bundle.version == LARGEST
    # The publisher cleans the folder and revokes both keys; the device learns of it by the root.
    for path in publisher.folder.glob("v9*"):
        path.rename(publisher.folder.parent / "evidence")
    (publisher.folder / "latest.json").unlink()
    root = roles_root(2, release=(NEW_RELEASE_KEY,), latest=(NEW_LATEST_KEY,))
    publisher.place_root(root)
    publisher.release, publisher.latest = (NEW_RELEASE_KEY,), (NEW_LATEST_KEY,)
    assert publisher.publish() == 2
    added = add(home, publisher)
    assert added.bundle.version == 2
    assert "the publisher's keys changed: root 1 -> 2" in added.notes
    assert {row.version: row.warnings for row in list_bundles(home, now=NOW)} == {
        1: (str(BundleWarning.REVOKED),),
        2: (),
        LARGEST: (str(BundleWarning.REVOKED),),
    }
    assert verify_bundle(home, now=NOW).relation == "installed"


def test_an_installed_release_whose_key_was_revoked_works_and_is_reported(home, publisher):
    publisher.publish()
    first = add(home, publisher).bundle
    home.root_file.write_bytes(REVOKED_ROOT.to_bytes())
    assert installed(home.path, now=NOW).bundle_id == first.bundle_id
    assert list_bundles(home, now=NOW)[0].warnings == (str(BundleWarning.REVOKED),)
    assert warnings_of(home, first) == (str(BundleWarning.REVOKED),)
    with pytest.raises(BundleSignatureError, match="installed release 1") as caught:
        verify_bundle(home, now=NOW)
    assert "keeps working" in caught.value.hint
    with pytest.raises(BundleSignatureError, match="installed release 1"):
        list(doctor._release(home))
    # Signed again by the new key, the same release is in order again.
    names = ("manifest.json", *first.manifest.files)
    files = {name: (first.path / name).read_bytes() for name in names}
    signatures = sign(MANIFEST_DOMAIN, files["manifest.json"], [NEW_RELEASE_KEY])
    install(home.path, {**files, "signatures.json": signatures}, REVOKED_ROOT, now=NOW)
    assert list_bundles(home, now=NOW)[0].warnings == ()


def test_every_command_that_computes_over_a_revoked_release_warns(
    home, publisher, monkeypatch, capsys
):
    publisher.publish()
    first = add(home, publisher).bundle
    loaded = SimpleNamespace(base=SimpleNamespace(config=LlamaConfig(hidden_size=32)))
    monkeypatch.setattr(ReleaseMemory, "load", lambda *_, **__: loaded)
    Workspace(home).load(first)
    assert "stolen" not in capsys.readouterr().err
    home.root_file.write_bytes(REVOKED_ROOT.to_bytes())
    Workspace(home).load(first)
    said = capsys.readouterr().err
    assert said.count("warning:") == 1
    assert f"warning: {BundleWarning.REVOKED}" in said
    assert "proper bundle add ADDRESS, then proper rebase" in said


def test_the_chain_of_roots_moves_one_step_at_a_time(home, publisher):
    publisher.publish()
    add(home, publisher)
    publisher.place_root(roles_root(3))
    with pytest.raises(BundleSignatureError, match=r"root-2\.json is missing"):
        add(home, publisher)
    publisher.place_root(roles_root(2, expires=NOW - timedelta(hours=1)), name="root-2")
    publisher.publish()
    assert add(home, publisher).bundle.version == 2  # one that expired meanwhile is a step too
    assert TrustedRoot.from_bytes(home.root_file.read_bytes()).version == 3


def test_an_expired_root_keeps_what_is_installed_and_recovers_by_the_next(home, publisher):
    short = roles_root(expires=NOW + DAY)
    publisher.place_root(short)
    publisher.publish()
    add(home, publisher)
    publisher.publish()
    late = NOW + 2 * DAY
    with pytest.raises(BundleExpiredError, match="trusted root"):
        add(home, publisher, late)
    assert verify_bundle(home, now=late).relation == "installed"
    publisher.place_root(roles_root(2))
    assert add(home, publisher, late).bundle.version == 2


def test_a_device_of_the_old_form_follows_into_roles(home, publisher):
    """Root and record of a program without roles; the thief's largest version among them."""
    old = TrustedRoot.of([RELEASE_KEY])
    pin_root_of(home, old)
    put(home, bundle(LARGEST), old)
    state = read_state(home.path)
    kept = ("channel", "version", "bundle_id", "latest_seen")
    before = {"schema_version": 1, **{name: getattr(state, name) for name in kept}}
    (home.path / "bundles" / "state.json").write_bytes(canonical.encode(before))
    assert installed(home.path, now=NOW).version == LARGEST
    assert verify_bundle(home, now=NOW).relation == "installed"
    with pytest.raises(BundleRollbackError):
        put(home, bundle(3), old)
    publisher.place_root(REVOKED_ROOT, (RELEASE_KEY, *ROOT_KEYS[:2]))
    publisher.release = (NEW_RELEASE_KEY,)
    publisher.publish()
    added = add(home, publisher)
    assert added.bundle.version == 1
    assert read_state(home.path).schema_version == 2
    with pytest.raises(BundleRollbackError):
        put(home, bundle(1, seed=99, keys=(NEW_RELEASE_KEY,)), REVOKED_ROOT)


def test_a_damaged_record_of_keys_is_no_fresh_start(home):
    put(home, HONEST)
    path = home.path / "bundles" / "state.json"
    value = json.loads(path.read_bytes())
    for change in ({"accepted": [{}]}, {"accepted": None}, {"latest": {}}, {"schema_version": 3}):
        path.write_bytes(canonical.encode({**value, **change}))
        with pytest.raises(StateError, match="damaged"):
            installed(home.path, now=NOW)


# --- the memory against a plain model --------------------------------------------------------------

POOL = (RELEASE_KEY, NEW_RELEASE_KEY, THIEF)
NAMES = {key_id(public_bytes(key)): key for key in POOL}


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.sets(st.sampled_from(sorted(NAMES)), min_size=1)),
        min_size=1,
        max_size=8,
    ),
    st.sets(st.sampled_from(POOL), min_size=1),
    st.integers(1, 3),
)
def test_the_floor_is_that_of_everything_ever_accepted(tmp_path_factory, history, left, threshold):
    """What is superfluous is forgotten; the answer never changes by that."""
    folder = tmp_path_factory.getbasetemp()
    root = roles_root(release=tuple(left), release_threshold=min(threshold, len(left)))
    state = None
    for version, keys in history:
        name = f"{version:064x}"
        release = SimpleNamespace(
            manifest=SimpleNamespace(version=version), bundle_id=name, signed_by=tuple(keys)
        )
        accepted = remembered(folder, state, root, release)
        state = StoreState(
            channel="default",
            version=version,
            bundle_id=name,
            latest_seen="2026-01-01T00:00:00Z",
            accepted=accepted,
        )
    counted = [v for v, keys in history if root.still_vouches(RELEASE, tuple(keys))]
    expected = max(counted, default=0)
    found = highest_accepted(folder, state, root)
    assert found == ((expected, f"{expected:064x}") if expected else (0, None))


def test_doctor_tells_whom_this_device_trusts(home):
    assert list(doctor._root(home)) == []
    now = datetime.now(UTC)
    pin_root_of(home, roles_root(4, created=now - YEAR, expires=now + YEAR))
    (finding,) = doctor._root(home)
    assert (finding.name, finding.ok) == ("root", True)
    assert finding.told.startswith("version 4, until ")
    pin_root(home.root_file, TrustedRoot.of([RELEASE_KEY]))
    (finding,) = doctor._root(home)
    assert finding.ok is None
    assert "old form" in finding.told
    pin_root(home.root_file, roles_root(created=now - YEAR, expires=now))
    (finding,) = [f for f in doctor.examine(home) if f.name == "root"]
    assert finding.ok is False
    assert "expired" in finding.told
