"""The vault: one user's private state, encrypted, in `HOME/vault`.

The caller holds `Home.working()` while it changes anything. Format: docs/vault-format.md.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from client.home import check_private_folder
from client.vault import keyring_store
from client.vault.contents import Content, list_generations
from client.vault.key_derivation import KEY_BYTES, Cost
from client.vault.key_slots import KeySet, forget_slot
from client.vault.keys_document import KEYS_FILE, Keys, decode_keys
from client.vault.keys_file import KeysFile, read_keys
from client.vault.sealing import ID_BYTES, KEY_ID_BYTES
from client.vault.secrets import KeyFile, KeyringEntry, Passphrase, Random, Secret, make_key_file
from client.vault.session import Vault
from proper_model.errors import PassphraseError, ProperError, StorageError, VaultError
from proper_model.storage.durable import remove_folder
from proper_model.storage.files import make_private_folder, storage_errors, sync_folder

__all__ = [
    "Content",
    "KeyFile",
    "KeyringEntry",
    "Passphrase",
    "Secret",
    "Vault",
    "check_keys",
    "create_vault",
    "destroy_vault",
    "fingerprint",
    "make_key_file",
    "open_vault",
    "orphaned",
    "slot_kinds",
    "vault_exists",
]


# keys.json is gone: lost, or removed by `destroy_vault`, which was then killed.
WITHOUT_KEYS = "what you adapted lies there, but no keys.json, without which nothing reads it"
WITHOUT_KEYS_HINT = (
    "put keys.json back from a copy of this folder. With a backup of proper export instead: move this "
    "folder aside, then proper import FILE. If everything was to be removed, repeat that command, which was "
    "interrupted"
)


def create_vault(
    folder: Path,
    secrets: Sequence[Secret],
    *,
    random: Random = os.urandom,
    cost: Cost | None = None,
) -> Vault:
    """Make an empty vault that each of these secrets opens.

    `cost` is that of passphrases, by default Argon2id with 64 MiB, or scrypt where there is none.

    Raises:
        VaultError: there is a vault already, no secret was given, or no usable keyring.
        PassphraseError: a secret cannot be used as one, for example an empty passphrase.
        StorageError: the folder or a key file cannot be used.
    """
    with storage_errors(folder):
        make_private_folder(folder)
    check_private_folder(folder)
    if vault_exists(folder):
        raise VaultError(
            f"{folder.name}: there is a vault already",
            hint="`proper status` says what is there; give another place with --home",
        )
    check_keys(folder)
    key, key_id = random(KEY_BYTES), random(KEY_ID_BYTES).hex()
    empty = Keys(random(ID_BYTES).hex(), KeySet(key_id, ()))
    file = KeysFile(folder, empty, key, random, cost, next(iter(secrets), None))
    slots = file.make_slots(secrets, key_id, key)
    file.slot_id = slots[0].id
    file.save_slots(slots, new=slots)
    return Vault(file)


def open_vault(
    folder: Path, secret: Secret, *, random: Random = os.urandom, cost: Cost | None = None
) -> Vault:
    """Open a vault; nothing is changed. `cost` is that of passphrases given later.

    Raises:
        PassphraseError: wrong secret, or its slot was altered.
        VaultError: there is no vault, keys.json is damaged, or it has no slot of this kind.
        StorageError: a file cannot be read, is a link, or others may read it.
    """
    _require(folder)
    try:
        return Vault(KeysFile.opened(folder, secret, random, cost))
    except PassphraseError:
        for text in secret.earlier if isinstance(secret, Passphrase) else ():
            with suppress(PassphraseError):
                return open_vault(folder, Passphrase(text), random=random, cost=cost)
        raise


def vault_exists(folder: Path) -> bool:
    """Whether there is something to open, whole or not."""
    return os.path.lexists(folder / KEYS_FILE)


def fingerprint(folder: Path) -> bytes | None:
    """What is another one after every change of the vault, None without a vault. Opens nothing.

    keys.json is never the same twice and a generation's number is never used twice. A file of a few
    kilobytes and a list of names are read. Raises StorageError.
    """
    try:
        keys, generations = read_keys(folder), list_generations(folder)
    except StorageError:
        if vault_exists(folder):
            raise
        return None
    return hashlib.sha256(keys + repr(generations).encode()).digest()


def orphaned(folder: Path) -> bool:
    """Whether generations lie there without the keys.json that opens them."""
    return folder.is_dir() and not vault_exists(folder) and bool(list_generations(folder))


def check_keys(folder: Path) -> None:
    """Raise VaultError for generations without keys.json: nobody may take that for an empty vault."""
    if orphaned(folder):
        raise VaultError(f"{folder.name}: {WITHOUT_KEYS}", hint=WITHOUT_KEYS_HINT)


def slot_kinds(folder: Path) -> list[tuple[str, str]]:
    """(slot id, kind) of what opens the vault, without any secret, and so unauthenticated.

    Raises VaultError and StorageError as `open_vault`.
    """
    _require(folder)
    keys, _ = decode_keys(read_keys(folder))
    return list(keys.slot_kinds())


def destroy_vault(folder: Path) -> list[str]:
    """Remove the keys, then what the keyring holds, then everything in the folder.

    Returns sentences on what could not be removed from the keyring. Without keys.json nothing else
    in the folder can be read; copies of the folder made before stay as they are.

    Raises StorageError if a file cannot be removed; repeat it then.
    """
    if not os.path.lexists(folder):
        return []
    keys: Keys | None = None
    remarks: list[str] = []
    with suppress(ProperError):  # a damaged vault must be removable too
        keys, _ = decode_keys(read_keys(folder))
    with storage_errors(folder):
        if folder.is_dir() and not folder.is_symlink():
            (folder / KEYS_FILE).unlink(missing_ok=True)
            try:
                sync_folder(folder)
            finally:
                # Now: only keys.json names these entries, so a second call could not find them.
                remarks = [] if keys is None else _forget_keyring(keys)
    try:
        with storage_errors(folder):
            remove_folder(folder)
            sync_folder(folder.parent)
    except StorageError as error:
        raise StorageError("; ".join([error.message, *remarks]), hint=error.hint) from error
    return remarks


def _forget_keyring(keys: Keys) -> list[str]:
    slots = [slot for one in keys.key_sets() for slot in one.slots if slot.kind == "keyring"]
    try:
        for slot in slots:
            forget_slot(slot, keys.vault_id)
        if slots:
            keyring_store.forget_generations(keys.vault_id)
    except VaultError as error:
        return [f"an entry stays in the keyring, which opens nothing any more: {error.message}"]
    return []


def _require(folder: Path) -> None:
    if not vault_exists(folder):
        raise VaultError(f"{folder.name}: there is no vault", hint="`proper adapt` makes one")
    check_private_folder(folder)
