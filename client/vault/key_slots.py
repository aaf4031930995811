"""Key slots: each holds the vault's master key, wrapped under one secret of the user.

The slot key, derived from the secret, wraps the master key; `kept` is the slot key under the master
key, so that forgetting can put a new master key under every slot without asking for each secret. A
slot's `turn`, a salt, is new each time it is written: its wrapping key is used once, and the nonce
is all zeros. Formulas: docs/vault-format.md 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from client.vault import keyring_store
from client.vault.fields import DAMAGED_HINT, exact_fields, hex_bytes, hex_text
from client.vault.key_derivation import (
    KEY_BYTES,
    SALT_BYTES,
    Cost,
    cost_from_json,
    cost_to_json,
    hkdf,
    stretch,
)
from client.vault.sealing import KEY_ID_BYTES, NONCE, TAG_BYTES
from client.vault.secrets import KINDS, KeyFile, Passphrase, Random, Secret
from proper_model.errors import VaultError
from proper_model.storage import canonical

MAX_SLOTS = 8
SLOT_ID_BYTES = 8
KEYRING_SECRET_BYTES = 32
WRAPPED_BYTES = KEY_BYTES + TAG_BYTES

_DOMAIN = b"proper vault slot 1\0"
_TURN_PURPOSE = b"proper vault slot turn 1"
_KEPT_PURPOSE = b"proper vault kept slot key 1"
_KEPT_DOMAIN = _KEPT_PURPOSE + b"\0"
_PURPOSES = {"key-file": b"proper vault key file 1", "keyring": b"proper vault keyring 1"}
_FIELDS = {"id", "kdf", "kind", "salt", "wrapped"}
_TURN_FIELDS = {"kept", "turn"}


@dataclass(frozen=True)
class Slot:
    """One way to the master key. `cost` is that of a passphrase, None for random secrets.

    In a slot of an earlier version `turn` and `kept` are None, and the slot key itself wraps.
    """

    id: str
    kind: str
    cost: Cost | None
    salt: bytes
    wrapped: bytes = b""
    turn: bytes | None = None
    kept: bytes | None = None

    def open_part(self) -> dict[str, Any]:
        kdf = {"name": "hkdf-sha256"} if self.cost is None else cost_to_json(self.cost)
        turn = {} if self.turn is None else {"turn": self.turn.hex()}
        return {"id": self.id, "kdf": kdf, "kind": self.kind, "salt": self.salt.hex(), **turn}

    def to_json(self) -> dict[str, Any]:
        kept = {} if self.kept is None else {"kept": self.kept.hex()}
        return {**self.open_part(), "wrapped": self.wrapped.hex(), **kept}

    def bound(self, vault_id: str, key_id: str) -> bytes:
        """What is authenticated with the keys in this slot."""
        return canonical.encode({"key_id": key_id, "slot": self.open_part(), "vault_id": vault_id})

    def holding(self, slot_key: bytes, master_key: bytes, vault_id: str, key_id: str) -> Slot:
        """This slot around a master key. Its turn must be new."""
        bound = self.bound(vault_id, key_id)
        wrapped = self._wrapper(slot_key).encrypt(NONCE, master_key, _DOMAIN + bound)
        if self.turn is None:
            return replace(self, wrapped=wrapped)
        kept = self._keeper(master_key).encrypt(NONCE, slot_key, _KEPT_DOMAIN + bound)
        return replace(self, wrapped=wrapped, kept=kept)

    def open(self, slot_key: bytes, vault_id: str, key_id: str) -> bytes:
        """The master key. Raises InvalidTag for a wrong slot key or an altered slot."""
        bound = self.bound(vault_id, key_id)
        return self._wrapper(slot_key).decrypt(NONCE, self.wrapped, _DOMAIN + bound)

    def kept_key(self, master_key: bytes, vault_id: str, key_id: str) -> bytes:
        """The slot key. Raises InvalidTag for a wrong master key or an altered slot."""
        assert self.kept is not None
        bound = self.bound(vault_id, key_id)
        return self._keeper(master_key).decrypt(NONCE, self.kept, _KEPT_DOMAIN + bound)

    def _wrapper(self, slot_key: bytes) -> AESGCM:
        return AESGCM(slot_key if self.turn is None else hkdf(slot_key, self.turn, _TURN_PURPOSE))

    def _keeper(self, master_key: bytes) -> AESGCM:
        assert self.turn is not None
        return AESGCM(hkdf(master_key, self.turn, _KEPT_PURPOSE))


@dataclass(frozen=True)
class KeySet:
    """One master key: its public id and the slots that hold it."""

    key_id: str
    slots: tuple[Slot, ...]

    def has_keyring(self) -> bool:
        """Whether the keyring opens it, and so keeps the generations' numbers as well."""
        return any(slot.kind == "keyring" for slot in self.slots)

    def to_json(self) -> dict[str, Any]:
        return {"key_id": self.key_id, "slots": [slot.to_json() for slot in self.slots]}


def key_set_from_json(value: Any, *, where: str) -> KeySet:
    """1 to 8 slots with different ids. Raises VaultError."""
    fields = exact_fields(value, {"key_id", "slots"}, where=where)
    records = fields["slots"]
    if not isinstance(records, list) or not 1 <= len(records) <= MAX_SLOTS:
        raise VaultError(f"{where}.slots: expected a list of 1 to {MAX_SLOTS}")
    slots = [_slot_from_json(r, where=f"{where}.slots[{i}]") for i, r in enumerate(records)]
    if len({slot.id for slot in slots}) != len(slots):
        raise VaultError(f"{where}.slots: two slots with one id")
    key_id = hex_text(fields["key_id"], KEY_ID_BYTES, where=f"{where}.key_id")
    return KeySet(key_id, tuple(slots))


def _slot_from_json(value: Any, *, where: str) -> Slot:
    fields = exact_fields(value, _FIELDS, where=where, optional=_TURN_FIELDS)
    if len(_TURN_FIELDS & fields.keys()) == 1:
        raise VaultError(f"{where}: expected `turn` and `kept` together", hint=DAMAGED_HINT)
    kind, kdf = fields["kind"], fields["kdf"]
    if kind == "passphrase":
        cost = cost_from_json(kdf, where=f"{where}.kdf")
    elif isinstance(kind, str) and kind in _PURPOSES and kdf == {"name": "hkdf-sha256"}:
        cost = None
    else:
        raise VaultError(f"{where}: a kind of slot this version does not know")
    sizes = {
        "salt": SALT_BYTES,
        "wrapped": WRAPPED_BYTES,
        "turn": SALT_BYTES,
        "kept": WRAPPED_BYTES,
    }
    return Slot(
        hex_text(fields["id"], SLOT_ID_BYTES, where=f"{where}.id"),
        kind,
        cost,
        **{
            name: hex_bytes(fields[name], size, where=f"{where}.{name}")
            for name, size in sizes.items()
            if name in fields
        },
    )


def make_slot(
    secret: Secret,
    master_key: bytes,
    *,
    vault_id: str,
    key_id: str,
    cost: Cost,
    random: Random,
    slot_id: str | None = None,
) -> Slot:
    """A new slot; for the keyring also the entry in it.

    Raises:
        PassphraseError: the secret cannot be used as one.
        StorageError: the key file cannot be read, or others can.
        VaultError: no usable keyring, or the cost is out of bounds.
    """
    slot = Slot(
        id=slot_id or random(SLOT_ID_BYTES).hex(),
        kind=KINDS[type(secret)],
        cost=cost if isinstance(secret, Passphrase) else None,
        salt=random(SALT_BYTES),
        turn=random(SALT_BYTES),
    )
    if slot.kind == "keyring":
        keyring_store.store(_entry(vault_id, slot.id), random(KEYRING_SECRET_BYTES).hex())
    key = slot_key(secret, slot, vault_id)
    assert key is not None
    return slot.holding(key, master_key, vault_id, key_id)


def open_slots(
    slots: Sequence[Slot], secret: Secret, *, vault_id: str, key_id: str
) -> tuple[str, bytes] | None:
    """(slot id, master key) of the first slot that the secret opens, None if it opens none.

    Raises what `make_slot` does.
    """
    for slot in slots:
        if slot.kind != KINDS[type(secret)]:
            continue
        key = slot_key(secret, slot, vault_id)
        try:
            if key is not None:
                return slot.id, slot.open(key, vault_id, key_id)
        except InvalidTag:
            continue
    return None


def forget_slot(slot: Slot, vault_id: str) -> None:
    """Remove what a slot keeps outside the vault's folder. Raises VaultError."""
    if slot.kind == "keyring":
        keyring_store.forget(_entry(vault_id, slot.id))


def slot_key(secret: Secret, slot: Slot, vault_id: str) -> bytes | None:
    """The slot's own key; None if the keyring has no entry for this slot. Raises as `make_slot`."""
    if isinstance(secret, Passphrase):
        assert slot.cost is not None
        return stretch(secret.material(), slot.salt, slot.cost)
    if isinstance(secret, KeyFile):
        return hkdf(secret.material(), slot.salt, _PURPOSES[slot.kind])
    kept = keyring_store.fetch_secret(_entry(vault_id, slot.id), KEYRING_SECRET_BYTES)
    return kept and hkdf(kept, slot.salt, _PURPOSES[slot.kind])


def _entry(vault_id: str, slot_id: str) -> str:
    return f"vault {vault_id} slot {slot_id}"
