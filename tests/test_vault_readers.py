"""Readers beside a writer: each read is one committed state, and none is refused.

The writer is a process of its own that saves, forgets, adds and removes keys without pause.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vault_samples import BUNDLE, CHEAP, WORD, every_step, make_vault, put_key_file, tree

from client.vault import contents, snapshot
from client.vault.keys_document import Keys
from client.vault.keys_file import KeysFile
from client.vault.opening import KeyFile, Passphrase, Vault, open_vault
from proper_model.errors import BusyError, VaultError

HERE = Path(__file__).parent
STATES = 20  # that a reader has seen before it is enough
# Payloads are the number of the change, so that what is read tells when it was stored.
WRITER = """
import sys
from pathlib import Path
from client.vault.opening import KeyFile, open_vault
folder, key = Path(sys.argv[1]), KeyFile(Path(sys.argv[2]))
number, slot = 0, None
while True:
    number += 1
    vault = open_vault(folder, key)
    vault.write(b"%d" % number * 2000, bundle_id="ab" * 32, alone=number % 3 == 0)
    if number % 5 == 0:
        vault.rotate([key])
    if number % 7 == 0:
        vault.roll_back() if vault.read_previous() else None
    if number == 1:
        print("begun", flush=True)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[Path, KeyFile]]:
    key = put_key_file(tmp_path / "key")
    folder = make_vault(tmp_path / "vault", b"0", secrets=[key]).folder
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(key.path)],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        yield folder, key
        assert child.poll() is None, child.stderr.read().decode()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()


def number_of(vault: Vault) -> int:
    content = vault.read()
    assert content is not None
    assert vault.warnings == []
    text = content.payload.decode()
    number = int(text[: len(text) // 2000] or text)
    assert text == str(number) * 2000
    return number


def test_every_read_is_a_committed_state(writer: tuple[Path, KeyFile]) -> None:
    folder, key = writer
    opened, numbers = open_vault(folder, key), []
    while len(set(numbers)) < STATES:
        numbers.append(number_of(open_vault(folder, key)))
        numbers.append(number_of(opened))  # its keys are from before many changes
    # Going back gives the number before; nothing older than that is ever read.
    assert all(later >= earlier - 1 for earlier, later in zip(numbers, numbers[1:], strict=False))


def forget(vault: Vault) -> None:
    vault.write(b"new", bundle_id=BUNDLE, alone=True)


def save_thrice(vault: Vault) -> None:
    for payload in (b"newer", b"newest", b"new"):
        vault.write(payload, bundle_id=BUNDLE)


def rotate(vault: Vault) -> None:
    vault.rotate([WORD])
    vault.write(b"new", bundle_id=BUNDLE)


CHANGES = {"forget": forget, "save thrice": save_thrice, "rotate": rotate}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_vault(tmp_path / "vault", b"older", b"old").folder


def between(patch: pytest.MonkeyPatch, owner: object, name: str, action: Callable[[], None]):
    """Run `action` once, before the first call of a function of the product."""
    real, done = getattr(owner, name), []

    def called(*arguments):
        if not done:
            done.append(True)
            action()
        return real(*arguments)

    patch.setattr(owner, name, called)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("look", ["_stamp", "list_generations", "read_generation"])
def test_a_change_in_the_middle_of_a_read(
    change: Callable[[Vault], None], look: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of a reader's steps the whole change happens, files removed and all."""
    reader = open_vault(folder, WORD)
    owner = snapshot if look == "_stamp" else contents
    with monkeypatch.context() as patch:
        between(patch, owner, look, lambda: change(open_vault(folder, WORD, cost=CHEAP)))
        assert reader.read().payload == b"new"
    assert reader.warnings == []


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_reader_at_every_step_of_a_change(
    change: Callable[[Vault], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, seen = open_vault(folder, WORD), []

    def look() -> None:
        for reader in (open_vault(folder, WORD), opened):
            seen.append(reader.read().payload)
            assert reader.warnings == []

    writer = open_vault(folder, WORD, cost=CHEAP)
    with monkeypatch.context() as patch:
        every_step(patch, look)
        change(writer)
    order = [b"old", b"newer", b"newest", b"new"]
    assert seen == sorted(seen, key=order.index), "it went back"
    assert (seen[0], seen[-1]) == (b"old", b"new")


def test_a_reader_whose_keys_are_replaced_meanwhile_does_not_go_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows the next key as pending, and the first generation under its own key is gone already."""
    writer, began, go_on, removed = (open_vault(folder, WORD, cost=CHEAP), *events(3))
    save, unlink = KeysFile.save, Path.unlink

    def saved(keys: KeysFile, document: Keys, *rest: object, **named: object) -> None:
        save(keys, document, *rest, **named)
        if document.next is not None:
            began.set()
            go_on.wait(10)

    def gone(path: Path, **named: bool) -> None:
        unlink(path, **named)
        if path.suffix == ".vault" and not removed.is_set():
            removed.set()
            read.wait(10)

    monkeypatch.setattr(KeysFile, "save", saved)
    monkeypatch.setattr(Path, "unlink", gone)
    (read,) = events(1)
    thread = threading.Thread(target=lambda: writer.rotate([WORD]))
    thread.start()
    assert began.wait(10)
    reader = open_vault(folder, WORD)
    between(monkeypatch, contents, "list_generations", lambda: (go_on.set(), removed.wait(10)))
    try:
        assert reader.read().payload == b"old"
    finally:
        read.set()
        thread.join()
    assert reader.warnings == []


def events(count: int) -> tuple[threading.Event, ...]:
    return tuple(threading.Event() for _ in range(count))


def test_damage_is_told_where_nobody_writes(folder: Path) -> None:
    (folder / "00000002.vault").write_bytes(b"rubbish")
    told: list[str] = []
    reader = open_vault(folder, WORD)
    reader.tell_by(told.append)
    assert reader.read().payload == b"older"
    assert told == ["00000002.vault: not a vault file; generation 1 is used instead"]


def test_a_folder_that_cannot_be_written_is_read(folder: Path) -> None:
    before = tree(folder)
    folder.chmod(0o500)
    try:
        assert open_vault(folder, WORD).read().payload == b"old"
        assert tree(folder) == before
    finally:
        folder.chmod(0o700)


def test_other_keys_meanwhile_are_told(folder: Path) -> None:
    reader = open_vault(folder, WORD)
    open_vault(folder, WORD, cost=CHEAP).rotate([Passphrase("another one")])
    with pytest.raises(BusyError, match="changed what opens the vault") as caught:
        reader.read()
    assert "forget" not in caught.value.hint


def test_a_vault_removed_meanwhile_is_told(folder: Path) -> None:
    reader = open_vault(folder, WORD)
    (folder / "keys.json").unlink()
    with pytest.raises(BusyError, match="has removed what was stored"):
        reader.read()


def test_a_vault_that_never_rests_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "00000002.vault").write_bytes(b"rubbish")
    reader, stamps = open_vault(folder, WORD), iter(range(1000))
    monkeypatch.setattr(snapshot, "PATIENCE_S", 0.0)
    monkeypatch.setattr(snapshot, "_stamp", lambda _: (reader._file.raw, [next(stamps)]))
    with pytest.raises(BusyError, match="without pause") as caught:
        reader.read()
    assert "nothing is damaged" in caught.value.hint


def test_no_hint_for_damage_is_to_remove_everything(folder: Path) -> None:
    """What looks damaged may be mended, or come from a backup; removal is never the advice."""
    hints = []
    for name in ("00000002.vault", "00000001.vault", "keys.json"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1])
        try:
            open_vault(folder, WORD).read()
        except VaultError as error:
            hints.append(error.hint)
    assert len(hints) == 2
    assert not any("forget" in hint for hint in hints)
