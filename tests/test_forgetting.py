"""Forgetting is one step: stopped anywhere, the old state is there or nothing leads back to it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from keyrings import MemoryKeyring
from test_vault_faults import STRACE, Saves
from vault_reader import hkdf, master_key, read_all
from vault_samples import (
    BUNDLE,
    WORD,
    full_disk,
    generations,
    killed_at,
    make_vault,
    put_key_file,
    put_private,
    reopen,
    tree,
    write_files,
)

from client.person.state import PersonalState
from client.person.stores import VaultStore
from client.vault.opening import KeyringEntry, Passphrase, Vault
from client.vault.sealing import Header, read_header
from proper_model.errors import InterruptedRunError, StorageError, VaultError

CHECKPOINTS = (
    "training-00000001-abc",
    "training-00000001-abc.refit",
    ".training-00000001-abc.0123456789ab.tmp",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


def forget(vault: Vault) -> int:
    return vault.write(b"new", bundle_id=BUNDLE, alone=True)


def with_checkpoints(vault: Vault) -> Vault:
    for name in CHECKPOINTS:
        put_private(vault.folder / name, b"sealed")
    return vault


def check_gone(folder: Path, secret=WORD) -> None:
    """Nothing leads back, at once; the next change removes what is left."""
    vault = reopen(folder, secret)
    assert vault.read().payload == b"new"
    assert vault.read_previous() is None
    with pytest.raises(VaultError, match="no earlier state"):
        vault.roll_back()
    vault.finish_interrupted()
    left = [name for name in tree(folder) if name != "keys.json"]
    assert left == generations(folder)
    assert len(left) == 1
    assert vault.write(b"later", bundle_id=BUNDLE)
    again = reopen(folder, secret)
    assert (again.read().payload, again.read_previous().payload) == (b"later", b"new")


def test_what_must_not_be_gone_back_to_is_removed(folder: Path) -> None:
    vault = with_checkpoints(make_vault(folder, b"one", b"two"))
    assert forget(vault) == 3
    assert sorted(tree(folder)) == ["00000003.vault", "keys.json"]
    assert vault.warnings == []
    check_gone(folder)


def test_a_second_reader_reads_it(folder: Path) -> None:
    """Oracle: the reader written from docs/vault-format.md."""
    vault = make_vault(folder, b"one")
    forget(vault)
    (only,) = read_all(folder, {"passphrase": WORD.text})
    assert only == {"bundle_id": BUNDLE, "generation": 2, "payload": b"new".hex()}
    data = (folder / "00000002.vault").read_bytes()
    header = json.loads(data[12 : 12 + int.from_bytes(data[8:12], "big")])
    assert header["alone"] is True
    (folder / "00000002.vault").write_bytes(data.replace(b'"alone":true,', b""))
    with pytest.raises(VaultError):
        reopen(folder).read()


@pytest.mark.parametrize("value", [b"false", b"1", b"null", b'"true"'])
def test_only_true_stands_in_that_field(value: bytes) -> None:
    header = Header("aa" * 16, "bb" * 8, BUNDLE, 1, bytes(32), alone=True)
    prefix = header.prefix()
    assert read_header(prefix + bytes(20), where="file") == header
    text = prefix[12:].replace(b'"alone":true', b'"alone":' + value)
    data = prefix[:8] + len(text).to_bytes(4, "big") + text + bytes(20)
    with pytest.raises(VaultError, match="alone: expected true"):
        read_header(data, where="file")


def test_a_damaged_newest_is_not_gone_back_over(folder: Path) -> None:
    make_vault(folder, b"one", b"two")
    newest = folder / "00000002.vault"
    newest.write_bytes(newest.read_bytes()[:-1])
    vault = reopen(folder)
    assert vault.read().payload == b"one"
    forget(vault)
    assert generations(folder) == ["00000003.vault"]


def test_stopped_at_any_step_the_old_state_or_no_way_back(tmp_path: Path) -> None:
    start = with_checkpoints(make_vault(tmp_path / "start", b"old one", b"old two"))
    whole, seen = tree(start.folder), []
    for step in itertools.count():
        folder = write_files(tmp_path / f"at-{step}", whole)
        killed = killed_at(step, partial(forget, reopen(folder)))
        if reopen(folder).read().payload == b"new":
            seen.append("new")
            check_gone(folder)
            assert opened_today(folder, whole) == []
        else:
            seen.append("old")
            assert killed
            assert reopen(folder).read_previous().payload == b"old one"
            reopen(folder).settle()
            assert tree(folder) == whole
        if not killed:
            break
    assert seen == ["old"] * 5 + ["new"] * (len(seen) - 5)  # keys, generation, keys
    assert seen.count("new") > 2 * len(CHECKPOINTS)


def opened_today(folder: Path, earlier: dict[str, bytes], secret: dict | None = None) -> list[str]:
    """Which generations of an earlier copy the vault's present keys.json and a secret decrypt.

    Oracle: the reader written from docs/vault-format.md; no id in a header is looked at.
    """
    keys = json.loads((folder / "keys.json").read_bytes())
    key = master_key(keys, secret or {"passphrase": WORD.text})
    found = []
    for name, data in earlier.items():
        if not name.endswith(".vault"):
            continue
        start = 12 + int.from_bytes(data[8:12], "big")
        salt = bytes.fromhex(json.loads(data[12:start])["salt"])
        cipher = AESGCM(hkdf(key, salt, b"proper vault generation 1"))
        with suppress(InvalidTag):
            cipher.decrypt(bytes(12), data[start:], data[:start])
            found.append(name)
    return found


def test_todays_keys_open_no_earlier_copy_of_a_generation(folder: Path, tmp_path: Path) -> None:
    """Whoever copied a generation before it was forgotten cannot read it with what is there now."""
    key = put_key_file(tmp_path / "key")
    secrets = [WORD, key]
    vault = make_vault(folder, b"one", b"two", secrets=secrets)
    earlier, slots = tree(folder), vault.slot_kinds()
    assert opened_today(folder, earlier) == generations(folder), "the positive control"
    forget(vault)
    assert opened_today(folder, earlier) == []
    assert opened_today(folder, earlier, {"key_file": key.path.read_bytes().hex()}) == []
    for later in (b"later", b"again"):
        reopen(folder).write(later, bundle_id=BUNDLE)
    reopen(folder).roll_back()
    reopen(folder).change_passphrase(Passphrase("next one"))
    assert opened_today(folder, earlier, {"passphrase": "next one"}) == []
    reopen(folder, key).rotate([WORD])
    assert opened_today(folder, earlier) == []
    # Every secret opened it all along, under the slots it had.
    again = make_vault(tmp_path / "again", b"one", secrets=secrets)
    before = again.slot_kinds()
    forget(again)
    assert [reopen(again.folder, one).read().payload for one in secrets] == [b"new", b"new"]
    assert again.slot_kinds() == before
    assert slots


def test_a_copied_generation_put_back_is_not_read(folder: Path) -> None:
    vault = make_vault(folder, b"one", b"two")
    earlier = tree(folder)
    forget(vault)
    for name in generations(folder):
        (folder / name).unlink()
    for name in ("00000001.vault", "00000002.vault"):
        put_private(folder / name, earlier[name])
    with pytest.raises(VaultError, match="under another key"):
        reopen(folder).read()


def test_a_slot_of_an_earlier_version_is_taken_along_or_nothing_is_changed(
    folder: Path, tmp_path: Path, ring: MemoryKeyring
) -> None:
    key = put_key_file(tmp_path / "key")
    vault = make_vault(folder, b"one", secrets=[WORD, key, KeyringEntry()])
    as_earlier(vault)
    before = tree(folder)
    with pytest.raises(VaultError, match="made by an earlier version") as caught:
        reopen(folder).check_forgetting()
    assert "proper passwd --remove" in caught.value.hint
    with pytest.raises(VaultError, match="made by an earlier version"):
        forget(reopen(folder))
    assert tree(folder) == before
    vault = reopen(folder)
    vault.remove_slot(vault.slot_kinds()[1][0])
    forget(reopen(folder))
    assert opened_today(folder, before) == []
    for secret in (WORD, KeyringEntry()):
        assert reopen(folder, secret).read().payload == b"new"
    reopen(folder).write(b"newer", bundle_id=BUNDLE, alone=True)


def test_slots_of_an_earlier_version_are_renewed_as_their_secrets_are_given(
    folder: Path, tmp_path: Path
) -> None:
    """As the hint says: the same command with each key, none of which is lost."""
    secrets = [WORD, put_key_file(tmp_path / "key")]
    vault = make_vault(folder, b"one", secrets=secrets)
    as_earlier(vault)
    before, slots = tree(folder), vault.slot_kinds()
    for secret in secrets:
        reopen(folder, secret).finish_interrupted()
        assert [reopen(folder, one).read().payload for one in secrets] == [b"one", b"one"]
    assert reopen(folder).slot_kinds() == slots
    after = tree(folder)
    assert after.pop("keys.json") != before.pop("keys.json")
    assert after == before
    reopen(folder).finish_interrupted()
    forget(reopen(folder))
    assert opened_today(folder, before) == []
    assert [reopen(folder, one).read().payload for one in secrets] == [b"new", b"new"]


def test_a_key_file_exchanged_meanwhile_does_not_take_the_slot(
    folder: Path, tmp_path: Path
) -> None:
    """The slot key is derived again; another file than the one that opened must not get the vault."""
    key = put_key_file(tmp_path / "key")
    vault = make_vault(folder, b"one", secrets=[key, WORD])
    as_earlier(vault)
    before, opened = tree(folder), reopen(folder, key)
    put_key_file(key.path, b"x" * 32)
    with pytest.raises(VaultError, match="made by an earlier version"):
        opened.finish_interrupted()
    with pytest.raises(VaultError, match="made by an earlier version"):
        opened.check_forgetting()
    assert tree(folder) == before


def test_an_earlier_slot_of_a_keyring_that_is_locked(folder: Path, ring: MemoryKeyring) -> None:
    """Who gave the passphrase is not told to use a passphrase."""
    as_earlier(make_vault(folder, b"one", secrets=[WORD, KeyringEntry()]))
    vault = reopen(folder)
    ring.locked = True
    with pytest.raises(VaultError, match="keyring.*made by an earlier version") as caught:
        vault.check_forgetting()
    assert "unlock the keyring" in caught.value.hint
    assert "passwd --remove" in caught.value.hint


def as_earlier(vault: Vault) -> None:
    """Rewrite the slots as versions did that kept no slot key."""
    file, current = vault._file, vault._file.keys.current
    file.save_slots(
        tuple(
            replace(slot, turn=None, kept=None).holding(
                slot.kept_key(file.key, vault.vault_id, current.key_id),
                file.key,
                vault.vault_id,
                current.key_id,
            )
            for slot in current.slots
        )
    )


@pytest.fixture(scope="module")
def forgets(tmp_path_factory: pytest.TempPathFactory) -> Saves:
    if STRACE is None:
        pytest.skip("needs strace")
    return Saves(tmp_path_factory.mktemp("forgets"), "alone", payload="new")


def test_killed_or_refused_at_every_call_of_the_system(forgets: Saves) -> None:
    states = []
    for call in forgets.calls:
        faults = ["error=EIO"]
        faults += ["error=ENOSPC"] if call.writes else []
        # Killed between two changes the folder is what it is when killed at the next one.
        faults += ["signal=SIGKILL"] if call.writes or "unlink" in call.name else []
        for fault in faults:
            folder, status, _ = forgets.run(f"inject={call.name}:{fault}:when={call.count}")
            state = reopen(folder, forgets.key).read().payload
            states.append((fault, state))
            if state == b"new":
                assert opened_today(folder, forgets.files, forgets.secret) == []
                assert status or len(generations(folder)) == 1, "told as done and not done"
                check_gone(folder, forgets.key)
            else:
                assert state == b"old"
                assert status, "told as done and not done"
                assert reopen(folder, forgets.key).read_previous().payload == b"previous"
                if fault != "signal=SIGKILL":  # undone at once
                    assert opened_today(folder, forgets.files, forgets.secret)
                reopen(folder, forgets.key).settle()
                assert generations(folder) == [n for n in forgets.files if n.endswith(".vault")]
                assert json.loads((folder / "keys.json").read_bytes())["next"] is None
    assert len(set(states)) == 6


def test_a_rotation_after_it_brings_nothing_back(folder: Path) -> None:
    vault = with_checkpoints(make_vault(folder, b"one", b"two"))
    assert killed_at(5, lambda: forget(vault))  # keys, generation, keys: each before and after
    assert len(generations(folder)) == 3
    reopen(folder).rotate([Passphrase("next")])
    assert len(generations(folder)) == 1
    check_gone(folder, Passphrase("next"))


def test_a_rotation_between_the_two_steps(folder: Path, monkeypatch) -> None:
    """Forgetting while a change of the master key is half done: neither is lost."""
    make_vault(folder, b"one", b"two")
    assert killed_at(3, lambda: reopen(folder).rotate([Passphrase("next")]))
    vault = reopen(folder, Passphrase("next"))
    interrupt_at_the_end(vault, monkeypatch)
    check_gone(folder, Passphrase("next"))


def interrupt_at_the_end(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise StorageError("refused", hint="later")

    with monkeypatch.context() as patch:
        patch.setattr("client.vault.contents.remove_working", refused)
        with pytest.raises(StorageError, match="nothing reads the older files") as caught:
            forget(vault)
    assert caught.value.hint


def test_going_on_is_told(folder: Path, monkeypatch) -> None:
    vault = make_vault(folder, b"one", b"two")
    interrupt_at_the_end(vault, monkeypatch)
    again = reopen(folder)
    again.finish_interrupted()
    assert "interrupted forgetting" in again.warnings[0]
    assert generations(folder) == ["00000003.vault"]
    later = reopen(folder)
    later.finish_interrupted()
    assert later.warnings == []


# --- with a keyring -------------------------------------------------------------------------------


def test_what_was_forgotten_cannot_be_put_back(folder: Path, ring: MemoryKeyring) -> None:
    vault = make_vault(folder, b"one", b"two", secrets=[WORD, KeyringEntry()])
    old = tree(folder)
    forget(vault)
    newest = (folder / "00000003.vault").read_bytes()
    (folder / "00000003.vault").write_bytes(newest[:-1])
    put_private(folder / "00000002.vault", old["00000002.vault"])
    with pytest.raises(VaultError, match=r"00000003\.vault: damaged or altered"):
        reopen(folder).read()
    (folder / "00000003.vault").write_bytes(newest)
    check_gone(folder)


def test_stopped_at_any_step_every_secret_still_opens(tmp_path: Path, ring: MemoryKeyring) -> None:
    """What the keyring keeps for a slot serves before and after, and while both keys are there."""
    secrets = [WORD, KeyringEntry(), put_key_file(tmp_path / "key")]
    start = make_vault(tmp_path / "start", b"old", secrets=secrets)
    whole, entries, states = tree(start.folder), dict(ring.entries), []
    for step in range(7):
        ring.entries = dict(entries)
        folder = write_files(tmp_path / f"at-{step}", whole)
        assert killed_at(step, partial(forget, reopen(folder)))
        found = [reopen(folder, secret).read().payload for secret in secrets]
        assert len(set(found)) == 1
        states += found[:1]
        reopen(folder).finish_interrupted()
        assert [reopen(folder, secret).read().payload for secret in secrets] == found
        assert ring.entries.keys() == entries.keys()
        assert sorted(generations(folder)) == [
            "00000001.vault" if found[0] == b"old" else "00000002.vault"
        ]
    assert states == [b"old"] * 5 + [b"new"] * 2


def test_a_failing_removal_is_noted_before(folder: Path, ring: MemoryKeyring, monkeypatch) -> None:
    vault = make_vault(folder, b"one", b"two", secrets=[WORD, KeyringEntry()])
    interrupt_at_the_end(vault, monkeypatch)
    assert ring.entries[f"vault {vault.vault_id} generation"] == "3 3"
    check_gone(folder)


# --- the one step of the command and the page -----------------------------------------------------

STATE = PersonalState(BUNDLE, 1, seed=1)


def test_the_state_is_stored_with_a_line_of_history(folder: Path) -> None:
    vault = with_checkpoints(make_vault(folder, b"one"))
    VaultStore(vault).write_without(STATE, task="t", items=2)
    stored = VaultStore(reopen(folder)).read()
    assert [(event.what, event.items) for event in stored.events] == [("forget", 2)]
    assert stored == replace(STATE, events=stored.events)
    assert sorted(tree(folder)) == ["00000002.vault", "keys.json"]


def during_removal(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    real = Path.unlink

    def unlink(path: Path, **named: bool) -> None:
        action()
        real(path, **named)

    monkeypatch.setattr(Path, "unlink", unlink)


def test_an_interrupt_waits_until_everything_is_removed(folder: Path, monkeypatch) -> None:
    vault = with_checkpoints(make_vault(folder, b"one"))
    handler = signal.getsignal(signal.SIGINT)
    during_removal(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(InterruptedRunError) as caught:
        VaultStore(vault).write_without(STATE, task="t", items=2)
    assert "nothing is left" in caught.value.hint
    assert sorted(tree(folder)) == ["00000002.vault", "keys.json"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_refused_write_changes_nothing(folder: Path, monkeypatch) -> None:
    vault = with_checkpoints(make_vault(folder, b"one"))
    before = tree(folder)
    full_disk(monkeypatch)
    with pytest.raises(StorageError, match="No space"):
        VaultStore(vault).write_without(STATE, task="t", items=2)
    assert tree(folder) == before


# --- checkpoints ----------------------------------------------------------------------------------


def test_half_written_checkpoints_are_removed(folder: Path) -> None:
    from client.commands.training_run import discard
    from client.vault.working_files import list_working

    vault = with_checkpoints(make_vault(folder, b"one"))
    assert {path.name for path in list_working(folder)} == set(CHECKPOINTS)
    discard(vault, keep="abc")
    assert sorted(path.name for path in folder.glob("*training-*")) == sorted(CHECKPOINTS[:2])
    discard(vault)
    with_checkpoints(vault).write(b"two", bundle_id=BUNDLE)
    assert list(folder.glob("*training-*")) == [], "of a state that is no longer the newest"
    shutil.rmtree(folder)
    with pytest.raises(StorageError):
        discard(vault)
