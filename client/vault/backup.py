"""A backup of the vault as one age file, which any age program opens with the passphrase.

Encryption is pyrage's passphrase mode (age v1, scrypt). Inside stands, as in docs/backup-format.md:

    "PROPERB1" | header length, 4 bytes big endian | canonical JSON header | payload
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import re
import struct
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from proper_model.bundle.signed_time import format_time, parse_time
from proper_model.errors import (
    BundleFormatError,
    ConfigError,
    PassphraseError,
    StorageError,
    VaultError,
)
from proper_model.storage import canonical
from proper_model.storage.durable import create_file
from proper_model.storage.files import PRIVATE_FILE, read_regular, storage_errors, sync_folder

MAGIC = b"PROPERB1"
FORMAT = 1
MAX_HEADER_BYTES = 4096
MAX_PAYLOAD_BYTES = 1 << 30
MAX_FILE_BYTES = MAX_PAYLOAD_BYTES + (16 << 20)  # age adds 16 bytes to every 64 KiB
# scrypt takes 2^n KiB: 4 GiB at 22. Checked before any work; pyrage may refuse less than this.
MAX_WORK_FACTOR = 22

_AGE_START = re.compile(rb"age-encryption\.org/v1\n-> scrypt [A-Za-z0-9+/]{22} ([1-9][0-9]?)\n")
_FIELDS = {"format", "created", "bundle_id", "sha256", "length"}
_BUNDLE_ID = re.compile(r"[0-9a-f]{64}")
# What pyrage says where the passphrase, or the key slot it opens, is wrong.
_WRONG_KEY = "Decryption failed"
# And where deriving the key would take more than about 16 times this machine's second of work.
_TOO_MUCH_WORK = "Excessive work parameter"
# File systems without second names for a file, as on most memory sticks.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)

HINT = "use another copy of the backup"


@dataclass(frozen=True)
class Backup:
    """What a backup holds: the vault's document, when it was made and for which bundle."""

    document: bytes
    created: datetime
    bundle_id: str


def write_backup(
    out: Path, document: bytes, passphrase: str, *, bundle_id: str, created: datetime
) -> None:
    """Create the file `out`, 0600. Takes some seconds and hundreds of MiB of memory.

    Raises:
        ConfigError: pyrage is not installed.
        PassphraseError: the passphrase is empty.
        VaultError: the document is larger than a backup holds.
        StorageError: `out` exists, or the disk refuses; nothing is left behind.
    """
    pyrage = _library()
    if not passphrase:
        raise PassphraseError("a backup needs a passphrase, and this one is empty")
    with storage_errors(out):
        if out.is_symlink() or out.exists():
            raise _taken(out)  # before the seconds, not after
    content = encode(Backup(document, created, bundle_id))
    data = pyrage.passphrase.encrypt(content, _spelt(passphrase))
    with storage_errors(out):
        try:
            _create(out, data)
        except FileExistsError:
            raise _taken(out) from None


def open_backup(path: Path, passphrase: str) -> Backup:
    """Decrypt and check a backup. Its writer chose the cost: seconds, and up to 4 GiB of memory.

    Raises:
        ConfigError: pyrage is not installed.
        PassphraseError: wrong passphrase, or the key slot in the file was altered.
        VaultError: no backup, damaged, cut off, of an unknown format, or of too high a cost for this machine.
        StorageError: the file cannot be read.
    """
    pyrage = _library()
    with storage_errors(path):
        try:
            data = read_regular(path, limit_bytes=MAX_FILE_BYTES)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            raise VaultError(f"{path}: larger than a backup can be", hint=HINT) from None
    factor = check_start(data)
    # As it was typed as well: earlier versions wrote so, and other age programs do.
    for spelling in dict.fromkeys((_spelt(passphrase), passphrase)):
        try:
            return decode(pyrage.passphrase.decrypt(data, spelling))
        except pyrage.DecryptError as error:
            reason = str(error)
            if reason.startswith(_TOO_MUCH_WORK):
                raise VaultError(
                    f"this machine refuses the effort the backup asks for (work factor {factor}, "
                    f"{_memory(factor)} of memory a guess): it is far above its own",
                    hint="repeat the command when this machine is idle; or, on a faster one: "
                    "age --decrypt FILE | age --passphrase > NEWFILE",
                ) from None
            if reason != _WRONG_KEY:
                raise VaultError("the backup is damaged or cut off", hint=HINT) from None
    raise PassphraseError(
        "wrong passphrase, or the backup's key slot was altered",
        hint="try again, or use another copy of the backup",
    )


def _spelt(passphrase: str) -> str:
    """In Unicode normal form C, as the vault's, so that every keyboard gives the same."""
    try:
        passphrase.encode()
    except UnicodeEncodeError:
        raise PassphraseError("a passphrase that is not valid Unicode text") from None
    return unicodedata.normalize("NFC", passphrase)


def _memory(factor: int) -> str:
    """What scrypt takes at a work factor."""
    return f"{1 << factor - 10} MiB" if factor >= 10 else f"{1 << factor} KiB"


def check_start(data: bytes) -> int:
    """The work factor of an age file with a passphrase, read before any key is derived.

    Raises VaultError for any other file, and for a work factor above `MAX_WORK_FACTOR`.
    """
    start = _AGE_START.match(data)
    if start is None:
        raise VaultError("not a backup: expected an age file with a passphrase", hint=HINT)
    factor = int(start[1])
    if factor > MAX_WORK_FACTOR:
        raise VaultError(
            f"the backup asks for a work factor of {factor}, expected at most {MAX_WORK_FACTOR}",
            hint=HINT,
        )
    return factor


def encode(backup: Backup) -> bytes:
    """What is encrypted. Raises VaultError for a document over the limit or a malformed id."""
    if len(backup.document) > MAX_PAYLOAD_BYTES:
        raise VaultError(
            f"{len(backup.document)} bytes to back up, expected at most {MAX_PAYLOAD_BYTES}"
        )
    if _BUNDLE_ID.fullmatch(backup.bundle_id) is None:
        raise VaultError("a backup names its bundle by 64 hex digits, and this id is another")
    fields = {
        "format": FORMAT,
        "created": format_time(backup.created),
        "bundle_id": backup.bundle_id,
        "sha256": hashlib.sha256(backup.document).hexdigest(),
        "length": len(backup.document),
    }
    header = canonical.encode(fields)
    return MAGIC + struct.pack(">I", len(header)) + header + backup.document


def decode(content: bytes) -> Backup:
    """The inverse of `encode`. Raises VaultError for anything `encode` would not write."""
    start = len(MAGIC) + 4
    if len(content) < start or not content.startswith(MAGIC):
        raise VaultError("the age file holds no PROPER backup", hint="choose another file")
    (length,) = struct.unpack(">I", content[len(MAGIC) : start])
    if length > MAX_HEADER_BYTES or start + length > len(content):
        raise VaultError(f"the backup's header of {length} bytes does not fit", hint=HINT)
    header = _header(content[start : start + length])
    document = content[start + length :]
    expected = (header["length"], header["sha256"])
    if (len(document), hashlib.sha256(document).hexdigest()) != expected:
        raise VaultError("the backup's content is not what its header says", hint=HINT)
    try:
        created = parse_time(header["created"])
    except (TypeError, ValueError):
        raise VaultError("the backup's header has no valid time", hint=HINT) from None
    return Backup(document, created, header["bundle_id"])


def _header(raw: bytes) -> dict[str, Any]:
    try:
        header = canonical.decode(raw, where="backup header")
    except BundleFormatError as error:
        raise VaultError(error.message, hint=HINT) from None
    known = isinstance(header, dict) and type(header.get("format")) is int
    if not known or header["format"] != FORMAT:
        raise VaultError(
            f"a backup of an unknown format, expected format {FORMAT}", hint="update PROPER"
        )
    bundle_id = header.get("bundle_id")
    if (
        set(header) != _FIELDS
        or type(header["length"]) is not int
        or not isinstance(bundle_id, str)
        or _BUNDLE_ID.fullmatch(bundle_id) is None
    ):
        raise VaultError("the backup's header has other fields than expected", hint=HINT)
    return dict(header)


def _library() -> Any:
    try:
        return importlib.import_module("pyrage")
    except ImportError:
        raise ConfigError(
            "age backups need pyrage, which is not installed",
            hint="install the extra `backup`: pip install -e '.[backup]'",
        ) from None


def _taken(out: Path) -> StorageError:
    return StorageError(
        f"{out}: there is something already, and a backup overwrites nothing",
        hint="name another file",
    )


def _create(out: Path, data: bytes) -> None:
    """Create `out` whole where the file system can; else exclusively, removed on failure."""
    try:
        create_file(out, data)
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(out, flags, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
    except BaseException:
        out.unlink()
        raise
    sync_folder(out.parent)
