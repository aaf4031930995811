"""age files with a passphrase, written without pyrage: an independent encoder of age v1 (scrypt).

Source: the age specification, c2sp.org/age. Its work factor is a parameter, so that tests read
hundreds of files for the price of one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CHUNK_BYTES = 64 * 1024


def seal(content: bytes, passphrase: str, *, factor: int = 4) -> bytes:
    """`content` as an age file; fixed randomness."""
    salt, file_key, nonce = b"s" * 16, b"k" * 16, b"n" * 16
    wrap = hashlib.scrypt(
        passphrase.encode(),
        salt=b"age-encryption.org/v1/scrypt" + salt,
        n=1 << factor,
        r=8,
        p=1,
        dklen=32,
    )
    slot = ChaCha20Poly1305(wrap).encrypt(bytes(12), file_key, None)
    header = b"age-encryption.org/v1\n-> scrypt %b %d\n%b\n---" % (_raw(salt), factor, _raw(slot))
    mac = hmac.new(_derived(file_key, b"", b"header"), header, hashlib.sha256).digest()
    stream = ChaCha20Poly1305(_derived(file_key, nonce, b"payload"))
    sealed = header + b" " + _raw(mac) + b"\n" + nonce
    starts = range(0, max(len(content), 1), CHUNK_BYTES)
    for number, start in enumerate(starts):
        last = b"\x01" if number == len(starts) - 1 else b"\x00"
        chunk = content[start : start + CHUNK_BYTES]
        sealed += stream.encrypt(number.to_bytes(11, "big") + last, chunk, None)
    return sealed


def _derived(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, info).derive(key)


def _raw(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")
