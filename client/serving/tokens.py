"""The bearer token: made afresh for every start, or kept in a file only its owner can read.

Source: docs/security.md 2 (same-device user).
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from proper_model.errors import ConfigError
from proper_model.storage.durable import create_file
from proper_model.storage.files import storage_errors

TOKEN_BYTES = 32
MIN_CHARS = 32
_MAX_FILE_BYTES = 4096
_TOKEN = re.compile(r"[A-Za-z0-9_.~-]+")


def new_token() -> str:
    """256 bits of the system's randomness, in characters that an address may hold."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_of_file(path: Path) -> str:
    """The token in `path`; a file that is not there is created with a new one, mode 0600.

    Raises ConfigError if others may read the file or it holds no usable token, StorageError if it
    cannot be read or created.
    """
    with storage_errors(path):
        try:
            raw = _read_private(path)
        except FileNotFoundError:
            token = new_token()
            create_file(path, token.encode() + b"\n")
            return token
    return check_token(raw.decode("latin-1").strip(), str(path))


def _read_private(path: Path) -> bytes:
    """Content of a regular file of ours, checked on the descriptor that is read."""
    # Without O_NONBLOCK a named pipe planted here would block the open for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        closed = not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        if not (stat.S_ISREG(status.st_mode) and closed and status.st_uid == os.geteuid()):
            raise ConfigError(
                f"{path}: expected a regular file that is yours and that no other user may read",
                hint="close it with: chmod 600 FILE, or name a file that does not exist yet",
            )
        return os.read(descriptor, _MAX_FILE_BYTES)
    finally:
        os.close(descriptor)


def check_token(token: str, place: str = "token") -> str:
    """The token itself. Raises ConfigError, without it, if it is too short or of other characters."""
    if len(token) < MIN_CHARS or not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"{place}: expected one token of at least {MIN_CHARS} characters of A-Z a-z 0-9 - _ . ~",
            hint="name a file that does not exist yet: it is created with a good token",
        )
    return token


def carries_token(header: bytes, token: str) -> bool:
    """Whether an Authorization header holds `token`, in time that does not depend on how much fits."""
    scheme, _, sent = header.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(sent.strip(), token.encode())


def page_address(url: str, token: str) -> str:
    """The page's address with the token in the fragment, which a browser never sends."""
    return f"{url}/#token={token}"
