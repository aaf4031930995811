"""Files and folders that appear whole or not at all, also when the machine stops in between.

The order is always: write under a temporary name in the same folder, fsync the file, rename, fsync
the folder. Files are private (0600, folders 0700) from the moment they exist. Links are never
followed when reading. Source: SECURITY 3 ("Save") and 6.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_POLL_S = 0.05


def make_folder(path: Path) -> None:
    """Create a folder and its parents, private to this user where they are new."""
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file; a reader or a crash sees the old bytes or the new ones."""
    temporary = _write_temporary(path, data)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_file(path: Path, data: bytes) -> None:
    """Create a file that must not exist yet.

    Raises:
        FileExistsError: something of that name is there; it is untouched.
    """
    temporary = _write_temporary(path, data)
    try:
        # link, unlike rename, fails when the name is taken: no check that could be overtaken.
        os.link(temporary, path, follow_symlinks=False)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def move_folder(source: Path, target: Path) -> None:
    """Give a finished folder its name. All of its files have been synced.

    Raises:
        OSError: the target exists and is not empty.
    """
    for folder, _, _ in os.walk(source):
        sync_folder(Path(folder))
    source.rename(target)
    sync_folder(target.parent)


def sync_folder(path: Path) -> None:
    """Make names in this folder survive a power loss."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_file(path: Path, max_bytes: int) -> bytes:
    """Bytes of a regular file, at most `max_bytes + 1` of them, so that a caller sees the excess.

    Raises:
        OSError: missing, a link, a pipe or another thing that is no regular file.
    """
    # O_NONBLOCK: opening a planted pipe must not hang.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(max_bytes + 1)


def remove_folder(path: Path) -> None:
    """Delete a folder tree if it is there; a link is removed, not followed."""
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
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{path.name} is locked by another process") from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(handle)


def _write_temporary(path: Path, data: bytes) -> Path:
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)
