"""Key slots: each holds the vault's master key, wrapped under one secret of the user.

    wrapping key = Argon2id or scrypt of a passphrase, HKDF of a key file or keyring secret
    wrapped      = AES-256-GCM(wrapping key, master key, AAD = domain | slot | vault id | key id)

A slot's salt is new each time it is written, so its wrapping key is used once and the nonce is all
zeros. A changed passphrase therefore rewrites one slot and no generation. Source: SECURITY 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from client import keyring_store
from client.derivation import (
    KEY_BYTES,
    SALT_BYTES,
    Cost,
    cost_from_json,
    cost_to_json,
    hkdf,
    stretch,
)
from client.sealing import KEY_ID_BYTES, NONCE, TAG_BYTES
from client.strict_json import exact_fields, hex_bytes, hex_text
from client.vault_secrets import KINDS, KeyFile, Passphrase, Random, Secret
from proper_model import canonical
from proper_model.errors import VaultError

MAX_SLOTS = 8
SLOT_ID_BYTES = 8
KEYRING_SECRET_BYTES = 32
WRAPPED_BYTES = KEY_BYTES + TAG_BYTES

_DOMAIN = b"proper vault slot 1\0"
_PURPOSES = {"key-file": b"proper vault key file 1", "keyring": b"proper vault keyring 1"}
_FIELDS = {"id", "kdf", "kind", "salt", "wrapped"}


@dataclass(frozen=True)
class Slot:
    """One way to the master key. `cost` is that of a passphrase, None for random secrets."""

    id: str
    kind: str
    cost: Cost | None
    salt: bytes
    wrapped: bytes

    def open_part(self) -> dict[str, Any]:
        kdf = {"name": "hkdf-sha256"} if self.cost is None else cost_to_json(self.cost)
        return {"id": self.id, "kdf": kdf, "kind": self.kind, "salt": self.salt.hex()}

    def to_json(self) -> dict[str, Any]:
        return {**self.open_part(), "wrapped": self.wrapped.hex()}

    def aad(self, vault_id: str, key_id: str) -> bytes:
        bound = {"key_id": key_id, "slot": self.open_part(), "vault_id": vault_id}
        return _DOMAIN + canonical.encode(bound)


@dataclass(frozen=True)
class KeySet:
    """One master key: its public id and the slots that hold it."""

    key_id: str
    slots: tuple[Slot, ...]

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
    fields = exact_fields(value, _FIELDS, where=where)
    kind, kdf = fields["kind"], fields["kdf"]
    if kind == "passphrase":
        cost = cost_from_json(kdf, where=f"{where}.kdf")
    elif isinstance(kind, str) and kind in _PURPOSES and kdf == {"name": "hkdf-sha256"}:
        cost = None
    else:
        raise VaultError(f"{where}: a kind of slot this version does not know")
    return Slot(
        id=hex_text(fields["id"], SLOT_ID_BYTES, where=f"{where}.id"),
        kind=kind,
        cost=cost,
        salt=hex_bytes(fields["salt"], SALT_BYTES, where=f"{where}.salt"),
        wrapped=hex_bytes(fields["wrapped"], WRAPPED_BYTES, where=f"{where}.wrapped"),
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
        wrapped=bytes(WRAPPED_BYTES),
    )
    if slot.kind == "keyring":
        keyring_store.store(_entry(vault_id, slot.id), random(KEYRING_SECRET_BYTES).hex())
    key = _wrapping_key(secret, slot, vault_id)
    assert key is not None
    wrapped = AESGCM(key).encrypt(NONCE, master_key, slot.aad(vault_id, key_id))
    return Slot(slot.id, slot.kind, slot.cost, slot.salt, wrapped)


def open_slots(
    slots: Sequence[Slot], secret: Secret, *, vault_id: str, key_id: str
) -> tuple[str, bytes] | None:
    """(slot id, master key) of the first slot that the secret opens, None if it opens none.

    Raises what `make_slot` does.
    """
    for slot in slots:
        if slot.kind != KINDS[type(secret)]:
            continue
        key = _wrapping_key(secret, slot, vault_id)
        try:
            if key is not None:
                aad = slot.aad(vault_id, key_id)
                return slot.id, AESGCM(key).decrypt(NONCE, slot.wrapped, aad)
        except InvalidTag:
            continue
    return None


def forget_slot(slot: Slot, vault_id: str) -> None:
    """Remove what a slot keeps outside the vault's folder. Raises VaultError."""
    if slot.kind == "keyring":
        keyring_store.forget(_entry(vault_id, slot.id))


def _wrapping_key(secret: Secret, slot: Slot, vault_id: str) -> bytes | None:
    """The key around the master key; None if the keyring has no entry for this slot."""
    if isinstance(secret, Passphrase):
        assert slot.cost is not None
        return stretch(secret.material(), slot.salt, slot.cost)
    if isinstance(secret, KeyFile):
        return hkdf(secret.material(), slot.salt, _PURPOSES[slot.kind])
    kept = keyring_store.fetch_secret(_entry(vault_id, slot.id), KEYRING_SECRET_BYTES)
    return kept and hkdf(kept, slot.salt, _PURPOSES[slot.kind])


def _entry(vault_id: str, slot_id: str) -> str:
    return f"vault {vault_id} slot {slot_id}"
