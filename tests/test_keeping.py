"""`proper lock`, `passwd`, `rollback` and `forget` where something went wrong before or meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from keyrings import MemoryKeyring
from vault_samples import BUNDLE, CHEAP, full_disk, generations, killed_at

from client.home import Home
from client.person.state import PersonalState, encode
from client.vault.opening import (
    KeyringEntry,
    Passphrase,
    Vault,
    create_vault,
    open_vault,
    slot_kinds,
)
from proper_model.storage import files
from tests.device_cli import PASSPHRASE, Person

WORD = Passphrase(PASSPHRASE)
STATE = encode(PersonalState(BUNDLE, 1, seed=1))


@pytest.fixture
def person(tmp_path: Path, ring: MemoryKeyring) -> Person:
    return Person.make(tmp_path)


def stored(person: Person, *secrets) -> Vault:
    """A vault with two generations in a person's home."""
    home = Home(person.home)
    home.make()
    vault = create_vault(home.vault, secrets or [WORD], cost=CHEAP)
    for _ in range(2):
        vault.write(STATE, bundle_id=BUNDLE)
    return vault


# --- lock -----------------------------------------------------------------------------------------


def test_lock_takes_the_keyring_out(person: Person, ring: MemoryKeyring, capsys) -> None:
    stored(person, WORD, KeyringEntry())
    assert person.run("lock") == 0
    assert "your passphrase only" in capsys.readouterr().out
    assert ring.entries == {}
    assert person.run("lock") == 0


@pytest.mark.parametrize("next_too", [True, False])
def test_lock_with_a_change_of_the_master_key_half_done(
    next_too: bool, person: Person, ring: MemoryKeyring, capsys
) -> None:
    vault = stored(person, WORD, KeyringEntry())
    secrets = [Passphrase("next"), *([KeyringEntry()] if next_too else [])]
    assert killed_at(3, lambda: vault.rotate(secrets))
    assert len(slot_kinds(vault.folder)) == 2 + len(secrets)
    assert person.run("lock") == 0, capsys.readouterr().err
    assert "your passphrase only" in capsys.readouterr().out
    assert ring.entries == {}
    assert [kind for _, kind in slot_kinds(vault.folder)] == ["passphrase"]
    assert open_vault(vault.folder, WORD).read().payload == STATE


def test_lock_does_not_lose_a_vault_that_only_the_keyring_opens(person: Person, capsys) -> None:
    vault = stored(person, KeyringEntry())
    assert person.run("lock") == 11
    assert "add another key" in capsys.readouterr().err
    assert open_vault(vault.folder, KeyringEntry()).read().payload == STATE


def test_lock_waits_for_other_commands_before_it_looks(person: Person, capsys) -> None:
    stored(person, WORD, KeyringEntry())
    with Home(person.home).working():
        assert person.run("lock") == 48


# --- passwd ---------------------------------------------------------------------------------------


def test_a_key_file_that_could_not_be_added_is_not_left(
    person: Person, tmp_path: Path, monkeypatch, capsys
) -> None:
    vault = stored(person)
    key = tmp_path / "stick" / "key"
    with monkeypatch.context() as patch:
        full_disk(patch)
        assert person.run("passwd", "--add-key-file", key) == 20
    assert not key.exists()
    assert person.run("passwd", "--add-key-file", key) == 0
    capsys.readouterr()
    assert person.run("passwd", "--add-key-file", key) == 20
    assert "of that name is there already" in capsys.readouterr().err
    assert key.exists()
    assert len(slot_kinds(vault.folder)) == 2


def test_a_key_file_whose_slot_is_there_all_the_same_stays(
    person: Person, tmp_path: Path, monkeypatch
) -> None:
    """The document was replaced, only its folder could not be flushed."""
    vault = stored(person)
    real = files.write_atomic

    def late(path: Path, data: bytes) -> None:
        real(path, data)
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", late)
        assert person.run("passwd", "--add-key-file", tmp_path / "key") == 20
    assert (tmp_path / "key").exists()
    assert len(slot_kinds(vault.folder)) == 2
    assert person.run("--key-file", tmp_path / "key", "rollback") == 11, "two keys were given"


def test_a_passphrase_file_that_others_may_read_is_refused(person: Person, capsys) -> None:
    stored(person)
    person.passphrase_file.chmod(0o644)
    assert person.run("rollback") == 20
    assert "chmod 600" in capsys.readouterr().err
    person.passphrase_file.chmod(0o400)
    assert person.run("rollback") == 0


# --- after an interrupted forgetting --------------------------------------------------------------


def forgetting_killed(vault: Vault) -> None:
    assert killed_at(5, lambda: vault.write(STATE, bundle_id=BUNDLE, alone=True))
    assert len(generations(vault.folder)) == 3


def test_rollback_does_not_bring_back_what_was_being_forgotten(person: Person, capsys) -> None:
    vault = stored(person)
    forgetting_killed(vault)
    assert person.run("rollback") == 50
    told = capsys.readouterr().err
    assert "no generation before" in told
    assert "interrupted forgetting is completed" in told
    assert generations(vault.folder) == ["00000003.vault"]


def test_any_change_completes_it(person: Person) -> None:
    vault = stored(person)
    forgetting_killed(vault)
    assert person.run("passwd", "--add-keyring") == 0
    assert generations(vault.folder) == ["00000003.vault"]
