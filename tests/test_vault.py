"""The vault from outside: what is written is read, two generations stay, nothing else opens it."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from vault_samples import (
    BUNDLE,
    CHEAP,
    OTHER_BUNDLE,
    WORD,
    broken_disk,
    generations,
    make_vault,
    put_key_file,
    tree,
)

from client.vault import key_derivation, sealing
from client.vault.opening import (
    KeyFile,
    Passphrase,
    create_vault,
    destroy_vault,
    make_key_file,
    open_vault,
    slot_kinds,
    vault_exists,
)
from proper_model.errors import (
    BusyError,
    PassphraseError,
    StorageError,
    VaultError,
    VaultForeignError,
)
from simulations.privacy.egress.canaries import Canary
from simulations.privacy.egress.scanner import Scanner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vault"


def payload_of(vault) -> bytes:
    content = vault.read()
    assert content is not None
    return content.payload


def test_what_is_written_is_read_by_a_vault_opened_later(folder: Path) -> None:
    assert not vault_exists(folder)
    vault = make_vault(folder)
    assert (vault.read(), vault.read_previous()) == (None, None)
    assert vault.write(b"one", bundle_id=BUNDLE) == 1
    assert vault.write(b"two", bundle_id=OTHER_BUNDLE) == 2
    later = open_vault(folder, WORD)
    newest, previous = later.read(), later.read_previous()
    assert (newest.payload, newest.bundle_id, newest.generation) == (b"two", OTHER_BUNDLE, 2)
    assert (previous.payload, previous.bundle_id, previous.generation) == (b"one", BUNDLE, 1)
    assert later.warnings == []
    assert vault_exists(folder)


def test_the_newest_two_generations_stay(folder: Path) -> None:
    make_vault(folder, b"1", b"2", b"3", b"4")
    assert generations(folder) == ["00000003.vault", "00000004.vault"]


def test_rolling_back_makes_a_new_generation(folder: Path) -> None:
    vault = make_vault(folder, b"one", b"two")
    assert vault.roll_back() == 3
    assert payload_of(open_vault(folder, WORD)) == b"one"
    assert vault.roll_back() == 4
    assert payload_of(vault) == b"two"


def test_rolling_back_needs_something_to_go_back_to(folder: Path) -> None:
    vault = make_vault(folder, b"one")
    with pytest.raises(VaultError, match="no earlier state"):
        vault.roll_back()
    assert generations(folder) == ["00000001.vault"]


def test_a_damaged_newest_generation_gives_way_to_the_previous_one_and_says_so(
    folder: Path,
) -> None:
    make_vault(folder, b"one", b"two")
    (folder / "00000002.vault").write_bytes(b"rubbish")
    vault = open_vault(folder, WORD)
    assert payload_of(vault) == b"one"
    assert vault.warnings == ["00000002.vault: not a vault file; generation 1 is used instead"]
    # The whole one is kept as the previous, not the damaged one.
    assert vault.write(b"three", bundle_id=BUNDLE) == 3
    assert open_vault(folder, WORD).read().payload == b"three"
    (folder / "00000003.vault").unlink()
    assert payload_of(open_vault(folder, WORD)) == b"one"


def test_another_bundle_is_named_beside_the_expected_one(folder: Path) -> None:
    vault = make_vault(folder, b"one")
    assert vault.read(bundle_id=BUNDLE).payload == b"one"
    with pytest.raises(VaultForeignError) as caught:
        vault.read(bundle_id=OTHER_BUNDLE)
    assert BUNDLE[:16] in caught.value.message
    assert OTHER_BUNDLE[:16] in caught.value.message
    assert BUNDLE[:17] not in caught.value.message


def test_a_bundle_id_that_is_none_is_not_written(folder: Path) -> None:
    vault = make_vault(folder)
    with pytest.raises(VaultError, match="bundle id"):
        vault.write(b"one", bundle_id="release 1")
    assert generations(folder) == []


@pytest.mark.parametrize("secret", ["wrong", "correct horse ", ""])
def test_a_wrong_passphrase_opens_and_changes_nothing(folder: Path, secret: str) -> None:
    make_vault(folder, b"one")
    before = {path.name: path.stat() for path in folder.iterdir()}
    with pytest.raises(PassphraseError) as caught:
        open_vault(folder, Passphrase(secret))
    if secret:
        assert caught.value.message == "wrong passphrase, or key slot altered"
    assert {path.name: path.stat() for path in folder.iterdir()} == before


def test_no_secret_appears_in_a_representation() -> None:
    assert "horse" not in repr(WORD)


def test_every_slot_opens_and_kinds_are_listed_without_a_secret(folder: Path, tmp_path) -> None:
    key = make_key_file(tmp_path / "stick" / "key")
    make_vault(folder, b"one", secrets=[WORD, key])
    assert [kind for _, kind in slot_kinds(folder)] == ["passphrase", "key-file"]
    for secret in (WORD, key):
        assert payload_of(open_vault(folder, secret)) == b"one"
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    with pytest.raises(StorageError):
        make_key_file(key.path)


def test_a_key_file_must_be_long_private_and_itself(folder: Path, tmp_path: Path) -> None:
    for name, mode, error in (("short", 0o600, PassphraseError), ("open", 0o640, StorageError)):
        key = put_key_file(tmp_path / name, b"k" * (31 if name == "short" else 32))
        key.path.chmod(mode)
        with pytest.raises(error, match=name) as caught:
            make_vault(folder, secrets=[key])
        assert str(tmp_path) not in caught.value.message
        assert not vault_exists(folder)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(StorageError, match="symbolic link"):
        make_vault(folder, secrets=[KeyFile(tmp_path / "link")])


def test_a_vault_needs_a_secret_and_an_empty_place(folder: Path) -> None:
    with pytest.raises(VaultError, match="0 secrets"):
        create_vault(folder, [])
    make_vault(folder, b"one")
    before = tree(folder)
    with pytest.raises(VaultError, match="already"):
        make_vault(folder)
    (folder / "keys.json").unlink()
    with pytest.raises(VaultError, match=r"no keys\.json"):
        make_vault(folder)
    with pytest.raises(VaultError, match="no vault"):
        open_vault(folder, WORD)
    assert {**tree(folder), "keys.json": before["keys.json"]} == before


def test_everything_is_private_from_creation(folder: Path) -> None:
    """Whatever the umask: the mode is given when a file is created, and never widened."""
    code = (
        "import os, sys; from pathlib import Path; os.umask(0); sys.path[:0] = sys.argv[2:]\n"
        "from vault_samples import make_vault; make_vault(Path(sys.argv[1]), b'1', b'2')"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    subprocess.run([sys.executable, "-c", code, str(folder), *paths], check=True)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes.values()) == {0o600}
    assert len(modes) == 3
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_second_writer_is_noticed(folder: Path) -> None:
    first = make_vault(folder, b"one")
    second = open_vault(folder, WORD)
    second.write(b"second", bundle_id=BUNDLE)
    for change in (lambda: first.write(b"first", bundle_id=BUNDLE), first.roll_back):
        with pytest.raises(BusyError):
            change()
    assert payload_of(open_vault(folder, WORD)) == b"second"
    third = open_vault(folder, WORD, cost=CHEAP)
    third.change_passphrase(Passphrase("other"))
    with pytest.raises(BusyError):
        second.write(b"under a stale document", bundle_id=BUNDLE)


def test_nothing_written_holds_the_plaintext(folder: Path) -> None:
    canary = b"canary-7f3a-of-a-private-history"
    payload = (canary + b" ") * 20
    key = b"K" * 5 + canary + b"K" * 5
    secrets = [Passphrase(canary.decode()), put_key_file(folder.with_name("key"), key)]
    vault = make_vault(folder, payload, payload, secrets=secrets)
    vault.roll_back()
    vault.change_passphrase(Passphrase(canary.decode() + "!"))
    vault.rotate(secrets)

    scanner = Scanner([Canary("word", "me", text=canary.decode())])
    files = tree(folder)
    assert len(files) == 3
    scan = scanner.scan_tree(folder)
    assert (scan.files, scan.findings, scan.incomplete) == (3, [], [])
    # Ciphertext cannot be compressed; a repeated payload in the clear could.
    assert len(zlib.compress(files["00000005.vault"], 9)) > len(payload)


def test_destroying_removes_everything_and_follows_no_link(folder: Path, tmp_path: Path) -> None:
    make_vault(folder, b"one")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (folder / "link").symlink_to(outside)
    (folder / "keys.json").chmod(0o644)  # damaged or odd vaults must go too
    assert destroy_vault(folder) == []
    assert not folder.exists()
    assert outside.read_text() == "mine"
    assert destroy_vault(folder) == []
    make_vault(folder, b"again")


def test_the_keys_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_vault(folder, b"one")
    monkeypatch.setattr("client.vault.opening.remove_folder", broken_disk)
    with pytest.raises(StorageError, match="Input/output error"):
        destroy_vault(folder)
    assert sorted(tree(folder)) == ["00000001.vault"]


def test_a_payload_longer_than_one_chunk_and_one_over_the_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_CHUNK_BYTES", 1000)
    payload = bytes(range(256)) * 16
    vault = make_vault(folder, payload)
    assert payload_of(vault) == payload
    monkeypatch.undo()
    assert payload_of(vault) == payload  # chunks are no part of the format
    monkeypatch.setattr(sealing, "MAX_PAYLOAD_BYTES", 4095)
    with pytest.raises(VaultError, match="4096 bytes; expected at most 4095"):
        vault.write(payload, bundle_id=BUNDLE)
    assert generations(folder) == ["00000001.vault"]


def test_scrypt_where_there_is_no_argon2id(folder: Path, monkeypatch) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm

    make_vault(folder, b"one")

    class Absent:
        def __init__(self, **_: object) -> None:
            raise UnsupportedAlgorithm("no Argon2id")

    assert key_derivation.default_cost() == key_derivation.Argon2idCost(65536, 3, 4)
    monkeypatch.setattr(key_derivation, "Argon2id", Absent)
    assert key_derivation.default_cost() == key_derivation.ScryptCost(17)
    with pytest.raises(VaultError, match="Argon2id") as caught:
        open_vault(folder, WORD)
    assert "OpenSSL 3.2" in caught.value.hint


def test_whoever_names_no_cost_pays_the_default(folder: Path, dear_passphrases: None) -> None:
    """Written by hand: what the passphrase of a new vault costs, and of one given later."""
    paid = {"name": "argon2id", "memory_kib": 65536, "iterations": 3, "lanes": 4}
    create_vault(folder, [WORD])
    (slot,) = json.loads((folder / "keys.json").read_bytes())["current"]["slots"]
    assert slot["kdf"] == paid
    open_vault(folder, WORD).change_passphrase(Passphrase("another one"))
    (slot,) = json.loads((folder / "keys.json").read_bytes())["current"]["slots"]
    assert slot["kdf"] == paid


def test_memory_that_is_not_there_is_told(folder: Path, monkeypatch) -> None:
    make_vault(folder, b"one")

    class Greedy:
        def __init__(self, **_: object) -> None:
            raise MemoryError

    monkeypatch.setattr(key_derivation, "Argon2id", Greedy)
    with pytest.raises(VaultError, match="not enough memory .* 1 MiB"):
        open_vault(folder, WORD)


def test_a_cost_out_of_bounds_is_never_written(folder: Path) -> None:
    with pytest.raises(VaultError, match="memory_kib"):
        create_vault(folder, [WORD], cost=key_derivation.Argon2idCost(memory_kib=2 << 20))
    assert not vault_exists(folder)
