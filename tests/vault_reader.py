"""A second reader of vaults, written from docs/vault-format.md alone: the oracle of the first.

It shares no code with client; of AES-GCM it uses the one-shot form, of HKDF and scrypt the standard
library.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import unicodedata
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

NONCE = bytes(12)


def canonical(value) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    extracted = hmac.digest(salt, key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def slot_key(slot: dict, secret: dict, vault_id: str) -> bytes:
    kdf, salt = slot["kdf"], bytes.fromhex(slot["salt"])
    if slot["kind"] == "passphrase":
        text = unicodedata.normalize("NFC", secret["passphrase"]).encode()
        if kdf["name"] == "scrypt":
            n = 2 ** kdf["log2_n"]
            return hashlib.scrypt(text, salt=salt, n=n, r=8, p=1, dklen=32, maxmem=1 << 30)
        m, t, p = kdf["memory_kib"], kdf["iterations"], kdf["lanes"]
        return Argon2id(salt=salt, length=32, iterations=t, lanes=p, memory_cost=m).derive(text)
    if slot["kind"] == "key-file":
        return hkdf(bytes.fromhex(secret["key_file"]), salt, b"proper vault key file 1")
    entry = bytes.fromhex(secret["keyring"][f"vault {vault_id} slot {slot['id']}"])
    return hkdf(entry, salt, b"proper vault keyring 1")


def master_key(keys: dict, secret: dict) -> bytes:
    """The current master key, with the MAC checked."""
    (kind,) = (name.replace("_", "-") for name in secret)
    vault_id, key = keys["vault_id"], None
    for name in ("current", "next"):
        for slot in (keys[name] or {"slots": []})["slots"]:
            if slot["kind"] != kind or key is not None:
                continue
            bare = {f: value for f, value in slot.items() if f not in ("wrapped", "kept")}
            bound = canonical({"key_id": keys[name]["key_id"], "slot": bare, "vault_id": vault_id})
            try:
                own = wrapping = slot_key(slot, secret, vault_id)
                if "turn" in slot:
                    turn = bytes.fromhex(slot["turn"])
                    wrapping = hkdf(own, turn, b"proper vault slot turn 1")
                wrapped, aad = bytes.fromhex(slot["wrapped"]), b"proper vault slot 1\0" + bound
                key = AESGCM(wrapping).decrypt(NONCE, wrapped, aad)
            except (InvalidTag, KeyError):
                continue
            if "turn" in slot:
                aad = b"proper vault kept slot key 1\0" + bound
                keeping = AESGCM(hkdf(key, turn, b"proper vault kept slot key 1"))
                assert keeping.decrypt(NONCE, bytes.fromhex(slot["kept"]), aad) == own
            if name == "next":
                key = carried_key(keys, key)
    assert key is not None, "no slot opens"
    body = canonical({field: value for field, value in keys.items() if field != "mac"})
    mac_key = hkdf(key, bytes.fromhex(vault_id), b"proper vault keys 1")
    assert hmac.digest(mac_key, body, "sha256").hex() == keys["mac"]
    return key


def carried_key(keys: dict, next_key: bytes) -> bytes:
    ids = {name: keys[name]["key_id"] for name in ("current", "next")}
    aad = b"proper vault carried key 1\0" + canonical({**ids, "vault_id": keys["vault_id"]})
    salt, wrapped = (bytes.fromhex(keys["carried"][name]) for name in ("salt", "wrapped"))
    wrapping = hkdf(next_key, salt, b"proper vault carried key 1")
    return AESGCM(wrapping).decrypt(NONCE, wrapped, aad)


def read_all(folder: Path, secret: dict) -> list[dict]:
    """Every generation under the current key, newest first, as the vectors write them."""
    keys = json.loads((folder / "keys.json").read_bytes())
    key, found = master_key(keys, secret), []
    for path in sorted(folder.glob("*.vault"), reverse=True):
        data = path.read_bytes()
        assert data[:8] == b"PROPERV1"
        start = 12 + int.from_bytes(data[8:12], "big")
        header = json.loads(data[12:start])
        if header["key_id"] != keys["current"]["key_id"]:
            continue
        assert (header["vault_id"], header["generation"]) == (keys["vault_id"], int(path.stem))
        content = AESGCM(hkdf(key, bytes.fromhex(header["salt"]), b"proper vault generation 1"))
        payload = content.decrypt(NONCE, data[start:], data[:start])
        ids = {name: header[name] for name in ("bundle_id", "generation")}
        found.append({**ids, "payload": payload.hex()})
    return found
