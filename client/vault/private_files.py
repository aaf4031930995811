"""Files and folders of the vault: regular, the owner's alone, links never followed.

Source: docs/security.md 2 (same-device user) and 3 (save).
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from proper_model.errors import StorageError
from proper_model.storage.files import storage_errors, write_atomic

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not block


def check_private_folder(folder: Path) -> None:
    """Raise StorageError for a link, a missing folder, and one that others may enter."""
    with storage_errors(folder):
        mode = folder.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise StorageError(
            f"{folder}: expected a folder, not a link or a file",
            hint="remove it, or give another place with --home",
        )
    if mode & _OTHERS:
        raise StorageError(
            f"{folder}: other users may enter this folder",
            hint=f"close it with: chmod 700 {folder}",
        )


def read_private(path: Path, *, limit_bytes: int) -> bytes:
    """A regular file that only its owner may use; at most `limit_bytes` + 1, to show the excess.

    Raises StorageError for anything else; its cause is the system's error where there was one.
    """
    with storage_errors(path):
        descriptor = _open(path)
        try:
            size = min(_checked_size(path, os.fstat(descriptor)), limit_bytes + 1)
            with os.fdopen(descriptor, "rb", closefd=False) as handle:
                # Not `limit_bytes`: that much memory would be asked for before the first byte.
                return handle.read(size)
        finally:
            os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, _FLAGS)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StorageError(
            f"{path.name}: a symbolic link, which is not followed; expected a regular file",
            hint="remove the link, or put the file itself there",
        ) from error


def _checked_size(path: Path, status: os.stat_result) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path.name}: expected a regular file")
    if status.st_mode & _OTHERS:
        raise StorageError(
            f"{path.name}: other users may read or write this file",
            hint=f"close it with: chmod 600 {path}",
        )
    return status.st_size


def save_private(path: Path, data: bytes) -> None:
    """Replace a file by `data`, whole or not at all, 0600 from creation.

    Raises StorageError with the system's reason and the bytes needed.
    """
    try:
        with storage_errors(path):
            write_atomic(path, data)
    except StorageError as error:
        raise StorageError(
            f"{error.message}; {len(data)} bytes are needed; the old or the new one is there, whole",
            hint=error.hint,
        ) from error.__cause__
