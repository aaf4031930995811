"""An opened keys.json: the master key in memory, and changes to the slots, written whole."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag

from client.vault.key_derivation import SALT_BYTES, Cost, default_cost
from client.vault.key_slots import MAX_SLOTS, KeySet, Slot, forget_slot, make_slot, slot_key
from client.vault.keyring_store import KeyringError
from client.vault.keys_document import KEYS_FILE, MAX_KEYS_BYTES, Keys, carry, encode_keys, unlock
from client.vault.secrets import KeyringEntry, Random, Secret
from proper_model.errors import BusyError, PassphraseError, StorageError, VaultError
from proper_model.storage.files import read_private, save_private


@dataclass(eq=False)
class KeysFile:
    """An opened keys.json: `raw` is the document as it was last read or written.

    `key` is the current master key, `next_key` the next one where it is known; `secret` opened the
    slot `slot_id`.
    """

    folder: Path
    keys: Keys
    key: bytes = field(repr=False)
    random: Random = field(repr=False)
    cost: Cost | None
    secret: Secret | None
    slot_id: str = ""
    next_key: bytes | None = field(default=None, repr=False)
    raw: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.raw = encode_keys(self.keys, self.key)

    @classmethod
    def opened(cls, folder: Path, secret: Secret, random: Random, cost: Cost | None) -> KeysFile:
        """Read and unlock. Raises as `unlock` and `read_private`."""
        found = unlock(read_keys(folder), secret)
        key, next_key = found.current_key, found.next_key
        return cls(folder, found.keys, key, random, cost, secret, found.slot_id, next_key)

    def reopened(self) -> KeysFile:
        """The document that lies there now, opened by the same secret. Changes nothing here.

        Raises BusyError if the secret opens it no longer, or it is another vault's.
        """
        assert self.secret is not None, "a vault that was made here is not read beside a writer"
        try:
            now = KeysFile.opened(self.folder, self.secret, self.random, self.cost)
        except PassphraseError:
            now = None
        if now is None or now.keys.vault_id != self.keys.vault_id:
            raise BusyError(
                "another command has changed what opens the vault meanwhile",
                hint="repeat the command, with the key of now",
            )
        return now

    def unchanged(self) -> bool:
        """Whether the file is still the one this object has read or written."""
        return read_keys(self.folder) == self.raw

    def renew_slot(self) -> None:
        """Keep the slot key of the slot that opened, if an earlier version did not. As `save`."""
        current = self.keys.current
        old = [slot for slot in current.slots if slot.id == self.slot_id and slot.kept is None]
        for slot in old:
            made = self._turned(slot, current.key_id, self.key)
            self.save_slots(tuple(made if one is slot else one for one in current.slots))

    def carried_slots(self, key_id: str, key: bytes) -> tuple[Slot, ...]:
        """The present slots around another master key, which the same secrets open.

        Raises VaultError for a slot of an earlier version that another secret than the present one
        opens: nothing here knows its key.
        """
        return tuple(self._turned(slot, key_id, key) for slot in self.keys.current.slots)

    def _turned(self, slot: Slot, key_id: str, key: bytes) -> Slot:
        """The slot with a new turn around a master key, which the same secret opens."""
        turned = replace(slot, turn=self.random(SALT_BYTES))
        return turned.holding(self._slot_key(slot), key, self.keys.vault_id, key_id)

    def _slot_key(self, slot: Slot) -> bytes:
        vault_id, current = self.keys.vault_id, self.keys.current
        if slot.kept is not None:
            try:
                return slot.kept_key(self.key, vault_id, current.key_id)
            except InvalidTag:
                raise VaultError(f"{KEYS_FILE}: kept slot key altered") from None
        key = None
        with suppress(KeyringError, InvalidTag):
            if slot.id == self.slot_id and self.secret is not None:
                key = slot_key(self.secret, slot, vault_id)
            elif slot.kind == "keyring":
                key = slot_key(KeyringEntry(), slot, vault_id)
            if key is not None:  # a key file or an entry may be another one by now
                slot.open(key, vault_id, current.key_id)
                return key
        raise VaultError(
            f"slot {slot.id} ({slot.kind}) was made by an earlier version and cannot be taken "
            "to a new master key, which forgetting needs; nothing was changed",
            hint="give the same command that key once (--passphrase-file or --key-file; unlock the "
            f"keyring), then repeat it; or remove the slot: proper passwd --remove {slot.id}",
        )

    def make_slots(
        self, secrets: Sequence[Secret], key_id: str, key: bytes, slot_id: str | None = None
    ) -> tuple[Slot, ...]:
        """New slots for a master key, not written yet.

        Raises as `make_slot`; then nothing is left in the keyring.
        """
        if not 1 <= len(secrets) <= MAX_SLOTS:
            raise VaultError(f"{len(secrets)} secrets for one vault; expected 1 to {MAX_SLOTS}")
        slots: list[Slot] = []
        try:
            for secret in secrets:
                slot = make_slot(
                    secret,
                    key,
                    vault_id=self.keys.vault_id,
                    key_id=key_id,
                    cost=self.cost or default_cost(),
                    random=self.random,
                    slot_id=slot_id,
                )
                slots.append(slot)
        except (PassphraseError, VaultError, StorageError):
            self._forget(slots)
            raise
        return tuple(slots)

    def save_slots(self, slots: tuple[Slot, ...], new: Sequence[Slot] = ()) -> None:
        """Replace the slots of the current key. Raises as `save`."""
        current = replace(self.keys.current, slots=slots)
        self.save(replace(self.keys, current=current), self.key, new=new)

    def save_next(self, pending: KeySet, key: bytes, new: Sequence[Slot] = ()) -> None:
        """Put a next master key beside the current one. Raises as `save`."""
        keys = carry(self.keys, self.key, pending, key, self.random(SALT_BYTES))
        self.save(keys, self.key, new=new)

    def save(self, keys: Keys, key: bytes, new: Sequence[Slot] = ()) -> None:
        """Replace keys.json; `key` is its current master key.

        Raises StorageError: the old document is there, and what `new` slots keep in the keyring is
        removed; or, if only the folder could not be flushed, the new document is there and in use.
        """
        raw = encode_keys(keys, key)
        failure: StorageError | None = None
        try:
            save_private(self.folder / KEYS_FILE, raw)
        except StorageError as error:
            failure = error
        if failure is None or self._holds(raw):
            self.raw, self.keys, self.key = raw, keys, key
            if keys.next is None:
                self.next_key = None
        else:
            self._forget(new)
        if failure is not None:
            raise failure

    def _holds(self, raw: bytes) -> bool:
        with suppress(StorageError):
            return read_keys(self.folder) == raw
        return False

    def _forget(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            with suppress(KeyringError):  # the error that led here is the one to tell
                forget_slot(slot, self.keys.vault_id)


def read_keys(folder: Path) -> bytes:
    """The bytes of a vault's keys.json. Raises StorageError."""
    return read_private(folder / KEYS_FILE, limit_bytes=MAX_KEYS_BYTES)
