"""The highest generation ever written, kept where a thief of the vault's folder does not reach it.

An old file put back is authentic; only a number kept elsewhere tells. Vaults with a keyring slot
keep it in the keyring, others cannot tell (docs/vault-format.md says so). With it stands the oldest
generation that may still be read, where the newest is damaged. Source: docs/security.md 2.
"""

from __future__ import annotations

import re

from client.vault import keyring_store
from client.vault.key_slots import KeySet
from proper_model.errors import VaultError

_KEPT = re.compile(r"([0-9]{1,16})(?: ([0-9]{1,16}))?")


def guarded(keys: KeySet) -> bool:
    """Whether the vault has a keyring slot."""
    return any(slot.kind == "keyring" for slot in keys.slots)


def note(vault_id: str, newest: int, oldest: int | None) -> None:
    """Remember that `newest` was written, and that nothing before `oldest` is to be read again.

    Neither number ever goes down; None leaves the older one. Raises KeyringError.
    """
    kept = _kept(vault_id)
    if kept is not None:
        newest = max(newest, kept[0])
    lowest = max(oldest or 0, 0 if kept is None else kept[1])
    # The one before the newest is what a lone number stands for.
    alone = lowest in (0, newest - 1) or newest == 1
    keyring_store.store(_name(vault_id), str(newest) if alone else f"{newest} {lowest}")


def check(vault_id: str, *, newest: int, used: int) -> None:
    """Raise VaultError if this device has written a newer generation than there is.

    Args:
        newest: the highest number in the folder, authentic or not.
        used: the generation that was found whole.

    Raises KeyringError if the keyring cannot be asked.
    """
    kept = _kept(vault_id)
    if kept is None or (newest >= kept[0] and used >= kept[1]):
        return
    raise VaultError(
        f"the vault holds generation {used}, but {kept[0]} has been written on this device: "
        "an older copy was put back",
        hint="put the newer file back; if you restored this copy yourself, open the vault by "
        "another secret, remove the keyring slot and add it again",
    )


def forget(vault_id: str) -> None:
    """Forget the numbers. Raises KeyringError."""
    keyring_store.forget(_name(vault_id))


def _kept(vault_id: str) -> tuple[int, int] | None:
    """The highest generation written and the oldest to be read; None where nothing is kept."""
    match = _KEPT.fullmatch(keyring_store.fetch(_name(vault_id)) or "")
    if match is None:
        return None
    newest = int(match[1])
    return newest, newest - 1 if match[2] is None else int(match[2])


def _name(vault_id: str) -> str:
    return f"vault {vault_id} generation"
