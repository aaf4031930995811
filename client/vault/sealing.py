"""One generation of the vault as bytes: an encrypted payload, bound to its vault, key and number.

    magic 8 | header length 4 (big endian) | header, canonical JSON | AES-256-GCM ciphertext, tag 16

Every file has its own key, HKDF-SHA256(master key, random salt), so the nonce is all zeros.
Everything before the ciphertext is authenticated with it. The header is compared with what the
caller expects, so that a file of another vault or generation cannot be put in the place of this one.
docs/vault-format.md 4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from client.vault.fields import decode_object, format_one, hex_bytes, hex_text, integer_in
from client.vault.key_derivation import SALT_BYTES, hkdf
from proper_model.errors import VaultError, VaultForeignError
from proper_model.storage import canonical

MAGIC = b"PROPERV1"
ALGORITHM = "hkdf-sha256 aes-256-gcm"
PURPOSE = b"proper vault generation 1"
NONCE = bytes(12)
TAG_BYTES = 16
ID_BYTES = 16  # of a vault
KEY_ID_BYTES = 8
BUNDLE_ID_BYTES = 32
MAX_HEADER_BYTES = 4096
MAX_PAYLOAD_BYTES = 4 << 30
MAX_FILE_BYTES = len(MAGIC) + 4 + MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES + TAG_BYTES
MAX_GENERATION = canonical.MAX_INTEGER

_CHUNK_BYTES = 16 << 20  # one call of the library takes less than 2^31
_FIELDS = {"alg", "bundle_id", "format", "generation", "key_id", "salt", "vault_id"}
_ALONE = {"alone"}

DAMAGED_HINT = (
    "nothing was changed; put the file back from a copy of this folder, or bring a backup back with "
    "`proper import BACKUP --replace`"
)
FOREIGN_HINT = "put the file of this vault back, or remove the foreign one"


@dataclass(frozen=True)
class Header:
    """The header of a generation: ids in hex, the generation from 1.

    `alone`: something was forgotten, so no earlier generation may be read again.
    """

    vault_id: str
    key_id: str
    bundle_id: str
    generation: int
    salt: bytes
    alone: bool = False

    def prefix(self) -> bytes:
        """The bytes before the ciphertext."""
        text = canonical.encode(
            {
                "alg": ALGORITHM,
                "bundle_id": self.bundle_id,
                "format": 1,
                "generation": self.generation,
                "key_id": self.key_id,
                "salt": self.salt.hex(),
                "vault_id": self.vault_id,
                **({"alone": True} if self.alone else {}),
            }
        )
        return MAGIC + struct.pack(">I", len(text)) + text


def seal(payload: bytes, header: Header, master_key: bytes) -> bytes:
    """The file of one generation. `header.salt` must never have been used with this master key.

    Raises VaultError if the payload or the generation is too large.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise VaultError(
            f"a private state of {len(payload)} bytes; expected at most {MAX_PAYLOAD_BYTES}"
        )
    integer_in(header.generation, 1, MAX_GENERATION, where="generation")
    prefix = header.prefix()
    cipher = Cipher(AES(hkdf(master_key, header.salt, PURPOSE)), GCM(NONCE)).encryptor()
    cipher.authenticate_additional_data(prefix)
    body = [cipher.update(piece) for piece in _pieces(payload)]
    return b"".join([prefix, *body, cipher.finalize(), cipher.tag])


def _pieces(data: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(data)
    for start in range(0, len(view), _CHUNK_BYTES):
        yield view[start : start + _CHUNK_BYTES]


def read_header(data: bytes, *, where: str) -> Header:
    """The header of a file, well formed but not yet authenticated. Raises VaultError."""
    start = len(MAGIC) + 4
    if len(data) > MAX_FILE_BYTES:
        raise VaultError(f"{where}: larger than {MAX_FILE_BYTES} bytes", hint=DAMAGED_HINT)
    if len(data) < start or not data.startswith(MAGIC):
        raise VaultError(f"{where}: not a vault file", hint=DAMAGED_HINT)
    (length,) = struct.unpack(">I", data[len(MAGIC) : start])
    if length > MAX_HEADER_BYTES or start + length + TAG_BYTES > len(data):
        raise VaultError(f"{where}: the file is cut off", hint=DAMAGED_HINT)
    head = data[start : start + length]
    fields = decode_object(head, _FIELDS, where=f"{where}: header", optional=_ALONE)
    format_one(fields["format"], where=where)
    if fields.get("alone", True) is not True:
        raise VaultError(f"{where}: alone: expected true or no such field", hint=DAMAGED_HINT)
    if fields["alg"] != ALGORITHM:
        raise VaultError(f"{where}: an algorithm this version does not know", hint=DAMAGED_HINT)
    return Header(
        vault_id=hex_text(fields["vault_id"], ID_BYTES, where=f"{where}: vault_id"),
        key_id=hex_text(fields["key_id"], KEY_ID_BYTES, where=f"{where}: key_id"),
        bundle_id=hex_text(fields["bundle_id"], BUNDLE_ID_BYTES, where=f"{where}: bundle_id"),
        generation=integer_in(
            fields["generation"], 1, MAX_GENERATION, where=f"{where}: generation"
        ),
        salt=hex_bytes(fields["salt"], SALT_BYTES, where=f"{where}: salt"),
        alone="alone" in fields,
    )


def unseal(
    data: bytes, master_key: bytes, *, vault_id: str, key_id: str, generation: int, where: str
) -> tuple[Header, bytes]:
    """Header and payload of a file that must be this vault's, under this key, of this generation.

    Raises VaultForeignError for another vault's file and VaultError for any other difference.
    """
    header = read_header(data, where=where)
    # One damaged field is damage; a file of another vault differs in both.
    if header.vault_id != vault_id and header.key_id != key_id:
        raise VaultForeignError(
            f"{where}: belongs to vault {header.vault_id[:16]}, expected vault {vault_id[:16]}",
            hint=FOREIGN_HINT,
        )
    if (header.vault_id, header.key_id) != (vault_id, key_id):
        raise VaultError(f"{where}: under another key, or damaged", hint=DAMAGED_HINT)
    if header.generation != generation:
        raise VaultError(
            f"{where}: holds generation {header.generation}, expected {generation}",
            hint="the file was renamed or an old one was put in its place; " + DAMAGED_HINT,
        )
    return header, _decrypt(data, header, master_key, where)


def _decrypt(data: bytes, header: Header, master_key: bytes, where: str) -> bytes:
    prefix = header.prefix()  # canonical, so these are the very bytes of the file
    body = memoryview(data)[len(prefix) :]
    tag = bytes(body[-TAG_BYTES:])
    cipher = Cipher(AES(hkdf(master_key, header.salt, PURPOSE)), GCM(NONCE, tag)).decryptor()
    cipher.authenticate_additional_data(prefix)
    text = [cipher.update(piece) for piece in _pieces(body[:-TAG_BYTES])]
    try:
        text.append(cipher.finalize())
    except InvalidTag:
        raise VaultError(f"{where}: damaged or altered", hint=DAMAGED_HINT) from None
    return b"".join(text)
