"""What opens a vault: a passphrase, a key file, or an entry in the desktop's keyring."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from proper_model.errors import PassphraseError
from proper_model.storage.durable import create_file
from proper_model.storage.files import read_private, storage_errors

Random = Callable[[int], bytes]

MIN_KEY_FILE_BYTES = 32
MAX_KEY_FILE_BYTES = 1 << 20
MAX_PASSPHRASE_BYTES = 4096


@dataclass(frozen=True)
class Passphrase:
    """What a person remembers; in Unicode normal form C, so that every keyboard gives the same.

    `earlier`: what earlier versions took for it; an older vault may open by that.
    """

    text: str = field(repr=False)
    earlier: tuple[str, ...] = field(default=(), repr=False, compare=False)

    def material(self) -> bytes:
        """Raises PassphraseError if it is empty, too long or not text."""
        try:
            data = unicodedata.normalize("NFC", self.text).encode()
        except UnicodeEncodeError:
            raise PassphraseError("a passphrase that is not valid Unicode text") from None
        if not 1 <= len(data) <= MAX_PASSPHRASE_BYTES:
            raise PassphraseError(
                f"a passphrase of {len(data)} bytes; expected 1 to {MAX_PASSPHRASE_BYTES}"
            )
        return data


@dataclass(frozen=True)
class KeyFile:
    """A file of random bytes that the user keeps, for example on a stick."""

    path: Path

    def material(self) -> bytes:
        """Raises StorageError if others may read it, PassphraseError if it is no key file."""
        data = read_private(self.path, limit_bytes=MAX_KEY_FILE_BYTES)
        if not MIN_KEY_FILE_BYTES <= len(data) <= MAX_KEY_FILE_BYTES:
            raise PassphraseError(
                f"key file {self.path.name}: expected {MIN_KEY_FILE_BYTES} to "
                f"{MAX_KEY_FILE_BYTES} random bytes"
            )
        return data


@dataclass(frozen=True)
class KeyringEntry:
    """A random secret that the desktop's keyring keeps; nothing to remember."""


Secret = Passphrase | KeyFile | KeyringEntry
KINDS: dict[type, str] = {Passphrase: "passphrase", KeyFile: "key-file", KeyringEntry: "keyring"}


def make_key_file(path: Path, *, random: Random = os.urandom) -> KeyFile:
    """Create a new key file, 0600. Raises StorageError if the name is taken or cannot be written."""
    with storage_errors(path):
        create_file(path, random(MIN_KEY_FILE_BYTES))
    return KeyFile(path)
