"""What releases and keys need beyond `files`: new names, whole folders, one writer at a time.

Source: SECURITY 3 ("Save") and 6. The order is always: content synced, then the name, then the
folder that holds the name.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from proper_model.files import (
    PRIVATE_FILE,
    Buffer,
    make_private_folder,
    sync_folder,
    write_atomic,
)

_POLL_S = 0.05


def write_file(path: Path, data: bytes) -> None:
    """`write_atomic` that also makes the folders above.

    Raises:
        OSError: the old file is intact.
    """
    make_private_folder(path.parent)
    write_atomic(path, data)


def create_file(path: Path, data: Buffer | Iterable[Buffer]) -> None:
    """Create a private file that must not exist yet; it appears whole, also if `data` is in parts.

    Raises:
        FileExistsError: something of that name is there; it is untouched.
    """
    make_private_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    try:
        write_atomic(temporary, data)
        # link, unlike rename, fails when the name is taken: no check that could be overtaken.
        os.link(temporary, path, follow_symlinks=False)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def move_folder(source: Path, target: Path) -> None:
    """Give a finished folder, whose files have been synced, its name.

    Raises:
        OSError: the target exists and is not empty.
    """
    for folder, _, _ in os.walk(source):
        sync_folder(Path(folder))
    source.rename(target)
    sync_folder(target.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder tree or file if it is there; a link is removed, not followed."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


@contextmanager
def locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold an exclusive lock that the system releases when this process ends, however it ends.

    Raises:
        TimeoutError: another process held it for `timeout_s`.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        deadline = time.monotonic() + timeout_s
        while not _try_lock(handle):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{path.name} is locked by another process")
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
