"""Signing keys of a publisher: one Ed25519 key a file, readable by its owner only.

A key file is PKCS#8 PEM, created with mode 0600 and never overwritten: whoever replaces a key
locks out every device that trusts it. The keys of the root role are kept offline and encrypted with a
passphrase. The public half is beside it as NAME.pub, 64 hex digits, to be handed on.
Moving to new keys is `coordinator.root_ceremony`. Source: docs/security.md 2 ("Bundle"), docs/contributing.md 3.9.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from zxcvbn import zxcvbn

from proper_model.bundle.public_keys import check_public_key, public_bytes
from proper_model.errors import BundleFormatError, ConfigError, PassphraseError
from proper_model.storage.durable import create_file
from proper_model.storage.files import read_bounded

MAX_KEY_BYTES = 16 * 1024
PRIVATE_TO_OWNER = stat.S_IRWXG | stat.S_IRWXO
PUBLIC_SUFFIX = ".pub"
# PEM derives its key with 2,048 rounds of PBKDF2 only, which OpenSSL fixes: a guess costs a
# millisecond, so that the passphrase itself has to be long.
MIN_PASSPHRASE_CHARACTERS = 20
LEAST_GUESSES = 1e15  # by the estimate of zxcvbn
MAX_PASSPHRASE_BYTES = 1000  # OpenSSL reads 1,023 at most

_ENCRYPTED = b"ENCRYPTED PRIVATE KEY"
Ask = Callable[[Path], str]
"""The passphrase for this key file."""


def create_key(path: Path, passphrase: str | None = None) -> Ed25519PrivateKey:
    """Make a new key and store it, encrypted if there is a passphrase.

    Raises:
        ConfigError: the file exists, or cannot be written.
        PassphraseError: too short, too long, or easily guessed.
    """
    encryption = (
        NoEncryption() if passphrase is None else BestAvailableEncryption(_long(passphrase))
    )
    key = Ed25519PrivateKey.generate()
    _create(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return key


def create_pair(path: Path, passphrase: str | None = None) -> Ed25519PrivateKey:
    """As `create_key`, with the public half beside it."""
    public = public_file(path)
    if os.path.lexists(public):
        raise ConfigError(f"key file {public.name}: exists already and is never overwritten")
    key = create_key(path, passphrase)
    write_public(path, key)
    return key


def write_public(path: Path, key: Ed25519PrivateKey) -> None:
    """Store the public half of the key in `path` beside it. Raises ConfigError."""
    _create(public_file(path), f"{public_bytes(key).hex()}\n".encode())


def public_file(path: Path) -> Path:
    """The file with the public half of a key file."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


def load_public(path: Path) -> Ed25519PublicKey:
    """Read a public half that `create_pair` stored.

    Raises:
        ConfigError: missing, or no usable Ed25519 public key.
    """
    try:
        text = read_bounded(path, MAX_KEY_BYTES).decode().strip()
        public = bytes.fromhex(text)
        check_public_key(public, where=f"public key {path.name}")
    except OSError as error:
        raise ConfigError(f"public key {path.name}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(
            f"public key {path.name}: expected 64 hex digits",
            hint=f"the file beside the key whose name ends in {PUBLIC_SUFFIX}",
        ) from None
    except BundleFormatError as error:
        raise ConfigError(error.message, hint=error.hint) from None
    return Ed25519PublicKey.from_public_bytes(public)


def load_key(path: Path, ask: Ask | None = None) -> Ed25519PrivateKey:
    """Read a key that `create_key` stored; `ask` gives the passphrase of an encrypted one.

    Raises:
        ConfigError: missing, a link, readable by others, encrypted without `ask`, or no Ed25519
            key.
        PassphraseError: the passphrase does not open it.
    """
    pem = read_private(path)
    encrypted = _ENCRYPTED in pem
    if encrypted and ask is None:
        raise ConfigError(
            f"key file {path.name}: encrypted, expected an unencrypted key here",
            hint="root keys sign roots only; releases are signed with a release key",
        )
    password = ask(path).encode() if encrypted and ask is not None else None
    try:
        key = load_pem_private_key(pem, password=password)
    except UnsupportedAlgorithm:
        raise ConfigError(f"key file {path.name}: another kind of key, expected Ed25519") from None
    except (ValueError, TypeError):
        if encrypted:
            raise PassphraseError(f"key file {path.name}: wrong passphrase, or damaged") from None
        # The library's text may quote the file; ours must not.
        raise ConfigError(
            f"key file {path.name}: not a PEM private key",
            hint="make one with: proper-coordinator keys make-release FILE",
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"key file {path.name}: another kind of key, expected Ed25519")
    return key


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The key in this file; a new one where there is none yet.

    Raises:
        ConfigError: as `load_key` and `create_key`.
    """
    if not os.path.lexists(path):
        try:
            return create_key(path)
        except ConfigError:
            # Another process may have been first; if not, load_key tells what is wrong.
            if not os.path.lexists(path):
                raise
    return load_key(path)


def _long(passphrase: str) -> bytes:
    data = passphrase.encode()
    if len(passphrase) < MIN_PASSPHRASE_CHARACTERS or len(data) > MAX_PASSPHRASE_BYTES:
        raise PassphraseError(
            f"a passphrase of {len(passphrase)} characters, expected at least "
            f"{MIN_PASSPHRASE_CHARACTERS} and at most {MAX_PASSPHRASE_BYTES} bytes",
            hint="seven random words do; keep them apart from the key",
        )
    if zxcvbn(passphrase[:72])["guesses"] < LEAST_GUESSES:  # it takes no more characters
        raise PassphraseError(
            "a passphrase that is easily guessed", hint="take seven random words, of no sentence"
        )
    return data


def _create(path: Path, data: bytes) -> None:
    try:
        create_file(path, data)
    except FileExistsError:
        raise ConfigError(
            f"key file {path.name}: exists already and is never overwritten",
            hint="load it, or choose another name for a new key",
        ) from None
    except OSError as error:
        raise ConfigError(f"key file {path.name}: {error.strerror}, expected to write it") from None


def read_private(path: Path, *, what: str = "key file") -> bytes:
    """A small file that only its owner may use; `what` names it in messages. Raises ConfigError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "is a link" if error.errno == errno.ELOOP else (error.strerror or "unreadable")
        raise ConfigError(f"{what} {path.name}: {reason}, expected a regular file") from None
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{what} {path.name}: expected a regular file")
        if mode & PRIVATE_TO_OWNER:
            raise ConfigError(
                f"{what} {path.name}: mode {stat.S_IMODE(mode):04o} lets others in, expected 0600",
                hint="chmod 600 the file, and make a new key if others may have read it",
            )
        pem = os.read(handle, MAX_KEY_BYTES + 1)
    finally:
        os.close(handle)
    if len(pem) > MAX_KEY_BYTES:
        raise ConfigError(f"{what} {path.name}: over {MAX_KEY_BYTES} bytes, more than it may have")
    return pem
