"""What opens a vault can be added, removed and replaced; the master key too, at any moment safely."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import keyring
import keyring.backends.chainer
import keyring.backends.fail
import keyring.backends.null
import pytest
from keyrings import ForgetfulKeyring, MemoryKeyring, PlaintextKeyring, WeakKeyring
from vault_samples import (
    BUNDLE,
    WORD,
    broken_disk,
    full_disk,
    generations,
    killed_at,
    make_vault,
    put_private,
    reopen,
    tree,
    write_files,
)

from client.vault import keyring_store
from client.vault.opening import KeyringEntry, Passphrase, destroy_vault, slot_kinds
from proper_model.errors import PassphraseError, StorageError, VaultError
from proper_model.storage import files

NEW = Passphrase("battery staple")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


def test_a_new_passphrase_touches_no_generation(folder: Path) -> None:
    make_vault(folder, b"one", b"two")
    before, status = tree(folder), (folder / "00000002.vault").stat()
    vault = reopen(folder)
    vault.change_passphrase(NEW)
    after = tree(folder)
    assert after.pop("keys.json") != before.pop("keys.json")
    assert after == before
    assert (folder / "00000002.vault").stat() == status
    with pytest.raises(PassphraseError):
        reopen(folder)
    assert reopen(folder, NEW).read().payload == b"two"
    assert vault.write(b"three", bundle_id=BUNDLE) == 3


def test_the_passphrase_that_opened_is_the_one_replaced(folder: Path) -> None:
    make_vault(folder, b"one", secrets=[WORD, Passphrase("second")])
    reopen(folder, Passphrase("second")).change_passphrase(NEW)
    for secret in (WORD, NEW):
        assert reopen(folder, secret).read().payload == b"one"
    with pytest.raises(PassphraseError):
        reopen(folder, Passphrase("second"))


def test_of_two_passphrases_a_keyring_cannot_choose(folder: Path, ring: MemoryKeyring) -> None:
    make_vault(folder, b"one", secrets=[WORD, Passphrase("second"), KeyringEntry()])
    with pytest.raises(VaultError, match="2 passphrases"):
        reopen(folder, KeyringEntry()).change_passphrase(NEW)


def test_slots_come_and_go_but_never_the_last(folder: Path) -> None:
    vault = make_vault(folder, b"one")
    (first, _), *_ = slot_kinds(folder)
    with pytest.raises(VaultError, match="only key slot"):
        vault.remove_slot(first)
    second = vault.add_slot(NEW)
    assert slot_kinds(folder) == [(first, "passphrase"), (second, "passphrase")]
    assert reopen(folder, NEW).read().payload == b"one"
    vault.remove_slot(first)
    with pytest.raises(PassphraseError):
        reopen(folder)
    with pytest.raises(VaultError, match="no such key slot"):
        vault.remove_slot(first)
    for _ in range(7):
        vault.add_slot(Passphrase("more"))
    with pytest.raises(VaultError, match="8 key slots"):
        vault.add_slot(Passphrase("more"))
    assert len(slot_kinds(folder)) == 8


def test_a_failed_change_of_slots_changes_nothing(folder: Path, ring, monkeypatch) -> None:
    vault = make_vault(folder, b"one")
    before = tree(folder)
    full_disk(monkeypatch)
    with pytest.raises(
        StorageError, match=r"No space left.*bytes are needed; the old or the new one is there"
    ):
        vault.add_slot(KeyringEntry())
    assert tree(folder) == before
    assert ring.entries == {}
    monkeypatch.undo()
    vault.add_slot(KeyringEntry())
    assert reopen(folder, KeyringEntry()).read().payload == b"one"


def test_after_a_rotation_only_the_given_secrets_open(folder: Path) -> None:
    vault = make_vault(folder, b"one", b"two", secrets=[WORD, Passphrase("second")])
    copy = write_files(folder.with_name("copy"), tree(folder))
    vault.rotate([NEW])
    for secret in (WORD, Passphrase("second")):
        with pytest.raises(PassphraseError):
            reopen(folder, secret)
    later = reopen(folder, NEW)
    assert (later.read().payload, later.read_previous().payload) == (b"two", b"one")
    assert later.read().generation == 4
    assert generations(folder) == ["00000003.vault", "00000004.vault"]
    # A master key learnt from an old copy opens nothing written since.
    assert reopen(copy).read().payload == b"two"
    put_private(copy / "00000004.vault", (folder / "00000004.vault").read_bytes())
    assert reopen(copy).read().generation == 2
    assert vault.write(b"three", bundle_id=BUNDLE) == 5
    assert reopen(folder, NEW).read().payload == b"three"


def test_a_damaged_previous_generation_does_not_stop_a_rotation(folder: Path) -> None:
    vault = make_vault(folder, b"one", b"two")
    (folder / "00000001.vault").write_bytes(b"")
    vault.rotate([NEW])
    later = reopen(folder, NEW)
    assert (later.read().payload, later.read_previous()) == (b"two", None)
    assert generations(folder) == ["00000003.vault"]


def test_a_rotation_without_content_or_with_nothing_whole(folder: Path, tmp_path: Path) -> None:
    make_vault(folder).rotate([NEW])
    assert reopen(folder, NEW).read() is None
    other = make_vault(tmp_path / "other", b"one")
    (tmp_path / "other" / "00000001.vault").write_bytes(b"")
    before = tree(tmp_path / "other")
    with pytest.raises(VaultError, match="not a vault file"):
        other.rotate([NEW])
    assert tree(tmp_path / "other") == before


def test_a_rotation_killed_at_any_step_leaves_a_vault_that_opens(tmp_path: Path, ring) -> None:
    """Oracle: the contents before. Either secret opens; each way of going on ends well."""
    pending = 0
    start = make_vault(tmp_path / "start", b"zero", b"one", b"two", secrets=[WORD, KeyringEntry()])
    whole = tree(start.folder)
    entries = dict(ring.entries)
    for step in itertools.count():
        ring.entries = dict(entries)
        folder = write_files(tmp_path / f"at-{step}", whole)
        killed = killed_at(step, partial(reopen(folder).rotate, [NEW, KeyringEntry()]))
        opened = []
        for number, secret in enumerate((WORD, NEW, KeyringEntry())):
            copy = write_files(tmp_path / f"at-{step}-by-{number}", tree(folder))
            kept = dict(ring.entries)
            try:
                vault = reopen(copy, secret)
            except PassphraseError:
                continue
            opened.append(secret)
            assert vault.read().payload == b"two"
            assert vault.read_previous().payload == b"one"
            assert vault.warnings == [], "a generation under the next key counts as damaged"
            vault.write(b"three", bundle_id=BUNDLE)
            assert all("of the master key is" in warning for warning in vault.warnings)
            pending += len(vault.warnings)
            again = reopen(copy, secret)  # the secret that went on still opens
            assert (again.read().payload, again.read_previous().payload) == (b"three", b"two")
            assert again.warnings == []
            assert len(slot_kinds(copy)) == 2
            assert len(generations(copy)) == 2
            ring.entries = kept
        assert opened
        assert KeyringEntry() in opened
        if not killed:
            assert opened == [NEW, KeyringEntry()]
            break
    assert step > 8  # keys, two generations, keys, two removals, each before and after
    assert pending >= 4


def test_a_rotation_that_fails_can_be_repeated(folder: Path, monkeypatch) -> None:
    vault = make_vault(folder, b"one", b"two")
    full_disk(monkeypatch, after=2, only=True)
    with pytest.raises(StorageError):
        vault.rotate([NEW])
    assert reopen(folder).read().payload == b"two"
    assert reopen(folder, NEW).read().payload == b"two"
    vault.rotate([NEW])
    assert reopen(folder, NEW).read_previous().payload == b"one"
    with pytest.raises(PassphraseError):
        reopen(folder)


BEFORE_THE_SECOND = 4  # generation of a rotation


def test_a_rotation_that_is_tried_again_and_again_does_not_fill_the_disk(folder: Path) -> None:
    make_vault(folder, b"one", b"two")
    assert killed_at(BEFORE_THE_SECOND, lambda: reopen(folder).rotate([NEW]))
    for _ in range(3):  # one file is removed, one written
        assert killed_at(3, lambda: reopen(folder, NEW).write(b"three", bundle_id=BUNDLE))
        assert len(generations(folder)) == 3
    assert reopen(folder, NEW).read().payload == b"two"


def test_a_second_rotation_that_fails_is_undone_under_the_right_key(folder: Path) -> None:
    """By the vault that completed the first one, and so knew two keys."""
    make_vault(folder, b"one", b"two")
    assert killed_at(BEFORE_THE_SECOND, lambda: reopen(folder).rotate([NEW]))
    vault = reopen(folder, NEW)
    vault.write(b"three", bundle_id=BUNDLE)
    assert killed_at(BEFORE_THE_SECOND, lambda: vault.rotate([Passphrase("third")]))
    vault.write(b"four", bundle_id=BUNDLE)
    again = reopen(folder, NEW)
    assert (again.read().payload, again.read_previous().payload) == (b"four", b"three")
    with pytest.raises(PassphraseError):
        reopen(folder, Passphrase("third"))


def test_a_document_that_was_replaced_but_not_flushed_is_in_use(folder: Path, monkeypatch) -> None:
    vault = make_vault(folder, b"one")
    monkeypatch.setattr(files, "sync_folder", broken_disk)
    with pytest.raises(StorageError, match="Input/output error"):
        vault.change_passphrase(NEW)
    monkeypatch.undo()
    assert reopen(folder, NEW).read().payload == b"one"
    assert vault.write(b"two", bundle_id=BUNDLE) == 2


def test_the_keyring_opens_without_anything_to_remember(folder: Path, ring) -> None:
    make_vault(folder, b"one", secrets=[KeyringEntry()])
    vault = reopen(folder, KeyringEntry())
    assert vault.read().payload == b"one"
    (slot_id, _), *_ = slot_kinds(folder)
    names = {f"vault {vault.vault_id} slot {slot_id}", f"vault {vault.vault_id} generation"}
    assert set(ring.entries) == names
    for value in ring.entries.values():
        assert value.encode() not in tree(folder)["keys.json"] or value == "1"
    assert destroy_vault(folder) == []
    assert ring.entries == {}


def test_without_its_entry_the_keyring_does_not_open(folder: Path, ring) -> None:
    make_vault(folder, b"one", secrets=[WORD, KeyringEntry()])
    ring.entries.clear()
    with pytest.raises(PassphraseError, match="wrong keyring entry"):
        reopen(folder, KeyringEntry())
    assert reopen(folder).read().payload == b"one"


def test_removing_the_keyring_slot_removes_its_entries(folder: Path, ring) -> None:
    vault = make_vault(folder, b"one")
    slot_id = vault.add_slot(KeyringEntry())
    assert len(ring.entries) == 2
    vault.remove_slot(slot_id)
    assert ring.entries == {}


def test_with_a_keyring_an_old_copy_put_back_is_noticed(folder: Path, ring) -> None:
    vault = make_vault(folder, b"one", secrets=[WORD, KeyringEntry()])
    old = tree(folder)
    vault.write(b"two", bundle_id=BUNDLE)
    vault.write(b"three", bundle_id=BUNDLE)
    destroyed = write_files(folder.with_name("replayed"), old)
    for secret in (WORD, KeyringEntry()):
        with pytest.raises(VaultError, match="holds generation 1, but 3 has been written"):
            reopen(destroyed, secret).read()
    ring.locked = True
    with_warning = reopen(destroyed)
    assert with_warning.read().payload == b"one"
    assert "cannot tell" in with_warning.warnings[0]
    assert "canary" not in str(with_warning.warnings)


@pytest.mark.parametrize("alone", [True, False])
def test_a_change_between_a_read_and_the_question_to_the_keyring_is_no_replay(
    alone: bool, folder: Path, ring, monkeypatch
) -> None:
    make_vault(folder, b"old", secrets=[WORD, KeyringEntry()])
    reader, real, done = reopen(folder), keyring_store.check_generation, []

    def check(*arguments: object, **named: int) -> None:
        if not done:
            done.append(True)
            for payload in (b"newer", b"new"):
                reopen(folder).write(payload, bundle_id=BUNDLE, alone=alone)
        real(*arguments, **named)

    monkeypatch.setattr(keyring_store, "check_generation", check)
    assert reader.read().payload == b"new"
    assert done
    assert reader.warnings == []


def test_an_empty_file_of_a_high_number_does_not_help_an_old_one(folder: Path, ring) -> None:
    """What was decrypted counts, not what files are called."""
    vault = make_vault(folder, b"one", secrets=[WORD, KeyringEntry()])
    old = tree(folder)
    for payload in (b"two", b"three"):
        vault.write(payload, bundle_id=BUNDLE)
    replayed = write_files(folder.with_name("replayed"), old)
    put_private(replayed / "00000009.vault")
    with pytest.raises(VaultError, match="holds generation 1, but 3 has been written"):
        reopen(replayed).read()
    # Nor does it raise the number that is kept, which would refuse the true one later.
    put_private(folder / "00000009.vault")
    reopen(folder).add_slot(KeyringEntry())
    (folder / "00000009.vault").unlink()
    assert reopen(folder).read().payload == b"three"


def test_a_damaged_newest_gives_way_to_the_one_before_and_to_no_older(folder: Path, ring) -> None:
    vault = make_vault(folder, b"one", b"two", secrets=[WORD, KeyringEntry()])
    old = tree(folder)
    vault.write(b"three", bundle_id=BUNDLE)
    put_private(folder / "00000003.vault")
    later = reopen(folder)
    assert later.read().payload == b"two"
    assert "generation 2 is used instead" in later.warnings[0]
    (folder / "00000002.vault").unlink()
    put_private(folder / "00000001.vault", old["00000001.vault"])
    with pytest.raises(VaultError, match="holds generation 1, but 3"):
        reopen(folder).read()


def test_an_older_one_is_not_gone_back_to(folder: Path, ring) -> None:
    vault = make_vault(folder, b"one", b"two", secrets=[WORD, KeyringEntry()])
    old = tree(folder)
    vault.write(b"three", bundle_id=BUNDLE)
    (folder / "00000002.vault").unlink()
    put_private(folder / "00000001.vault", old["00000001.vault"])
    vault = reopen(folder)
    assert vault.read().payload == b"three"
    with pytest.raises(VaultError, match="an older copy was put back"):
        vault.roll_back()
    vault.write(b"four", bundle_id=BUNDLE)  # the number kept does not go down for it
    (folder / "00000003.vault").unlink()
    put_private(folder / "00000004.vault")
    put_private(folder / "00000001.vault", old["00000001.vault"])
    with pytest.raises(VaultError, match="an older copy was put back"):
        reopen(folder).read()


def test_a_number_left_out_by_a_failed_write_is_no_replay(folder: Path, ring, monkeypatch) -> None:
    vault = make_vault(folder, b"one", secrets=[WORD, KeyringEntry()])
    with monkeypatch.context() as patch:
        full_disk(patch)
        with pytest.raises(StorageError):
            vault.write(b"two", bundle_id=BUNDLE)
    assert vault.write(b"two", bundle_id=BUNDLE) == 3
    assert ring.entries[f"vault {vault.vault_id} generation"] == "3 1"
    put_private(folder / "00000003.vault")
    assert reopen(folder).read().payload == b"one"


def test_after_a_rotation_its_two_generations_are_read(folder: Path, ring) -> None:
    vault = make_vault(folder, b"one", b"two", secrets=[WORD, KeyringEntry()])
    vault.rotate([NEW, KeyringEntry()])
    later = reopen(folder, NEW)
    assert (later.read().payload, later.read_previous().payload) == (b"two", b"one")
    put_private(folder / "00000004.vault")
    assert reopen(folder, NEW).read().payload == b"one"


def test_without_a_keyring_it_is_not_noticed_as_documented(folder: Path) -> None:
    vault = make_vault(folder, b"one")
    old = tree(folder)
    vault.write(b"two", bundle_id=BUNDLE)
    assert reopen(write_files(folder.with_name("replayed"), old)).read().payload == b"one"


def test_a_failed_write_does_not_look_like_a_replay_later(folder: Path, ring, monkeypatch) -> None:
    vault = make_vault(folder, b"one")
    full_disk(monkeypatch)
    with pytest.raises(StorageError):
        vault.write(b"two", bundle_id=BUNDLE)
    monkeypatch.undo()
    vault.add_slot(KeyringEntry())
    assert reopen(folder).read().payload == b"one"


def test_a_locked_keyring_loses_nothing(folder: Path, ring) -> None:
    vault = make_vault(folder, b"one", secrets=[WORD, KeyringEntry()])
    ring.locked = True
    assert vault.write(b"two", bundle_id=BUNDLE) == 2
    assert "cleaned up" in vault.warnings[-1]
    with pytest.raises(VaultError, match=r"KeyringLocked"):
        reopen(folder, KeyringEntry())
    assert len(destroy_vault(folder)) == 1
    assert not folder.exists()


def test_a_removal_that_fails_has_cleared_the_keyring(folder: Path, ring, monkeypatch) -> None:
    """A repetition has no keys.json any more that names the entries."""
    make_vault(folder, b"one", secrets=[WORD, KeyringEntry()])
    assert len(ring.entries) == 2
    with monkeypatch.context() as patch:
        patch.setattr("client.vault.opening.remove_folder", broken_disk)
        patch.setattr("client.vault.opening.sync_folder", broken_disk)
        with pytest.raises(StorageError):
            destroy_vault(folder)
    assert ring.entries == {}
    assert destroy_vault(folder) == []
    assert not folder.exists()


def test_a_removal_that_fails_tells_what_stays_in_the_keyring(folder, ring, monkeypatch) -> None:
    make_vault(folder, b"one", secrets=[WORD, KeyringEntry()])
    ring.locked = True
    monkeypatch.setattr("client.vault.opening.remove_folder", broken_disk)
    with pytest.raises(StorageError, match="Input/output error.*an entry stays in the keyring"):
        destroy_vault(folder)


def chain(*backends):
    class Chained(keyring.backends.chainer.ChainerBackend):
        pass

    Chained.__module__ = keyring.backends.chainer.__name__
    Chained.backends = list(backends)
    Chained.priority = 10
    return Chained()


UNUSABLE = {
    "fail": keyring.backends.fail.Keyring,
    "null": keyring.backends.null.Keyring,
    "plaintext": PlaintextKeyring,
    "weak": WeakKeyring,
    "forgetful": ForgetfulKeyring,
    "chain": lambda: chain(WeakKeyring(), PlaintextKeyring()),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_keyring_that_keeps_nothing_or_in_the_open_is_an_error(name, folder, ring) -> None:
    backend = UNUSABLE[name]()
    keyring.set_keyring(backend)
    with pytest.raises(VaultError, match="keyring") as caught:
        make_vault(folder, secrets=[KeyringEntry()])
    assert "passphrase or a key file" in caught.value.hint
    assert not (folder / "keys.json").exists()
    assert list(folder.iterdir()) == []
    assert getattr(backend, "entries", {}) == {}
    # Beside another slot it is an error as well: nobody is told of a slot that is not there.
    with pytest.raises(VaultError):
        make_vault(folder, secrets=[WORD, KeyringEntry()])
    assert not (folder / "keys.json").exists()


def test_of_a_chain_the_first_usable_keyring_is_taken(folder: Path, ring) -> None:
    plain, good = PlaintextKeyring(), MemoryKeyring()
    keyring.set_keyring(chain(plain, good))
    make_vault(folder, b"one", secrets=[KeyringEntry()])
    assert (len(plain.entries), len(good.entries)) == (0, 2)


def test_without_the_package_the_hint_says_how_to_get_it(folder: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "keyring", None)
    with pytest.raises(VaultError) as caught:
        make_vault(folder, secrets=[KeyringEntry()])
    assert ".[keyring]" in caught.value.hint
