"""Forgetting is one step: stopped anywhere, the old state is there or nothing leads back to it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import keyring
import pytest
from keyrings import MemoryKeyring
from test_vault_faults import STRACE, Saves
from test_vault_keys import Killed, kill_at
from vault_reader import read_all
from vault_samples import (
    BUNDLE,
    CHEAP,
    WORD,
    generations,
    make_vault,
    put_files,
    tree,
)

from client import private_files
from client.forgetting import store_without
from client.personal_state import PersonalState, decode
from client.sealing import Header, read_header
from client.vault import KeyringEntry, Passphrase, Vault, open_vault
from proper_model.errors import InterruptedRunError, StorageError, VaultError

CHECKPOINTS = ("training-abc", "training-abc.refit", ".training-abc.0123456789ab.tmp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


@pytest.fixture
def ring() -> Iterator[MemoryKeyring]:
    before, made = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


def reopen(folder: Path, secret=WORD) -> Vault:
    return open_vault(folder, secret, cost=CHEAP)


def with_checkpoints(vault: Vault) -> Vault:
    for name in CHECKPOINTS:
        (vault.folder / name).touch(mode=0o600)
        (vault.folder / name).write_bytes(b"sealed")
    return vault


def check_gone(folder: Path, secret=WORD) -> None:
    """Nothing leads back, at once; the next change removes what is left."""
    vault = reopen(folder, secret)
    assert vault.read().payload == b"new"
    assert vault.read_previous() is None
    with pytest.raises(VaultError, match="no earlier state"):
        vault.roll_back()
    vault.finish_forgetting()
    left = [name for name in tree(folder) if name != "keys.json"]
    assert left == generations(folder)
    assert len(left) == 1
    assert vault.write(b"later", bundle_id=BUNDLE)
    again = reopen(folder, secret)
    assert (again.read().payload, again.read_previous().payload) == (b"later", b"new")


def test_what_must_not_be_gone_back_to_is_removed(folder: Path) -> None:
    vault = with_checkpoints(make_vault(folder, b"one", b"two"))
    assert vault.write(b"new", bundle_id=BUNDLE, alone=True) == 3
    assert sorted(tree(folder)) == ["00000003.vault", "keys.json"]
    assert vault.warnings == []
    check_gone(folder)


def test_a_second_reader_reads_it(folder: Path) -> None:
    """Oracle: the reader written from docs/vault-format.md."""
    vault = make_vault(folder, b"one")
    vault.write(b"new", bundle_id=BUNDLE, alone=True)
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
    vault.write(b"new", bundle_id=BUNDLE, alone=True)
    assert generations(folder) == ["00000003.vault"]


def test_stopped_at_any_step_the_old_state_or_no_way_back(tmp_path: Path) -> None:
    start = with_checkpoints(make_vault(tmp_path / "start", b"old one", b"old two"))
    whole, seen = tree(start.folder), []
    for step in itertools.count():
        folder = put_files(tmp_path / f"at-{step}", whole)
        finished = False
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, step)
            try:
                reopen(folder).write(b"new", bundle_id=BUNDLE, alone=True)
                finished = True
            except Killed:
                pass
        if reopen(folder).read().payload == b"new":
            seen.append("new")
            check_gone(folder)
        else:
            seen.append("old")
            assert tree(folder) == whole
        if finished:
            break
    assert seen.count("old") == 1
    assert seen.count("new") > 2 * len(CHECKPOINTS)


@pytest.fixture(scope="module")
def forgets(tmp_path_factory: pytest.TempPathFactory) -> Saves:
    if STRACE is None:
        pytest.skip("needs strace")
    return Saves(tmp_path_factory.mktemp("forgets"), "alone", payload="new")


def test_killed_or_refused_at_every_call_of_the_system(forgets: Saves) -> None:
    states = []
    for call in forgets.calls:
        for fault in ("signal=SIGKILL", "error=EIO"):
            folder, status, _ = forgets.run(f"inject={call.name}:{fault}:when={call.count}")
            state = reopen(folder, forgets.key).read().payload
            states.append((fault, state))
            if state == b"new":
                assert status or len(generations(folder)) == 1, "told as done and not done"
                check_gone(folder, forgets.key)
            else:
                assert state == b"old"
                assert status, "told as done and not done"
                assert reopen(folder, forgets.key).read_previous().payload == b"previous"
    assert len(set(states)) == 4


def test_a_rotation_after_it_brings_nothing_back(folder: Path, monkeypatch) -> None:
    vault = with_checkpoints(make_vault(folder, b"one", b"two"))
    interrupt(vault, monkeypatch)
    assert len(generations(folder)) == 3
    reopen(folder).rotate([Passphrase("next")])
    assert len(generations(folder)) == 1
    check_gone(folder, Passphrase("next"))


def interrupt(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget, and be killed once the new generation is there."""
    with monkeypatch.context() as patch:
        kill_at(patch, 1)
        with pytest.raises(Killed):
            vault.write(b"new", bundle_id=BUNDLE, alone=True)


def test_a_rotation_between_the_two_steps(folder: Path, monkeypatch) -> None:
    """Forgetting while a change of the master key is half done: neither is lost."""
    make_vault(folder, b"one", b"two")
    with monkeypatch.context() as patch:
        kill_at(patch, 3)
        with pytest.raises(Killed):
            reopen(folder).rotate([Passphrase("next")])
    vault = reopen(folder, Passphrase("next"))
    interrupt_at_the_end(vault, monkeypatch)
    check_gone(folder, Passphrase("next"))


def interrupt_at_the_end(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise StorageError("refused", hint="later")

    with monkeypatch.context() as patch:
        patch.setattr("client.vault_contents.remove_working", refused)
        with pytest.raises(StorageError, match="nothing reads the older files") as caught:
            vault.write(b"new", bundle_id=BUNDLE, alone=True)
    assert caught.value.hint


def test_going_on_is_told(folder: Path, monkeypatch) -> None:
    vault = make_vault(folder, b"one", b"two")
    interrupt_at_the_end(vault, monkeypatch)
    again = reopen(folder)
    again.finish_forgetting()
    assert "interrupted forgetting" in again.warnings[0]
    assert generations(folder) == ["00000003.vault"]
    later = reopen(folder)
    later.finish_forgetting()
    assert later.warnings == []


# --- with a keyring -------------------------------------------------------------------------------


def test_what_was_forgotten_cannot_be_put_back(folder: Path, ring: MemoryKeyring) -> None:
    vault = make_vault(folder, b"one", b"two", secrets=[WORD, KeyringEntry()])
    old = tree(folder)
    vault.write(b"new", bundle_id=BUNDLE, alone=True)
    newest = (folder / "00000003.vault").read_bytes()
    (folder / "00000003.vault").write_bytes(newest[:-1])
    (folder / "00000002.vault").touch(mode=0o600)
    (folder / "00000002.vault").write_bytes(old["00000002.vault"])
    with pytest.raises(VaultError, match="holds generation 2, but 3 has been written"):
        reopen(folder).read()
    (folder / "00000003.vault").write_bytes(newest)
    check_gone(folder)


def test_a_failing_removal_is_noted_before(folder: Path, ring: MemoryKeyring, monkeypatch) -> None:
    vault = make_vault(folder, b"one", b"two", secrets=[WORD, KeyringEntry()])
    interrupt_at_the_end(vault, monkeypatch)
    assert ring.entries[f"vault {vault.vault_id} generation"] == "3 3"
    check_gone(folder)


# --- the one step of the command and the page -----------------------------------------------------

STATE = PersonalState(BUNDLE, 1, seed=1)


def test_the_state_is_stored_with_a_line_of_history(folder: Path) -> None:
    vault = with_checkpoints(make_vault(folder, b"one"))
    noted = store_without(vault, STATE, task="t", items=2)
    assert [(event.what, event.items) for event in noted.events] == [("forget", 2)]
    assert decode(reopen(folder).read().payload) == noted
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
        store_without(vault, STATE, task="t", items=2)
    assert "nothing is left" in caught.value.hint
    assert sorted(tree(folder)) == ["00000002.vault", "keys.json"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_refused_write_changes_nothing(folder: Path, monkeypatch) -> None:
    vault = with_checkpoints(make_vault(folder, b"one"))
    before = tree(folder)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(private_files, "write_atomic", full)
    with pytest.raises(StorageError, match="No space"):
        store_without(vault, STATE, task="t", items=2)
    assert tree(folder) == before


# --- checkpoints ----------------------------------------------------------------------------------


def test_half_written_checkpoints_are_removed(folder: Path) -> None:
    from client import training

    vault = with_checkpoints(make_vault(folder, b"one"))
    assert {path.name for path in training.leftovers(vault)} == set(CHECKPOINTS)
    training.discard(vault, keep="abc")
    assert sorted(path.name for path in folder.glob("*training-*")) == sorted(CHECKPOINTS[:2])
    training.discard(vault)
    with_checkpoints(vault).write(b"two", bundle_id=BUNDLE)
    assert sorted(path.name for path in folder.glob("*training-*")) == sorted(CHECKPOINTS[:2])
    shutil.rmtree(folder)
    with pytest.raises(StorageError):
        training.discard(vault)
