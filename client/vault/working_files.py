"""Encrypted files of work in progress: training checkpoints beside the generations.

    magic 8 | salt 32 | AES-256-GCM ciphertext, tag 16

As for generations, the key is HKDF-SHA256(master key, random salt) and used once. What the file is
for is authenticated with it, so that the checkpoint of one training cannot replace another's.
docs/vault-format.md 9.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from client.vault.key_derivation import SALT_BYTES, hkdf
from client.vault.secrets import Random
from proper_model.errors import VaultError
from proper_model.storage.files import storage_errors, sync_folder

MAGIC = b"PROPERW1"
PURPOSE = b"proper vault working file 1"
NONCE = bytes(12)
TAG_BYTES = 16
PREFIX = "training-"

# The temporary file of a killed `write_atomic` is as private as the file itself.
_NAME = re.compile(r"training-.+|\.training-.+\.[0-9a-f]{12}\.tmp")
_BEGUN_FROM = re.compile(r"training-([0-9]{8,16})-.+")


@dataclass(frozen=True)
class Sealer:
    """Encrypts and decrypts the working files of one purpose. The purpose is no secret."""

    purpose: str
    master_key: bytes = field(repr=False)
    random: Random = field(repr=False)

    def seal(self, payload: bytes) -> bytes:
        """The file's bytes."""
        salt = self.random(SALT_BYTES)
        return MAGIC + salt + self._cipher(salt).encrypt(NONCE, payload, self._associated)

    def open(self, data: bytes) -> bytes:
        """The payload. Raises VaultError for any other bytes than `seal` gave for this purpose."""
        start = len(MAGIC) + SALT_BYTES
        if len(data) < start + TAG_BYTES or not data.startswith(MAGIC):
            raise self._damaged()
        try:
            cipher = self._cipher(data[len(MAGIC) : start])
            return cipher.decrypt(NONCE, data[start:], self._associated)
        except InvalidTag:
            raise self._damaged() from None

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(hkdf(self.master_key, salt, PURPOSE))

    @property
    def _associated(self) -> bytes:
        return MAGIC + self.purpose.encode()

    @staticmethod
    def _damaged() -> VaultError:
        return VaultError(
            "the interrupted work cannot be read: damaged, of another vault, or of other work",
            hint="begin anew: the same command without --resume",
        )


def list_working(folder: Path) -> list[Path]:
    """The working files there, half-written ones too. Raises StorageError."""
    with storage_errors(folder):
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def working_name(generation: int, work: str) -> str:
    """How file names of a work begin that starts when this generation, or 0, is the newest."""
    return f"{PREFIX}{generation:08d}-{work}"


def remove_stale_working(folder: Path, newest: int) -> None:
    """Delete working files whose work began before the newest generation. Raises StorageError.

    A command leaves them that is killed between storing its result and removing them.
    """
    with storage_errors(folder):
        for path in list_working(folder):
            begun = _BEGUN_FROM.fullmatch(path.name)
            if begun and int(begun[1]) < newest:
                path.unlink(missing_ok=True)


def remove_working(folder: Path, *, keep: str | None = None) -> None:
    """Delete working files, but not whole ones whose name begins with `keep`. Raises StorageError."""
    gone = [path for path in list_working(folder) if keep is None or not path.name.startswith(keep)]
    with storage_errors(folder):
        for path in gone:
            path.unlink(missing_ok=True)
        if gone:
            sync_folder(folder)
