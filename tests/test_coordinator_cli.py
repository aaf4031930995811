"""`proper-coordinator`: keys, roots and releases, from the ceremony to the recovery after a theft."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bundle_samples import fixed_key, sample_bundle
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from stops import StoppedError, stopped_at_every_sync

from client.home import Home
from client.releases.add import add_bundle
from client.releases.installed_list import list_bundles
from coordinator import root_ceremony
from coordinator.cli import run_cli
from coordinator.commands import options
from coordinator.consents import Training, changing, content_of, read_consents
from coordinator.keys import create_key, create_pair, load_key, load_public, public_file
from coordinator.root_ceremony import RoleChange, propose, read_root, sign_next
from proper_model.bundle.latest import parse_latest
from proper_model.bundle.manifest import content_id
from proper_model.bundle.public_keys import key_id, public_bytes
from proper_model.bundle.trusted_root import ROOT, TrustedRoot, rotate
from proper_model.errors import (
    BundleSignatureError,
    BundleTimeError,
    ConfigError,
    PassphraseError,
)
from proper_model.storage import canonical
from tests.publisher import bundle

ROOT_FOLDER = Path(__file__).parents[1]
UMLAUTS = "mühle tüte öfen grübeln züge"
WORDS = "seven random words make a good passphrase"


# `openssl genpkey -algorithm SM2`: a curve that the library does not know.
SM2_KEY = """\
-----{} PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqBHM9VAYItBG0wawIBAQQgV95D/Szm+uDUmFIx
YJGnPjPXMgvkLC7BW4b1ElGILEuhRANCAAQUlHjrt+rgrOkbKuOfPf9SAUzIo48L
ifbK1Q0NssWWnBg0MqBNxwZ+ZSvJ7Qx8cumpsANjP4a/K4twwhgySBSv
-----{} PRIVATE KEY-----
""".format("BEGIN", "END")


def without_terminal(original):
    def opened(path, *rest, **options):
        if path == "/dev/tty":
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return original(path, *rest, **options)

    return opened


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").write_text(WORDS + "\n")
    (tmp_path / "words").chmod(0o600)
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run a line; the code it must end with, stdout and stderr."""

    def run(line: str, *, code: int = 0):
        got = run_cli(line.split())
        said = capsys.readouterr()
        assert got == code, said.err
        return said

    return run


def ceremony(call, *, threshold=2, make=3):
    call("keys make-release release.pem")
    return call(
        f"keys make-root out --threshold {threshold} --make {make} --keys-folder stick "
        "--release-key release.pem.pub --passphrase-file words"
    )


def source(here, version=1):
    """What a run left."""
    folder = here / f"run{version}"
    for name, data in bundle(version).all_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder.name


def name_of(path):
    return key_id(public_bytes(load_public(path)))


def test_the_ceremony_makes_private_encrypted_keys_and_one_root(here, call):
    said = ceremony(call)
    root = TrustedRoot.from_bytes((here / "out" / "root.json").read_bytes())
    keys = sorted((here / "stick").glob("*.pem"))
    assert {name_of(public_file(path)) for path in keys} == set(root.roles[ROOT].keys)
    assert (root.threshold, len(keys)) == (2, 3)
    assert root.roles["release"].keys == (name_of(here / "release.pem.pub"),)
    for path in (*keys, here / "release.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((here / "stick").stat().st_mode) == 0o700
    pem = keys[0].read_bytes()
    assert b"ENCRYPTED PRIVATE KEY" in pem  # standard PKCS#8, which other programs open too
    assert load_pem_private_key(pem, WORDS.encode()).private_bytes_raw()
    assert [p.name for p in (here / "out").iterdir()] == ["root.json"]
    assert call("root show out").out == said.out
    assert WORDS not in said.out + said.err


def test_from_the_first_release_to_the_recovery_after_a_theft(here, call):
    ceremony(call)
    call(f"release publish {source(here)} out --key release.pem")
    home = Home(here / "home")
    assert add_bundle(home, "out").bundle.version == 1
    call("keys make-release fresh.pem")
    stolen = name_of(here / "release.pem.pub")
    said = call(
        f"root revoke out {stolen[:12]} --replace fresh.pem.pub --key stick/root-key-1.pem "
        "--passphrase-file words"
    )
    assert "root 2 waits: 1 more" in said.out
    assert read_root(here / "out").version == 1  # devices see nothing of it yet
    call("root sign out --key stick/root-key-3.pem --passphrase-file words")
    assert read_root(here / "out").version == 2
    with pytest.raises(BundleSignatureError):
        add_bundle(home, "out")  # still the old release, by the old key
    call("release publish out out --key release.pem", code=11)
    call("release sign-latest out --key fresh.pem", code=11)  # latest.json is by the revoked key
    call("release sign-latest out --key fresh.pem --version 1", code=33)  # so is its release
    call("release publish out out --key fresh.pem")
    added = add_bundle(home, "out")
    assert added.bundle.version == 2
    assert list_bundles(home)[-1].warnings == ()
    call("release sign-latest out --key fresh.pem --days 90")
    latest = parse_latest((here / "out" / "latest.json").read_bytes()).latest
    assert latest.expires - latest.created == timedelta(days=90)
    assert add_bundle(home, "out").changed is False


def note_training(here, people):
    """What a run with consents notes of its release."""
    signed = ("manifest.json", "signatures.json")
    hashes = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in bundle(1).all_files().items()
        if name not in signed
    }
    made = Training(
        content=content_of(hashes),
        signed="2026-01-02T03:04:05Z",
        release=None,
        people=people,
        run=str(here / "runs" / "spring"),
        cache=str(here / "cache"),
    )
    with changing(here / "consents.json") as change:
        change.after = change.after.with_training(made)


def test_the_publishers_guide_works_as_it_is_typed(here, call, monkeypatch):
    """Every line of docs/releases.md, in its order."""
    monkeypatch.setattr(options, "_asked", lambda *_, **__: WORDS)
    text = (ROOT_FOLDER / "docs" / "releases.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^ {4,}proper-coordinator ([^#\n]*)", text, re.MULTILINE)
    for name in ("ben", "cem", "new-holder"):
        call(f"keys make-holder {name}.pem")
    call("keys make-release fresh.pem")
    for run in ("demo", "spring"):
        shutil.copytree(here / source(here), here / "runs" / run / "server" / "release")
    (here / "agreed.txt").write_text("ada\nben\n")
    (here / "gone.txt").write_text("ada\n")
    moved = next(at for at, line in enumerate(lines) if "--root-threshold" in line)
    for line in lines[:moved]:
        stolen = name_of(here / "release.pem.pub") if (here / "release.pem.pub").exists() else ""
        if line.startswith("release publish runs/spring"):
            note_training(here, ["ada", "ben"])
        call(line.replace("STOLENID", stolen))
    assert (read_root(here / "releases").version, len(lines)) == (3, moved + 1)
    call("release publish releases/v00000001 releases --key fresh.pem --latest-key latest.pem")
    home = Home(here / "home")
    assert add_bundle(home, "releases").bundle.version == 3
    assert read_consents(here / "consents.json").withdrawn() == {"ada"}
    # And a population from before roles.
    shutil.rmtree(here / "releases")
    key = create_key(here / "old.pem")
    (here / "releases").mkdir()
    (here / "releases" / "root.json").write_bytes(TrustedRoot.of([key]).to_bytes())
    call(lines[moved].replace("OLDID", key_id(public_bytes(key))))
    assert read_root(here / "releases").version == 2


def test_an_old_root_moves_into_roles(here, call):
    """A population whose one key did everything gets offline root keys; its devices follow."""
    key = create_key(here / "old.pem")
    (here / "out").mkdir()
    (here / "out" / "root.json").write_bytes(TrustedRoot.of([key]).to_bytes())
    home = Home(here / "home")
    call(f"release publish {source(here)} out --key old.pem")
    assert add_bundle(home, "out").bundle.version == 1
    call("keys make-holder a.pem --passphrase-file words")
    call("keys make-holder b.pem --passphrase-file words")
    old = key_id(public_bytes(key))
    call("root rotate out --root-threshold 2", code=11)
    call(
        f"root rotate out --add-root a.pem.pub --add-root b.pem.pub --remove-root {old} "
        "--root-threshold 2 --key old.pem --key a.pem --key b.pem --passphrase-file words"
    )
    root = read_root(here / "out")
    assert (root.version, root.format, root.threshold) == (2, 2, 2)
    assert root.roles["release"].keys == (old,)
    call(f"release publish {source(here, 2)} out --key old.pem")
    assert add_bundle(home, "out").bundle.version == 2
    assert home.root_file.read_bytes() == root.to_bytes()


def test_keys_of_holders_elsewhere_and_a_word_key_of_its_own(here, call):
    for name in "ab":
        call(f"keys make-holder {name}.pem --passphrase-file words")
    call("keys make-release release.pem")
    call("keys make-release online.pem --encrypt --passphrase-file words")
    call(
        "keys make-root out --threshold 2 --root-key a.pem.pub --root-key b.pem.pub "
        "--release-key release.pem.pub --latest-key online.pem.pub --channel films --days 30"
    )
    root = read_root(here / "out")
    assert (root.channel, root.expires - root.created) == ("films", timedelta(days=30))
    assert root.roles["latest"].keys == (name_of(here / "online.pem.pub"),)
    start = f"release publish {source(here)} out --key release.pem"
    call(start, code=11)
    call("keys make-release stranger.pem")
    said = call(
        f"{start.replace('release.pem', 'stranger.pem')} --latest-key online.pem "
        "--passphrase-file words",
        code=11,
    )
    assert "for the role release" in said.err
    assert not list((here / "out").glob("v*"))
    call(f"{start} --latest-key online.pem --passphrase-file words")
    manifest = json.loads((here / "out" / "v00000001" / "manifest.json").read_bytes())
    assert manifest["channel"] == "films"
    call("release sign-latest out --key release.pem", code=11)
    call("release sign-latest out --key online.pem --passphrase-file words")


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ("keys make-root out --threshold 1 --release-key release.pem.pub", 11, "already"),
        ("keys make-release release.pem", 11, "never overwritten"),
        ("keys make-holder x.pem --passphrase-file short", 45, "at least 20"),
        ("keys make-holder x.pem --passphrase-file nowhere", 11, "nowhere"),
        ("keys make-holder x.pem --passphrase-file open", 11, "lets others in"),
        ("keys make-holder x.pem --passphrase-file wrong", 45, "easily guessed"),
        ("keys make-holder x.pem", 11, "--passphrase-file"),
        ("keys show stick/root-key-1.pem", 11, "no terminal"),
        ("release publish out out --key curve.pem", 11, "another kind of key"),
        (
            "keys make-root b --threshold 4 --make 3 --keys-folder k --release-key r.pub",
            11,
            "r.pub",
        ),
        (
            "keys make-root b --threshold 4 --make 3 --keys-folder k --release-key release.pem.pub",
            11,
            "only 3 root keys",
        ),
        (
            "keys make-root b --threshold 1 --make 1 --release-key release.pem.pub",
            11,
            "--keys-folder",
        ),
        ("keys make-root b --threshold 1 --root-key words --release-key words", 11, "64 hex"),
        (
            "keys make-root b --threshold 1 --root-key release.pem.pub --release-key release.pem.pub",
            31,
            "keys of its own",
        ),
        ("keys make-root b --threshold 0 --release-key release.pem.pub", 2, "--threshold"),
        ("root show nowhere", 11, "no root.json"),
        ("root sign out", 11, "propose one with: proper-coordinator root rotate"),
        ("root revoke out deadbeef", 11, "0 keys of the root begin so"),
        ("root revoke out dead", 11, "at least 8 digits"),
        ("root rotate out --key release.pem", 11, "would not count"),
        ("root rotate out --root-threshold 4", 11, "3 keys would be left"),
        ("root rotate out --days 4000", 11, "expected 1 to 1830"),
        ("root rotate out --key stick/root-key-1.pem --passphrase-file wrong", 45, "wrong pass"),
        ("release publish nowhere out --key release.pem", 11, "no release there"),
        ("release publish out out --key stick/root-key-1.pem --passphrase-file words", 11, "root"),
        ("release publish out out --key release.pem --days 500", 2, "400"),
        ("release sign-latest out --key release.pem", 11, "publish a release first"),
        ("release sign-latest out --key release.pem --version 3", 31, "v00000003"),
        ("release sign-latest out", 2, "--key"),
        ("brew", 2, "brew"),
        ("keys", 2, "command"),
        ("", 2, "command is missing"),
    ],
)
def test_mistakes_are_told_and_leave_everything_as_it_was(
    here, call, prepared, monkeypatch, line, code, told
):
    texts = {"short": "too short", "wrong": "x" * 30, "curve.pem": SM2_KEY, "open": WORDS}
    for name, text in texts.items():
        (here / name).write_text(text)
        (here / name).chmod(0o644 if name == "open" else 0o600)
    monkeypatch.setattr(os, "open", without_terminal(os.open))
    before = snapshot(here / "out")
    said = call(line, code=code)
    assert told in said.err
    assert "internal" not in said.err
    assert snapshot(here / "out") == before


def snapshot(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != ".lock"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One ceremony for all mistakes: nothing of it may change."""
    folder = tmp_path_factory.mktemp("made")
    create_pair(folder / "release.pem")
    for number in (1, 2, 3):
        create_pair(folder / "stick" / f"root-key-{number}.pem", WORDS)
    roles = {
        ROOT: ([load_public(p) for p in sorted((folder / "stick").glob("*.pub"))], 2),
        "release": ([load_public(folder / "release.pem.pub")], 1),
        "latest": ([load_public(folder / "release.pem.pub")], 1),
    }
    root_ceremony.create_root(folder / "out", roles, now=datetime.now(UTC))
    return folder


@pytest.fixture
def prepared(here, made):
    for path in sorted(made.rglob("*")):
        target = here / path.relative_to(made)
        if path.is_dir():
            target.mkdir(mode=0o700)
        else:
            target.write_bytes(path.read_bytes())
            target.chmod(0o600)


def test_a_root_that_waits_is_signed_once_by_each_and_blocks_another(here, call, prepared):
    call("root rotate out --key stick/root-key-1.pem --passphrase-file words")
    call("root rotate out", code=11)
    again = call("root sign out --key stick/root-key-1.pem --passphrase-file words")
    assert "1 more of the present" in again.out  # the same key twice is one
    assert "waiting for signatures" in call("root show out").out
    call("root sign out --key stick/root-key-2.pem --passphrase-file words")
    assert read_root(here / "out").version == 2


def test_a_stolen_release_key_cannot_sign_a_root(here, call, prepared):
    propose(here / "out", {}, now=datetime.now(UTC))
    call("root sign out --key release.pem", code=11)
    with pytest.raises(ConfigError, match="would not count"):
        sign_next(here / "out", [load_key(here / "release.pem")])
    assert read_root(here / "out").version == 1


def test_a_server_under_another_account_can_read_what_devices_fetch_and_nothing_else(
    here, call, prepared
):
    call(f"release publish {source(here)} out --key release.pem")
    call("root rotate out --key stick/root-key-1.pem --passphrase-file words")
    call("release sign-latest out --key release.pem")
    files = [path for path in (here / "out").rglob("*") if path.name != ".lock"]
    closed = {p.name for p in files if not p.stat().st_mode & 0o004}
    assert closed == {"root-next.json", "root-next.signatures.json"}
    call("root sign out --key stick/root-key-2.pem --passphrase-file words")
    assert all(path.stat().st_mode & 0o004 for path in files if path.exists())
    assert (here / "out").stat().st_mode & 0o777 == 0o755
    # Where other things lie in the folder, it and they stay closed.
    call(
        "keys make-root . --threshold 1 --root-key stick/root-key-1.pem.pub "
        "--release-key release.pem.pub"
    )
    assert (here / "root.json").stat().st_mode & 0o777 == 0o644
    assert (here / "release.pem").stat().st_mode & 0o777 == 0o600
    assert (here / "out" / ".lock").stat().st_mode & 0o777 == 0o600


def test_a_key_says_its_name_and_gets_its_public_half_again(here, call, prepared):
    name = name_of(here / "release.pem.pub")
    assert call("keys show release.pem.pub").out == call("keys show release.pem").out == f"{name}\n"
    (here / "release.pem.pub").unlink()  # killed before it was written
    call("keys show release.pem")
    assert name_of(here / "release.pem.pub") == name


class Full(io.StringIO):
    def flush(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("stdout", [Full(), None])
def test_outputs_that_take_nothing_keep_the_exit_code(here, prepared, monkeypatch, stdout):
    monkeypatch.setattr("sys.stderr", Full())
    assert run_cli(["root", "show", "nowhere"]) == 11
    monkeypatch.setattr("sys.stdout", stdout)
    assert run_cli(["root", "show", "out"]) == 20


def test_signatures_left_of_another_proposal_do_not_count(here, call, prepared):
    sign = "--key stick/root-key-{}.pem --passphrase-file words"
    call("root rotate out " + sign.format(1))
    (here / "out" / "root-next.json").unlink()  # as the message about a waiting one says
    said = call("root rotate out --days 700 " + sign.format(2))
    assert "waits: 1 more of the present" in said.out
    call("root sign out " + sign.format(1))
    assert read_root(here / "out").version == 2


def test_a_holder_elsewhere_cannot_break_the_chain_of_roots(here, call, prepared):
    """Signed where the present root's signatures were not carried along, devices could not follow."""
    both = "--key stick/root-key-1.pem --key stick/root-key-2.pem --passphrase-file words"
    call(f"root rotate out {both}")
    call("root rotate out --key stick/root-key-1.pem --passphrase-file words")
    (here / "carried").mkdir()
    for path in sorted((here / "out").glob("root*.json")):
        (here / "carried" / path.name).write_bytes(path.read_bytes())
    signed = here / "carried" / "root.signatures.json"
    signed.rename(here / "left behind")
    said = call(f"root sign carried {both}", code=11)
    assert "carry all files root*.json" in said.err
    assert read_root(here / "carried").version == 2
    (here / "left behind").rename(signed)
    call(f"root sign carried {both}")
    names = {path.name for path in (here / "carried").iterdir()}
    assert names >= {"root-1.json", "root-2.json", "root-2.signatures.json"}
    assert read_root(here / "carried").version == 3


def test_more_signatures_than_a_root_carries_are_refused_before_they_are_stored(here):
    old, new = ([fixed_key(start + n) for n in range(9)] for start in (50, 70))
    folder, now = here / "out", datetime.now(UTC)
    release = ([fixed_key(21).public_key()], 1)
    first = ([key.public_key() for key in old], 9)
    root_ceremony.create_root(folder, {ROOT: first, "release": release, "latest": release}, now=now)
    added = tuple(key.public_key() for key in new)
    gone = frozenset(key_id(public_bytes(key)) for key in old)
    propose(folder, {ROOT: RoleChange(added, gone)}, now=now)
    sign_next(folder, old)
    with pytest.raises(ConfigError, match="18 signatures"):
        sign_next(folder, new)
    assert sign_next(folder, new[:7]).missing_next == 2  # what is there can still be read


@pytest.mark.parametrize("field", ["number", "version", "bundle_id"])
def test_what_somebody_wrote_into_latest_json_is_never_signed(here, call, prepared, field):
    """The folder may lie on a server: whoever can write there must not move versions and numbers."""
    call(f"release publish {source(here)} out --key release.pem")
    call(f"release publish {source(here, 2)} out --key release.pem")
    path = here / "out" / "latest.json"
    value = json.loads(path.read_bytes())
    value["signed"][field] = {"number": 2**53 - 2, "version": 1, "bundle_id": "ab" * 32}[field]
    path.write_bytes(canonical.encode(value))
    said = call("release sign-latest out --key release.pem", code=11)
    assert "--version N" in said.err
    call("release sign-latest out --key release.pem --version 1", code=11)  # there is a newer one
    call("release sign-latest out --key release.pem --version 2")
    latest = parse_latest(path.read_bytes()).latest
    manifest = (here / "out" / "v00000002" / "manifest.json").read_bytes()
    assert (latest.version, latest.bundle_id) == (2, content_id(manifest))
    assert latest.number < 2**40
    path.unlink()
    call("release sign-latest out --key release.pem --version 2")
    assert parse_latest(path.read_bytes()).latest.version == 2


def test_a_version_that_somebody_else_placed_moves_none_of_ours(here, call, prepared):
    call(f"release publish {source(here)} out --key release.pem")
    (here / "out" / "v9007199254740990").mkdir()
    before = snapshot(here / "out")
    said = call(f"release publish {source(here, 2)} out --key release.pem", code=11)
    assert "you did not sign" in said.err
    assert snapshot(here / "out") == before
    (here / "out" / "v9007199254740990").rmdir()
    call(f"release publish {source(here, 2)} out --key release.pem")
    assert (here / "out" / "v00000002").is_dir()


def test_killed_while_a_root_takes_its_place_the_next_call_finishes(here, prepared, monkeypatch):
    """At every sync; and a device at the first root can follow the chain afterwards."""
    keys = [load_key(here / "stick" / f"root-key-{n}.pem", lambda _: WORDS) for n in (1, 2)]
    first, now = read_root(here / "out"), datetime.now(UTC)
    propose(here / "out", {}, now=now)
    sign_next(here / "out", keys)
    start = snapshot(here / "out")
    step = 0

    def begin(step):
        folder = here / f"stop{step}"
        folder.mkdir()
        for name, data in start.items():
            (folder / name).write_bytes(data)
        propose(folder, {"latest": RoleChange()}, now=now)
        return lambda: sign_next(folder, keys)

    for step, stop in stopped_at_every_sync(monkeypatch, begin):
        assert isinstance(stop, StoppedError)
        folder = here / f"stop{step}"
        if (folder / "root-next.json").exists():
            assert sign_next(folder, keys).done
        chain = first
        for stem in ("root-2", "root"):
            data, signed = (folder / f"{stem}{end}.json" for end in ("", ".signatures"))
            chain = rotate(chain, data.read_bytes(), signed.read_bytes())
        assert chain.version == 3
        assert not list(folder.glob("root-next*"))
    assert step >= 6


def test_passphrases(here):
    with pytest.raises(PassphraseError, match="20"):
        create_key(here / "a.pem", WORDS[:19])
    assert not (here / "a.pem").exists()
    key = create_key(here / "a.pem", UMLAUTS)
    assert public_bytes(load_key(here / "a.pem", lambda _: UMLAUTS)) == public_bytes(key)
    with pytest.raises(PassphraseError, match="wrong passphrase"):
        load_key(here / "a.pem", lambda _: UMLAUTS.replace("ü", "u"))
    with pytest.raises(ConfigError, match="encrypted"):
        load_key(here / "a.pem")


def test_a_release_that_is_not_what_its_manifest_says_is_not_signed(here, call, prepared):
    folder = here / source(here)
    data = (folder / "recipe.json").read_bytes()
    (folder / "recipe.json").write_bytes(data.replace(b"1", b"2"))
    call("release publish run1 out --key release.pem", code=34)
    (folder / "recipe.json").unlink()
    call("release publish run1 out --key release.pem", code=31)
    assert not list((here / "out").glob("v*"))


def test_lifetimes_are_bounded_for_the_publisher_too(here):
    with pytest.raises(BundleTimeError):
        sample_bundle(expires=datetime(2030, 1, 1, tzinfo=UTC))
