"""The highest generation ever written, kept where a thief of the vault's folder does not reach it.

An old file put back is authentic; only a number kept elsewhere tells. Vaults with a keyring slot
keep it in the keyring, others cannot tell (docs/vault-format.md says so). Source: SECURITY 2.
"""

from __future__ import annotations

from client import keyring_store
from client.key_slots import KeySet
from proper_model.errors import VaultError


def guarded(keys: KeySet) -> bool:
    """Whether the vault has a keyring slot."""
    return any(slot.kind == "keyring" for slot in keys.slots)


def note(vault_id: str, generation: int) -> None:
    """Remember that this generation was written. Raises KeyringError."""
    keyring_store.store(_name(vault_id), str(generation))


def check(vault_id: str, newest: int) -> None:
    """Raise VaultError if a newer generation than `newest` has been written on this device.

    Raises KeyringError if the keyring cannot be asked.
    """
    text = keyring_store.fetch(_name(vault_id))
    if text is not None and text.isdecimal() and newest < int(text):
        raise VaultError(
            f"the vault holds generation {newest}, but {text} has been written on this device: "
            "an older copy was put back",
            hint="put the newer file back; if you restored this copy yourself, open the vault by "
            "another secret, remove the keyring slot and add it again",
        )


def forget(vault_id: str) -> None:
    """Forget the number. Raises KeyringError."""
    keyring_store.forget(_name(vault_id))


def _name(vault_id: str) -> str:
    return f"vault {vault_id} generation"
