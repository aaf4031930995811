"""Signing keys of a coordinator: one Ed25519 key a file, readable by its owner only.

A key file is PKCS#8 PEM, created with mode 0600 and never overwritten: whoever replaces a key
locks out every device that trusts it. Moving to a new key is `proper_model.trust.rotate`.
Source: SECURITY 2 ("Bundle"), STYLE 4.13.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from proper_model.durable import create_file
from proper_model.errors import ConfigError

MAX_KEY_BYTES = 16 * 1024
PRIVATE_TO_OWNER = stat.S_IRWXG | stat.S_IRWXO


def create_key(path: Path) -> Ed25519PrivateKey:
    """Make a new key and store it.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        create_file(path, pem)
    except FileExistsError:
        raise ConfigError(
            f"key file {path.name}: exists already and is never overwritten",
            hint="load it, or choose another name for a new key",
        ) from None
    except OSError as error:
        raise ConfigError(f"key file {path.name}: {error.strerror}, expected to write it") from None
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a key that `create_key` stored.

    Raises:
        ConfigError: missing, a link, readable by others, or no Ed25519 key.
    """
    pem = _read_private(path)
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        # The library's text may quote the file; ours must not.
        raise ConfigError(
            f"key file {path.name}: not an unencrypted PEM private key",
            hint="create one with coordinator.keys.create_key",
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


def _read_private(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "is a link" if error.errno == errno.ELOOP else (error.strerror or "unreadable")
        raise ConfigError(f"key file {path.name}: {reason}, expected a regular file") from None
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"key file {path.name}: expected a regular file")
        if mode & PRIVATE_TO_OWNER:
            raise ConfigError(
                f"key file {path.name}: mode {stat.S_IMODE(mode):04o} lets others in, "
                "expected 0600",
                hint="chmod 600 the file, and replace the key if others may have read it",
            )
        pem = os.read(handle, MAX_KEY_BYTES + 1)
    finally:
        os.close(handle)
    if len(pem) > MAX_KEY_BYTES:
        raise ConfigError(f"key file {path.name}: over {MAX_KEY_BYTES} bytes, expected a PEM key")
    return pem
