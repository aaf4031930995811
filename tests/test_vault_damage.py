"""Altered, truncated, extended, swapped and planted files: refused, and nothing is modified."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vault_samples import (
    BUNDLE,
    CHEAP_SCRYPT,
    WORD,
    counted,
    make_vault,
    put_key_file,
    put_private,
    tree,
)

from client.vault.contents import list_generations
from client.vault.keys_document import MAX_KEYS_BYTES
from client.vault.opening import KeyFile, create_vault, open_vault, slot_kinds
from proper_model.errors import (
    BusyError,
    ProperError,
    StorageError,
    VaultError,
    VaultForeignError,
)

KEYS, FIRST, SECOND = "keys.json", "00000001.vault", "00000002.vault"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


def alterations(data: bytes) -> Iterator[bytes]:
    """Every single-bit flip, every truncation, and an extension by each of some bytes."""
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            yield bytes(flipped)
    for length in range(len(data)):
        yield data[:length]
    for extra in (b"\0", b"\n", b" ", b"}", b"\xff", data, bytes(4096)):
        yield data + extra


@pytest.mark.parametrize("name", [KEYS, FIRST])
def test_every_alteration_is_refused(name: str, tmp_path: Path, folder: Path) -> None:
    """Of both slots, also of the one that is not used: the MAC covers the whole document."""
    key = put_key_file(tmp_path / "key")
    vault = create_vault(folder, [key, WORD], random=counted("flips"), cost=CHEAP_SCRYPT)
    vault.write(b"private", bundle_id=BUNDLE)
    good = tree(folder)
    secret = key if name == FIRST else WORD  # the passphrase exercises altered costs too
    assert open_vault(folder, secret).read().payload == b"private"
    count = 0
    # In place: emptying a file first makes some file systems flush it.
    with (folder / name).open("r+b", buffering=0) as file:
        for altered in alterations(good[name]):
            os.pwrite(file.fileno(), altered, 0)
            file.truncate(len(altered))
            with pytest.raises(ProperError):
                open_vault(folder, secret).read()
            count += 1
            if count % 100 == 0:
                assert tree(folder) == {**good, name: altered}
    assert count == 9 * len(good[name]) + 7
    (folder / name).write_bytes(good[name])
    assert open_vault(folder, secret).read().payload == b"private"


def test_an_altered_generation_never_hides_the_one_before(folder: Path, tmp_path: Path) -> None:
    key = put_key_file(tmp_path / "key")
    make_vault(folder, b"one", b"two", secrets=[key])
    good = (folder / SECOND).read_bytes()
    for position in range(0, len(good), 3):
        altered = bytearray(good)
        altered[position] ^= 1
        (folder / SECOND).write_bytes(altered)
        vault = open_vault(folder, key)
        assert vault.read().payload == b"one"
        assert len(vault.warnings) == 1


def test_another_vaults_file_is_foreign_and_not_passed_over(folder: Path, tmp_path: Path) -> None:
    make_vault(folder, b"one", b"two")
    other = make_vault(tmp_path / "other", b"theirs", b"theirs too", seed="b")
    (folder / SECOND).write_bytes((other.folder / SECOND).read_bytes())
    before = tree(folder)
    vault = open_vault(folder, WORD)
    with pytest.raises(VaultForeignError) as caught:
        vault.read()
    for vault_id in (vault.vault_id, other.vault_id):
        assert vault_id[:16] in caught.value.message
        assert vault_id not in caught.value.message
    assert tree(folder) == before


def test_generations_of_one_vault_cannot_stand_for_each_other(folder: Path) -> None:
    make_vault(folder, b"one", b"two")
    (folder / SECOND).write_bytes((folder / FIRST).read_bytes())
    vault = open_vault(folder, WORD)
    assert vault.read().generation == 1
    assert vault.warnings[0].startswith(f"{SECOND}: holds generation 1, expected 2")
    (folder / SECOND).rename(folder / "00000009.vault")
    (folder / FIRST).unlink()
    with pytest.raises(VaultError, match="holds generation 1, expected 9"):
        open_vault(folder, WORD).read()


PLANT: dict[str, Callable[[Path, Path], None]] = {
    "link": lambda path, outside: path.symlink_to(outside),
    "dangling link": lambda path, outside: path.symlink_to(outside.with_name("none")),
    "pipe": lambda path, _: os.mkfifo(path, 0o600),
    "folder": lambda path, _: path.mkdir(mode=0o700),
}


@pytest.mark.parametrize("name", [KEYS, SECOND])
@pytest.mark.parametrize("kind", PLANT)
def test_what_is_planted_is_not_followed(name: str, kind: str, folder: Path, tmp_path) -> None:
    make_vault(folder, b"one", b"two")
    outside = tmp_path / "outside"
    (folder / name).rename(outside)
    content = outside.read_bytes()
    PLANT[kind](folder / name, outside)
    with pytest.raises(StorageError, match=name) as caught:
        open_vault(folder, WORD).read()
    if "link" in kind:
        assert "symbolic link" in caught.value.message
    assert outside.read_bytes() == content
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", PLANT)
def test_a_write_goes_through_nothing_planted(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = make_vault(folder, b"one")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    PLANT[kind](folder / SECOND, outside)
    with pytest.raises(BusyError):
        vault.write(b"two", bundle_id=BUNDLE)
    # Planted between looking and writing:
    monkeypatch.setattr("client.vault.session.list_generations", lambda _: [1])
    with pytest.raises(VaultError, match=f"{SECOND}: expected no such file yet"):
        vault.write(b"two", bundle_id=BUNDLE)
    assert outside.read_text() == "mine"
    assert not (tmp_path / "none").exists()
    assert sorted(path.name for path in folder.iterdir()) == [FIRST, SECOND, KEYS]


def test_a_folder_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    make_vault(folder, b"one")
    (tmp_path / "link").symlink_to(folder)
    for action in (
        lambda: open_vault(tmp_path / "link", WORD),
        lambda: slot_kinds(tmp_path / "link"),
        lambda: make_vault(tmp_path / "link"),
    ):
        with pytest.raises(StorageError, match="link|Not a directory"):
            action()


@pytest.mark.parametrize("mode", [0o040, 0o004, 0o020, 0o001])
def test_files_that_others_may_use_are_refused_with_a_hint(mode: int, folder: Path) -> None:
    make_vault(folder, b"one")
    for name, private, hint in (
        (KEYS, 0o600, "chmod 600"),
        (FIRST, 0o600, "chmod 600"),
        (".", 0o700, "chmod 700"),
    ):
        (folder / name).chmod(private | mode)
        with pytest.raises(StorageError, match="other users") as caught:
            open_vault(folder, WORD).read()
        assert hint in caught.value.hint
        (folder / name).chmod(private)
    assert open_vault(folder, WORD).read().payload == b"one"


def test_files_of_other_names_are_left_alone(folder: Path) -> None:
    """But what a killed save left behind goes with the next one."""
    vault = make_vault(folder, b"one")
    strange = ["notes.txt", "1.vault", "000000001.vault", "x00000003.vault", "00000000.vault"]
    leftover = [".00000002.vault.0123456789ab.tmp", ".keys.json.0123456789ab.tmp"]
    for name in strange + leftover:
        put_private(folder / name)
    assert vault.write(b"two", bundle_id=BUNDLE) == 2
    assert set(tree(folder)) == {*strange, KEYS, FIRST, SECOND}
    assert open_vault(folder, WORD).read().payload == b"two"


def test_a_planted_highest_number_is_told(folder: Path) -> None:
    make_vault(folder, b"one")
    put_private(folder / "9007199254740991.vault")
    vault = open_vault(folder, WORD)
    assert vault.read().payload == b"one"
    with pytest.raises(VaultError, match="generation"):
        vault.write(b"two", bundle_id=BUNDLE)


def test_sizes_are_looked_at_before_anything_is_parsed(folder: Path) -> None:
    make_vault(folder, b"one")
    with (folder / KEYS).open("ab") as handle:
        handle.truncate(1 << 40)  # sparse
    with pytest.raises(VaultError, match=f"larger than {MAX_KEYS_BYTES} bytes"):
        open_vault(folder, WORD)


def test_a_key_file_that_never_ends(tmp_path: Path, folder: Path) -> None:
    key = put_key_file(tmp_path / "key")
    with key.path.open("ab") as handle:
        handle.truncate(1 << 40)
    with pytest.raises(ProperError, match="key: expected 32 to"):
        create_vault(folder, [KeyFile(key.path)])


def test_unreadable_disk_gives_way_to_the_previous_generation(folder: Path, monkeypatch) -> None:
    make_vault(folder, b"one", b"two")
    real = os.open

    def failing(path, *arguments, **named):
        if os.fspath(path).endswith(SECOND):
            raise OSError(5, os.strerror(5), path)
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", failing)
    vault = open_vault(folder, WORD)
    assert vault.read().payload == b"one"
    assert "Input/output error" in vault.warnings[0]


def test_a_name_whose_number_is_too_high_is_no_generation(folder: Path) -> None:
    """Files of any other name are ignored; one of this would leave no number for the next state."""
    vault = make_vault(folder, b"one")
    for number in (0, 1 << 53, 10**16 - 1):
        put_private(folder / f"{number:08d}.vault")
    assert list_generations(folder) == [1]
    assert open_vault(folder, WORD).write(b"two", bundle_id=BUNDLE) == 2
    assert vault.read().payload == b"two"
