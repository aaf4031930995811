"""The document `keys.json`: the vault's id and its key slots, authenticated by the master key.

While the master key is being replaced the document holds both: `current`, under which every
complete generation is, and `next`. `carried` is the current master key wrapped under the next one,
so that either secret opens the vault; the next key cannot be reached from the current one, since
that may be the one that was stolen. docs/vault-format.md 3 and 6.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from client.vault.fields import (
    DAMAGED_HINT,
    decode_object,
    exact_fields,
    format_one,
    hex_bytes,
    hex_text,
)
from client.vault.key_derivation import SALT_BYTES, hkdf
from client.vault.key_slots import WRAPPED_BYTES, KeySet, key_set_from_json, open_slots
from client.vault.sealing import ID_BYTES, NONCE
from client.vault.secrets import KINDS, Secret
from proper_model.errors import PassphraseError, VaultError
from proper_model.storage import canonical

KEYS_FILE = "keys.json"
MAX_KEYS_BYTES = 64 * 1024
MAC_BYTES = 32

_MAC_PURPOSE = b"proper vault keys 1"
_CARRY_PURPOSE = b"proper vault carried key 1"
_CARRY_DOMAIN = b"proper vault carried key 1\0"
_FIELDS = {"carried", "current", "format", "mac", "next", "vault_id"}


@dataclass(frozen=True)
class Carried:
    """The current master key wrapped under the next one."""

    salt: bytes
    wrapped: bytes


@dataclass(frozen=True)
class Keys:
    """What keys.json says. `next` and `carried` are there together, or not at all."""

    vault_id: str
    current: KeySet
    next: KeySet | None = None
    carried: Carried | None = None

    def key_sets(self) -> tuple[KeySet, ...]:
        return (self.current,) if self.next is None else (self.current, self.next)

    def slot_kinds(self) -> tuple[tuple[str, str], ...]:
        """(slot id, kind) of all; one that forgetting carries to the next key is one slot."""
        slots = [(slot.id, slot.kind) for one in self.key_sets() for slot in one.slots]
        return tuple(dict.fromkeys(slots))


@dataclass(frozen=True)
class Unlocked:
    """A keys.json that a secret has opened. `next_key` is set if a slot of `next` opened."""

    keys: Keys
    slot_id: str
    current_key: bytes
    next_key: bytes | None


def encode_keys(keys: Keys, current_key: bytes) -> bytes:
    """The bytes of keys.json."""
    body = _body(keys)
    return canonical.encode({**body, "mac": _mac(body, keys.vault_id, current_key).hex()})


def decode_keys(data: bytes) -> tuple[Keys, bytes]:
    """What keys.json says, and its MAC, which is not checked yet. Raises VaultError."""
    if len(data) > MAX_KEYS_BYTES:
        raise VaultError(f"{KEYS_FILE}: larger than {MAX_KEYS_BYTES} bytes", hint=DAMAGED_HINT)
    fields = decode_object(data, _FIELDS, where=KEYS_FILE)
    format_one(fields["format"], where=KEYS_FILE)
    upcoming, carried = fields["next"], fields["carried"]
    keys = Keys(
        vault_id=hex_text(fields["vault_id"], ID_BYTES, where=f"{KEYS_FILE}: vault_id"),
        current=key_set_from_json(fields["current"], where=f"{KEYS_FILE}: current"),
        next=None if upcoming is None else key_set_from_json(upcoming, where=f"{KEYS_FILE}: next"),
        carried=None if carried is None else _carried_from_json(carried),
    )
    if (keys.next is None) != (keys.carried is None):
        raise VaultError(f"{KEYS_FILE}: expected `next` and `carried` together")
    if keys.next is not None and keys.next.key_id == keys.current.key_id:
        raise VaultError(f"{KEYS_FILE}: two keys with one id")
    return keys, hex_bytes(fields["mac"], MAC_BYTES, where=f"{KEYS_FILE}: mac")


def unlock(data: bytes, secret: Secret) -> Unlocked:
    """Open keys.json with a secret of the current or the next master key.

    Raises:
        PassphraseError: wrong secret, or an altered slot.
        VaultError: malformed or altered elsewhere, or no slot of this kind.
    """
    keys, mac = decode_keys(data)
    kind = KINDS[type(secret)]
    sets = [keys_of for keys_of in keys.key_sets() if any(s.kind == kind for s in keys_of.slots)]
    if not sets:
        have = ", ".join(sorted({slot.kind for one in keys.key_sets() for slot in one.slots}))
        raise VaultError(f"the vault has no {kind} slot; it has: {have}", hint=f"open it by {have}")
    opened = _open_any(keys, sets, secret)
    if not hmac.compare_digest(mac, _mac(_body(keys), keys.vault_id, opened.current_key)):
        raise VaultError(f"{KEYS_FILE}: altered after it was written", hint=DAMAGED_HINT)
    return opened


def _open_any(keys: Keys, sets: list[KeySet], secret: Secret) -> Unlocked:
    for one in sets:
        opened = open_slots(one.slots, secret, vault_id=keys.vault_id, key_id=one.key_id)
        if opened is None:
            continue
        slot_id, key = opened
        if one is keys.current:
            return Unlocked(keys, slot_id, key, None)
        return Unlocked(keys, slot_id, _carried_key(keys, key), key)
    name = {"passphrase": "passphrase", "key-file": "key file", "keyring": "keyring entry"}
    # Nothing can tell the two apart.
    raise PassphraseError(
        f"wrong {name[KINDS[type(secret)]]}, or key slot altered",
        hint="try again; nothing was changed. Where it is lost, only another key of yours or a "
        "backup helps",
    )


def carry(keys: Keys, current_key: bytes, next_set: KeySet, next_key: bytes, salt: bytes) -> Keys:
    """`keys` with a next master key beside the current one."""
    wrapping = AESGCM(hkdf(next_key, salt, _CARRY_PURPOSE))
    wrapped = wrapping.encrypt(NONCE, current_key, _carry_aad(keys, next_set))
    return Keys(keys.vault_id, keys.current, next_set, Carried(salt, wrapped))


def _carried_key(keys: Keys, next_key: bytes) -> bytes:
    assert keys.next is not None and keys.carried is not None
    wrapping = AESGCM(hkdf(next_key, keys.carried.salt, _CARRY_PURPOSE))
    try:
        return wrapping.decrypt(NONCE, keys.carried.wrapped, _carry_aad(keys, keys.next))
    except InvalidTag:
        raise VaultError(f"{KEYS_FILE}: carried key altered", hint=DAMAGED_HINT) from None


def _carry_aad(keys: Keys, next_set: KeySet) -> bytes:
    """What is authenticated with the carried key."""
    bound = {
        "current": keys.current.key_id,
        "next": next_set.key_id,
        "vault_id": keys.vault_id,
    }
    return _CARRY_DOMAIN + canonical.encode(bound)


def _body(keys: Keys) -> dict[str, Any]:
    carried = keys.carried and {
        "salt": keys.carried.salt.hex(),
        "wrapped": keys.carried.wrapped.hex(),
    }
    return {
        "carried": carried,
        "current": keys.current.to_json(),
        "format": 1,
        "next": keys.next and keys.next.to_json(),
        "vault_id": keys.vault_id,
    }


def _mac(body: dict[str, Any], vault_id: str, master_key: bytes) -> bytes:
    key = hkdf(master_key, bytes.fromhex(vault_id), _MAC_PURPOSE)
    return hmac.new(key, canonical.encode(body), sha256).digest()


def _carried_from_json(value: Any) -> Carried:
    where = f"{KEYS_FILE}: carried"
    fields = exact_fields(value, {"salt", "wrapped"}, where=where)
    return Carried(
        salt=hex_bytes(fields["salt"], SALT_BYTES, where=f"{where}.salt"),
        wrapped=hex_bytes(fields["wrapped"], WRAPPED_BYTES, where=f"{where}.wrapped"),
    )
