"""What is damaged or left half written is said by every command that reads, and is cleaned up."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from vault_samples import (
    BUNDLE,
    CHEAP,
    every_step,
    generations,
    killed_at,
    put_private,
    tree,
)

from client.home import Home
from client.person.state import PersonalState, TaskState, encode
from client.person.workspace import Workspace
from client.releases.store import InstalledBundle
from client.vault import damage as vault_check
from client.vault.damage import UNFINISHED, look_at
from client.vault.opening import Passphrase, Vault, create_vault, open_vault
from client.vault.working_files import working_name
from proper_model.errors import VaultError
from proper_model.tasks.records import HistoryItem
from tests.device_cli import CANARY, PASSPHRASE, Person

ITEMS = tuple(HistoryItem(f"i{n}", {"text": f"{CANARY} {n}"}, None) for n in range(3))
TASK = TaskState("", "", ITEMS, {}, {}, "2026-01-01T00:00:00Z")
STATE = encode(PersonalState(BUNDLE, 1, seed=1, tasks={"t": TASK}))
NEWEST = "00000002.vault"
USED = "generation 1 is used instead"

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "magic": lambda data: b"X" + data[1:],
    "header": lambda data: data.replace(b'"generation":2', b'"generation":3'),
    "cut off": lambda data: data[:40],
    "empty": lambda _: b"",
    "last byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
}


@pytest.fixture
def person(tmp_path: Path) -> Person:
    return Person.make(tmp_path)


@pytest.fixture
def vault(person: Person) -> Vault:
    Home(person.home).make()
    made = create_vault(person.home / "vault", [Passphrase(PASSPHRASE)], cost=CHEAP)
    for _ in range(2):
        made.write(STATE, bundle_id=BUNDLE)
    return made


def damage(vault: Vault, how: str) -> None:
    path = vault.folder / NEWEST
    path.write_bytes(DAMAGES[how](path.read_bytes()))


def status(person: Person, capsys: pytest.CaptureFixture[str]) -> tuple[dict, str]:
    """What `proper status --json` prints, and what it says."""
    capsys.readouterr()
    assert person.run("status", "--json") == 0
    out, told = capsys.readouterr()
    return json.loads(out), told


READERS = {
    "inspect": ["inspect"],
    "inspect items": ["inspect", "--items"],
    "generate": ["generate", "a question"],
    "evaluate": ["evaluate"],
    "export": ["export", "--format", "merged", "--out", "OUT"],
    "adapt --plan": ["adapt", __file__, "--plan"],
    "serve": ["serve"],
    "status": ["status"],
    "update": ["update", __file__],
    "forget": ["forget", "--yes", "--items", "1"],
    "rebase": ["rebase"],
    "rollback": ["rollback"],
}


@pytest.mark.parametrize("words", READERS.values(), ids=READERS)
def test_every_command_that_reads_says_that_an_older_state_is_used(
    words: list[str], person: Person, vault: Vault, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Most end after reading, for their release is not there."""
    damage(vault, "last byte")
    other = InstalledBundle("cd" * 32, 2, person.home, None)  # type: ignore[arg-type]
    monkeypatch.setattr(Workspace, "installed", lambda _: other)
    person.run(*words)
    assert f"warning: {NEWEST}: damaged or altered; {USED}" in capsys.readouterr().err


@pytest.mark.parametrize("how", DAMAGES)
def test_status_tells_what_is_damaged(how: str, person: Person, vault: Vault, capsys) -> None:
    keyless = Person(person.home, person.passphrase_file)
    keyless.options = lambda: ["--home", str(person.home)]  # type: ignore[method-assign]
    assert status(person, capsys)[0]["content"] == "whole"
    assert status(keyless, capsys)[0]["content"] == "unchecked"
    damage(vault, how)
    found, told = status(person, capsys)
    assert (found["content"], found["generations"]) == ("older", 2)
    assert USED in found["warnings"][-1]
    assert USED in told
    found, told = status(keyless, capsys)
    seen = how != "last byte"  # of the ciphertext only the key tells
    assert found["content"] == ("older" if seen else "unchecked")
    assert (NEWEST in told) is seen
    (vault.folder / "00000001.vault").write_bytes(b"")
    assert status(person, capsys)[0]["content"] == "damaged"


def test_status_with_a_wrong_key_still_says_what_it_sees(person: Person, vault, capsys) -> None:
    person.passphrase_file.write_text("another one\n")
    found, told = status(person, capsys)
    assert found["content"] == "unchecked"
    assert "not checked: wrong passphrase" in told
    person.passphrase_file.unlink()
    found, told = status(person, capsys)
    assert found["content"] == "unchecked"
    assert "No such file" in told


def test_status_with_a_key_of_a_kind_that_no_slot_has(
    person: Person, vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """That the key does not fit says nothing about what is stored."""
    key = put_private(tmp_path / "key", bytes(range(32)))
    options = ["--home", str(person.home), "--key-file", str(key)]
    monkeypatch.setattr(person, "options", lambda: options)
    found, told = status(person, capsys)
    assert found["content"] == "unchecked"
    assert "not checked: no key-file opens this vault" in told


def test_status_while_another_command_changes_what_opens_the_vault(
    person: Person, vault: Vault, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    real = vault_check.open_vault

    def opened(folder: Path, secret: Passphrase) -> Vault:
        reader = real(folder, secret)
        real(folder, secret, cost=CHEAP).rotate([Passphrase("another one")])
        return reader

    monkeypatch.setattr(vault_check, "open_vault", opened)
    assert status(person, capsys)[0]["content"] == "unchecked"


def test_doctor_tells_damage_and_what_was_left(person: Person, vault: Vault, capsys) -> None:
    for name in (".keys.json.0123456789ab.tmp", "training-abc"):
        put_private(vault.folder / name)
    person.run("doctor")
    told = capsys.readouterr().out
    assert "1 half written, by a command at work or a killed one" in told
    assert "1 of interrupted training" in told
    damage(vault, "magic")
    assert person.run("doctor") == 51
    assert f"{NEWEST}: not a vault file" in capsys.readouterr().out


def forget(vault: Vault) -> None:
    vault.write(STATE, bundle_id=BUNDLE, alone=True)


def rotate(vault: Vault) -> None:
    vault.rotate([Passphrase(PASSPHRASE)])


@pytest.mark.parametrize("change", [forget, rotate])
def test_a_command_at_work_is_no_damage(
    change: Callable[[Vault], None], person: Person, vault: Vault, monkeypatch, capsys
) -> None:
    """At every step of a change, `status` and `doctor` find nothing to mend."""
    looks = []

    def look() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Home, "working", None)  # they take no lock
            found, told = status(person, capsys)
        assert (found["warnings"], found["content"]) == ([], "whole")
        assert "warning" not in told
        shown = look_at(Home(person.home))
        assert (shown.damaged, shown.unfinished) == ((), False)
        looks.append(shown)

    with Home(person.home).working(), monkeypatch.context() as patch:
        every_step(patch, look)
        change(vault)
    assert len(looks) > 8
    assert not Home(person.home).is_busy()
    assert look_at(Home(person.home)).leftovers == 0


def test_an_interrupted_change_is_told(person: Person, vault: Vault, capsys) -> None:
    seen = []
    for step in range(6):
        again = open_vault(vault.folder, Passphrase(PASSPHRASE))
        assert killed_at(step, partial(forget, again))
        found, _ = status(person, capsys)
        assert found["content"] == "whole"
        assert len(found["slots"]) == 1, "the carried one is told once"
        seen.append(UNFINISHED in found["warnings"] or found["leftovers"] > 0)
        assert person.run("lock") == 0
        open_vault(vault.folder, Passphrase(PASSPHRASE)).finish_interrupted()
        assert status(person, capsys)[0]["warnings"] == []
    assert seen == [False, True, True, True, True, True]


def test_asking_whether_a_command_is_at_work_keeps_none_out(tmp_path: Path) -> None:
    home, ended = Home(tmp_path / "home"), threading.Event()
    assert not home.is_busy()
    assert not home.path.exists()
    home.make()

    def ask() -> None:
        while not ended.is_set():
            home.is_busy()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(50):
            with home.working():
                assert home.is_busy()
    finally:
        ended.set()
        asking.join()


def test_asking_waits_for_no_pipe_and_needs_no_file_system_with_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    home.make()
    os.mkfifo(home.path / ".lock", mode=0o600)
    assert not home.is_busy()
    (home.path / ".lock").unlink()
    (home.path / ".lock").touch(mode=0o600)

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    assert not home.is_busy()


HALF_WRITTEN = {
    ".keys.json.0123456789ab.tmp",
    ".00000003.vault.0123456789ab.tmp",
    ".training-abc.0123456789ab.tmp",
}


@pytest.mark.parametrize("words", [["rollback"], ["passwd", "--add-key-file", "KEY"]])
def test_any_change_removes_what_a_killed_one_left_half_written(
    words: list[str], person: Person, vault: Vault, tmp_path: Path, capsys
) -> None:
    for name in HALF_WRITTEN:
        put_private(vault.folder / name)
    assert status(person, capsys)[0]["leftovers"] == 3
    assert set(tree(vault.folder)) > HALF_WRITTEN, "reading removes nothing: they may be in use"
    assert person.run(*[str(tmp_path / "key") if word == "KEY" else word for word in words]) == 0
    assert not HALF_WRITTEN & set(tree(vault.folder))


def test_generations_without_keys_are_told_and_nothing_is_made_over_them(
    person: Person, vault: Vault, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A removal that was killed after its first step, or a lost file: which, nobody can tell."""
    (vault.folder / "keys.json").unlink()
    before = tree(vault.folder)
    found, told = status(person, capsys)
    assert found["content"] == "damaged"
    assert "no keys.json" in told
    assert person.run("doctor") == 51
    with pytest.raises(VaultError, match=r"no keys\.json") as caught:
        create_vault(vault.folder, [Passphrase(PASSPHRASE)], cost=CHEAP)
    assert "forget" not in caught.value.hint
    assert tree(vault.folder) == before


@pytest.mark.parametrize("name", ["root", "bases"])
def test_the_next_command_that_changes_something_cleans_the_home(name: str, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    left = home.path / f".{name}.json.0123456789ab.tmp"
    left.touch()
    (home.path / "notes.tmp").touch()
    with home.working():
        assert not left.exists()
    assert (home.path / "notes.tmp").exists()


def test_a_checkpoint_stays_for_resuming_and_goes_when_another_state_is_stored(
    person: Person, vault: Vault, tmp_path: Path
) -> None:
    checkpoint = put_private(vault.folder / working_name(2, "abc"))
    older = put_private(vault.folder / working_name(1, "def"))
    # A clock that was set back, or a copy of the folder in another order: times tell nothing.
    os.utime(vault.folder / NEWEST, (4e9, 4e9))
    assert person.run("passwd", "--add-key-file", tmp_path / "key") == 0
    assert checkpoint.exists()
    assert not older.exists(), "its result was stored before the command was killed"
    assert person.run("rollback") == 0
    assert not checkpoint.exists()
    assert len(generations(vault.folder)) == 2
